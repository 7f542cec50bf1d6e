package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime/debug"
	"syscall"
	"time"

	cell "cell.network/cell"
	"cell.network/cell/internal/capsid"
	"cell.network/cell/internal/home"
	"cell.network/cell/internal/journal"
	"cell.network/cell/internal/membrane"
	"cell.network/cell/internal/pheromone"
	"cell.network/cell/internal/ribosome"
)

// Up runs the node of a home until ctx ends or it is told to go down. Missing
// keys are made first. Banner is called once, when the node listens, and warn
// with what is amiss later, by any goroutine.
func Up(ctx context.Context, h home.Home, s Settings, banner func(Status), warn func(text string)) error {
	if err := h.CheckSocket(); err != nil {
		return NewError(CodeFailed, err.Error(), "set CELL_HOME to a shorter folder")
	}
	keys, _, err := CreateKeys(h, s.Network)
	if err != nil {
		return explainUp(err)
	}
	held, err := takeLock(h)
	if err != nil {
		return explainUp(err)
	}
	defer held.release()
	if _, err := IssueOwn(h, s.Network, keys, time.Now()); err != nil {
		return explainUp(err)
	}
	certs, err := LoadCerts(h, s.Network, time.Now())
	if err != nil {
		return explainUp(err)
	}
	sandbox := capsid.New(capsid.Config{StateDir: filepath.Join(h.State, "replicas")})
	defer sandbox.Close()
	leftovers, err := sandbox.Reap()
	if err != nil {
		return explainUp(err)
	}
	builder, err := ribosome.New(ribosome.Config{Cache: filepath.Join(h.Cache, "build"), SDK: cell.Source})
	if err != nil {
		return explainUp(err)
	}
	control, err := listenControl(h.Socket())
	if err != nil {
		return explainUp(err)
	}
	cfg := Config{
		Key: keys.Node, Author: keys.Author.Public(), Home: h, Settings: s, Certs: certs, Version: Version(),
		Starter: sandbox, Builder: builder, Pair: membrane.SocketPair, Meter: NewSystemMeter(), Control: control, Warn: warn,
	}
	if s.Only {
		s.LAN.Enabled = false // strangers are let in by address; neighbours need nobody for that
	}
	if cfg.Bus, err = openLAN(s.LAN); err != nil {
		control.Close()
		if errors.Is(err, syscall.EADDRINUSE) {
			return NewError(CodeFailed, err.Error(), "choose another port, the same on all hosts: --lan-port; or do without: --no-lan")
		}
		return explainUp(err)
	}
	n, err := New(cfg)
	if err != nil {
		control.Close()
		return explainUp(err)
	}
	for _, l := range leftovers {
		n.event(journal.Adopt, "", "", "ended a process of an earlier life", map[string]any{"pid": l.PID, "path": l.Path})
	}
	for _, e := range certs.Refused {
		n.event(journal.Refuse, "", "", e.Error(), nil)
	}
	banner(n.Status())
	return explainUp(n.Run(ctx))
}

// openLAN opens the LAN tier, or none where the settings say so. A host that
// refuses multicast is no error: the status says so, and neighbours named in
// the settings are still reached.
func openLAN(s LANSettings) (pheromone.Bus, error) {
	if !s.Enabled {
		return nil, nil
	}
	c := pheromone.UDPConfig{Port: uint16(s.Port), Unicast: uint16(s.Unicast), Directed: s.Directed}
	if !s.Multicast {
		c.Interfaces = func(net.Interface) bool { return false }
	}
	bus, err := pheromone.ListenUDP(c)
	if err != nil {
		return nil, err
	}
	return bus, nil
}

// Version is the program's version: of the module where it was installed from
// one, else "devel".
func Version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
		return info.Main.Version
	}
	return "devel"
}

// explainUp adds what to do to the errors that a starting node meets most.
func explainUp(err error) error {
	var api *APIError
	switch {
	case err == nil || errors.As(err, &api):
		return err
	case errors.Is(err, ErrLocked):
		return NewError(CodeFailed, err.Error(), "use the one that runs, end it with cell down, or give this one a home of its own: CELL_HOME=DIR cell up")
	case errors.Is(err, syscall.EADDRINUSE):
		return NewError(CodeFailed, err.Error(), "another program has the port: choose another with --listen, or none for any free port")
	case diskFull(err):
		return NewError(CodeFailed, err.Error(), "make room on the disk, or move the home: CELL_HOME=DIR cell up")
	case errors.Is(err, os.ErrPermission):
		return NewError(CodeFailed, err.Error(), "the home must belong to you: check its owner, or set CELL_HOME")
	}
	return fmt.Errorf("start node: %w", err)
}

// diskFull reports whether err is for want of room on a disk.
func diskFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// Reload reads settings and certificates again. Network, addresses and mode
// need a restart.
func (n *Node) Reload() error {
	s, err := LoadSettings(n.cfg.Home, os.Getenv)
	if err != nil {
		return err
	}
	certs, err := LoadCerts(n.cfg.Home, n.net, time.Now())
	if err != nil {
		return err
	}
	n.mu.Lock()
	n.settings.Author, n.settings.Authors, n.settings.Hosts = s.Author, s.Authors, s.Hosts
	n.certs = certs
	n.mu.Unlock()
	n.targets.forget()
	n.event(journal.Config, "", "", "settings and certificates read again", map[string]any{"grants": len(certs.Grants), "authors": len(s.Authors)})
	return nil
}
