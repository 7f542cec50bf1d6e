package mycelium

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"cell.network/cell/internal/host"
	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/record"
	"github.com/libp2p/go-libp2p/core/network"
)

// ErrBusy says that a seed hands out too much already.
var ErrBusy = errors.New("the seed is busy")

// Seed is a node that may have releases of a cell. Addresses are binary
// multiaddrs without /p2p; whoever passes them on answers for them, as for
// those of host.Dial.
type Seed struct {
	Node  identity.Key
	Addrs [][]byte
}

func (s Seed) source() string { return "seed " + s.Node.String() }

// ask sends one request and returns the stream behind its answer. The stream is
// reset when ctx ends.
func (s *Store) ask(ctx context.Context, seed Seed, r request) (network.Stream, answer, error) {
	if s.conf.Host == nil {
		return nil, answer{}, errors.New("this node has no host")
	}
	dial, cancel := context.WithTimeout(ctx, s.pace.grace)
	defer cancel()
	id, err := host.PeerID(seed.Node)
	if err != nil {
		return nil, answer{}, err
	}
	if err := s.conf.Host.Dial(dial, seed.Node, seed.Addrs); err != nil {
		return nil, answer{}, err
	}
	stream, err := s.conf.Host.Open(dial, id, s.protocol())
	if err != nil {
		return nil, answer{}, err
	}
	stop := context.AfterFunc(ctx, func() { _ = stream.Reset() })
	a, err := func() (answer, error) {
		_ = stream.SetDeadline(time.Now().Add(s.pace.grace))
		if err := writeMessage(stream, r); err != nil {
			return answer{}, err
		}
		b, err := readMessage(stream, MaxAnswer)
		if err != nil {
			return answer{}, err
		}
		return parseAnswer(b)
	}()
	switch {
	case err != nil:
	case a.Code == codeNone:
		err = ErrNone
	case a.Code == codeBusy:
		err = ErrBusy
	default:
		return stream, a, nil
	}
	stop()
	_ = stream.Reset()
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return nil, answer{}, err
}

// askRecord asks a seed for its highest release.
func (s *Store) askRecord(ctx context.Context, seed Seed, c identity.Cell, want string) (Release, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // resets the stream
	_, a, err := s.ask(ctx, seed, request{Op: opRecord, Author: c.Author[:], Name: string(c.Name), Version: want})
	if err != nil {
		return Release{}, err
	}
	return s.check(parcel{Spore: a.Spore, Grants: a.Grants}, c, want)
}

// askHead asks a seed for the highest record that it has seen of a cell, or that
// is called version. Whether it still holds, and fits here, does not matter.
func (s *Store) askHead(ctx context.Context, seed Seed, c identity.Cell, version string) (record.Spore, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // resets the stream
	_, a, err := s.ask(ctx, seed, request{Op: opHead, Author: c.Author[:], Name: string(c.Name), Version: version})
	if err != nil {
		return record.Spore{}, err
	}
	p, err := record.ParseSpore(a.Spore)
	if err == nil && p.Cell != c {
		err = record.ErrCell
	}
	return p, err
}

// check verifies a record that came from elsewhere.
func (s *Store) check(p parcel, c identity.Cell, want string) (Release, error) {
	now := time.Now()
	spore, err := record.OpenSpore(p.Spore, c, now)
	if err != nil {
		return Release{}, err
	}
	if want != "" && spore.Version != want {
		return Release{}, fmt.Errorf("%w: it is called %s, not %s", ErrNone, spore.Version, want)
	}
	if err := s.admit(spore, want); err != nil {
		return Release{}, err
	}
	if err := s.conf.Limits.admit(spore); err != nil {
		return Release{}, err
	}
	return p.open(s.conf.Network.ID(), now)
}

// askPack copies the pack of a release from a seed and unpacks it into dir.
func (s *Store) askPack(ctx context.Context, seed Seed, p record.Spore, dir string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // resets the stream
	hash := p.Hash()
	stream, a, err := s.ask(ctx, seed, request{Op: opPack, Author: p.Cell.Author[:], Name: string(p.Cell.Name), Hash: hash[:]})
	if err != nil {
		return err
	}
	if a.Size > uint64(s.conf.Limits.Packed) {
		return fmt.Errorf("%w: pack of %d bytes", ErrTooBig, a.Size)
	}
	in := io.LimitReader(&pacedReader{stream: stream, pace: s.pace, start: time.Now()}, int64(a.Size))
	err = receive(in, p, s.conf.Limits, dir)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: the pack ends early", ErrContent)
	}
	return err
}

// pacedReader gives up on a peer that sends too little.
type pacedReader struct {
	stream network.Stream
	pace   pace
	start  time.Time
	n      int64
}

func (r *pacedReader) Read(b []byte) (int, error) {
	if err := r.stream.SetReadDeadline(r.pace.deadline(r.start, r.n)); err != nil {
		return 0, err
	}
	n, err := r.stream.Read(b)
	r.n += int64(n)
	return n, err
}
