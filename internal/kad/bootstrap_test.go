package kad

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	ma "github.com/multiformats/go-multiaddr"
)

// A node that starts again, all of whose bootstrap nodes are dead and most of
// the peers that it remembers, finds what it looks for within two seconds.
func TestRestartAmongTheDead(t *testing.T) {
	if testing.Short() {
		t.Skip("many connections")
	}
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 51)
		w.seeded(40)
		var file strings.Builder
		for i, n := range w.nodes {
			fmt.Fprintln(&file, seedAddr(i))
			if i%10 < 7 {
				w.kill(n)
			}
		}
		w.membership(w.nodes...)
		w.put(w.nodes[7], greeter, 1, time.Hour)
		var took times
		for i := range 20 {
			path := filepath.Join(dir, fmt.Sprint("peers", i))
			if err := os.WriteFile(path, []byte(file.String()), 0o600); err != nil {
				t.Fatal(err)
			}
			start := time.Now()
			n := w.add(100+i, Config{PeersFile: path, Bootstrap: []string{seedAddr(0), seedAddr(1)}})
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			if err := n.Bootstrap(ctx); err != nil {
				t.Error(err)
			}
			cancel()
			met := time.Since(start)
			got, first, _, err := n.find(greeter)
			if len(got) != 1 {
				t.Errorf("restart %d: found %d, %v", i, len(got), err)
			}
			took = append(took, met+first)
			n.stop()
		}
		t.Logf("to the first lease: %v", took)
		if took.at(0.95) > 2*time.Second {
			t.Error("too long")
		}
	})
}

// A bootstrap node that comes back at its address is met again within seconds,
// however long it was away, and the node says what is the matter until then.
func TestBootstrapNodeComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 52)
		var told []Entry
		n := w.add(1, Config{Bootstrap: []string{seedAddr(0)}, OnEntry: func(e Entry) { told = append(told, e) }})
		if e := n.Entries(); len(e) != 1 || e[0].Addr != seedAddr(0) || !e[0].Tried.IsZero() {
			t.Errorf("before the first attempt: %+v", e)
		}
		time.Sleep(10 * time.Minute)
		if e := n.Entries()[0]; e.Err == nil || e.Err.Error() != "no answer within 5s" || !e.Met.IsZero() || time.Since(e.Tried) > 10*time.Second {
			t.Errorf("nobody is there: %+v", e)
		}
		w.add(0, Config{})
		ctx, cancel := context.WithTimeout(t.Context(), backoffEmpty*5/4+meetTimeout/5)
		defer cancel()
		begin := time.Now()
		for n.Size() == 0 && ctx.Err() == nil { // nobody asks, which would have it dialled at once
			time.Sleep(10 * time.Millisecond)
		}
		t.Logf("met after %v", time.Since(begin))
		if n.Size() == 0 {
			t.Fatal("not met")
		}
		time.Sleep(meetTimeout) // until the attempt is over
		if e := n.Entries()[0]; e.Err != nil || e.Met.IsZero() {
			t.Errorf("it is there: %+v", e)
		}
		synctest.Wait()
		if last := told[len(told)-1]; told[0].Err == nil || last.Err != nil {
			t.Errorf("told of %+v first and of %+v last", told[0], last)
		}
	})
}

// What is wrong with a bootstrap address is said in words of its own.
func TestEntryErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 53)
		w.add(0, Config{})
		resolve := func(context.Context, ma.Multiaddr) ([]ma.Multiaddr, error) { return nil, nil }
		other := strings.Replace(seedAddr(0), testPeer(0).String(), testPeer(5).String(), 1)
		n := w.add(1, Config{Bootstrap: []string{seedAddr(0), other, "/dnsaddr/nobody.example"}, Resolve: resolve})
		w.bootstrap(n)
		time.Sleep(meetTimeout)
		for i, want := range []string{"<nil>", "another node is there: " + testPeer(0).String(), errNoAddress.Error()} {
			if got := fmt.Sprint(n.Entries()[i].Err); got != want {
				t.Errorf("%s: %q, want %q", n.Entries()[i].Addr, got, want)
			}
		}
	})
}
