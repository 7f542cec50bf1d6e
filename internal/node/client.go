package node

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"cell.network/cell/internal/home"
	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/journal"
)

// Limits on what a client reads.
const (
	maxAnswer = 16 << 20 // bytes of one JSON answer
	maxLine   = 1 << 20  // bytes of one line of a stream
)

// dialTimeout bounds connecting to a socket on the same machine.
const dialTimeout = 3 * time.Second

// ErrNotRunning says that nobody answers on the control socket.
var ErrNotRunning error = NewError(CodeNotRunning, "the node is not running", "start it with: cell up")

// errSilent says that a process has the socket and does not answer.
var errSilent error = NewError(CodeTimeout, "the node takes connections but does not answer", "it may be stopped or overloaded: look at its process, or end it")

// Client speaks to a node over its control socket. It holds no state but idle
// connections and is safe for concurrent use. Its errors are *[APIError], or
// those of the context.
type Client struct {
	socket string
	http   *http.Client
}

// Dial checks that the node of h answers. Errors match [ErrNotRunning] where it
// does not.
func Dial(h home.Home) (*Client, error) {
	if err := h.CheckSocket(); err != nil {
		return nil, NewError(CodeFailed, err.Error(), "")
	}
	if err := h.CheckRuntime(); err != nil {
		return nil, NewError(CodeRefused, "open control socket: "+err.Error(), "whoever answers there may be another user; set CELL_HOME to a folder of your own")
	}
	c := &Client{socket: h.Socket()}
	c.http = &http.Client{Transport: &http.Transport{
		DialContext:        func(ctx context.Context, _, _ string) (net.Conn, error) { return c.dial(ctx) },
		DisableCompression: true,
		MaxIdleConns:       2,
	}}
	conn, err := c.dial(context.Background())
	if err != nil {
		return nil, c.explain(err)
	}
	conn.Close()
	return c, nil
}

// Gone reports whether no node holds h any more. A node answers no longer some
// time before it has let go of its home.
func Gone(h home.Home) (bool, error) {
	f, err := os.Open(filepath.Join(h.Runtime, lockFile))
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("open lock: %w", err)
	}
	defer f.Close()
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_SH|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("try lock: %w", err)
	}
	return true, nil
}

// lockFile is the name of the file in home.Runtime that a node holds locked.
const lockFile = "lock"

// Close drops idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// answerTimeout bounds waiting for an answer that takes the node no work.
const answerTimeout = 10 * time.Second

// dial connects to the socket. While too many others do (EAGAIN) it tries again.
func (c *Client) dial(ctx context.Context) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	var d net.Dialer
	for {
		conn, err := d.DialContext(ctx, "unix", c.socket)
		if !errors.Is(err, syscall.EAGAIN) {
			return conn, err
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return nil, err
		}
	}
}

// explain turns what the system says into what a person can use.
func (c *Client) explain(err error) error {
	var api *APIError
	switch {
	case errors.As(err, &api):
		return api
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	case errors.Is(err, syscall.ENOENT), errors.Is(err, syscall.ECONNREFUSED):
		return NewError(CodeNotRunning, "the node is not running: nobody answers on "+c.socket, "start it with: cell up")
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		return NewError(CodeRefused, "not allowed to open "+c.socket, "the node belongs to another user; set CELL_HOME or start your own with: cell up")
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.EPIPE), errors.Is(err, syscall.ECONNRESET):
		return NewError(CodeNotRunning, "the node ended before it answered", "start it again with: cell up")
	}
	return NewError(CodeFailed, "ask the node: "+err.Error(), "")
}

// Status asks what the node is.
func (c *Client) Status(ctx context.Context) (Status, error) {
	var s Status
	err := c.get(ctx, "/v1/status", &s)
	return s, err
}

// Run starts the cell in a folder, given as an absolute path, and hands on its
// progress; it returns when the replica is alive, or was refused.
func (c *Client) Run(ctx context.Context, dir string, progress func(Progress)) (Replica, error) {
	return c.start(ctx, "/v1/run", RunRequest{dir}, progress)
}

func (c *Client) start(ctx context.Context, path string, body any, progress func(Progress)) (Replica, error) {
	for p, err := range stream[Progress](ctx, c, http.MethodPost, path, body) {
		switch {
		case err != nil:
			return Replica{}, err
		case p.Error != nil:
			return Replica{}, p.Error
		case p.Replica != nil:
			return *p.Replica, nil
		}
		progress(p)
	}
	return Replica{}, c.explain(io.ErrUnexpectedEOF)
}

// Grow fetches a cell from its seeds, verifies, builds and starts it; it
// returns when the replica is alive, or was refused.
func (c *Client) Grow(ctx context.Context, ref string, mirrors []string, progress func(Progress)) (Replica, error) {
	return c.start(ctx, "/v1/grow", GrowRequest{ref, mirrors}, progress)
}

// Publish signs what is committed in a folder, given as an absolute path, as a
// release, and seeds it.
func (c *Client) Publish(ctx context.Context, dir, version string) (p Published, err error) {
	err = c.ask(ctx, http.MethodPost, "/v1/publish", PublishRequest{dir, version}, &p)
	return p, err
}

// Replicas lists the node's replicas.
func (c *Client) Replicas(ctx context.Context) ([]Replica, error) {
	var l ReplicaList
	err := c.get(ctx, "/v1/ps", &l)
	return l.Replicas, err
}

// Kill ends a replica's processes as a crash would.
func (c *Client) Kill(ctx context.Context, replica string) error {
	return c.post(ctx, "/v1/kill", KillRequest{replica})
}

// Cells lists the cells that the node runs, holds or was told of, on all hosts.
func (c *Client) Cells(ctx context.Context) ([]CellStatus, error) {
	var l CellList
	err := c.get(ctx, "/v1/cells", &l)
	return l.Cells, err
}

// Scale sets how many replicas a cell has at least and at most, on every host
// where the node has the key to say so.
func (c *Client) Scale(ctx context.Context, q ScaleRequest) (s Scaled, err error) {
	err = c.ask(ctx, http.MethodPost, "/v1/scale", q, &s)
	return s, err
}

// Stop ends all replicas of a cell, on every host where the node has the key
// to say so.
func (c *Client) Stop(ctx context.Context, cell string) (s Scaled, err error) {
	err = c.ask(ctx, http.MethodPost, "/v1/stop", StopRequest{cell}, &s)
	return s, err
}

// Drain lets go of a replica, a cell or all that the node runs, or takes that
// back, and hands on its progress; it returns when that is done.
func (c *Client) Drain(ctx context.Context, q DrainRequest, progress func(Progress)) error {
	for p, err := range stream[Progress](ctx, c, http.MethodPost, "/v1/drain", q) {
		switch {
		case err != nil:
			return err
		case p.Error != nil:
			return p.Error
		}
		progress(p)
	}
	return nil
}

// Logs opens what the replicas of a cell write; with follow it goes on until
// ctx ends. The caller closes it.
func (c *Client) Logs(ctx context.Context, cell string, follow bool) (io.ReadCloser, error) {
	res, err := c.do(ctx, http.MethodGet, "/v1/logs?"+query("cell", cell, "follow", flag(follow)), nil)
	if err != nil {
		return nil, err
	}
	return res.Body, nil
}

// Events streams the journal from the event after a sequence number; with
// follow it goes on until ctx ends.
func (c *Client) Events(ctx context.Context, after uint64, follow bool) iter.Seq2[journal.Event, error] {
	type line struct {
		journal.Event
		Error *APIError `json:"error"`
	}
	path := "/v1/events?" + query("after", strconv.FormatUint(after, 10), "follow", flag(follow))
	return func(yield func(journal.Event, error) bool) {
		for l, err := range stream[line](ctx, c, http.MethodGet, path, nil) {
			if err == nil && l.Error != nil {
				err = l.Error
			}
			if !yield(l.Event, err) || err != nil {
				return
			}
		}
	}
}

// Lookup streams the nodes that serve a cell, the first one found first.
func (c *Client) Lookup(ctx context.Context, ref string) iter.Seq2[Found, error] {
	return c.found(ctx, "/v1/lookup?"+query("ref", ref))
}

// Watch streams the nodes that serve a cell, and goes on with those that come,
// change or go until ctx or the node ends.
func (c *Client) Watch(ctx context.Context, ref string) iter.Seq2[Found, error] {
	return c.found(ctx, "/v1/lookup?"+query("ref", ref, "follow", "1"))
}

func (c *Client) found(ctx context.Context, path string) iter.Seq2[Found, error] {
	return func(yield func(Found, error) bool) {
		for f, err := range stream[Found](ctx, c, http.MethodGet, path, nil) {
			if err == nil && f.Error != nil {
				err = f.Error
			}
			if !yield(f, err) || err != nil {
				return
			}
		}
	}
}

// Seeds streams the nodes that hand out the source of a cell.
func (c *Client) Seeds(ctx context.Context, ref string) iter.Seq2[Found, error] {
	return c.found(ctx, "/v1/seeds?"+query("ref", ref))
}

// Peers lists the nodes that this one knows.
func (c *Client) Peers(ctx context.Context) ([]Peer, error) {
	var l PeerList
	err := c.get(ctx, "/v1/peers", &l)
	return l.Peers, err
}

// Ping measures round trips to a node, given by its key or by a cell that it
// serves. A lost ping is a Pong with Error, and the rest goes on.
func (c *Client) Ping(ctx context.Context, target string, count int) iter.Seq2[Pong, error] {
	return stream[Pong](ctx, c, http.MethodPost, "/v1/ping", PingRequest{target, count})
}

// Hints returns addresses through which others can enter the node's network.
func (c *Client) Hints(ctx context.Context) ([]string, error) {
	var l HintList
	err := c.get(ctx, "/v1/hints", &l)
	return l.Peers, err
}

// Reload makes the node read its settings and certificates again.
func (c *Client) Reload(ctx context.Context) error { return c.post(ctx, "/v1/reload", struct{}{}) }

// Down makes the node drain and end; it may still be at it when Down returns.
func (c *Client) Down(ctx context.Context) error { return c.post(ctx, "/v1/down", struct{}{}) }

// Doctor lists what the node finds about itself.
func (c *Client) Doctor(ctx context.Context) ([]Check, error) {
	var l CheckList
	err := c.get(ctx, "/v1/doctor", &l)
	return l.Checks, err
}

// Connect opens a connection for request frames with full targets.
func (c *Client) Connect(ctx context.Context) (net.Conn, error) {
	conn, err := c.dial(ctx)
	if err != nil {
		return nil, c.explain(err)
	}
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	req, err := c.request(ctx, http.MethodPost, "/v1/connect", nil)
	if err != nil {
		conn.Close()
		return nil, err
	}
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", UpgradeFrame)
	r := bufio.NewReader(conn)
	res, err := (*http.Response)(nil), req.Write(conn)
	if err == nil {
		res, err = http.ReadResponse(r, req)
	}
	if err == nil {
		err = check(res, http.StatusSwitchingProtocols)
	}
	if err != nil {
		conn.Close()
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, c.explain(err)
	}
	return &upgraded{conn, r}, nil
}

// upgraded is a connection whose first bytes may already have been read.
type upgraded struct {
	net.Conn
	r *bufio.Reader
}

func (u *upgraded) Read(b []byte) (int, error) { return u.r.Read(b) }

// ParseTarget tells whether what a person typed is a node's key or a cell.
func ParseTarget(s string) (node identity.Key, ref identity.Ref, err error) {
	if k, err := identity.ParseKey(s); err == nil {
		return k, identity.Ref{}, nil
	}
	ref, err = identity.ParseRef(s)
	return identity.Key{}, ref, err
}
