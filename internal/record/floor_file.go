package record

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"cell.network/cell/internal/identity"
)

// floorMagic begins a floor's file. What follows is for each pair or node, the
// one not met for longest first:
//
//	32 bytes  signer
//	32 bytes  author of the cell
//	 1 byte   length of the name, then the name; of a grant for all names 0
//	 8 bytes  incarnation, big endian
//	 8 bytes  sequence, big endian; of a node's life when the first record seen
//	          of it was signed, in Unix milliseconds, and the cell is zero
//
// and at the end 32 bytes SHA-256 of all before.
const floorMagic = "cell-floor 1\n"

const (
	maxFloorName = 255
	maxFloorFile = len(floorMagic) + MaxFloor*(2*identity.KeySize+1+maxFloorName+16) + sha256.Size
)

// ErrFloorFile says that a file is no floor, or not all of one.
var ErrFloorFile = errors.New("damaged file of orders seen")

// Save writes the floor to a file, whole or not at all. It does nothing where
// the floor has not changed since it was last saved there or loaded from there.
func (f *Floor) Save(path string) error {
	f.saving.Lock()
	defer f.saving.Unlock()
	f.mu.Lock()
	if f.saved == path && f.savedAt == f.changes {
		f.mu.Unlock()
		return nil
	}
	b, at := f.encodeLocked(), f.changes
	f.mu.Unlock()
	if err := replaceFile(path, b); err != nil {
		return fmt.Errorf("save orders seen: %w", err)
	}
	f.mu.Lock()
	f.saved, f.savedAt = path, at
	f.mu.Unlock()
	return nil
}

// Load raises the floor to what a file says; a file that is not there says
// nothing. The error wraps [ErrFloorFile] where the file is damaged; the floor
// is as it was then.
func (f *Floor) Load(path string) error {
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("load orders seen: %w", err)
	}
	defer file.Close()
	b, err := io.ReadAll(io.LimitReader(bufio.NewReader(file), int64(maxFloorFile)+1))
	if err != nil {
		return fmt.Errorf("load orders seen: %w", err)
	}
	entries, err := parseFloor(b)
	if err != nil {
		return fmt.Errorf("load orders seen: %s: %w", path, err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, e := range entries {
		if f.atLocked(e.key).Compare(e.order) < 0 {
			f.raiseLocked(e.key, e.order)
		}
	}
	return nil
}

func (f *Floor) encodeLocked() []byte {
	b := []byte(floorMagic)
	for e := f.byAge.Back(); e != nil; e = e.Prev() {
		x := e.Value.(floorEntry)
		name := x.key.cell.Name
		b = append(b, x.key.signer[:]...)
		b = append(b, x.key.cell.Author[:]...)
		b = append(b, byte(len(name)))
		b = append(b, name...)
		b = binary.BigEndian.AppendUint64(b, x.order.Incarnation)
		b = binary.BigEndian.AppendUint64(b, x.order.Sequence)
	}
	sum := sha256.Sum256(b)
	return append(b, sum[:]...)
}

// parseFloor reads what encodeLocked writes, all of it or nothing.
func parseFloor(b []byte) ([]floorEntry, error) {
	if len(b) > maxFloorFile || len(b) < len(floorMagic)+sha256.Size || !bytes.HasPrefix(b, []byte(floorMagic)) {
		return nil, fmt.Errorf("%w: %d bytes", ErrFloorFile, len(b))
	}
	body, sum := b[:len(b)-sha256.Size], b[len(b)-sha256.Size:]
	if got := sha256.Sum256(body); !bytes.Equal(got[:], sum) {
		return nil, fmt.Errorf("%w: checksum", ErrFloorFile)
	}
	r := bytes.NewReader(body[len(floorMagic):])
	var out []floorEntry
	for r.Len() > 0 {
		var e floorEntry
		name := make([]byte, maxFloorName)
		_, err := io.ReadFull(r, e.key.signer[:])
		if err == nil {
			_, err = io.ReadFull(r, e.key.cell.Author[:])
		}
		n, e2 := r.ReadByte()
		if err = errors.Join(err, e2); err == nil {
			_, err = io.ReadFull(r, name[:n])
		}
		if err == nil {
			err = binary.Read(r, binary.BigEndian, &e.order)
		}
		if err != nil || len(out) == MaxFloor {
			return nil, fmt.Errorf("%w: entry %d", ErrFloorFile, len(out))
		}
		e.key.cell.Name = identity.Name(name[:n])
		out = append(out, e)
	}
	return out, nil
}

// replaceFile writes a file so that after a crash it is the old one or the new.
func replaceFile(path string, b []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), ".floor-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(b)
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}
