package mycelium

import (
	"context"
	"io"
	"os"
	"sync"
	"time"

	"cell.network/cell/internal/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
)

func (s *Store) protocol() protocol.ID { return host.Protocol(s.conf.Network, "spore/1") }

// Serve begins to hand out releases to peers that ask. It does nothing without
// a host.
func (s *Store) Serve() {
	if s.conf.Host != nil {
		s.conf.Host.SetStreamHandler(s.protocol(), s.serve)
	}
}

func (s *Store) begin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx.Err() != nil {
		return false
	}
	s.tasks.Add(1)
	return true
}

// serve answers one request. How many a peer may have under way is the host's
// limit, and that of packs ours.
func (s *Store) serve(stream network.Stream) {
	if !s.begin() {
		_ = stream.Reset()
		return
	}
	defer s.tasks.Done()
	defer context.AfterFunc(s.ctx, func() { _ = stream.Reset() })()
	_ = stream.SetDeadline(time.Now().Add(s.pace.grace))
	if err := s.respond(stream); err != nil {
		_ = stream.Reset()
		return
	}
	_ = stream.Close()
}

func (s *Store) respond(stream network.Stream) error {
	b, err := readMessage(stream, MaxRequest)
	if err != nil {
		return err
	}
	r, err := parseRequest(b)
	if err != nil {
		return err
	}
	if s.conf.Offer != nil && !s.conf.Offer(r.cell()) {
		return writeMessage(stream, answer{Code: codeNone})
	}
	if r.Op == opHead {
		p, ok := s.seen(r.cell(), r.Version)
		if !ok {
			return writeMessage(stream, answer{Code: codeNone})
		}
		return writeMessage(stream, answer{Spore: p.Raw})
	}
	release, ok := s.find(r.cell(), r.Version, r.Hash)
	if ok { // neither what has expired nor what the author has withdrawn
		ok = release.Spore.Check(time.Now()) == nil && s.admit(release.Spore, release.Spore.Version) == nil
	}
	if !ok {
		return writeMessage(stream, answer{Code: codeNone})
	}
	if r.Op == opRecord {
		p := release.parcel()
		return writeMessage(stream, answer{Spore: p.Spore, Grants: p.Grants})
	}
	from := stream.Conn().RemotePeer()
	if !s.uploads.begin(from, s.conf.MaxUploads, s.conf.MaxPeerUploads) {
		return writeMessage(stream, answer{Code: codeBusy})
	}
	defer s.uploads.end(from)
	return s.sendPack(stream, release)
}

func (s *Store) sendPack(stream network.Stream, r Release) error {
	f, err := os.Open(s.packFile(r.Spore))
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if err := writeMessage(stream, answer{Size: uint64(st.Size())}); err != nil {
		return err
	}
	_, err = io.CopyBuffer(&pacedWriter{stream: stream, pace: s.pace, start: time.Now()}, onlyReader{f}, make([]byte, 32<<10))
	return err
}

// onlyReader keeps io.Copy to its buffer.
type onlyReader struct{ io.Reader }

// pacedWriter gives up on a peer that takes too little.
type pacedWriter struct {
	stream network.Stream
	pace   pace
	start  time.Time
	n      int64
}

func (w *pacedWriter) Write(b []byte) (int, error) {
	if err := w.stream.SetWriteDeadline(w.pace.deadline(w.start, w.n)); err != nil {
		return 0, err
	}
	n, err := w.stream.Write(b)
	w.n += int64(n)
	return n, err
}

// uploads counts the packs that are being handed out. The zero uploads is ready
// to use.
type uploads struct {
	mu    sync.Mutex // guards what follows
	total int
	peers map[peer.ID]int
}

func (u *uploads) begin(p peer.ID, total, each int) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.total >= total || u.peers[p] >= each {
		return false
	}
	if u.peers == nil {
		u.peers = make(map[peer.ID]int)
	}
	u.total++
	u.peers[p]++
	return true
}

func (u *uploads) end(p peer.ID) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.total--
	if u.peers[p]--; u.peers[p] == 0 {
		delete(u.peers, p)
	}
}
