package host

import (
	"context"
	"slices"
	"sync"
	"time"

	"cell.network/cell/internal/identity"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	ma "github.com/multiformats/go-multiaddr"
)

// How relayed connections become direct ones.
const (
	punchName   = "punch/1"
	punchRounds = 3
	punchTalk   = 5 * time.Second  // for the words over the relay
	punchTime   = 2 * time.Second  // for one attempt
	punchPause  = 10 * time.Second // between two
	punchKnown  = 30 * time.Second // addresses are kept; not one of libp2p's times, with which identify throws them away
	punchWait   = time.Second      // for a first peer to say where this node is seen
	maxPunches  = 32               // under way; more stay relayed
	punchBurst  = 64               // after a quiet time
	punchPace   = 1                // a second after that: each sends a few KB to where a stranger says
)

// punches turns relayed connections into direct ones: both nodes send to where
// the other is seen at about the same time, so that the translator of each takes
// the other's packets for answers. One of them opens the connection: the one
// that was dialled over the relay if the other is plainly reachable, or if its
// own packets come from ports that nobody can foretell; otherwise the other. It
// is the way of libp2p's DCUtR with a word less and the better role first.
type punches struct {
	host *Host

	mu    sync.Mutex // guards what follows
	busy  map[peer.ID]bool
	left  float64
	at    time.Time // when left was right
	state Punches
}

// Punches counts attempts at a direct connection where there was a relayed one.
type Punches struct {
	OK     int
	Failed int
	Last   string // what became of the last one
}

func newPunches(h *Host) *punches {
	return &punches{host: h, busy: make(map[peer.ID]bool), left: punchBurst, at: time.Now()}
}

func (p *punches) get() Punches {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.state
}

func (p *punches) protocol() protocol.ID { return Protocol(p.host.network, punchName) }

// claim reserves a peer, so that there is one attempt at a time.
func (p *punches) claim(id peer.ID) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	p.left = min(punchBurst, p.left+punchPace*now.Sub(p.at).Seconds())
	p.at = now
	if p.busy[id] || len(p.busy) >= maxPunches || p.left < 1 {
		return false
	}
	p.left--
	p.busy[id] = true
	return true
}

func (p *punches) release(id peer.ID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.busy, id)
}

// begin tries to reach a peer directly that was dialled over a relay.
func (p *punches) begin(ctx context.Context, c network.Conn) {
	id := c.RemotePeer()
	if !p.claim(id) {
		return
	}
	defer p.release(id)
	start := time.Now()
	for round := range uint8(punchRounds) {
		if round > 0 {
			select {
			case <-time.After(punchPause):
			case <-ctx.Done():
				return
			}
		}
		if c.IsClosed() || p.direct(id) {
			return
		}
		ours := p.meeting(ctx, round)
		theirs, err := p.ask(ctx, c, ours)
		if err != nil {
			p.ended(id, start, err)
			continue
		}
		dials := !theirs.varies && !ours.public || round > 0
		p.ended(id, start, p.try(ctx, id, theirs.addrs, dials))
	}
}

// ask tells the peer where this node is seen and returns what it answers.
func (p *punches) ask(ctx context.Context, c network.Conn, ours meeting) (meeting, error) {
	ctx, cancel := context.WithTimeout(network.WithAllowLimitedConn(ctx, punchName), punchTalk)
	defer cancel()
	s, err := c.NewStream(ctx)
	if err != nil {
		return meeting{}, err
	}
	defer s.Reset()
	s, err = begun(s, p.protocol())
	if err != nil {
		return meeting{}, err
	}
	_ = s.SetDeadline(time.Now().Add(punchTalk))
	if _, err := s.Write(ours.encode()); err != nil {
		return meeting{}, err
	}
	return readMeeting(s)
}

// answer serves one attempt of a peer that dialled this node over a relay.
func (p *punches) answer(s network.Stream) {
	c := s.Conn()
	id := c.RemotePeer()
	_, _, relayed := splitRelayed(c.RemoteMultiaddr())
	if !relayed || c.Stat().Direction != network.DirInbound || !p.claim(id) {
		_ = s.Reset()
		return
	}
	if !p.host.jobs.spawn(func(ctx context.Context) {
		defer p.release(id)
		start := time.Now()
		theirs, dials, err := p.reply(ctx, s)
		if err == nil {
			err = p.try(ctx, id, theirs.addrs, dials)
		}
		p.ended(id, start, err)
	}) {
		p.release(id)
		_ = s.Reset()
	}
}

// reply takes in what the peer says, tells it where this node is seen, and
// returns whether this node is to open the connection.
func (p *punches) reply(ctx context.Context, s network.Stream) (theirs meeting, dials bool, err error) {
	_ = s.SetDeadline(time.Now().Add(punchTalk))
	if theirs, err = readMeeting(s); err != nil {
		_ = s.Reset()
		return meeting{}, false, err
	}
	ours := p.meeting(ctx, theirs.round)
	if _, err = s.Write(ours.encode()); err != nil {
		_ = s.Reset()
		return meeting{}, false, err
	}
	return theirs, ours.varies || theirs.public || theirs.round > 0, s.Close()
}

func (p *punches) direct(id peer.ID) bool {
	best := p.host.best(id)
	return best != nil && !best.Stat().Limited
}

// meeting is what this node says of itself.
func (p *punches) meeting(ctx context.Context, round uint8) meeting {
	for end := time.Now().Add(punchWait); ; {
		r := p.host.Reach()
		seen := p.host.seen.latest()
		own := Publishable(p.host.network, slices.Concat(seen, r.Mapped, r.Interfaces))
		if len(own) > 0 { // those of the LAN only where there are no others
			widest := reach(own[0])
			own = slices.DeleteFunc(own, func(a ma.Multiaddr) bool { return reach(a) > widest })
		}
		if len(seen) > 0 || r.Public == Yes || time.Now().After(end) {
			return meeting{public: r.Public == Yes, varies: r.Translated == translatedEach, round: round, addrs: own}
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return meeting{round: round}
		}
	}
}

// try sends to the peer's addresses: the beginning of a connection if this node
// is to open it, else something that opens the way for the peer's.
func (p *punches) try(ctx context.Context, id peer.ID, addrs []ma.Multiaddr, dials bool) error {
	addrs = onePlace(p.host.network, addrs)
	p.host.Peerstore().AddAddrs(id, addrs, punchKnown)
	ctx, cancel := context.WithTimeout(ctx, punchTime)
	defer cancel()
	ctx = network.WithForceDirectDial(network.WithSimultaneousConnect(ctx, dials, punchName), punchName)
	_, err := p.host.swarm.DialPeer(ctx, id)
	return err
}

// onePlace keeps those addresses that may be dialled and that are at the IP of
// the first one of their version: nobody makes this node send to many machines.
func onePlace(n identity.Network, addrs []ma.Multiaddr) (out []ma.Multiaddr) {
	at := make(map[int]string)
	for _, a := range addrs {
		version, ip := a[0].Code(), a[0].Value()
		if at[version] == "" && Dialable(n, a) {
			at[version] = ip
		}
		if at[version] == ip && Dialable(n, a) {
			out = append(out, a)
		}
	}
	return out
}

// ended counts an attempt.
func (p *punches) ended(id peer.ID, start time.Time, err error) {
	node := id.String()
	if key, err := KeyOf(id); err == nil {
		node = key.Short()
	}
	ok := p.direct(id)
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case ok:
		p.state.OK++
		p.state.Last = "reached " + node + " directly after " + time.Since(start).Round(time.Millisecond).String()
	case err != nil:
		p.state.Failed++
		p.state.Last = "did not reach " + node + " directly: " + firstLine(err.Error())
	}
}
