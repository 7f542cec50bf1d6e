package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"cell.network/cell/internal/home"
	"cell.network/cell/internal/identity"
)

// answering runs a control API of one handler and returns a client of it.
func answering(t *testing.T, handle http.HandlerFunc) *Client {
	t.Helper()
	h := shortHome(t)
	l, err := net.Listen("unix", h.Socket())
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set(HeaderProtocol, strconv.Itoa(Protocol))
		handle(w, r)
	})}
	go srv.Serve(l)
	c, err := Dial(h)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); srv.Close() })
	return c
}

// shortHome is a home whose socket path is short wherever the test runs.
func shortHome(t *testing.T) home.Home {
	t.Helper()
	dir, err := os.MkdirTemp("", "cell")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	h, err := home.At(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Make(); err != nil {
		t.Fatal(err)
	}
	return h
}

func TestDialNotRunning(t *testing.T) {
	h := shortHome(t)
	check := func() {
		t.Helper()
		_, err := Dial(h)
		var api *APIError
		if !errors.Is(err, ErrNotRunning) || !errors.As(err, &api) || api.Exit != ExitNotRunning || !strings.Contains(api.Hint, "cell up") {
			t.Errorf("got %#v, want ErrNotRunning with a hint", err)
		}
	}
	check()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: h.Socket(), Net: "unix"}) // as a crash leaves it
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	check()

	long, err := home.At("/" + strings.Repeat("a", home.MaxSocketPath))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Dial(long); err == nil || errors.Is(err, ErrNotRunning) || !strings.Contains(err.Error(), "CELL_HOME") {
		t.Errorf("socket path too long: got %v", err)
	}
}

func TestClientErrors(t *testing.T) {
	for _, c := range []struct {
		name   string
		handle http.HandlerFunc
		want   APIError
	}{
		{"typed", func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusForbidden)
			json.NewEncoder(w).Encode(ErrorBody{NewError(CodeRefused, "no", "ask")})
		}, *NewError(CodeRefused, "no", "ask")},
		{"without exit", func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusNotFound)
			io.WriteString(w, `{"error":{"code":"no_replica","message":"none"}}`)
		}, *NewError(CodeNoReplica, "none", "")},
		{"plain", func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "oh no", 500) },
			*NewError(CodeFailed, "the node answered 500 Internal Server Error: oh no", "")},
		{"no JSON", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "{") },
			*NewError(CodeNotRunning, "the node ended before it answered", "start it again with: cell up")},
		{"cut", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
			*NewError(CodeNotRunning, "the node ended before it answered", "start it again with: cell up")},
	} {
		_, err := answering(t, c.handle).Status(t.Context())
		var api *APIError
		if !errors.As(err, &api) || *api != c.want {
			t.Errorf("%s: got %#v, want %#v", c.name, err, c.want)
		}
	}
}

// What is not trusted says who, for whoever can be asked.
func TestClientUntrusted(t *testing.T) {
	author := identity.Key{7}
	c := answering(t, func(w http.ResponseWriter, _ *http.Request) {
		json.NewEncoder(w).Encode(Progress{Error: Untrusted(author)})
	})
	_, err := c.Grow(t.Context(), "greeter", nil, func(Progress) {})
	var api *APIError
	if !errors.As(err, &api) || api.Code != CodeUntrusted || api.Author != author || api.Exit != ExitRefused || api.HTTPStatus() != http.StatusForbidden {
		t.Errorf("got %#v", err)
	}
}

func TestClientScale(t *testing.T) {
	c := answering(t, func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		switch r.URL.Path + " " + string(body) {
		case "/v1/cells ":
			io.WriteString(w, `{"cells":[{"cell":"greeter","want":3,"replicas":[{"id":4,"state":"alive"}]}]}`)
		case `/v1/scale {"cell":"greeter","max":5}`, `/v1/stop {"cell":"greeter"}`:
			io.WriteString(w, `{"cell":"greeter","max":5,"everywhere":true}`)
		case `/v1/drain {"target":"greeter-1"}`:
			io.WriteString(w, `{"step":"drain","text":"one left"}`)
		case `/v1/drain {"target":"","undo":true}`:
			io.WriteString(w, `{"error":{"code":"no_such_cell","message":"none"}}`)
		default:
			t.Errorf("asked for %s %s", r.URL.Path, body)
		}
	})
	cells, err := c.Cells(t.Context())
	if err != nil || len(cells) != 1 || cells[0].Want != 3 || len(cells[0].Replicas) != 1 || cells[0].Replicas[0].ID != 4 {
		t.Errorf("cells: %+v, %v", cells, err)
	}
	five := 5
	for _, ask := range []func() (Scaled, error){
		func() (Scaled, error) { return c.Scale(t.Context(), ScaleRequest{Cell: "greeter", Max: &five}) },
		func() (Scaled, error) { return c.Stop(t.Context(), "greeter") },
	} {
		if s, err := ask(); err != nil || s.Max != 5 || !s.Everywhere {
			t.Errorf("got %+v, %v", s, err)
		}
	}
	steps := 0
	count := func(Progress) { steps++ }
	if err := c.Drain(t.Context(), DrainRequest{Target: "greeter-1"}, count); err != nil || steps != 1 {
		t.Errorf("drain: %v, %d steps", err, steps)
	}
	if err := c.Drain(t.Context(), DrainRequest{Undo: true}, count); !errors.Is(err, &APIError{Code: CodeNoCell}) || steps != 1 {
		t.Errorf("undo: %v, %d steps", err, steps)
	}
}

func TestClientVersion(t *testing.T) {
	for _, version := range []string{"", "2"} {
		c := answering(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set(HeaderProtocol, version)
			io.WriteString(w, "{}")
		})
		_, err := c.Status(t.Context())
		var api *APIError
		if !errors.As(err, &api) || api.Exit != ExitVersion {
			t.Errorf("version %q: got %v, want exit %d", version, err, ExitVersion)
		}
		if _, err := c.Connect(t.Context()); !errors.As(err, &api) || api.Exit != ExitVersion {
			t.Errorf("connect, version %q: got %v, want exit %d", version, err, ExitVersion)
		}
	}
}

func TestClientRun(t *testing.T) {
	c := answering(t, func(w http.ResponseWriter, r *http.Request) {
		var q RunRequest
		if err := json.NewDecoder(r.Body).Decode(&q); err != nil {
			t.Error(err)
		}
		if r.Header.Get(HeaderProtocol) != "1" {
			t.Errorf("request without %s", HeaderProtocol)
		}
		e := json.NewEncoder(w)
		e.Encode(Progress{Step: StepRead, TookMS: 1})
		switch q.Dir {
		case "/good":
			e.Encode(Progress{Replica: &Replica{ID: "r"}})
		case "/bad":
			e.Encode(Progress{Error: NewError(CodeFailed, "no build", "")})
		}
	})
	steps := 0
	count := func(Progress) { steps++ }
	if r, err := c.Run(t.Context(), "/good", count); err != nil || r.ID != "r" || steps != 1 {
		t.Errorf("good: %+v, %v, %d steps", r, err, steps)
	}
	if _, err := c.Run(t.Context(), "/bad", count); err == nil || err.Error() != "no build" {
		t.Errorf("bad: %v", err)
	}
	if _, err := c.Run(t.Context(), "/cut", count); !errors.Is(err, ErrNotRunning) {
		t.Errorf("cut: %v", err)
	}
}

func TestClientStreams(t *testing.T) {
	c := answering(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.RequestURI() {
		case "/v1/events?after=7&follow=1":
			fmt.Fprintln(w, `{"seq":8,"kind":"spawn"}`)
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		case "/v1/lookup?ref=greeter%40alice":
			fmt.Fprintln(w, `{"tier":"lan","took_ms":1}`)
			fmt.Fprintln(w, `{"error":{"code":"no_replica","message":"none"}}`)
		case "/v1/lookup?ref=long":
			io.WriteString(w, strings.Repeat(" ", maxLine+1))
		default:
			t.Errorf("asked for %s", r.URL.RequestURI())
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	n := 0
	for e, err := range c.Events(ctx, 7, true) {
		if n++; n == 1 && (err != nil || e.Seq != 8) {
			t.Fatalf("got %+v, %v", e, err)
		} else if n == 1 {
			cancel() // what follows is the end
		} else if !errors.Is(err, context.Canceled) {
			t.Errorf("after the end: %+v, %v", e, err)
		}
	}
	var tiers []string
	var last error
	for f, err := range c.Lookup(t.Context(), "greeter@alice") {
		tiers, last = append(tiers, f.Tier), err
	}
	if len(tiers) != 2 || !errors.Is(last, &APIError{Code: CodeNoReplica}) {
		t.Errorf("lookup: %q, %v", tiers, last)
	}
	for _, err := range c.Lookup(t.Context(), "long") {
		if err == nil {
			t.Error("an endless line was accepted")
		}
	}
}

func TestClientConnect(t *testing.T) {
	c := answering(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != UpgradeFrame {
			t.Errorf("upgrade to %q", r.Header.Get("Upgrade"))
		}
		conn, buf, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		// The first bytes come with the header.
		fmt.Fprintf(buf, "HTTP/1.1 101 Switching Protocols\r\n%s: 1\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\nhello", HeaderProtocol, UpgradeFrame)
		buf.Flush()
		io.Copy(conn, conn)
	})
	conn, err := c.Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	b := make([]byte, 10)
	if _, err := conn.Write([]byte("world")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(conn, b); err != nil || string(b) != "helloworld" {
		t.Errorf("read %q, %v", b, err)
	}

	stuck := answering(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := stuck.Connect(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a node that does not answer: %v", err)
	}
}
