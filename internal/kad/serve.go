package kad

import (
	"context"
	"time"

	"cell.network/cell/internal/host"
	"cell.network/cell/internal/identity"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
)

// serveTimeout bounds a request from its first byte to the last of its answer.
// How many a peer may have under way is the host's limit.
const serveTimeout = 5 * time.Second

func (k *Kad) serve(s network.Stream) {
	if !k.begin() {
		_ = s.Reset()
		return
	}
	defer k.tasks.Done()
	defer context.AfterFunc(k.ctx, func() { _ = s.Reset() })()
	_ = s.SetDeadline(time.Now().Add(serveTimeout))
	b, err := readMessage(s, MaxRequest)
	var r request
	if err == nil {
		r, err = parseRequest(b)
	}
	if err != nil {
		k.refuse(reasonRequest)
		_ = s.Reset()
		return
	}
	if err := writeMessage(s, k.respond(s, r)); err != nil {
		_ = s.Reset()
		return
	}
	_ = s.Close()
}

func (k *Kad) respond(s network.Stream, r request) answer {
	now, source, key := time.Now(), sourceOf(s), identity.NameKey(r.Key)
	if !k.rate.allow(source, r.Op == opPut, now) {
		k.refuse(reasonRate)
		return answer{Code: codeBusy}
	}
	switch r.Op {
	case opPut:
		if reason := k.hold(key, r.Lease, source, now); reason != "" {
			k.refuse(reason)
			return answer{Code: codeRefused, Reason: reason}
		}
		return answer{}
	case opGet:
		return answer{Leases: k.store.get(key, now), Closer: k.closer(key, s.Conn().RemotePeer())}
	}
	return answer{Closer: k.closer(key, s.Conn().RemotePeer())}
}

// hold verifies a lease and stores it. It returns "" or the reason for which it did not.
func (k *Kad) hold(key identity.NameKey, raw []byte, source string, now time.Time) string {
	if near := k.nearest(key, 2*Replicas); source != ownSource && len(near) == 2*Replicas &&
		placeOf(near[len(near)-1]).to(key).compare(k.self.to(key)) < 0 {
		return reasonFar
	}
	l, reason := k.admit(raw, key, now)
	if reason != "" {
		return reason
	}
	return k.store.put(key, l, source, now)
}

// closer returns the peers closest to key, as they are told to one of them.
func (k *Kad) closer(key identity.NameKey, to peer.ID) []node {
	var out []node
	for _, p := range k.nearest(key, MaxCloser+1) {
		id, err := host.KeyOf(p)
		if err != nil || p == to || len(out) == MaxCloser {
			continue
		}
		n := node{Key: id[:]}
		for _, a := range host.Publishable(k.conf.Network, k.host.Peerstore().Addrs(p)) {
			if len(n.Addrs) < MaxCloserAddrs {
				n.Addrs = append(n.Addrs, a.Bytes())
			}
		}
		if len(n.Addrs) > 0 {
			out = append(out, n)
		}
	}
	return out
}
