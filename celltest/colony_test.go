package celltest_test

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// The stories of the simulation, with real processes on loopback: all at the same
// time, since they mostly wait.
func TestStoriesProcesses(t *testing.T) {
	t.Parallel()
	first := newSite(t, "") // builds the cell for all
	first.up("--network", "celltest", "--no-lan", "--no-bootstrap")
	first.source = first.newCell("greeter", worker)
	mustRun(t, first, 0)
	first.KillNode(0)
	var wg sync.WaitGroup
	for _, story := range stories {
		wg.Go(func() {
			t.Run(story.name, func(t *testing.T) {
				w := newColony(t, first.built)
				ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
				defer cancel()
				story.play(ctx, t, stage{world: w, hosts: []int{0, 1, 2}, caller: 2, away: 5 * time.Second})
			})
		})
	}
	wg.Wait()
}

// worker is the greeter as the stories want it.
var worker = map[string]string{
	"greeter.go": greeterContract, "cmd/greeter/main.go": greeterMain, "Cell.toml": "[cell]\nname = \"greeter\"\n" + scaling,
}

// newColony starts three nodes, of which the first, with the author's keys, has
// admitted the others. The last has no LAN and knows the address of the second.
// For built see newSite.
func newColony(t *testing.T, built string) *processes {
	t.Helper()
	w := newSite(t, built)
	flags := func(more ...string) []string {
		return append(more, "--network", "celltest", "--listen", fmt.Sprintf("/ip4/127.0.0.1/udp/%d/quic-v1", freePort(t)))
	}
	lan := []string{"--no-bootstrap", "--lan-port", strconv.Itoa(w.lanPort)}
	a := w.up(flags(lan...)...)
	join := func(args ...string) {
		p := w.machine(flags(args...)...)
		key := field(w.must(p, "init"), "node")
		if err := w.start(p); err != nil {
			t.Fatal(err)
		}
		w.must(p, "config", "set", "author", w.Author())
		w.must(p, "admit", strings.TrimSpace(w.must(a, "admit", key)))
	}
	join(lan...)
	join("--no-lan", "--bootstrap", w.nodes[1].status.Listen[0])
	w.source = w.newCell("greeter", worker)
	return w
}
