package swim

import (
	"testing"
	"time"

	"cell.network/cell/internal/record"
)

// A node that starts anew before anybody misses it, at the same address, is news
// all the same: what it announced before is void. A contact that is only
// refreshed is none.
func TestNewLifeIsTold(t *testing.T) {
	d := detectorWith(t, 3, nil)
	d.Take(epoch)
	now := epoch.Add(time.Second)
	d.Learn(contactOf(t, 2, 5, nil), now)
	if c := d.Take(now).Changes; len(c) != 0 {
		t.Errorf("a refreshed contact is told of: %v", c)
	}
	next := contactOf(t, 2, 1, func(o *record.ContactOffer) { o.Order.Incarnation = 10 })
	d.Learn(next, now)
	if c := d.Take(now).Changes; len(c) != 1 || c[0].Was != Alive || c[0].Is != Alive || c[0].Contact.Order != next.Order {
		t.Errorf("told: %v, want that it lives anew", c)
	}
}
