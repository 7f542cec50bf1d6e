package capsid

import (
	"fmt"
	"os"
	"strings"
	"sync"
)

// nobody is who programs are, outside of their sandbox, where the node is root
// and no user of its own can be had for each. Mapped to the real root a program
// could write what /proc/sys guards by owner alone, and its number of processes
// would not be limited.
const nobody = 65534

// Users of their own: numbers that no system gives to people, services or
// containers. Each node has usersPerNode of them, by its process number.
const (
	firstUser    = 2_100_000_000
	usersPerNode = 1000
	userRanges   = 40_000
)

// users hands out users, so that what the kernel counts by user (pipes,
// descriptors in flight, watches) is one program's own.
type users struct {
	mu    sync.Mutex
	taken map[int]bool
}

// take returns a user for one program, and gives it back by the function.
func (u *users) take() (uid int, giveBack func()) {
	uid = os.Geteuid()
	if uid != 0 || !mayBecome(nobody) {
		return uid, func() {}
	}
	first := firstUser + os.Getpid()%userRanges*usersPerNode
	if !mayBecome(first) || !mayBecome(first+usersPerNode-1) {
		return nobody, func() {}
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	for id := first; id < first+usersPerNode; id++ {
		if !u.taken[id] {
			if u.taken == nil {
				u.taken = map[int]bool{}
			}
			u.taken[id] = true
			return id, func() {
				u.mu.Lock()
				defer u.mu.Unlock()
				delete(u.taken, id)
			}
		}
	}
	return nobody, func() {}
}

// mayBecome reports whether uid exists in the user namespace of this process:
// in a container that maps one user only, it does not.
func mayBecome(uid int) bool {
	b, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(b)) {
		var inside, outside, size int64
		if n, _ := fmt.Sscan(line, &inside, &outside, &size); n == 3 && int64(uid) >= inside && int64(uid) < inside+size {
			return true
		}
	}
	return false
}
