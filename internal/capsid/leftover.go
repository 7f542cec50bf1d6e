package capsid

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// maxRecord bounds what is read of a record, in bytes.
const maxRecord = 64 << 10

// reapGrace is how long a leftover keeper may take to end its program's tree.
const reapGrace = 2 * time.Second

// Leftover is a process of an earlier run that was still there.
type Leftover struct {
	PID  int
	Path string // the program
}

// process tells a process from any other that is ever given its number.
type process struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // in the system's own unit
	Boot  string `json:"boot"`  // which boot of the machine Start counts from
}

// running is one record: file StateDir/<pid>.
type running struct {
	process
	Path string `json:"path"`
	Kept bool   `json:"kept"` // the process is a keeper, to be asked first

	Groups []string `json:"groups,omitempty"` // folders of its control groups
}

// remember records a process that runs and returns what takes it back.
func (c *Capsid) remember(pid int, path string, kept bool, groups []string) (forget func(), err error) {
	if c.dir == "" {
		return func() {}, nil
	}
	p, err := identify(pid)
	if err != nil {
		return func() {}, nil //nolint:nilerr // it has ended: there is nothing to record
	}
	b, err := json.Marshal(running{p, path, kept, groups})
	if err != nil {
		return func() {}, err
	}
	file := filepath.Join(c.dir, strconv.Itoa(pid))
	err = os.MkdirAll(c.dir, 0o700)
	if err == nil {
		err = os.WriteFile(file, b, 0o600)
	}
	if err != nil {
		return func() {}, fmt.Errorf("record process: %w", err)
	}
	return func() { _ = os.Remove(file) }, nil
}

// Reap ends what an earlier node left running under the same StateDir and
// returns it. Call it before the first Start. A process is known by its number,
// its start time and the boot of the machine: one that merely was given a
// number that is on record is never touched.
func (c *Capsid) Reap() ([]Leftover, error) {
	if c.dir == "" {
		return nil, nil
	}
	entries, err := os.ReadDir(c.dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read records of processes: %w", err)
	}
	var found []Leftover
	var errs []error
	for _, e := range entries {
		if _, err := strconv.Atoi(e.Name()); err != nil {
			continue // not ours
		}
		file := filepath.Join(c.dir, e.Name())
		r, err := readRecord(file)
		if err == nil {
			var was bool
			if was, err = end(r); was {
				found = append(found, Leftover{r.PID, r.Path})
			}
		}
		if err == nil {
			err = os.Remove(file)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("end leftover of %s: %w", e.Name(), err))
		}
	}
	return found, errors.Join(errs...)
}

// readRecord reads a record; a torn one, of a node that was killed while
// writing it, is as good as none and gives the zero record.
func readRecord(file string) (running, error) {
	st, err := os.Stat(file)
	if err != nil || st.Size() > maxRecord {
		return running{}, err
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return running{}, err
	}
	var r running
	if json.Unmarshal(b, &r) != nil || strconv.Itoa(r.PID) != strings.TrimSpace(filepath.Base(file)) {
		return running{}, nil
	}
	return r, nil
}
