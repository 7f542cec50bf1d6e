package host

import (
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
)

// When a circuit has passed on all that its relay allows, both ends know that
// this is why it ended, whichever of them used it up.
func TestBothEndsKnowThatACircuitIsSpent(t *testing.T) {
	for name, upload := range map[string]bool{"the one that dialled": true, "the one that was dialled": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPlanet(t, 2, Config{})
				a, b := p.sheltered(p.box(*symmetric), Config{}), p.sheltered(p.box(*symmetric), Config{})
				pour := func(s network.Stream) (err error) {
					for sent := 0; sent < 2*RelayBytes && err == nil; sent += 1000 {
						_ = s.SetWriteDeadline(time.Now().Add(time.Minute))
						_, err = s.Write(make([]byte, 1000))
					}
					return err
				}
				drain := func(s network.Stream) error {
					_, err := io.Copy(io.Discard, s)
					return err
				}
				there := make(chan error, 1)
				b.SetStreamHandler(Protocol(b.NetworkName(), echoName), func(s network.Stream) {
					defer s.Reset()
					if upload {
						there <- drain(s)
					} else {
						there <- pour(s)
					}
				})
				if err := a.Dial(t.Context(), b.Key(), relayedAddrs(b)); err != nil {
					t.Fatal(err)
				}
				s, err := a.Open(t.Context(), b.ID(), Protocol(a.NetworkName(), echoName))
				if err == nil {
					_, err = s.Write([]byte("x"))
				}
				if err != nil {
					t.Fatal(err)
				}
				start := time.Now()
				if upload {
					err = pour(s)
				} else {
					err = drain(s)
				}
				if !Spent(err) {
					t.Errorf("here it ended with %v", err)
				}
				if err := <-there; !Spent(err) {
					t.Errorf("there it ended with %v", err)
				}
				if took := time.Since(start); took > time.Minute {
					t.Errorf("ended after %v", took)
				}
				p.within(circuitParting+10*time.Second, "the relay passes nothing on", func() bool {
					n := 0
					for _, relay := range p.public {
						n += relay.Reach().Serving.Circuits
					}
					return n == 0
				})
			})
		})
	}
}
