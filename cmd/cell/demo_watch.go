package main

import (
	"errors"
	"fmt"
	"net"
	"time"
)

// watch counts what is sent to the demo's origin, which is its registry too, and
// to any name server. Where the system gives the demo no network of its own it
// counts connections to the origin's port instead.
type watch struct {
	origin    *origin
	alone     error // why there are no taps
	dns, http *tap
}

// nowhere is an address at which nobody is; it is set aside for documents.
const nowhere = "192.0.2.1:53"

func newWatch(o *origin, taps []int, alone error) (w *watch, err error) {
	w = &watch{origin: o, alone: alone}
	if alone != nil {
		return w, nil
	}
	if w.dns, err = openTap(taps[0], 53); err != nil {
		return nil, err
	}
	w.http, err = openTap(taps[1], o.port)
	return w, err
}

func (w *watch) String() string {
	if w.alone != nil {
		return "no network of its own: " + w.alone.Error()
	}
	return "in a network of its own"
}

// begin proves that the watch would see something, and has the origin killed.
func (w *watch) begin() (before [2]int, err error) {
	if w.alone != nil {
		if err := w.origin.kill(); err != nil {
			return before, err
		}
		return before, w.origin.haunt()
	}
	if before, err = w.count(); err != nil {
		return before, err
	}
	for _, to := range [][2]string{{"udp4", nowhere}, {"tcp4", w.origin.address()}} {
		c, err := net.DialTimeout(to[0], to[1], time.Second)
		if err == nil {
			_, err = c.Write([]byte("\n"))
			c.Close()
		}
		if err != nil {
			return before, fmt.Errorf("try the taps: %w", err)
		}
	}
	now, err := w.count()
	if err != nil {
		return before, err
	}
	if now[0] == before[0] || now[1] == before[1] {
		return before, errors.New("the taps do not count what the demo itself sends: what they say of others proves nothing")
	}
	if err := w.origin.kill(); err != nil { // and whatever that sends
		return before, err
	}
	return w.count()
}

// count returns how many packets have been sent to port 53 and to the origin.
func (w *watch) count() (n [2]int, err error) {
	if w.alone != nil {
		return [2]int{0, int(w.origin.calls.Load())}, nil
	}
	if n[0], err = w.dns.count(); err != nil {
		return n, err
	}
	n[1], err = w.http.count()
	return n, err
}

// end says what has been seen since begin, and fails unless that is nothing.
func (w *watch) end(before [2]int) (string, error) {
	now, err := w.count()
	if err != nil {
		return "", err
	}
	dns, origin := now[0]-before[0], now[1]-before[1]
	if w.alone != nil {
		text := fmt.Sprintf("packets were not counted: %v; connections to where the origin was: %d", w.alone, origin)
		if origin > 0 {
			return "", errors.New(text)
		}
		return text, nil
	}
	text := fmt.Sprintf("packets to port 53: %d, to the origin, which was the registry too: %d (before it was killed: %d)", dns, origin, before[1])
	if dns > 0 || origin > 0 {
		return "", errors.New(text)
	}
	return text, nil
}
