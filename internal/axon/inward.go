package axon

import (
	"context"
	"encoding/binary"
	"sync"
	"time"

	"cell.network/cell/internal/frame"
	"github.com/libp2p/go-libp2p/core/network"
)

// slowest is the rate below which a peer is as good as dead, and hangs up on
// it after patience.
const (
	slowest  = 64 << 10 // bytes per second
	patience = 20 * time.Second
)

// allowance is how long n bytes may take.
func allowance(n int) time.Duration {
	return patience + time.Duration(n)*time.Second/slowest
}

// inward is the callee's end of a lane. It follows the frames that are read so
// as to know how much memory the one under way will take, waits until there is
// that much, and ends a lane on which a frame does not get finished in time.
type inward struct {
	network.Stream
	guest *guest
	ctx   context.Context // of the lane
	stop  context.CancelFunc

	writing sync.Mutex // held during a Write

	// The rest belongs to the reader.
	head     [4]byte // the frame's length
	have     int     // bytes of the header that have come
	left     int     // bytes of the frame that have not
	want     int     // memory to take before the next Read
	held     int     // memory taken
	ended    bool    // a frame has ended since deadline was set
	deadline time.Time
}

func (s *inward) Read(b []byte) (int, error) {
	if s.want > 0 {
		if err := s.reserve(); err != nil {
			return 0, err
		}
	}
	n, err := s.Stream.Read(b)
	s.follow(b[:n])
	if err == nil {
		err = s.arm()
	}
	return n, err
}

// reserve takes the memory of a large frame.
func (s *inward) reserve() error {
	ctx, cancel := context.WithDeadline(s.ctx, s.deadline)
	defer cancel()
	if err := s.guest.reading.wait(ctx, s.want); err != nil {
		return err
	}
	if err := s.guest.door.reading.wait(ctx, s.want); err != nil {
		s.guest.reading.give(s.want)
		return err
	}
	s.held, s.want = s.want, 0
	return nil
}

func (s *inward) release() {
	if s.held == 0 {
		return
	}
	s.guest.reading.give(s.held)
	s.guest.door.reading.give(s.held)
	s.held = 0
}

// follow keeps account of what has been read.
func (s *inward) follow(b []byte) {
	for len(b) > 0 {
		if s.left > 0 {
			n := min(s.left, len(b))
			b = b[n:]
			if s.left -= n; s.left == 0 {
				s.want, s.ended = 0, true
				s.release()
			}
			continue
		}
		if s.have < len(s.head) {
			copy(s.head[s.have:], b)
		}
		n := min(frame.HeaderSize-s.have, len(b))
		b = b[n:]
		if s.have += n; s.have == frame.HeaderSize {
			s.have, s.left = 0, int(binary.LittleEndian.Uint32(s.head[:]))
			if s.left > small && s.left <= frame.MaxBody+frame.MaxMeta {
				s.want = s.left
			}
		}
	}
}

// arm gives a frame that has begun its time, and a lane between two frames all
// the time that it likes. It moves the deadline no more often than it must.
func (s *inward) arm() error {
	limit := allowance(frame.MaxBody)
	switch between := s.have == 0 && s.left == 0; {
	case between && s.deadline.IsZero():
		return nil
	case between:
		s.deadline = time.Time{}
	case s.deadline.IsZero(), s.ended && time.Until(s.deadline) < limit/2:
		s.deadline = time.Now().Add(limit)
	default:
		return nil
	}
	s.ended = false
	return s.SetReadDeadline(s.deadline)
}

// Write fails when the peer takes nothing for too long.
func (s *inward) Write(b []byte) (int, error) {
	s.writing.Lock()
	defer s.writing.Unlock()
	if err := s.SetWriteDeadline(time.Now().Add(allowance(len(b)))); err != nil {
		return 0, err
	}
	return s.Stream.Write(b)
}

// Close lets what was written arrive, unless a Write is stuck.
func (s *inward) Close() error {
	s.stop()
	if !s.writing.TryLock() {
		return s.Reset()
	}
	defer s.writing.Unlock()
	return s.Stream.Close()
}
