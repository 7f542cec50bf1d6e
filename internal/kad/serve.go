package kad

import (
	"context"
	"slices"
	"time"

	"cell.network/cell/internal/host"
	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/record"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
)

// serveTimeout bounds a request from its first byte to the last of its answer.
// How many a peer may have under way is the host's limit.
const serveTimeout = 5 * time.Second

// serve answers one request.
func (k *Kad) serve(s network.Stream) {
	if !k.begin() {
		_ = s.Reset()
		return
	}
	defer k.tasks.Done()
	defer context.AfterFunc(k.ctx, func() { _ = s.Reset() })()
	_ = s.SetDeadline(time.Now().Add(serveTimeout))
	r, err := k.readRequest(s)
	if err == nil {
		err = writeMessage(s, k.respond(s, r))
	}
	if err != nil {
		_ = s.Reset()
		return
	}
	_ = s.Close()
}

// readRequest reads a request and counts what is none.
func (k *Kad) readRequest(s network.Stream) (request, error) {
	b, err := readMessage(s, MaxRequest)
	var r request
	if err == nil {
		r, err = parseRequest(b)
	}
	if err != nil {
		k.refuse(reasonRequest)
	}
	return r, err
}

func (k *Kad) respond(s network.Stream, r request) answer {
	now, from, key := time.Now(), k.originOf(s), identity.NameKey(r.Key)
	if !k.rate.allow(from.source, r.Op == opPut, now) {
		k.refuse(reasonRate)
		return answer{Code: codeBusy}
	}
	var a answer
	to := s.Conn().RemotePeer()
	switch r.Op {
	case opNear:
		a.Closer = k.name(k.closest(place(r.Key), closerPerPlace+1, now), place(r.Key), closerPerPlace, to, nil)
		return a
	case opPut:
		if reason := k.hold(key, r.Lease, from, now); reason != "" {
			k.refuse(reason)
			a = answer{Code: codeRefused, Reason: reason}
		}
	case opGet:
		a.Leases = k.store.get(key, now, k.hidden)
	default:
		k.refuse(reasonRequest)
		return answer{Code: codeRefused, Reason: reasonRequest}
	}
	for i, p := range placesOf(key) {
		if r.Places>>i&1 == 1 {
			a.Closer = k.name(k.closest(p, closerPerPlace+1, now), p, closerPerPlace, to, a.Closer)
		}
	}
	return a
}

// name appends to out the n peers closest to p, as they are told to one of them.
func (k *Kad) name(all []candidate, p place, n int, to peer.ID, out []node) []node {
	slices.SortFunc(all, func(a, b candidate) int { return a.at.to(p).compare(b.at.to(p)) })
	for _, c := range all {
		if n == 0 {
			break
		}
		id, err := host.KeyOf(c.ID)
		if err != nil || c.ID == to || c.suspect {
			continue
		}
		n--
		if slices.ContainsFunc(out, func(o node) bool { return identity.Key(o.Key) == id }) {
			continue
		}
		if len(c.Addrs) == 0 {
			c.Addrs = k.host.Peerstore().Addrs(c.ID)
		}
		o := node{Key: id[:]}
		for _, a := range host.Publishable(k.conf.Network, c.Addrs) {
			if len(o.Addrs) < MaxCloserAddrs {
				o.Addrs = append(o.Addrs, a.Bytes())
			}
		}
		if len(o.Addrs) > 0 {
			out = append(out, o)
		}
	}
	return out
}

// hold verifies a lease and stores it. It returns "" or the reason for which it did not.
func (k *Kad) hold(key identity.NameKey, raw []byte, from origin, now time.Time) string {
	if from != ownOrigin && !k.conf.weak.anywhere && k.far(key, now) {
		return reasonFar
	}
	l, reason := k.admit(raw, key, now)
	if reason != "" {
		return reason
	}
	if l.Signer == from.key {
		k.dir.proved(l.Signer)
	}
	fresh, reason := k.store.put(key, l, from, now)
	if fresh {
		k.watched.tell(key, l)
		if k.conf.OnStored != nil {
			k.conf.OnStored(l)
		}
	}
	return reason
}

// hidden reports whether a lease that is held is not handed out: its node is
// dead, or has begun a new life.
func (k *Kad) hidden(l record.Lease) bool { return k.dir.dead(l.Signer) || k.conf.Floor.Over(l) }

// far reports whether this node knows many that are closer than itself to every
// place of a name. Whom it was only told of does not count: anybody can make
// such up.
func (k *Kad) far(key identity.NameKey, now time.Time) bool {
	for _, p := range placesOf(key) {
		closer := 0
		for _, c := range k.closest(p, 2*Holders, now) {
			if !c.suspect && (!c.hearsay || k.conf.weak.gullible) && c.at.to(p).compare(k.self.to(p)) < 0 {
				closer++
			}
		}
		if closer < 2*Holders {
			return false
		}
	}
	return true
}

// admit verifies a lease for key, whoever sent it, and raises the floor to it.
func (k *Kad) admit(raw []byte, key identity.NameKey, now time.Time) (l record.Lease, reason string) {
	l, reason = k.check(raw, key, now)
	if reason != "" && k.conf.weak.excuse != nil {
		return k.conf.weak.excuse(raw, reason)
	}
	return l, reason
}

func (k *Kad) check(raw []byte, key identity.NameKey, now time.Time) (l record.Lease, reason string) {
	l, err := record.OpenAnnouncement(raw, k.net, now)
	switch {
	case err != nil:
		return l, record.Reason(err)
	case l.Cell.Key(k.net) != key:
		return l, reasonKey
	case !l.Tombstone() && !slices.ContainsFunc(l.Addrs, k.dialable):
		return l, reasonAddress
	}
	if _, err := k.conf.Floor.Admit(l); err != nil {
		return l, record.Reason(err)
	}
	return l, ""
}
