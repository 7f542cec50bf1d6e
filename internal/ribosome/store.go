package ribosome

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// What is kept of builds: all of the last keepFor, and of older ones the most
// recently used, up to maxKept in all.
const (
	maxKept = 64
	keepFor = 24 * time.Hour
)

const manifestFile = "artefact.json"

// manifest tells a program that was installed whole from any other.
type manifest struct {
	Program   string `json:"program"` // file name
	SHA256    string `json:"sha256"`
	Toolchain string `json:"toolchain"`
	TookMS    int64  `json:"took_ms"`
}

// find looks for what was built for j before. What is not exactly what was
// installed does not count, and is removed.
func (r *Ribosome) find(j job) (Artefact, bool) {
	dir := filepath.Join(r.binDir(), j.key)
	b, err := os.ReadFile(filepath.Join(dir, manifestFile))
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Stat(dir); err != nil {
			return Artefact{}, false
		}
	}
	var m manifest
	if json.Unmarshal(b, &m) == nil && m.Program == string(j.source.Name) {
		program := filepath.Join(dir, m.Program)
		if sum, err := hashFile(program); err == nil && hex.EncodeToString(sum) == m.SHA256 {
			now := time.Now()
			_ = os.Chtimes(dir, now, now) // for prune; nothing is lost where it fails
			return Artefact{Path: program, Key: j.key, Toolchain: m.Toolchain, Cached: true}, true
		}
	}
	_ = os.RemoveAll(dir) // where it fails, install says so
	return Artefact{}, false
}

// install moves a finished build from tmp to its place in one step, and only
// after it has reached the disk.
func (r *Ribosome) install(j job, tmp string, took time.Duration) (Artefact, error) {
	name := string(j.source.Name)
	place := filepath.Join(r.binDir(), j.key)
	err := func() error {
		program := filepath.Join(tmp, name)
		if err := os.Chmod(program, 0o755); err != nil { // whoever runs it in a sandbox is somebody else
			return err
		}
		sum, err := hashFile(program)
		if err != nil {
			return err
		}
		b, err := json.Marshal(manifest{name, hex.EncodeToString(sum), j.tool.version, took.Milliseconds()})
		if err != nil {
			return err
		}
		if err := replaceFile(filepath.Join(tmp, manifestFile), append(b, '\n')); err != nil {
			return err
		}
		for _, f := range []string{program, tmp} {
			if err := syncPath(f); err != nil {
				return err
			}
		}
		if err := os.Rename(tmp, place); err != nil {
			return err
		}
		return syncPath(r.binDir())
	}()
	if err != nil {
		return Artefact{}, fmt.Errorf("install %s: %w", name, err)
	}
	r.prune()
	return Artefact{Path: filepath.Join(place, name), Key: j.key, Toolchain: j.tool.version}, nil
}

func syncPath(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

// prune removes builds that have not been asked for lately, when there are many.
func (r *Ribosome) prune() {
	all := byAge(r.binDir())
	for _, b := range all[:max(0, len(all)-maxKept)] {
		if time.Since(b.ModTime()) > keepFor {
			_ = os.RemoveAll(filepath.Join(r.binDir(), b.Name()))
		}
	}
}

// removeTorn removes what killed builds left behind: nobody else uses the
// folder, so at the start nothing in it is still being built.
func (r *Ribosome) removeTorn() {
	for _, b := range byAge(r.tmpDir()) {
		_ = os.RemoveAll(filepath.Join(r.tmpDir(), b.Name()))
	}
}

// byAge lists a folder, the oldest entry first.
func byAge(dir string) []fs.FileInfo {
	entries, _ := os.ReadDir(dir)
	var infos []fs.FileInfo
	for _, e := range entries {
		if info, err := e.Info(); err == nil {
			infos = append(infos, info)
		}
	}
	slices.SortFunc(infos, func(a, b fs.FileInfo) int { return a.ModTime().Compare(b.ModTime()) })
	return infos
}
