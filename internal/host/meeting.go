package host

import (
	"errors"
	"fmt"
	"io"

	"cell.network/cell/internal/record"
	ma "github.com/multiformats/go-multiaddr"
)

// Two nodes that are connected over a relay tell each other where they are
// seen. A meeting is what one of them says:
//
//	0  u8  bits: 1 strangers reach it, 2 each peer sees it at another port
//	1  u8  which attempt this is, from 0
//	2  u8  number of addresses, at most maxMeetingAddrs
//	3  that many times: u8 length, binary multiaddr of that length
//
// The one that opened the relayed connection speaks first.
type meeting struct {
	public bool
	varies bool
	round  uint8
	addrs  []ma.Multiaddr
}

const (
	maxMeetingAddrs = 6
	meetingHeader   = 3
	maxMeeting      = meetingHeader + maxMeetingAddrs*(1+record.MaxAddrSize) // bytes
)

const (
	bitPublic = 1 << iota
	bitVaries
)

var errMeeting = errors.New("malformed meeting")

// encode returns the bytes of a meeting; addresses beyond the limits are left out.
func (m meeting) encode() []byte {
	var bits byte
	if m.public {
		bits |= bitPublic
	}
	if m.varies {
		bits |= bitVaries
	}
	out := []byte{bits, m.round, 0}
	for _, a := range m.addrs {
		if raw := a.Bytes(); len(raw) > 0 && len(raw) <= record.MaxAddrSize && out[2] < maxMeetingAddrs {
			out = append(append(out, byte(len(raw))), raw...)
			out[2]++
		}
	}
	return out
}

// readMeeting reads one meeting. Addresses that nobody can dial are left out:
// a later version may have others.
func readMeeting(r io.Reader) (meeting, error) {
	var head [meetingHeader]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return meeting{}, fmt.Errorf("read meeting: %w", err)
	}
	if head[2] > maxMeetingAddrs {
		return meeting{}, fmt.Errorf("read meeting: %d addresses: %w", head[2], errMeeting)
	}
	m := meeting{public: head[0]&bitPublic != 0, varies: head[0]&bitVaries != 0, round: head[1]}
	for range head[2] {
		var size [1]byte
		if _, err := io.ReadFull(r, size[:]); err != nil {
			return meeting{}, fmt.Errorf("read meeting: %w", err)
		}
		if size[0] == 0 || size[0] > record.MaxAddrSize {
			return meeting{}, fmt.Errorf("read meeting: an address of %d bytes: %w", size[0], errMeeting)
		}
		raw := make([]byte, size[0])
		if _, err := io.ReadFull(r, raw); err != nil {
			return meeting{}, fmt.Errorf("read meeting: %w", err)
		}
		if a, err := ma.NewMultiaddrBytes(raw); err == nil && oneMachine(a) {
			m.addrs = append(m.addrs, a)
		}
	}
	return m, nil
}
