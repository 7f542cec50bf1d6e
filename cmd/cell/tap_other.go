//go:build !linux

package main

import (
	"context"
	"errors"
	"syscall"
)

// tapCount is how many taps the demo is given.
const tapCount = 2

// errNoTap says that this system has no network for one process alone.
var errNoTap = errors.New("this system has no network namespaces")

// playApart would run this command in a network of its own.
func playApart(context.Context, []string) (exit int, err error) { return 0, errNoTap }

func enterApart([]string) error { return errNoTap }

func followParent(func()) {}

func dieWithDemo(*syscall.SysProcAttr) {}

// tap would count the packets that are sent to a port.
type tap struct{}

func openTap(int, uint16) (*tap, error) { return nil, errNoTap }

func (*tap) count() (int, error) { return 0, errNoTap }
