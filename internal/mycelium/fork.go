package mycelium

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/record"
)

// ErrFork says that an author signed two different releases with one number:
// see [Fork].
var ErrFork = errors.New("author signed two histories")

// Fork is the proof that an author signed two different releases with one
// number, or one that continues another history. It is an [ErrFork].
type Fork struct{ A, B record.Spore }

// Error says which releases they are.
func (f *Fork) Error() string {
	a, b := f.A.Hash(), f.B.Hash()
	return fmt.Sprintf("%v of %s: release %d (%x) and release %d (%x)", ErrFork, f.A.Cell.Short(), f.A.Seq, a[:6], f.B.Seq, b[:6])
}

// Unwrap returns ErrFork.
func (f *Fork) Unwrap() error { return ErrFork }

// contradict reports whether two releases of a cell show two histories: they
// have one number, or the later of two neighbours follows another one.
func contradict(a, b record.Spore) bool {
	if a.Order().Compare(b.Order()) > 0 {
		a, b = b, a
	}
	return a.Order() == b.Order() && a.Hash() != b.Hash() || a.Epoch == b.Epoch && b.Seq == a.Seq+1 && b.Prev != a.Hash()
}

func (s *Store) forkFile(c identity.Cell) string { return filepath.Join(s.cellDir(c), "fork") }

// keepFork keeps the first proof against an author that this node has met.
func (s *Store) keepFork(f *Fork) error {
	if _, err := os.Stat(s.forkFile(f.A.Cell)); err == nil {
		return nil
	}
	b, err := encoding.Marshal([][]byte{f.A.Raw, f.B.Raw})
	if err != nil {
		return err
	}
	return replaceFile(s.forkFile(f.A.Cell), b)
}

// Fork returns the first proof met that the author of a cell signed two
// histories of it, or nil. It outlives the node's process and convinces anybody.
func (s *Store) Fork(c identity.Cell) (*Fork, error) {
	b, err := os.ReadFile(s.forkFile(c))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var raw [][]byte
	if err == nil {
		err = decoding.Unmarshal(b, &raw)
	}
	if err == nil && len(raw) != 2 {
		err = record.ErrMalformed
	}
	var f Fork
	if err == nil {
		if f.A, err = record.ParseSpore(raw[0]); err == nil {
			f.B, err = record.ParseSpore(raw[1])
		}
	}
	if err != nil {
		return nil, fmt.Errorf("read proof of a fork: %w", err)
	}
	return &f, nil
}
