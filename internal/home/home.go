// Package home names the folders in which a node and its operator keep files.
//
// CELL_HOME, when set, holds all of them; otherwise the XDG base directories
// do. Two nodes on one machine need two values of CELL_HOME.
package home

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// ErrOwner says that another user could read or replace what is in a folder.
var ErrOwner = fmt.Errorf("folder is not safe from other users: %w", fs.ErrPermission)

// MaxSocketPath is the longest path of a Unix socket that every supported
// system accepts, in bytes (macOS allows 103, Linux 107).
const MaxSocketPath = 103

// Home is where everything is kept. All paths are absolute.
type Home struct {
	Config  string // keys, config.toml, certificates
	State   string // journal, incarnation, replicas
	Cache   string // builds, modules, peers: safe to delete
	Runtime string // control socket, lock
}

// Locate finds the folders from CELL_HOME or the XDG variables; it creates
// nothing. getenv is os.Getenv outside of tests.
func Locate(getenv func(string) string) (Home, error) {
	if root := getenv("CELL_HOME"); root != "" {
		return At(root)
	}
	user := getenv("HOME")
	if user == "" {
		return Home{}, errors.New("locate home: neither CELL_HOME nor HOME is set")
	}
	xdg := func(name, fallback string) string {
		if v := getenv(name); filepath.IsAbs(v) {
			return filepath.Join(v, "cell")
		}
		return filepath.Join(user, fallback, "cell")
	}
	h := Home{
		Config: xdg("XDG_CONFIG_HOME", ".config"),
		State:  xdg("XDG_STATE_HOME", ".local/state"),
		Cache:  xdg("XDG_CACHE_HOME", ".cache"),
	}
	h.Runtime = filepath.Join(h.State, "run")
	if v := getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(v) {
		h.Runtime = filepath.Join(v, "cell")
	}
	return h, nil
}

// At is the layout of CELL_HOME=root.
func At(root string) (Home, error) {
	root, err := filepath.Abs(root)
	if err != nil {
		return Home{}, fmt.Errorf("locate home: %w", err)
	}
	return Home{
		Config:  filepath.Join(root, "config"),
		State:   filepath.Join(root, "state"),
		Cache:   filepath.Join(root, "cache"),
		Runtime: filepath.Join(root, "run"),
	}, nil
}

// Socket is the path of the node's control socket.
func (h Home) Socket() string { return filepath.Join(h.Runtime, "cell.sock") }

// CheckSocket fails where the socket's path is too long for the system, and
// says what to do.
func (h Home) CheckSocket() error {
	if p := h.Socket(); len(p) > MaxSocketPath {
		return fmt.Errorf("socket path has %d bytes, the system allows %d: %s; set CELL_HOME to a shorter folder", len(p), MaxSocketPath, p)
	}
	return nil
}

// Key returns the path of the key file of a role: "author", "colony" or "node".
func (h Home) Key(role string) string { return filepath.Join(h.Config, role+".key") }

// Make creates the folders with mode 0700 before anything is put in them. One
// that was there already, made by someone else, is refused with [ErrOwner].
func (h Home) Make() error {
	for _, dir := range []string{h.Config, h.State, h.Cache, h.Runtime} {
		err := os.MkdirAll(dir, 0o700)
		if err == nil {
			err = checkOwner(dir)
		}
		if err == nil {
			err = os.Chmod(dir, 0o700)
		}
		if err != nil {
			return fmt.Errorf("create home: %w", err)
		}
	}
	return nil
}

// CheckRuntime fails with [ErrOwner] where the control socket may be another
// user's. Root may use everybody's. A missing folder is no error.
func (h Home) CheckRuntime() error {
	if os.Geteuid() == 0 {
		return nil
	}
	if err := checkOwner(h.Runtime); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// checkOwner fails where dir belongs to another user, or lies where another one
// than root could put his own in its place.
func checkOwner(dir string) error {
	parent := filepath.Dir(dir)
	for _, d := range []string{dir, parent} {
		st, err := os.Stat(d)
		if err != nil {
			return err
		}
		sys, ok := st.Sys().(*syscall.Stat_t)
		switch {
		case !ok:
			return fmt.Errorf("%w: the system does not say whose %s is", ErrOwner, d)
		case int(sys.Uid) != os.Geteuid() && (d != parent || sys.Uid != 0):
			return fmt.Errorf("%w: %s belongs to user %d", ErrOwner, d, sys.Uid)
		case d == parent && st.Mode()&0o002 != 0 && st.Mode()&fs.ModeSticky == 0:
			return fmt.Errorf("%w: everybody may change %s", ErrOwner, d)
		}
	}
	return nil
}
