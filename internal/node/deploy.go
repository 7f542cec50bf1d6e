package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/journal"
	"cell.network/cell/internal/record"
	"cell.network/cell/internal/ribosome"
)

// deployment is what this node needs to start a replica of a cell at once.
type deployment struct {
	manifest Manifest
	text     string       // of the manifest
	dir      string       // of the source
	program  string       // that was built from it
	version  string       // of the release or the manifest
	release  record.Spore // zero where the source is no release
}

// deployed is a deployment as it lies on disk, state/cells/<cell>/deploy.json: a
// node that starts again runs what it ran.
type deployed struct {
	Cell     string `json:"cell"` // name@author
	Dir      string `json:"dir"`
	Program  string `json:"program"`
	Manifest string `json:"manifest"` // the text of Cell.toml
	Drained  bool   `json:"drained,omitempty"`
}

// Files of a cell under state/cells/<name>@<author>.
const (
	deployFile     = "deploy.json"
	populationFile = "population.rec"
	maxDeployFile  = 8 * maxManifest // JSON writes some characters as six
)

func (n *Node) cellDir(cell identity.Cell) string {
	return filepath.Join(n.cfg.Home.State, "cells", cell.String())
}

// newDeployment describes what was built from dir.
func (n *Node) newDeployment(cell identity.Cell, m Manifest, dir, program string) (*deployment, error) {
	text, err := os.ReadFile(filepath.Join(dir, ManifestFile))
	if err != nil {
		return nil, fmt.Errorf("read cell: %w", err)
	}
	return &deployment{manifest: m, text: string(text), dir: dir, program: program, version: m.Cell.Version, release: n.releaseIn(cell, dir)}, nil
}

// releaseIn returns the newest release of a cell whose files lie in dir, zero
// where there is none.
func (n *Node) releaseIn(cell identity.Cell, dir string) record.Spore {
	for _, rel := range n.store.Releases() { // the highest of each cell first
		if rel.Spore.Cell == cell && rel.Dir == dir {
			return rel.Spore
		}
	}
	return record.Spore{}
}

// keepDeployment writes what this node may start of a cell, and whether it was
// told to let go of it.
func (n *Node) keepDeployment(s *service) error {
	n.keeping.Lock()
	defer n.keeping.Unlock()
	n.mu.Lock()
	d, drained := s.deploy, s.drained
	n.mu.Unlock()
	if d == nil {
		return nil
	}
	b, err := json.MarshalIndent(deployed{Cell: s.cell.String(), Dir: d.dir, Program: d.program, Manifest: d.text, Drained: drained}, "", "  ")
	if err == nil {
		err = n.keepFile(s.cell, deployFile, append(b, '\n'))
	}
	if err != nil {
		return fmt.Errorf("keep deployment of %s: %w", s.cell.Short(), err)
	}
	return nil
}

func (n *Node) keepFile(cell identity.Cell, name string, content []byte) error {
	dir := n.cellDir(cell)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return replaceFile(filepath.Join(dir, name), content)
}

// restore takes up what an earlier life of this node ran and what it was told of
// populations. Programs that are gone are built again in the background.
func (n *Node) restore(ctx context.Context) {
	dirs, err := os.ReadDir(filepath.Join(n.cfg.Home.State, "cells"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		n.event(journal.Refuse, "", "", clipText("cells of an earlier life: "+err.Error()), nil)
	}
	for _, d := range dirs {
		ref, err := identity.ParseRef(d.Name())
		if err != nil || ref.Author == "" {
			continue // not ours
		}
		cell, err := n.resolve(ref)
		if err != nil {
			continue
		}
		if err := n.restoreCell(ctx, cell); err != nil {
			n.event(journal.Refuse, "", cell.String(), clipText("not taken up again: "+err.Error()), nil)
		}
	}
}

func (n *Node) restoreCell(ctx context.Context, cell identity.Cell) error {
	dir := n.cellDir(cell)
	word := filepath.Join(dir, populationFile)
	raw, err := os.ReadFile(word)
	if err == nil {
		var written time.Time
		if st, err := os.Stat(word); err == nil {
			written = st.ModTime()
		}
		if err := n.loadPopulation(n.service(cell), raw, written); err != nil {
			n.event(journal.Refuse, "", cell.String(), clipText(err.Error()), nil)
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read population record: %w", err)
	}
	b, err := os.ReadFile(filepath.Join(dir, deployFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read deployment: %w", err)
	}
	var saved deployed
	if len(b) > maxDeployFile {
		return fmt.Errorf("read deployment: %d bytes, %d are allowed", len(b), maxDeployFile)
	}
	if err := json.Unmarshal(b, &saved); err != nil {
		return fmt.Errorf("read deployment: %w", err)
	}
	m, err := ParseManifest(filepath.Join(dir, deployFile), []byte(saved.Manifest))
	if err != nil {
		return err
	}
	d := &deployment{manifest: m, text: saved.Manifest, dir: saved.Dir, program: saved.Program, version: m.Cell.Version, release: n.releaseIn(cell, saved.Dir)}
	if st, err := os.Stat(d.program); err != nil || !st.Mode().IsRegular() {
		made, err := n.cfg.Builder.Build(ctx, ribosome.Source{Dir: d.dir, Name: cell.Name}, lineWriter(func(string) {}))
		if err != nil {
			return fmt.Errorf("build it again: %w", err)
		}
		d.program = made.Path
	}
	s := n.service(cell)
	n.mu.Lock()
	if s.deploy == nil { // else it was started meanwhile
		s.deploy, s.drained = d, saved.Drained
	}
	n.mu.Unlock()
	n.event(journal.Adopt, "", cell.String(), "taken up from an earlier life", map[string]any{"dir": d.dir, "version": d.version, "drained": saved.Drained})
	n.changed()
	return nil
}

// uptime is the node's monotonic clock.
func (n *Node) uptime() time.Duration { return time.Since(n.started) }
