package node

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"cell.network/cell/internal/host"
	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/record"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
)

// How hints are read.
const (
	hintsTime  = 10 * time.Second // for one source
	hintsFirst = 30 * time.Second // pause after the first round; it doubles
	hintsMost  = 24 * time.Hour   // up to this
	fewPeers   = 8                // below, the pause starts anew
)

// hintsClient follows a server that sends it elsewhere on itself only: the operator
// named this one.
var hintsClient = &http.Client{CheckRedirect: func(to *http.Request, via []*http.Request) error {
	if from := via[0].URL; to.URL.Scheme != from.Scheme || to.URL.Host != from.Host {
		return fmt.Errorf("it sends to %s", to.URL.Host)
	}
	if len(via) > 3 {
		return errors.New("it sends from one place to the next")
	}
	return nil
}}

// hintSource is a spores.json that the operator named: where it is, and who must have signed it.
type hintSource struct {
	at     string // a path, or a URL of http or https: the signature protects it either way
	signer identity.Key
}

// parseHintSource reads PATH#KEY or URL#KEY.
func parseHintSource(text string) (hintSource, error) {
	cut := strings.LastIndexByte(text, '#')
	if cut <= 0 {
		return hintSource{}, fmt.Errorf("bad source %q: write PATH#KEY, https://…#KEY or http://…#KEY, with the key of who signed it", text)
	}
	key, err := identity.ParseKey(text[cut+1:])
	if err != nil {
		return hintSource{}, fmt.Errorf("bad source %q: %w", text, err)
	}
	s := hintSource{text[:cut], key}
	if !s.remote() && !filepath.IsAbs(s.at) {
		return hintSource{}, fmt.Errorf("bad source %q: it is neither an absolute path nor a URL of https or http", text)
	}
	return s, nil
}

func (s hintSource) String() string { return s.at + "#" + s.signer.String() }

func (s hintSource) remote() bool {
	return strings.HasPrefix(s.at, "https://") || strings.HasPrefix(s.at, "http://")
}

// read returns the text as the source has it now.
func (s hintSource) read(ctx context.Context) ([]byte, error) {
	if !s.remote() {
		if info, err := os.Stat(s.at); err != nil {
			return nil, err
		} else if !info.Mode().IsRegular() { // to open a pipe may take for ever
			return nil, errors.New(s.at + " is no regular file")
		}
		f, err := os.Open(s.at)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		return io.ReadAll(io.LimitReader(f, record.MaxHintsSize+1))
	}
	ctx, cancel := context.WithTimeout(ctx, hintsTime)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.at, nil)
	if err != nil {
		return nil, err
	}
	res, err := hintsClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, errors.New("the server answered " + res.Status)
	}
	return io.ReadAll(io.LimitReader(res.Body, record.MaxHintsSize+1))
}

// hints keeps reading the sources of the settings, until ctx ends: at once, and
// then ever more rarely for as long as this node knows enough others.
func (n *Node) hints(ctx context.Context) error {
	var sources []hintSource
	for _, text := range n.cfg.Settings.Spores {
		if s, err := parseHintSource(text); err == nil { // the settings were checked
			sources = append(sources, s)
		}
	}
	if len(sources) == 0 {
		return nil
	}
	for wait := hintsFirst; ; wait = min(2*wait, hintsMost) {
		var all sync.WaitGroup
		for _, s := range sources {
			all.Go(func() {
				h, err := n.follow(ctx, s)
				if ctx.Err() != nil {
					return
				}
				n.hinted(s, h, err)
			})
		}
		all.Wait()
		if n.kad.Size() < fewPeers {
			wait = min(wait, time.Hour)
		}
		select {
		case <-time.After(n.vary(wait)):
		case <-ctx.Done():
			return nil
		}
	}
}

// follow meets the peers that a source names: first those of the copy kept from
// an earlier time, since the source may be gone. It returns the hints that hold.
func (n *Node) follow(ctx context.Context, s hintSource) (before record.Hints, err error) {
	kept := n.hintsFile(s)
	old, err := os.ReadFile(kept)
	if err == nil {
		if before, err = record.OpenHints(old, n.net, s.signer, time.Now()); err == nil {
			n.meet(before)
		}
	}
	text, err := s.read(ctx)
	if err != nil {
		return before, fmt.Errorf("read hints: %w", err)
	}
	h, err := record.OpenHints(text, n.net, s.signer, time.Now())
	if err != nil {
		return before, err
	}
	if h.Issued.Before(before.Issued) {
		return before, fmt.Errorf("%w: issued %s, those of %s are known", record.ErrOrder, h.Issued.Format(time.RFC3339), before.Issued.Format(time.RFC3339))
	}
	n.meet(h)
	if string(old) != string(text) {
		if err := replaceFile(kept, text); err != nil {
			return h, fmt.Errorf("keep hints: %w", err)
		}
	}
	return h, nil
}

// hintsFile is where the newest copy from a source is kept.
func (n *Node) hintsFile(s hintSource) string {
	id := sha256.Sum256([]byte(s.String()))
	return filepath.Join(n.cfg.Home.Cache, "spores."+string(n.net)+"."+hex.EncodeToString(id[:8])+".json")
}

// meet has the DHT dial the peers of hints, in an order of chance: many nodes
// read the same file.
func (n *Node) meet(h record.Hints) {
	var peers []peer.AddrInfo
	for _, text := range h.Peers {
		a, err := ma.NewMultiaddr(text)
		if err != nil {
			continue
		}
		if p, err := peer.AddrInfoFromP2pAddr(a); err == nil {
			peers = append(peers, *p)
		}
	}
	rand.Shuffle(len(peers), func(i, j int) { peers[i], peers[j] = peers[j], peers[i] })
	n.kad.AddPeers(peers)
}

// publishable returns those addresses of a peer that strangers may dial, each with its /p2p.
func publishable(network identity.Network, p peer.AddrInfo) []string {
	var out []string
	for _, a := range host.Publishable(network, p.Addrs) {
		out = append(out, a.String()+"/p2p/"+p.ID.String())
	}
	return out
}

// HintList is what GET /v1/hints answers.
type HintList struct {
	Peers []string `json:"peers"`
}

// Hints returns addresses through which others can enter the network: this
// node's own and those of the members of the DHT that it is connected to, each
// as a multiaddr with /p2p that strangers may dial, at most [record.MaxHints].
func (n *Node) Hints() []string {
	out := publishable(n.net, n.host.AddrInfo())
	for _, id := range n.kad.Peers() {
		out = append(out, publishable(n.net, n.host.Peerstore().PeerInfo(id))...)
	}
	return out[:min(len(out), record.MaxHints)]
}
