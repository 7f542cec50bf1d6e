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
