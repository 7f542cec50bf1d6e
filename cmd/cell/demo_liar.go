package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"cell.network/cell/internal/host"
	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/kad"
	"cell.network/cell/internal/mesh"
	"cell.network/cell/internal/mycelium"
	"cell.network/cell/internal/pheromone"
	"cell.network/cell/internal/record"
	"github.com/fxamacker/cbor/v2"
	"github.com/libp2p/go-libp2p/core/network"
)

// The releases that the liar offers: one that the author has withdrawn, and one
// that he never signed.
const (
	oldVersion    = "0.1.0"
	forgedVersion = "9.9.9"
)

// liar is a node that announces itself as a seed like any other, and offers what
// it should not. It is no process: nothing of it is trusted anyway.
type liar struct {
	key    identity.Key
	offers map[string][]byte // records by version
	host   *host.Host
	kad    *kad.Kad
	cancel context.CancelFunc
	tasks  sync.WaitGroup
}

// startLiar starts it next to the node that listens at entry. Where there is no
// multicast it tells the node whose LAN tier listens at direct.
func startLiar(n identity.Network, lanPort int, direct netip.AddrPort, entry string, claim record.Spore, offers map[string][]byte) (l *liar, err error) {
	key := identity.NewPrivate()
	ctx, cancel := context.WithCancel(context.Background())
	l = &liar{key: key.Public(), offers: offers, cancel: cancel}
	defer func() {
		if err != nil {
			l.close()
		}
	}()
	if l.host, err = host.New(host.Config{Key: key, Network: n, Listen: []string{"/ip4/127.0.0.1/udp/0/quic-v1"}}); err != nil {
		return nil, err
	}
	l.host.SetStreamHandler(host.Protocol(n, "spore/1"), l.serve)
	if l.kad, err = kad.New(l.host, kad.Config{Network: n, Bootstrap: []string{entry}}); err != nil {
		return nil, err
	}
	udp := pheromone.UDPConfig{Port: uint16(lanPort)}
	if direct.IsValid() {
		udp.Directed, udp.Interfaces = []netip.AddrPort{direct}, func(net.Interface) bool { return false }
	}
	bus, err := pheromone.ListenUDP(udp)
	if err != nil {
		return nil, err
	}
	lan := pheromone.New(pheromone.Config{Network: n, Key: key, Bus: bus, OnLease: func(record.Lease) {}})
	m := mesh.New(mesh.Config{
		Network: n.ID(), Key: key, Incarnation: uint64(time.Now().Unix()), LAN: lan, WAN: l.kad, Addrs: l.host.LeaseAddrs, Dialable: l.host.DialableRaw,
	})
	l.tasks.Go(func() { _ = lan.Run(ctx) })
	l.tasks.Go(func() { _ = m.Run(ctx) })
	m.AnnounceSeed(claim)
	return l, nil
}

// forge makes of a release one that looks newer, under the author's signature
// of what he did sign.
func forge(s record.Spore) ([]byte, error) {
	forged := s.Raw
	for _, change := range [][2]string{
		{"\ntag cell/" + string(s.Cell.Name) + "/" + strconv.FormatUint(s.Seq, 10) + "\n", "\ntag cell/" + string(s.Cell.Name) + "/" + strconv.FormatUint(s.Seq+1, 10) + "\n"},
		{"\nseq " + strconv.FormatUint(s.Seq, 10) + "\n", "\nseq " + strconv.FormatUint(s.Seq+1, 10) + "\n"},
		{"\nversion " + s.Version + "\n", "\nversion " + forgedVersion + "\n"},
	} {
		if !bytes.Contains(forged, []byte(change[0])) {
			return nil, fmt.Errorf("forge a release: it has no line %q", change[0])
		}
		forged = bytes.Replace(forged, []byte(change[0]), []byte(change[1]), 1)
	}
	if _, err := record.ParseSpore(forged); !errors.Is(err, record.ErrSignature) {
		return nil, fmt.Errorf("forge a release: the signature is not what is wrong with it: %v", err)
	}
	return forged, nil
}

// serve answers one request of the protocol spore/1, see package mycelium: with
// the record that goes by the version asked for, and no content.
func (l *liar) serve(s network.Stream) {
	defer s.Close()
	_ = s.SetDeadline(time.Now().Add(5 * time.Second))
	var head [4]byte
	if _, err := io.ReadFull(s, head[:]); err != nil || binary.BigEndian.Uint32(head[:]) > mycelium.MaxRequest {
		return
	}
	question := make([]byte, binary.BigEndian.Uint32(head[:]))
	var q struct {
		Version string `cbor:"4,keyasint"`
	}
	if _, err := io.ReadFull(s, question); err != nil || cbor.Unmarshal(question, &q) != nil {
		return
	}
	var a struct {
		Code  uint8  `cbor:"1,keyasint"`
		Spore []byte `cbor:"2,keyasint,omitempty"`
	}
	if a.Spore = l.offers[q.Version]; a.Spore == nil {
		a.Code = 1 // there is none
	}
	answer, err := cbor.Marshal(a)
	if err != nil {
		return
	}
	_, _ = s.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(answer))), answer...))
}

func (l *liar) close() {
	l.cancel()
	l.tasks.Wait()
	if l.kad != nil {
		_ = l.kad.Close()
	}
	if l.host != nil {
		_ = l.host.Close()
	}
}
