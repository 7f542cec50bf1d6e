package host

import (
	"sync"
	"time"

	"cell.network/cell/internal/identity"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/protocol/holepunch"
	ma "github.com/multiformats/go-multiaddr"
)

// punchTime is how long one attempt at a direct connection may take; there are
// up to three, the last one with the roles of dialler and dialled changed.
const punchTime = 1500 * time.Millisecond

// punches watches the attempts (DCUtR) to turn relayed connections into direct
// ones, and keeps their addresses within what the network allows.
type punches struct {
	network identity.Network

	mu    sync.Mutex // guards what follows
	state Punches
}

// Punches counts attempts at a direct connection where there was a relayed one.
type Punches struct {
	OK     int // among them ones where the other end could be dialled plainly
	Failed int
	Last   string // what became of the last one
}

func (p *punches) options() []holepunch.Option {
	return []holepunch.Option{holepunch.DirectDialTimeout(punchTime), holepunch.WithTracer(p), holepunch.WithAddrFilter(p)}
}

// Trace implements libp2p's tracer of hole punching.
func (p *punches) Trace(e *holepunch.Event) {
	var ok bool
	var took time.Duration
	var why string
	switch e := e.Evt.(type) {
	case *holepunch.DirectDialEvt:
		if !e.Success {
			return // the punch follows
		}
		ok, took = true, e.EllapsedTime
	case *holepunch.EndHolePunchEvt:
		ok, took, why = e.Success, e.EllapsedTime, e.Error
	case *holepunch.ProtocolErrorEvt:
		why = e.Error
	default:
		return
	}
	node := e.Remote.String()
	if key, err := KeyOf(e.Remote); err == nil {
		node = key.Short()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if ok {
		p.state.OK++
		p.state.Last = "reached " + node + " directly after " + took.Round(time.Millisecond).String()
		return
	}
	p.state.Failed++
	p.state.Last = "did not reach " + node + " directly: " + firstLine(why)
}

func (p *punches) get() Punches {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.state
}

// FilterLocal implements libp2p's filter of what is told to the other end.
func (p *punches) FilterLocal(_ peer.ID, addrs []ma.Multiaddr) []ma.Multiaddr {
	return Publishable(p.network, addrs)
}

// FilterRemote implements libp2p's filter of what the other end says.
func (p *punches) FilterRemote(_ peer.ID, addrs []ma.Multiaddr) []ma.Multiaddr {
	return Publishable(p.network, addrs)
}
