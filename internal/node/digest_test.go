package node

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/journal"
	"cell.network/cell/internal/mesh"
)

// digesting is a node that has nothing but a journal; lines are its texts.
func digesting(t *testing.T) (n *Node, lines func() []string) {
	t.Helper()
	dir := t.TempDir()
	j, err := journal.Open(dir, identity.NewPrivate().Public().String(), journal.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = j.Close() })
	n = &Node{journal: j, partnersKnown: make(map[identity.Key]partner), quit: make(chan struct{})}
	return n, func() (all []string) {
		for e := range journal.Read(dir) {
			all = append(all, string(e.Kind)+": "+e.Text)
		}
		return all
	}
}

// Partners are told of at once and one by one; of strangers one line tells how
// many, and such lines do not come all the time.
func TestFates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, lines := digesting(t)
		stranger := func() identity.Key { return identity.NewPrivate().Public() }
		mate := stranger()
		n.partnersKnown[mate] = partner{}
		n.fate(mate, died)
		for range 300 {
			n.fate(stranger(), died)
		}
		n.fate(stranger(), left)
		if want := []string{"peer.down: node " + mate.Short() + " does not answer: it is taken for dead"}; !slices.Equal(lines(), want) {
			t.Errorf("at once %q, want %q", lines(), want)
		}
		time.Sleep(gatherFirst)
		synctest.Wait()
		got := lines()[1:]
		slices.Sort(got)
		if want := []string{
			"peer.down: 300 nodes that share no cells with this one do not answer: they are taken for dead",
			"peer.down: a node that shares no cells with this one has left",
		}; !slices.Equal(got, want) {
			t.Errorf("after a second %q, want %q", got, want)
		}
		for range 600 { // ten minutes of deaths, ten a second
			for range 10 {
				n.fate(stranger(), died)
			}
			time.Sleep(time.Second)
		}
		if more := len(lines()) - 3; more < 5 || more > 20 {
			t.Errorf("%d lines in ten minutes", more)
		}
		time.Sleep(10 * gatherMost) // quiet again: the next news comes soon
		before := len(lines())
		n.fate(stranger(), back)
		time.Sleep(gatherFirst)
		synctest.Wait()
		if got := lines()[before:]; len(got) != 1 || got[0] != "peer.up: a node that shares no cells with this one is back" {
			t.Errorf("after some quiet %q", got)
		}
		n.fate(stranger(), died)
		close(n.quit) // a node that goes says no more of others
		time.Sleep(gatherFirst)
		synctest.Wait()
		if got := lines()[before+1:]; len(got) != 0 {
			t.Errorf("after its end %q", got)
		}
	})
}

// The first of many searches in vain is told, then how many there were.
func TestVainSearches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, lines := digesting(t)
		search := func(name identity.Name, found int, why string) {
			cell := identity.Cell{Author: identity.PrivateFromSeed([32]byte{3}).Public(), Name: name}
			n.meshEvent(mesh.Event{Kind: "discover", Cell: cell, Text: fmt.Sprintf("%s: %d found", name, found), Data: map[string]any{"found": found, string(mesh.TierDHT): why}})
		}
		told := func(what string, want ...string) {
			t.Helper()
			got := lines()
			if len(got) < len(want) || !slices.Equal(got[len(got)-len(want):], want) || strings.Count(strings.Join(got, "\n"), want[0]) != 1 {
				t.Errorf("%s: %q, want %q at its end", what, got, want)
			}
		}
		for range 40 {
			search("greeter", 0, "no lease is stored")
			time.Sleep(time.Second)
		}
		told("forty searches", "discover: greeter: 0 found")
		search("other", 0, "no lease is stored")
		told("of another name", "discover: other: 0 found")
		search("greeter", 0, "no peers")
		told("for another reason", "discover: greeter: 0 found; in vain before: 39")
		search("greeter", 0, "no peers")
		search("greeter", 2, "")
		told("it is there", "discover: greeter: 2 found; in vain before: 1")
		search("greeter", 0, "no peers")
		if n := len(lines()); n != 5 {
			t.Errorf("%d lines after it has gone again, want 5", n)
		}
		time.Sleep(vainEvery)
		search("greeter", 0, "no peers")
		if n := len(lines()); n != 6 {
			t.Errorf("%d lines a while later, want 6", n)
		}
		for i := range 2 * maxVain {
			search(identity.Name(fmt.Sprint("n", i)), 0, "")
		}
		if len(n.digest.vain) > maxVain {
			t.Errorf("%d names are kept", len(n.digest.vain))
		}
	})
}
