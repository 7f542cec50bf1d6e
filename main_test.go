package cell

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"cell.network/cell/internal/frame"
	"cell.network/cell/internal/membrane"
)

// TestMain makes this test binary a cell when it is told so.
func TestMain(m *testing.M) {
	if os.Getenv("CELL_TEST_REPLICA") != "" {
		Main(services()...)
	}
	os.Exit(m.Run())
}

// replica starts a real process, as a node does.
func replica(t *testing.T, cfg membrane.PortConfig) (*membrane.Port, *exec.Cmd, *strings.Builder) {
	t.Helper()
	link, file, err := membrane.NewLink()
	if err != nil {
		t.Fatal(err)
	}
	var stderr strings.Builder
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "CELL_TEST_REPLICA=1")
	cmd.ExtraFiles = []*os.File{file}
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	file.Close()
	p := membrane.NewPort(link, cfg)
	t.Cleanup(func() { p.Close(); cmd.Process.Kill(); cmd.Wait() })
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	ready, err := p.WaitReady(ctx)
	if err != nil {
		p.Close()
		cmd.Wait()
		t.Fatal(err, stderr.String())
	}
	if want := "broken burst fail hello relay shout"; strings.Join(ready.Methods, " ") != want || ready.Version == "" {
		t.Fatalf("ready: %+v", ready)
	}
	return p, cmd, &stderr
}

// TestMainServes runs two cells as processes; the first calls the second over
// a connection that the node made and forgot.
func TestMainServes(t *testing.T) {
	other, otherCmd, _ := replica(t, membrane.PortConfig{})
	asked := make(chan string, 10)
	p, cmd, _ := replica(t, membrane.PortConfig{OnConnect: func(_ context.Context, target string) (net.Conn, error) {
		asked <- target
		near, far, err := membrane.SocketPair()
		if err != nil {
			return nil, err
		}
		return near, other.Hand(far)
	}})
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	conn, err := p.Dial(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for range 3 {
		resp, err := conn.Call(ctx, frame.Request{Target: "greeter/relay", Codec: frame.JSON, Body: []byte(`{"Name":"Ada"}`)})
		if err != nil || string(resp.Body) != `{"text":"hello Ada"}` {
			t.Fatalf("%q, %v", resp.Body, err)
		}
	}
	if got := <-asked; got != "other" || len(asked) != 0 {
		t.Errorf("the node was asked for %q, %d times more", got, len(asked))
	}

	if err := p.Drain(ctx); err != nil {
		t.Error(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("after a drain: %v", err)
	}
	if err := other.Stop(); err != nil {
		t.Error(err)
	}
	if err := otherCmd.Wait(); err != nil {
		t.Errorf("after a stop: %v", err)
	}
}

func TestMainEndsWithNode(t *testing.T) {
	p, cmd, stderr := replica(t, membrane.PortConfig{})
	began := time.Now()
	p.Close()
	err := cmd.Wait()
	took := time.Since(began)
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 || !strings.Contains(stderr.String(), "the node is gone") {
		t.Errorf("%v, %q", err, stderr.String())
	}
	if took > time.Second {
		t.Errorf("it took %v", took)
	}
}

func TestMainByHand(t *testing.T) {
	for _, arg := range []string{"", "--membrane"} {
		cmd := exec.Command(os.Args[0], strings.Fields(arg)...)
		cmd.Env = append(os.Environ(), "CELL_TEST_REPLICA=1")
		out, err := cmd.CombinedOutput()
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			t.Fatal(err)
		}
		want, code := "cell: error: this is a cell; run it with: cell run DIR\n", 2
		if arg != "" {
			want, code = "cell: error: open link on descriptor 3", 1
		}
		if exit.ExitCode() != code || !strings.HasPrefix(string(out), want) {
			t.Errorf("%q: status %d, %q", arg, exit.ExitCode(), out)
		}
	}
}
