package kad

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
)

// Limits of what is remembered of peers.
const (
	maxBook      = 128            // peers
	maxBookAddrs = 4              // addresses of one peer
	maxBookFile  = 256 << 10      // bytes
	bookFor      = 24 * time.Hour // after a peer was last in the table
)

// book remembers peers that were good, also while they are away, and from one
// run to the next. The file holds one multiaddr with /p2p a line; lines that
// are none are skipped. It is safe for concurrent use.
type book struct {
	path string // empty: memory only

	mu    sync.Mutex // guards what follows
	peers map[peer.ID]*page
	dirty bool
}

type page struct {
	addrs []ma.Multiaddr
	seen  time.Time
}

// openBook reads the file at path, if there is one. The book can be used even
// where that fails.
func openBook(path string) (*book, error) {
	b := &book{path: path, peers: make(map[peer.ID]*page)}
	if path == "" {
		return b, nil
	}
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return b, nil
	}
	if err != nil {
		return b, fmt.Errorf("read peers: %w", err)
	}
	defer f.Close()
	lines := bufio.NewScanner(io.LimitReader(f, maxBookFile))
	now := time.Now()
	for lines.Scan() {
		info, err := peer.AddrInfoFromString(strings.TrimSpace(lines.Text()))
		if err != nil || len(info.Addrs) == 0 {
			continue
		}
		if p := b.peers[info.ID]; p != nil {
			info.Addrs = append(p.addrs, info.Addrs...)
		}
		b.note(*info, now)
	}
	b.dirty = false
	if err := lines.Err(); err != nil {
		return b, fmt.Errorf("read peers: %w", err)
	}
	return b, nil
}

// note remembers that a peer is good now. Without addresses it does nothing.
func (b *book) note(info peer.AddrInfo, now time.Time) {
	if len(info.Addrs) == 0 {
		return
	}
	addrs := slices.SortedFunc(slices.Values(info.Addrs), func(x, y ma.Multiaddr) int { return bytes.Compare(x.Bytes(), y.Bytes()) })
	addrs = addrs[:min(len(addrs), maxBookAddrs)]
	b.mu.Lock()
	defer b.mu.Unlock()
	old := b.peers[info.ID]
	same := old != nil && slices.EqualFunc(old.addrs, addrs, func(x, y ma.Multiaddr) bool { return x.Equal(y) })
	b.dirty = b.dirty || !same
	b.peers[info.ID] = &page{addrs, now}
	if len(b.peers) > maxBook {
		delete(b.peers, b.byAgeLocked()[maxBook])
	}
}

// byAgeLocked returns the peers, those last seen first.
func (b *book) byAgeLocked() []peer.ID {
	return slices.SortedFunc(maps.Keys(b.peers), func(x, y peer.ID) int {
		if c := b.peers[y].seen.Compare(b.peers[x].seen); c != 0 {
			return c
		}
		return strings.Compare(string(x), string(y))
	})
}

// pick returns up to n peers at random, of those that skip does not skip.
func (b *book) pick(n int, now time.Time, skip func(peer.ID) bool) []peer.AddrInfo {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []peer.AddrInfo
	for id, p := range b.peers {
		if now.Sub(p.seen) > bookFor {
			delete(b.peers, id)
			b.dirty = true
		} else if !skip(id) {
			out = append(out, peer.AddrInfo{ID: id, Addrs: p.addrs})
		}
	}
	rand.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	return out[:min(n, len(out))]
}

// save writes the file anew where something has changed, whole or not at all.
func (b *book) save() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.path == "" || !b.dirty {
		return nil
	}
	var text strings.Builder
	for _, id := range b.byAgeLocked() {
		for _, a := range b.peers[id].addrs {
			fmt.Fprintf(&text, "%s/p2p/%s\n", a, id)
		}
	}
	tmp, err := os.CreateTemp(filepath.Dir(b.path), ".peers-*")
	if err != nil {
		return fmt.Errorf("save peers: %w", err)
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.WriteString(text.String())
	if err = errors.Join(err, tmp.Close()); err == nil {
		err = os.Rename(tmp.Name(), b.path)
	}
	if err != nil {
		return fmt.Errorf("save peers: %w", err)
	}
	b.dirty = false
	return nil
}
