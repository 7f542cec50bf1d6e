package node

import (
	"cmp"
	"context"
	"errors"
	"iter"
	"os"
	"slices"
	"time"

	"cell.network/cell/internal/frame"
	"cell.network/cell/internal/host"
	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/mesh"
	"cell.network/cell/internal/pheromone"
	"cell.network/cell/internal/record"
	"cell.network/cell/internal/ribosome"
	"github.com/libp2p/go-libp2p/core/network"
	ma "github.com/multiformats/go-multiaddr"
)

// Status says what the node is and where it listens.
func (n *Node) Status() Status {
	n.mu.Lock()
	s, certs := n.settings, n.certs
	n.mu.Unlock()
	st := Status{
		Version: n.cfg.Version, Protocol: Protocol, Node: n.self, Author: s.DefaultAuthor(n.cfg.Author),
		Network: n.net, Mode: string(s.dhtMode()), Only: s.Only, Listen: n.listen(), LAN: n.lanStatus(), DHT: DHTStatus{Size: n.kad.Size()},
		Started: n.started, Home: n.cfg.Home.Config, PID: os.Getpid(),
	}
	if certs.Member != nil {
		st.Colony = certs.Member.Signer
	}
	if st.DHT.Size == 0 {
		st.DHT.Note = "no other node known yet"
	}
	return st
}

// reporter is a bus that knows by which interfaces it works.
type reporter interface{ Report() pheromone.Report }

func (n *Node) lanStatus() LANStatus {
	if n.cfg.Bus == nil {
		return LANStatus{Note: "switched off"}
	}
	if b, ok := n.cfg.Bus.(reporter); ok {
		return LANStatus(b.Report())
	}
	return LANStatus{OK: true}
}

// listen returns the node's full addresses, those that reach furthest first.
func (n *Node) listen() []string {
	var out []string
	for _, a := range n.host.Addrs() {
		out = append(out, a.String()+"/p2p/"+n.host.ID().String())
	}
	return out
}

// Peers lists the nodes that this one is connected to or has heard leases of.
func (n *Node) Peers() []Peer {
	all := make(map[identity.Key]*Peer)
	at := func(k identity.Key) *Peer {
		if all[k] == nil {
			all[k] = &Peer{Node: k}
		}
		return all[k]
	}
	for _, c := range n.host.Network().Conns() {
		k, err := host.KeyOf(c.RemotePeer())
		if err != nil {
			continue
		}
		p := at(k)
		p.Connected = true
		p.Addrs = appendNew(p.Addrs, c.RemoteMultiaddr().String())
		via, rtt, _ := n.host.Path(k)
		p.Path, p.RTTMS = via, ms(rtt)
	}
	for _, id := range n.kad.Peers() {
		if k, err := host.KeyOf(id); err == nil {
			at(k).Tiers = appendNew(at(k).Tiers, "dht")
		}
	}
	for _, ep := range n.mesh.Known() {
		if ep.Node != n.self {
			p := at(ep.Node)
			p.Cells++
			p.Tiers = appendNew(p.Tiers, string(ep.Tier))
		}
	}
	out := make([]Peer, 0, len(all))
	for _, p := range all {
		out = append(out, *p)
	}
	slices.SortFunc(out, func(a, b Peer) int { return cmp.Compare(a.Node.String(), b.Node.String()) })
	return out
}

// brief is a time in three digits, for people; one that was measured is never 0s.
func brief(d time.Duration) string {
	unit := time.Microsecond
	for d >= 1000*unit {
		unit *= 10
	}
	return max(d.Round(unit), time.Microsecond).String()
}

func appendNew(list []string, s string) []string {
	if slices.Contains(list, s) {
		return list
	}
	return append(list, s)
}

// pingEvery is the pause between two pings.
const pingEvery = 200 * time.Millisecond

// Ping measures round trips to a node, given by its key or by a cell that it serves.
func (n *Node) Ping(ctx context.Context, target string, count int) iter.Seq[Pong] {
	return func(yield func(Pong) bool) {
		to, addrs, err := n.pingTarget(ctx, target)
		for i := range count {
			if err != nil {
				yield(Pong{Node: to, Error: asAPIError(err)})
				return
			}
			if i > 0 {
				select {
				case <-time.After(pingEvery):
				case <-ctx.Done():
					return
				}
			}
			p := Pong{Node: to, Path: "self"}
			if to != n.self {
				rtt, perr := n.axon.Ping(ctx, to, addrs)
				p.RTTMS = ms(rtt)
				p.Path, p.Addr = n.reached(to)
				if perr != nil {
					p.Error = asAPIError(perr)
				}
			}
			if !yield(p) {
				return
			}
		}
	}
}

func (n *Node) pingTarget(ctx context.Context, target string) (identity.Key, [][]byte, error) {
	if key, err := identity.ParseKey(target); err == nil {
		id, err := host.PeerID(key)
		if err != nil {
			return key, nil, err
		}
		if key != n.self && len(n.host.Peerstore().Addrs(id)) == 0 && n.host.Network().Connectedness(id) != network.Connected {
			return key, nil, NewError(CodeNoReplica, "no address of "+key.Short()+" is known", "ping a cell that it serves: cell ping NAME")
		}
		return key, nil, nil
	}
	cell, err := n.parseCell(target)
	if err != nil {
		return identity.Key{}, nil, err
	}
	for ep, err := range n.mesh.Discover(ctx, cell) {
		if err != nil {
			return identity.Key{}, nil, err
		}
		return ep.Node, ep.Addrs, nil
	}
	return identity.Key{}, nil, &mesh.NotFound{Cell: cell}
}

func found(cell identity.Cell, ep mesh.Endpoint) Found {
	f := Found{
		Cell: cell.String(), Node: ep.Node, Tier: string(ep.Tier), Holder: ep.Holder,
		TookMS: ms(ep.Took), RTTMS: ms(ep.RTT), State: ReplicaAlive, Why: ep.Why,
	}
	if !ep.Holder.IsZero() {
		f.Hops = &ep.Hops
	}
	if ep.Lease.State == record.StateDraining {
		f.State = ReplicaDraining
	}
	for _, raw := range ep.Addrs {
		if a, err := ma.NewMultiaddrBytes(raw); err == nil {
			f.Addrs = append(f.Addrs, a.String())
		}
	}
	return f
}

// asAPIError gives an error the code, hint and exit status that people and scripts see.
func asAPIError(err error) *APIError {
	var api *APIError
	var nf *mesh.NotFound
	var file *FileError
	var call *frame.Error
	switch {
	case errors.As(err, &api):
		return api
	case errors.As(err, &nf):
		return NewError(CodeNoReplica, nf.Error(), nobodyHint(err, "start it where its source is: cell run DIR; look at the network: cell peers, cell doctor"))
	case errors.As(err, &file):
		return NewError(CodeUsage, err.Error(), "correct the file and try again")
	case errors.Is(err, ErrNoManifest):
		return NewError(CodeUsage, err.Error(), "name the folder of a cell, or make one: cell new NAME")
	case errors.Is(err, ErrNotServed):
		return NewError(CodeNoReplica, err.Error(), "what runs here: cell ps")
	case errors.Is(err, context.DeadlineExceeded):
		return NewError(CodeTimeout, err.Error(), "")
	case errors.Is(err, context.Canceled):
		return NewError(CodeInterrupted, err.Error(), "")
	case errors.As(err, &call):
		return NewError(exitWord(call.Code), call.Error(), call.Hint)
	}
	var build *ribosome.Error
	hint := ""
	switch {
	case errors.As(err, &build):
		hint = build.Hint
	case diskFull(err):
		hint = "make room on the disk that holds the node's home: cell doctor says how much is left"
	}
	return NewError(CodeFailed, err.Error(), hint)
}

func exitWord(c frame.Code) string {
	switch c {
	case frame.NoReplica:
		return CodeNoReplica
	case frame.Timeout:
		return CodeTimeout
	case frame.Refused:
		return CodeRefused
	case frame.Version:
		return CodeVersion
	}
	return CodeFailed
}
