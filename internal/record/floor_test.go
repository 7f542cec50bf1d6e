package record

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cell.network/cell/internal/identity"
)

// floorOf makes a floor with n pairs of one signer, whose orders are 1 to n.
func floorOf(n int) *Floor {
	f := new(Floor)
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := range n {
		name := identity.Name(strings.Repeat("x", i%floorNames+1) + hex.EncodeToString([]byte{byte(i), byte(i >> 8), byte(i >> 16)}))
		f.raiseLocked(floorKey{identity.Key{1}, identity.Cell{Author: identity.Key{2}, Name: name}}, Order{1, uint64(i + 1)})
	}
	return f
}

// floorNames keeps the names of floorOf within what a name may be.
const floorNames = 50

func (f *Floor) same(g *Floor) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	g.mu.Lock()
	defer g.mu.Unlock()
	return bytes.Equal(f.encodeLocked(), g.encodeLocked())
}

func TestFloorFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "floor")
	f := floorOf(500)
	if err := f.Save(path); err != nil {
		t.Fatal(err)
	}
	again := new(Floor)
	if err := again.Load(path); err != nil || !again.same(f) {
		t.Fatalf("the floor did not survive: %v", err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := f.Save(path); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("an unchanged floor was written again")
	}
	if err := new(Floor).Load(path); err != nil {
		t.Errorf("a file that is not there: %v", err)
	}
	if err := f.Save(filepath.Join(path, "no", "directory")); err == nil {
		t.Error("saved where there is no directory")
	}

	if err := floorOf(3).Save(path); err != nil { // lower orders do not lower a floor
		t.Fatal(err)
	}
	if err := again.Load(path); err != nil || len(again.seen) != 500 {
		t.Errorf("%d pairs after a second file, %v", len(again.seen), err)
	}
}

// Of a damaged file nothing is taken.
func TestFloorFileDamaged(t *testing.T) {
	path := filepath.Join(t.TempDir(), "floor")
	f := floorOf(10)
	good := f.encodeLocked()
	for at := 0; at < len(good); at += 7 {
		bad := bytes.Clone(good)
		bad[at] ^= 1
		for _, b := range [][]byte{bad, good[:at]} {
			if err := os.WriteFile(path, b, 0o600); err != nil {
				t.Fatal(err)
			}
			g := new(Floor)
			if err := g.Load(path); !errors.Is(err, ErrFloorFile) || len(g.seen) != 0 {
				t.Errorf("damaged at %d: %v, %d pairs", at, err, len(g.seen))
			}
		}
	}
}

func TestFloorVector(t *testing.T) {
	f := new(Floor)
	f.raiseLocked(floorKey{identity.Key{1}, identity.Cell{Author: identity.Key{2}, Name: "greeter"}}, Order{3, 4})
	f.raiseLocked(floorKey{identity.Key{2}, identity.Cell{Author: identity.Key{2}}}, Order{5, 6})
	path := filepath.Join("testdata", "floor.hex")
	got := hex.EncodeToString(f.encodeLocked())
	want, err := os.ReadFile(path)
	if err != nil || strings.TrimSpace(string(want)) != got {
		t.Errorf("encoded as\n%s, want\n%s, %v", got, want, err)
	}
}

func TestFloorFileIsBounded(t *testing.T) {
	f := floorOf(MaxFloor + 100)
	b := f.encodeLocked()
	entries, err := parseFloor(b)
	if len(b) > maxFloorFile || err != nil || len(entries) != MaxFloor {
		t.Errorf("%d entries in %d bytes, %v", len(entries), len(b), err)
	}
}

func FuzzFloorFile(f *testing.F) {
	f.Add(floorOf(3).encodeLocked())
	f.Add([]byte(floorMagic))
	f.Fuzz(func(t *testing.T, b []byte) {
		sum := sha256.Sum256(b)
		for _, b := range [][]byte{b, append(bytes.Clone(b), sum[:]...)} {
			entries, err := parseFloor(b)
			if err != nil {
				continue
			}
			g := new(Floor)
			for _, e := range entries {
				g.raiseLocked(e.key, e.order)
			}
			if again, err := parseFloor(g.encodeLocked()); err != nil || len(again) != len(g.seen) {
				t.Errorf("%d entries became %d, %v", len(g.seen), len(again), err)
			}
		}
	})
}
