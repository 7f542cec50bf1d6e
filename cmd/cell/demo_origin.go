package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"
)

// origin is where the demo's author keeps the cell: a bare git repository that
// a server of its own hands out over HTTP, on a port of loopback. It is a module
// proxy too, by its address: whoever asked the demo's registries for anything
// would come here.
type origin struct {
	dir    string // the repository
	port   uint16
	server *http.Server
	ended  chan error
	ghost  net.Listener // in its place after kill
	calls  atomic.Int64 // connections to ghost
}

// startOrigin serves an empty repository.
func startOrigin(ctx context.Context, dir string) (*origin, error) {
	o := &origin{dir: filepath.Join(dir, "origin", "greeter.git"), ended: make(chan error, 1)}
	if _, err := git(ctx, "", "init", "-q", "--bare", "-b", "main", o.dir); err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("serve the origin: %w", err)
	}
	o.port = uint16(l.Addr().(*net.TCPAddr).Port)
	o.server = &http.Server{Handler: http.FileServer(http.Dir(filepath.Dir(o.dir))), ReadHeaderTimeout: time.Second}
	go func() { o.ended <- o.server.Serve(l) }()
	return o, nil
}

func (o *origin) address() string { return fmt.Sprintf("127.0.0.1:%d", o.port) }

// url is what the author clones.
func (o *origin) url() string { return "http://" + o.address() + "/" + filepath.Base(o.dir) }

// mirror is what Cell.toml tells others: nodes take source over TLS only.
func (o *origin) mirror() string { return "https://" + o.address() + "/" + filepath.Base(o.dir) }

// publish has the server hand out what has been pushed.
func (o *origin) publish(ctx context.Context) error {
	_, err := git(ctx, o.dir, "update-server-info")
	return err
}

// kill ends the server and removes the repository.
func (o *origin) kill() error {
	if err := o.server.Close(); err != nil {
		return fmt.Errorf("kill the origin: %w", err)
	}
	if err := <-o.ended; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("kill the origin: %w", err)
	}
	if err := os.RemoveAll(o.dir); err != nil {
		return fmt.Errorf("kill the origin: %w", err)
	}
	return nil
}

// haunt counts who still comes to where the origin was.
func (o *origin) haunt() error {
	l, err := net.Listen("tcp4", o.address())
	if err != nil {
		return fmt.Errorf("watch the origin's port: %w", err)
	}
	o.ghost = l
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			o.calls.Add(1)
			c.Close()
		}
	}()
	return nil
}

func (o *origin) close() {
	_ = o.server.Close()
	if o.ghost != nil {
		_ = o.ghost.Close()
	}
}

// git runs git without the user's settings, of which a proxy or a rewritten URL
// would lead elsewhere, and returns what it printed.
func git(ctx context.Context, dir string, args ...string) ([]byte, error) {
	c := exec.CommandContext(ctx, "git", args...)
	c.Dir = dir
	for _, kv := range os.Environ() {
		if name, _, _ := strings.Cut(kv, "="); !strings.HasPrefix(name, "GIT_") && !strings.HasSuffix(strings.ToLower(name), "_proxy") {
			c.Env = append(c.Env, kv)
		}
	}
	c.Env = append(c.Env, "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL="+os.DevNull, "GIT_TERMINAL_PROMPT=0",
		"GIT_AUTHOR_NAME=demo", "GIT_AUTHOR_EMAIL=demo@localhost", "GIT_COMMITTER_NAME=demo", "GIT_COMMITTER_EMAIL=demo@localhost")
	out, err := c.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		err = fmt.Errorf("%w: %s", err, strings.TrimSpace(string(exit.Stderr)))
	}
	if err != nil {
		return nil, fmt.Errorf("git %s: %w", args[0], err)
	}
	return out, nil
}
