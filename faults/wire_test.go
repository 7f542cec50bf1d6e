package faults_test

import (
	"encoding/binary"
	"io"
	"testing"

	ma "github.com/multiformats/go-multiaddr"
)

// writeSized sends a message with its length in front, as lease/2 has it.
func writeSized(t *testing.T, w io.Writer, b []byte) {
	t.Helper()
	if _, err := w.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...)); err != nil {
		t.Fatal(err)
	}
}

func readSized(t *testing.T, r io.Reader) []byte {
	t.Helper()
	head := make([]byte, 4)
	if _, err := io.ReadFull(r, head); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, min(binary.BigEndian.Uint32(head), 1<<20))
	if _, err := io.ReadFull(r, b); err != nil {
		t.Fatal(err)
	}
	return b
}

// addrs are where the node listens, without /p2p.
func (d *daemon) addrs() []ma.Multiaddr {
	d.t.Helper()
	var out []ma.Multiaddr
	for _, s := range d.status.Listen {
		a, err := ma.NewMultiaddr(s)
		if err != nil {
			d.t.Fatal(err)
		}
		a, _ = ma.SplitLast(a)
		out = append(out, a)
	}
	return out
}
