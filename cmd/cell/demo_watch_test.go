package main

import (
	"errors"
	"net"
	"os/exec"
	"strings"
	"testing"
)

// Without taps the watch still sees who comes to where the origin was.
func TestWatchWithoutTaps(t *testing.T) {
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("there is no git here")
	}
	alone := errors.New("nobody may")
	for _, visits := range []int{0, 1} {
		o, err := startOrigin(t.Context(), t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		defer o.close()
		w, err := newWatch(o, nil, alone)
		if err != nil {
			t.Fatal(err)
		}
		before, err := w.begin()
		if err != nil {
			t.Fatal(err)
		}
		for range visits {
			c, err := net.Dial("tcp4", o.address())
			if err != nil {
				t.Fatal(err)
			}
			if _, err := c.Read(make([]byte, 1)); err == nil { // it is hung up on, once counted
				t.Error("somebody answers where the origin was")
			}
			c.Close()
		}
		text, err := w.end(before)
		if (err != nil) != (visits > 0) {
			t.Errorf("%d visits: %q, %v", visits, text, err)
		}
		if err == nil && !strings.Contains(text, alone.Error()) {
			t.Errorf("%q does not say why packets were not counted", text)
		}
	}
}
