package node

import (
	"sync"

	"cell.network/cell/internal/identity"
)

// maxTargets bounds the cache of targets; past it, the cache starts anew.
const maxTargets = 4096

// target is what a request's text means.
type target struct {
	cell identity.Cell
	full string // name@z6Mk…/method, as nodes and replicas get it
}

// targets remembers what texts mean: keys in text form are slow to read and to
// write, and programs call the same few methods over and over. The zero value
// is ready to use.
type targets struct {
	mu sync.Mutex
	m  map[string]target
}

func (t *targets) get(text string) (target, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	x, ok := t.m[text]
	return x, ok
}

func (t *targets) put(text string, x target) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.m == nil || len(t.m) >= maxTargets {
		t.m = make(map[string]target)
	}
	t.m[text] = x
}

// forget drops everything: petnames may mean others now.
func (t *targets) forget() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.m = nil
}
