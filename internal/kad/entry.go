package kad

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/core/sec"
	"github.com/multiformats/go-multistream"
)

// Entry is what came of a bootstrap address so far.
type Entry struct {
	Addr  string
	Tried time.Time // last; zero: not yet
	Met   time.Time // when a node there last answered; zero: never
	Err   error     // of the last attempt, in words for people; nil where a node answered
}

// What is wrong with a bootstrap address at which nobody is silent.
var (
	errNoAddress = errors.New("the name has no addresses of nodes")
	errForeign   = errors.New("the node there is of another network, or only a client of this one")
)

// Entries returns what came of each bootstrap address, in their order.
func (k *Kad) Entries() []Entry {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.entries)
}

// entered takes note of an attempt with bootstrap address i.
func (k *Kad) entered(i int, err error) {
	if k.ctx.Err() != nil {
		return
	}
	k.mu.Lock()
	e := &k.entries[i]
	if e.Tried = time.Now(); err == nil {
		e.Met, e.Err = e.Tried, nil
	} else {
		e.Err = plainly(err)
	}
	news := *e
	k.mu.Unlock()
	if k.conf.OnEntry != nil {
		k.conf.OnEntry(news)
	}
}

// plainly says why a bootstrap address was of no use.
func plainly(err error) error {
	var other sec.ErrPeerIDMismatch
	var dns *net.DNSError
	var slow net.Error
	var stream *network.StreamError
	switch {
	case errors.Is(err, errNoAddress), errors.Is(err, errForeign):
		return err
	case errors.As(err, &dns):
		return dns
	case errors.As(err, &other):
		return fmt.Errorf("another node is there: %s", other.Actual)
	case errors.Is(err, multistream.ErrNotSupported[protocol.ID]{}),
		errors.As(err, &stream) && stream.ErrorCode == network.StreamProtocolNegotiationFailed:
		return errForeign
	case errors.As(err, &slow) && slow.Timeout(), errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("no answer within %v", meetTimeout)
	}
	text := strings.TrimSpace(err.Error())
	return errors.New(strings.TrimLeft(text[strings.LastIndexByte(text, '\n')+1:], " *"))
}
