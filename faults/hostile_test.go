package faults_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	libp2ptls "github.com/libp2p/go-libp2p/p2p/security/tls"
	"github.com/quic-go/quic-go"
)

// hostiles are what this test program can be instead of a test, in a process of
// its own: see envHostile. It attacks envTarget, says what it did and ends by
// itself after hostileTime at the latest.
var hostiles = map[string]func(){"unix": floodUnix, "quic": floodQUIC}

const (
	envTarget   = "FAULTS_TARGET" // socket path, or host:port of a node
	envPeer     = "FAULTS_PEER"   // the node's libp2p id
	hostileTime = 90 * time.Second
	floodSize   = 10_000 // connections
)

// idle makes this process stand back when processors are short: what is
// measured is the node's trouble with the connections, not that an attacker on
// the same machine takes its processors.
func idle() { _ = syscall.Setpriority(syscall.PRIO_PROCESS, 0, 19) }

// openFiles is how many connections this process can hold.
func openFiles() int {
	var l syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l) != nil {
		return 256
	}
	return int(min(l.Cur, 1<<20)) - 100
}

// floodUnix opens connections to a control socket and holds those that it can:
// silent ones, ones that stop in the middle of a header, and ones that promise
// 4 GiB and stop.
func floodUnix() {
	idle()
	end := time.Now().Add(hostileTime)
	words := []string{
		"",
		"GET /v1/sta",
		"POST /v1/run HTTP/1.1\r\nHost: cell\r\nContent-Length: 4294967296\r\n\r\n{\"dir\":\"",
	}
	var held []net.Conn
	opened, failed := 0, 0
	for opened < floodSize && time.Now().Before(end) {
		c, err := net.DialTimeout("unix", os.Getenv(envTarget), time.Second)
		if err != nil { // the queue of the system is full: that is no connection yet
			failed++
			time.Sleep(time.Millisecond)
			continue
		}
		_, _ = c.Write([]byte(words[opened%len(words)]))
		opened++
		if held = append(held, c); len(held) >= openFiles() {
			_ = held[0].Close()
			held = held[1:]
		}
	}
	fmt.Println(opened, failed)
	time.Sleep(time.Second)
}

// floodQUIC opens connections to a node from one socket, each with a key of its
// own, and holds those that the node accepts.
func floodQUIC() {
	idle()
	ctx, cancel := context.WithTimeout(context.Background(), hostileTime)
	defer cancel()
	to, err := net.ResolveUDPAddr("udp", os.Getenv(envTarget))
	fatal(err)
	node, err := peer.Decode(os.Getenv(envPeer))
	fatal(err)
	socket, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	fatal(err)
	transport := &quic.Transport{Conn: socket}
	defer transport.Close()
	var opened, failed atomic.Int64
	var left atomic.Int64
	left.Store(floodSize)
	var workers sync.WaitGroup
	for range 16 {
		workers.Go(func() {
			for left.Add(-1) >= 0 && ctx.Err() == nil {
				if c, err := connect(ctx, transport, to, node); err == nil {
					opened.Add(1)
					defer c.CloseWithError(0, "") // at the end, or the node would wait for it
				} else {
					failed.Add(1)
				}
			}
		})
	}
	workers.Wait()
	fmt.Println(opened.Load(), failed.Load())
}

func connect(ctx context.Context, from *quic.Transport, to net.Addr, node peer.ID) (*quic.Conn, error) {
	key, _, err := crypto.GenerateEd25519Key(rand.Reader)
	fatal(err)
	id, err := libp2ptls.NewIdentity(key)
	fatal(err)
	conf, _ := id.ConfigForPeer(node)
	conf.NextProtos = []string{"libp2p"}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	c, err := from.Dial(ctx, to, conf, &quic.Config{KeepAlivePeriod: 5 * time.Second})
	if err != nil {
		return nil, err
	}
	// A node that is full says so right after the handshake.
	select {
	case <-c.Context().Done():
		return nil, context.Cause(c.Context())
	case <-time.After(20 * time.Millisecond):
		return c, nil
	}
}

func fatal(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "hostile process:", err)
		os.Exit(1)
	}
}
