package node

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
	"time"

	"cell.network/cell/internal/frame"
	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/mesh"
)

// Limits on what a local program may do to the control API.
const (
	maxRequestBody = 64 << 10
	headerTime     = 5 * time.Second // to send a request's header
	bodyTime       = 5 * time.Second // to send its body
)

// serveControl answers the control API until ctx ends, and closes its
// connections before it returns; calls in flight are let finish.
func (n *Node) serveControl(ctx context.Context) error {
	var frames connSet // hijacked: http.Server no longer knows them
	door := newEntrance(n.cfg.Control)
	srv := &http.Server{
		Handler:           n.routes(&frames),
		ReadHeaderTimeout: headerTime,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    16 << 10,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ConnContext:       withPeer,
		ConnState:         door.state,
	}
	stop := context.AfterFunc(ctx, func() {
		// Streams see ctx end; what does not end by itself soon is cut.
		grace, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if srv.Shutdown(grace) != nil {
			_ = srv.Close()
		}
	})
	defer stop()
	err := srv.Serve(door)
	frames.closeAll()
	if errors.Is(err, http.ErrServerClosed) || ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("serve control socket: %w", err)
}

func (n *Node) routes(frames *connSet) http.Handler {
	mux := http.NewServeMux()
	handle := func(pattern string, h func(http.ResponseWriter, *http.Request) error) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set(HeaderProtocol, strconv.Itoa(Protocol))
			if r.ContentLength == 0 {
				asked(r.Context())
			} else { // readJSON lifts it; nobody else reads a body but the server, at the end
				_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyTime))
			}
			err := checkPeer(r.Context())
			if v := r.Header.Get(HeaderProtocol); err == nil && v != "" && v != strconv.Itoa(Protocol) {
				err = NewError(CodeVersion, fmt.Sprintf("this node speaks control protocol %d, the caller %s", Protocol, v), "use the program that started the node")
			}
			if err == nil {
				r.Body = http.MaxBytesReader(w, r.Body, maxRequestBody)
				err = h(w, r)
			}
			if err != nil {
				writeError(w, err)
			}
		})
	}
	handle("GET /v1/status", func(w http.ResponseWriter, _ *http.Request) error { return writeJSON(w, n.Status()) })
	handle("GET /v1/ps", func(w http.ResponseWriter, _ *http.Request) error { return writeJSON(w, ReplicaList{n.Replicas()}) })
	handle("GET /v1/peers", func(w http.ResponseWriter, r *http.Request) error { return writeJSON(w, PeerList{n.Peers()}) })
	handle("GET /v1/hints", func(w http.ResponseWriter, _ *http.Request) error { return writeJSON(w, HintList{n.Hints()}) })
	handle("GET /v1/doctor", func(w http.ResponseWriter, r *http.Request) error { return writeJSON(w, CheckList{n.Checks()}) })
	handle("POST /v1/run", n.controlRun)
	handle("POST /v1/grow", n.controlGrow)
	handle("POST /v1/publish", n.controlPublish)
	handle("POST /v1/kill", func(w http.ResponseWriter, r *http.Request) error {
		var q KillRequest
		if err := readJSON(w, r, &q); err != nil {
			return err
		}
		return done(w, n.KillReplica(q.Replica))
	})
	handle("POST /v1/stop", func(w http.ResponseWriter, r *http.Request) error {
		var q StopRequest
		if err := readJSON(w, r, &q); err != nil {
			return err
		}
		cell, err := n.parseCell(q.Cell)
		if err != nil {
			return err
		}
		scaled, err := n.StopCell(r.Context(), cell)
		if err != nil {
			return err
		}
		return writeJSON(w, scaled)
	})
	handle("GET /v1/cells", func(w http.ResponseWriter, _ *http.Request) error { return writeJSON(w, CellList{n.Cells()}) })
	handle("POST /v1/scale", func(w http.ResponseWriter, r *http.Request) error {
		var q ScaleRequest
		if err := readJSON(w, r, &q); err != nil {
			return err
		}
		scaled, err := n.Scale(r.Context(), q.Cell, q.Min, q.Max, q.Reset)
		if err != nil {
			return err
		}
		return writeJSON(w, scaled)
	})
	handle("POST /v1/drain", n.controlDrain)
	handle("GET /v1/logs", n.controlLogs)
	handle("GET /v1/events", n.controlEvents)
	handle("GET /v1/lookup", func(w http.ResponseWriter, r *http.Request) error {
		return n.controlLookup(w, r, func(c identity.Cell) identity.Cell { return c })
	})
	handle("GET /v1/seeds", func(w http.ResponseWriter, r *http.Request) error {
		return n.controlLookup(w, r, identity.Cell.Seeds)
	})
	handle("POST /v1/ping", n.controlPing)
	handle("POST /v1/reload", func(w http.ResponseWriter, _ *http.Request) error { return done(w, n.Reload()) })
	handle("POST /v1/down", func(w http.ResponseWriter, _ *http.Request) error {
		defer n.Down()
		return done(w, nil)
	})
	handle("POST /v1/connect", func(w http.ResponseWriter, r *http.Request) error { return n.controlConnect(w, r, frames) })
	handle("/", func(_ http.ResponseWriter, r *http.Request) error {
		return NewError(CodeVersion, r.Method+" "+r.URL.Path+" is unknown to this node", "the node may be older than the caller: restart it with cell down, then cell up")
	})
	return mux
}

func (n *Node) controlRun(w http.ResponseWriter, r *http.Request) error {
	var q RunRequest
	if err := readJSON(w, r, &q); err != nil {
		return err
	}
	if err := absDir(q.Dir); err != nil {
		return err
	}
	if err := n.runsCells(); err != nil {
		return err
	}
	return streamProgress(w, func(tell func(Progress)) (Replica, error) { return n.RunCell(r.Context(), q.Dir, tell) })
}

func (n *Node) controlGrow(w http.ResponseWriter, r *http.Request) error {
	var q GrowRequest
	if err := readJSON(w, r, &q); err != nil {
		return err
	}
	if err := n.runsCells(); err != nil {
		return err
	}
	return streamProgress(w, func(tell func(Progress)) (Replica, error) { return n.Grow(r.Context(), q.Ref, q.Mirrors, tell) })
}

func (n *Node) controlDrain(w http.ResponseWriter, r *http.Request) error {
	var q DrainRequest
	if err := readJSON(w, r, &q); err != nil {
		return err
	}
	out := newStream(w)
	if err := n.Drain(r.Context(), q.Target, q.Undo, func(p Progress) { out.send(p) }); err != nil {
		out.send(Progress{Error: asAPIError(err)})
	}
	return nil
}

// runsCells refuses what a node cannot do that only lets others into the network.
func (n *Node) runsCells() error {
	if n.cfg.Settings.Only {
		return NewError(CodeRefused, "this node only lets others into the network: it runs and seeds no cells", "start it without --bootstrap-only, or use a node on another host")
	}
	return nil
}

// streamProgress sends what start tells, and how it ended.
func streamProgress(w http.ResponseWriter, start func(func(Progress)) (Replica, error)) error {
	out := newStream(w)
	got, err := start(func(p Progress) { out.send(p) })
	if err != nil {
		out.send(Progress{Error: asAPIError(err)})
	} else {
		out.send(Progress{Replica: &got})
	}
	return nil
}

func (n *Node) controlPublish(w http.ResponseWriter, r *http.Request) error {
	var q PublishRequest
	if err := readJSON(w, r, &q); err != nil {
		return err
	}
	if err := absDir(q.Dir); err != nil {
		return err
	}
	if err := n.runsCells(); err != nil {
		return err
	}
	p, err := n.Publish(r.Context(), q.Dir, q.Version)
	if err != nil {
		return err
	}
	return writeJSON(w, p)
}

func (n *Node) controlLogs(w http.ResponseWriter, r *http.Request) error {
	cell, err := n.parseCell(r.FormValue("cell"))
	if err != nil {
		return err
	}
	n.mu.Lock()
	s := n.services[cell]
	n.mu.Unlock()
	if s == nil {
		return fmt.Errorf("logs of %s: %w", cell.Short(), ErrNotServed)
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	for chunk := range s.log.follow(r.Context(), r.FormValue("follow") == "1") {
		if _, err := w.Write(chunk); err != nil {
			return nil // the reader went away
		}
		_ = http.NewResponseController(w).Flush()
	}
	return nil
}

func (n *Node) controlEvents(w http.ResponseWriter, r *http.Request) error {
	var after uint64
	if v := r.FormValue("after"); v != "" {
		var err error
		if after, err = strconv.ParseUint(v, 10, 64); err != nil {
			return NewError(CodeUsage, fmt.Sprintf("bad sequence number %q", v), "")
		}
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	follow, last := r.FormValue("follow") == "1", n.journal.Last()
	out := newStream(w)
	if !follow && after >= last {
		return nil
	}
	for e := range n.journal.Follow(ctx, after) {
		if !out.send(e) || !follow && e.Seq >= last {
			return nil
		}
	}
	return nil
}

// controlLookup discovers the topic that belongs to a cell; with follow=1 it
// goes on with what changes.
func (n *Node) controlLookup(w http.ResponseWriter, r *http.Request, topic func(identity.Cell) identity.Cell) error {
	cell, err := n.parseCell(r.FormValue("ref"))
	if err != nil {
		return err
	}
	out := newStream(w)
	if r.FormValue("follow") == "1" {
		for c, err := range n.mesh.Watch(r.Context(), topic(cell)) {
			if errors.Is(err, mesh.ErrStopped) {
				return nil // the node ends
			}
			if err != nil {
				out.send(Found{Error: asAPIError(err)})
				return nil
			}
			f := found(cell, c.Endpoint)
			if f.Gone, f.Why = c.Gone, c.Why; !out.send(f) {
				return nil
			}
		}
		return nil
	}
	for ep, err := range n.mesh.Discover(r.Context(), topic(cell)) {
		if err != nil {
			out.send(Found{Error: asAPIError(err)})
			return nil
		}
		if !out.send(found(cell, ep)) {
			return nil
		}
	}
	return nil
}

func (n *Node) controlPing(w http.ResponseWriter, r *http.Request) error {
	var q PingRequest
	if err := readJSON(w, r, &q); err != nil {
		return err
	}
	out := newStream(w)
	for p := range n.Ping(r.Context(), q.Target, min(max(q.Count, 1), 1000)) {
		if !out.send(p) {
			break
		}
	}
	return nil
}

// controlConnect turns the connection into one for request frames.
func (n *Node) controlConnect(w http.ResponseWriter, r *http.Request, frames *connSet) error {
	if r.Header.Get("Upgrade") != UpgradeFrame {
		return NewError(CodeVersion, "POST /v1/connect wants Upgrade: "+UpgradeFrame, "use the SDK of this node's version")
	}
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return fmt.Errorf("take over connection: %w", err)
	}
	_ = conn.SetDeadline(time.Time{})
	if _, err := fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\n%s: %d\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", HeaderProtocol, Protocol, UpgradeFrame); err != nil {
		_ = conn.Close()
		return nil
	}
	c := frame.NewConn(buffered{conn, rw.Reader}, frame.Config{Handler: n.Call})
	frames.add(c)
	go func() {
		<-c.Done()
		frames.remove(c)
	}()
	return nil
}

type buffered struct {
	net.Conn
	r *bufio.Reader
}

func (b buffered) Read(p []byte) (int, error) { return b.r.Read(p) }

// connSet closes connections that outlive their HTTP server.
type connSet struct {
	mu     sync.Mutex
	conns  map[*frame.Conn]struct{}
	closed bool
}

func (s *connSet) add(c *frame.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		go c.Close()
		return
	}
	if s.conns == nil {
		s.conns = make(map[*frame.Conn]struct{})
	}
	s.conns[c] = struct{}{}
}

func (s *connSet) remove(c *frame.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
}

// closeAll lets the calls in flight finish, for leaveTime at most, and takes no
// more connections.
func (s *connSet) closeAll() {
	s.mu.Lock()
	s.closed = true
	conns := s.conns
	s.conns = nil
	s.mu.Unlock()
	limit, cancel := context.WithTimeout(context.Background(), leaveTime)
	defer cancel()
	var wg sync.WaitGroup
	for c := range conns {
		wg.Go(func() {
			_ = c.Drain(limit)
			_ = c.Close()
		})
	}
	wg.Wait()
}

func (n *Node) parseCell(text string) (identity.Cell, error) {
	ref, err := identity.ParseRef(text)
	if err != nil {
		return identity.Cell{}, NewError(CodeUsage, err.Error(), "write a cell like greeter, greeter@alice or greeter@z6Mk…")
	}
	cell, err := n.resolve(ref)
	if err != nil {
		return identity.Cell{}, NewError(CodeNoCell, err.Error(), "name the author by key, or give him a petname: cell trust add NAME KEY")
	}
	return cell, nil
}

func readJSON(w http.ResponseWriter, r *http.Request, into any) error {
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil { // and the deadline stays: the server would read on
		w.Header().Set("Connection", "close")
		return NewError(CodeUsage, "bad request body: "+err.Error(), "")
	}
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{})
	asked(r.Context())
	return nil
}

func writeJSON(w http.ResponseWriter, v any) error {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // an error here means that the reader went away
	return nil
}

func done(w http.ResponseWriter, err error) error {
	if err != nil {
		return err
	}
	return writeJSON(w, struct{}{})
}

func writeError(w http.ResponseWriter, err error) {
	e := asAPIError(err)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(e.HTTPStatus())
	_ = json.NewEncoder(w).Encode(ErrorBody{e})
}

// jsonStream writes one JSON object a line and sends each at once.
type jsonStream struct {
	mu sync.Mutex
	w  http.ResponseWriter
	e  *json.Encoder
}

func newStream(w http.ResponseWriter) *jsonStream {
	w.Header().Set("Content-Type", "application/x-ndjson")
	_ = http.NewResponseController(w).Flush()
	return &jsonStream{w: w, e: json.NewEncoder(w)}
}

// send reports whether the reader is still there.
func (s *jsonStream) send(v any) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.e.Encode(v) == nil && http.NewResponseController(s.w).Flush() == nil
}

// listenControl opens the control socket in a folder that is closed to others
// before it exists. The caller holds the home's lock, so a socket that is
// there is left from a dead node.
func listenControl(path string) (net.Listener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("remove old control socket: %w", err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("open control socket: %w", err)
	}
	return l, nil
}
