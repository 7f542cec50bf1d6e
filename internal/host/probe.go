package host

import (
	"errors"
	"net"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/p2p/host/autonat"
	basichost "github.com/libp2p/go-libp2p/p2p/host/basic"
	blankhost "github.com/libp2p/go-libp2p/p2p/host/blank"
	"github.com/libp2p/go-libp2p/p2p/host/eventbus"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	"github.com/libp2p/go-libp2p/p2p/protocol/autonatv2"
	"github.com/libp2p/go-libp2p/p2p/transport/quicreuse"
	ma "github.com/multiformats/go-multiaddr"
)

// Linger is how long a goroutine of AutoNAT may outlive its host: whoever asks
// to be dialled does not learn from the time of the answer why it failed. A
// simulation sleeps as long after it has closed its hosts.
const Linger = 20 * time.Second

// probe is AutoNAT: the host asks peers to dial it back, and dials back those
// that ask. It dials from keys and a port of its own: an address translator
// would let what comes from the port that the asker talks to pass, whatever
// becomes of strangers.
type probe struct {
	quic    *quicreuse.ConnManager
	first   *swarm.Swarm // of version 1
	second  *swarm.Swarm // of version 2
	v1      autonat.AutoNAT
	v2      *autonatv2.AutoNAT
	closers []func() error
}

// newProbe makes what dials back, before there is a host.
func newProbe(c Config, limits network.ResourceManager) (*probe, error) {
	own := c
	if c.ListenPacket != nil {
		own.ListenPacket = func(netw string, at *net.UDPAddr) (net.PacketConn, error) {
			if at.IP.IsUnspecified() { // a simulated machine has one address
				at = &net.UDPAddr{IP: net.IP(firstIP(c.Listen)), Port: at.Port}
			}
			return c.ListenPacket(netw, at)
		}
	}
	p := &probe{}
	var err error
	if p.quic, err = newQUIC(own, limits); err != nil {
		return nil, err
	}
	p.closers = append(p.closers, p.quic.Close)
	if p.first, err = p.swarm(limits); err == nil {
		p.second, err = p.swarm(limits)
	}
	if err != nil {
		return nil, errors.Join(err, p.Close())
	}
	dialer := blankhost.NewBlankHost(p.second, blankhost.WithEventBus(eventbus.NewBus()))
	if dialer == nil {
		return nil, errors.Join(errors.New("probe: no host to dial from"), p.Close())
	}
	if p.v2, err = autonatv2.New(dialer); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

func (p *probe) swarm(limits network.ResourceManager) (*swarm.Swarm, error) {
	key, _, err := crypto.GenerateEd25519Key(nil)
	if err != nil {
		return nil, err
	}
	s, err := newSwarm(key, eventbus.NewBus(), p.quic, limits)
	if err == nil {
		p.closers = append(p.closers, s.Peerstore().Close, s.Close)
	}
	return s, err
}

// attach starts version 1 for a host that was made with version 2.
func (p *probe) attach(h *basichost.BasicHost) error {
	public := func() []ma.Multiaddr { return publicAddrs(h.AllAddrs()) }
	nat, err := autonat.New(hushed{h}, autonat.UsingAddresses(public), autonat.EnableService(p.first))
	if err != nil {
		return err
	}
	p.v1 = nat
	h.SetAutoNat(nat)
	return nil
}

// hushed is a host whose AutoNAT tells nobody of its verdict: other parts of
// libp2p would take it for the last word, and it is one of several.
type hushed struct{ *basichost.BasicHost }

// EventBus implements libp2p's host.
func (h hushed) EventBus() event.Bus { return mute{h.BasicHost.EventBus()} }

type mute struct{ event.Bus }

// Emitter implements libp2p's bus: what goes in is lost.
func (mute) Emitter(t any, opts ...event.EmitterOpt) (event.Emitter, error) {
	return eventbus.NewBus().Emitter(t, opts...)
}

// Close ends what the host does not.
func (p *probe) Close() error {
	var err error
	for i := len(p.closers) - 1; i >= 0; i-- {
		err = errors.Join(err, p.closers[i]())
	}
	return err
}
