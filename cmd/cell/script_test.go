package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"cell.network/cell/internal/frame"
	"cell.network/cell/internal/home"
	"cell.network/cell/internal/node"
	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"cell": main})
}

// goCache is the compiled standard library of whoever runs the tests: a node
// with a cache of its own would compile it anew each time.
var goCache = sync.OnceValue(func() string {
	out, _ := exec.Command("go", "env", "GOCACHE").Output()
	return strings.TrimSpace(string(out))
})

// TestScripts runs the real main as a process, one script per command. Beside
// testscript's own there are the commands
//
//	exits CODE cell …      runs it and wants this exit code
//	waitup                 waits until the node answers
//	until PATTERN cell …   runs it until it succeeds and its stdout matches
//	fakenode DIR           answers on the control socket from the files in DIR
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(e *testscript.Env) error {
			e.Setenv("CELL_HOME", filepath.Join(e.WorkDir, "home"))
			e.Setenv("GORACE", "atexit_sleep_ms=0") // a second for each of the many processes otherwise
			e.Setenv("GOCACHE", goCache())
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits":    exits,
			"fakenode": fakeNode,
			"until":    until,
			"waitup":   waitUp,
		},
	})
}

func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND …")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	var exit *exec.ExitError
	if err := ts.Exec(args[1], args[2:]...); errors.As(err, &exit) {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

// waitTime is how long a script waits for what a node does in its own time.
const waitTime = 30 * time.Second

// until is for what a command before it, or another node, has set going.
func until(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: until PATTERN COMMAND …")
	}
	pattern, err := regexp.Compile("(?m)" + args[0])
	ts.Check(err)
	deadline := time.Now().Add(waitTime)
	for pause := 20 * time.Millisecond; ; pause = min(2*pause, 500*time.Millisecond) {
		err := ts.Exec(args[1], args[2:]...)
		if err == nil && pattern.MatchString(ts.ReadFile("stdout")) {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("no match for %q within %v: %v", args[0], waitTime, err)
		}
		time.Sleep(pause)
	}
}

func waitUp(ts *testscript.TestScript, neg bool, args []string) {
	h, err := home.At(ts.Getenv("CELL_HOME"))
	ts.Check(err)
	for deadline := time.Now().Add(waitTime); ; time.Sleep(10 * time.Millisecond) {
		c, err := node.Dial(h)
		if err == nil {
			_, err = c.Status(context.Background())
			c.Close()
		}
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("the node did not come up: %v", err)
		}
	}
}

// fakeNode serves the control API of the home in CELL_HOME until the script
// ends. The answer to GET /v1/ps is the file GET-ps in the folder; one that
// starts with a status, as in "403 {…}", is sent with it; GET-events-follow, where
// it is there, is for those who follow. What was posted is added to the file asked,
// a line each. Calls are answered by the name of the method.
func fakeNode(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: fakenode DIR")
	}
	h, err := home.At(ts.Getenv("CELL_HOME"))
	ts.Check(err)
	ts.Check(h.Make())
	l, err := net.Listen("unix", h.Socket())
	ts.Check(err)
	dir := ts.MkAbs(args[0])
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		protocol := strconv.Itoa(node.Protocol)
		if b, err := os.ReadFile(filepath.Join(dir, "protocol")); err == nil {
			protocol = strings.TrimSpace(string(b))
		}
		w.Header().Set(node.HeaderProtocol, protocol)
		if r.URL.Path == "/v1/connect" {
			fakeConnect(w)
			return
		}
		if r.URL.Path == "/v1/down" {
			l.Close() // as a node that goes does
		}
		name := filepath.Join(dir, r.Method+"-"+strings.TrimPrefix(r.URL.Path, "/v1/"))
		if _, err := os.Stat(name + "-follow"); err == nil && r.URL.Query().Get("follow") == "1" {
			name += "-follow"
		}
		if r.Method == http.MethodPost {
			body, _ := io.ReadAll(r.Body)
			old, _ := os.ReadFile(filepath.Join(dir, "asked"))
			os.WriteFile(filepath.Join(dir, "asked"), fmt.Appendf(old, "%s %s\n", r.URL.Path, body), 0o600)
		}
		b, err := os.ReadFile(name)
		if err != nil {
			b = []byte("404 " + err.Error())
		}
		if status, rest, ok := strings.Cut(string(b), " "); ok && len(status) == 3 && status[0] >= '2' && status[0] <= '5' {
			code, _ := strconv.Atoi(status)
			w.WriteHeader(code)
			b = []byte(rest)
		}
		w.Write(b)
	})}
	go server.Serve(l)
	ts.Defer(func() { server.Close() })
}

func fakeConnect(w http.ResponseWriter) {
	conn, buf, err := w.(http.Hijacker).Hijack()
	if err != nil {
		return
	}
	fmt.Fprintf(buf, "HTTP/1.1 101 Switching Protocols\r\n%s: %d\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", node.HeaderProtocol, node.Protocol, node.UpgradeFrame)
	buf.Flush()
	frame.NewConn(conn, frame.Config{Handler: func(ctx context.Context, r frame.Request) (frame.Response, error) {
		switch _, method, _ := strings.Cut(r.Target, "/"); method {
		case "echo":
			return frame.Response{Codec: r.Codec, Body: r.Body}, nil
		case "slow":
			select {
			case <-ctx.Done():
			case <-time.After(10 * time.Second):
			}
			return frame.Response{}, ctx.Err()
		case "fail":
			return frame.Response{}, errors.New("no such person \x1b[31m")
		case "gone":
			return frame.Response{}, &frame.Error{Code: frame.NoReplica, Message: "nobody serves " + r.Target}
		case "refuse":
			return frame.Response{}, &frame.Error{Code: frame.Refused, Message: "the author does not allow it"}
		}
		return frame.Response{}, &frame.Error{Code: frame.NoMethod, Message: "no method " + r.Target}
	}})
}
