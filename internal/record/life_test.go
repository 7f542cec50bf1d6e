package record

import (
	"errors"
	"path/filepath"
	"testing"
	"time"
)

// What says that a node has begun anew, or left, ends the leases that it had
// signed by then, wherever its clock stands; nothing else does.
func TestLives(t *testing.T) {
	later := func(c *ContactOffer) { c.Issued = epoch.Add(time.Minute) }
	life := func(n uint64) func(*ContactOffer) { return func(c *ContactOffer) { later(c); c.Order.Incarnation = n } }
	old := lease(t, nil)
	for _, c := range []struct {
		name string
		say  func(f *Floor)
		over bool
	}{
		{"nothing", func(*Floor) {}, false},
		{"a contact of the same life", func(f *Floor) { f.Began(contact(t, later)) }, false},
		{"a contact of a former life", func(f *Floor) { f.Began(contact(t, life(4))) }, false},
		{"a contact of the next life", func(f *Floor) { f.Began(contact(t, life(6))) }, true},
		{"a contact of a life before it was signed", func(f *Floor) {
			f.Began(contact(t, func(c *ContactOffer) { life(6)(c); c.Issued = epoch.Add(-time.Minute) }))
		}, false},
		{"a goodbye", func(f *Floor) { f.Began(contact(t, func(c *ContactOffer) { later(c); goodbye(c) })) }, true},
		{"a goodbye of a former life", func(f *Floor) { f.Began(contact(t, func(c *ContactOffer) { life(3)(c); c.Left = true })) }, false},
		{"a lease of another cell, of the next life", func(f *Floor) {
			l := lease(t, func(o *Offer) { o.Cell.Name, o.Order, o.Issued = "other", Order{6, 0}, epoch.Add(time.Minute) })
			if _, err := f.Admit(l); err != nil {
				t.Error(err)
			}
		}, true},
	} {
		f := new(Floor)
		c.say(f)
		path := filepath.Join(t.TempDir(), "floor")
		if err := f.Save(path); err != nil {
			t.Fatal(err)
		}
		again := new(Floor)
		if err := again.Load(path); err != nil {
			t.Fatal(err)
		}
		for what, f := range map[string]*Floor{"": f, ", remembered": again} {
			if f.Over(old) != c.over {
				t.Errorf("after %s%s: over is %t", c.name, what, !c.over)
			}
			if _, err := f.Admit(old); errors.Is(err, ErrOrder) != c.over {
				t.Errorf("after %s%s: admitted with %v", c.name, what, err)
			}
			if c.over {
				next := lease(t, func(o *Offer) { o.Order, o.Issued = Order{6, 9}, epoch.Add(2*time.Minute) })
				if _, err := f.Admit(next); err != nil || f.Over(next) {
					t.Errorf("after %s%s: the next life's lease: %v", c.name, what, err)
				}
			}
		}
	}
}
