package faults_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"cell.network/cell/internal/node"
)

// diskSize is that of the full disk: room for a build, and soon filled.
const diskSize = "size=96m"

// onSmallDisk puts everything of the site on a disk of its own, which only this
// process and its children see.
func (s *site) onSmallDisk() {
	s.t.Helper()
	if err := syscall.Mount("small", s.dir, "tmpfs", 0, diskSize); err != nil {
		s.t.Skipf("no disk of its own: %v", err)
	}
	s.t.Cleanup(func() {
		if err := syscall.Unmount(s.dir, syscall.MNT_DETACH); err != nil {
			s.t.Errorf("clear up: %v", err)
		}
	})
}

// fill takes all the room that the disk has left; free gives it back.
func (s *site) fill() (free func()) {
	s.t.Helper()
	path := filepath.Join(s.dir, "filler")
	f, err := os.Create(path)
	if err != nil {
		s.t.Fatal(err)
	}
	defer f.Close()
	for size := 1 << 20; size > 0; {
		if _, err := f.Write(make([]byte, size)); errors.Is(err, syscall.ENOSPC) {
			size /= 2
		} else if err != nil {
			s.t.Fatal(err)
		}
	}
	return func() { _ = os.Remove(path) }
}

// On a full disk every command says what to do; a node that runs goes on, and
// is as before when there is room again.
func TestFullDisk(t *testing.T) {
	needsGo(t)
	if !inside(t, syscall.CLONE_NEWNS) {
		return
	}
	if err := syscall.Mount("", "/", "", syscall.MS_PRIVATE|syscall.MS_REC, ""); err != nil {
		t.Skipf("no mounts of its own: %v", err)
	}
	s := newSite(t)
	s.onSmallDisk()

	free := s.fill() // no key can be made: what is half made is as good as none
	for _, command := range []string{"init", "up"} {
		s.cell(command).wants(t, node.ExitFailed, "no space left on device", "make room")
	}
	for _, role := range []string{node.RoleNode, node.RoleAuthor, node.RoleColony} {
		if _, err := os.Lstat(s.home.Key(role)); err == nil {
			t.Errorf("a key was made on a full disk: %s", role)
		}
	}
	free()
	s.must("init")

	free = s.fill() // keys are there, a node cannot start
	s.cell("up").wants(t, node.ExitFailed, "no space left on device", "make room")
	free()

	d := s.up()
	s.greeter()
	free = s.fill() // a node and a replica run
	eventually(t, commandTime, "the journal is full", func() bool {
		s.cell("run", "greeter")
		return s.checks()["journal"].Status == node.CheckFail
	})
	s.greet("greeter/hello")
	if c := s.checks()["journal"]; !strings.Contains(c.Evidence, "no space left on device") || !strings.Contains(c.Remedy, "make room") {
		t.Errorf("doctor: %+v", c)
	}
	if c := s.checks()["disk"]; c.Status != node.CheckFail || !strings.Contains(c.Remedy, "make room") {
		t.Errorf("doctor: %+v", c)
	}
	d.alive()
	free()

	if err := os.WriteFile(filepath.Join(s.dir, "greeter", "more.go"), []byte("package greeter\n\nconst more = 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	free = s.fill() // something to build, and no room for it
	s.cell("run", "greeter").wants(t, node.ExitFailed, "no space left on device", "make room")
	s.greet("greeter/hello") // by the replica of before
	free()

	s.must("run", "greeter")
	s.greet("greeter/hello")
	for i, e := range s.events() { // what was not written has no number
		if e.Seq != uint64(i)+1 {
			t.Fatalf("event %d has number %d", i, e.Seq)
		}
	}
	if c := s.checks()["journal"]; c.Status != node.CheckWarn || !strings.Contains(c.Evidence, "later ones could") {
		t.Errorf("doctor: %+v", c)
	}
	d.stop()
	s.up()
	if c := s.checks()["journal"]; c.Status != node.CheckOK {
		t.Errorf("doctor: %+v", c)
	}
}
