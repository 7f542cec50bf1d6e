package ribosome

import (
	"context"
	"slices"
	"testing"
	"time"

	"cell.network/cell/internal/capsid"
	"cell.network/cell/internal/frame"
	"cell.network/cell/internal/membrane"
)

// TestNewCellServes takes a new cell all the way: written, built, started in a
// sandbox, called.
func TestNewCellServes(t *testing.T) {
	r := newRibosome(t)
	a, err := r.Build(t.Context(), newSource(t, r, "greeter"), nil)
	if err != nil {
		t.Fatal(err)
	}
	c := capsid.New(capsid.Config{StateDir: t.TempDir()})
	defer c.Close()
	p, err := c.Start(t.Context(), capsid.Spec{Path: a.Path, Args: []string{"--membrane"}, Limits: capsid.Limits{Memory: 64 << 20}})
	if err != nil {
		t.Fatal(err)
	}
	port := membrane.NewPort(p.Link(), membrane.PortConfig{})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	ready, err := capsid.Ready(ctx, p, port)
	if err != nil || !slices.Equal(ready.Methods, []string{"hello"}) {
		t.Fatal(ready, err)
	}
	conn, err := port.Dial(ctx)
	if err != nil {
		t.Fatal(err)
	}
	res, err := conn.Call(ctx, frame.Request{Target: "hello", Codec: frame.JSON, Body: []byte(`{"Name":"Ada"}`)})
	if err != nil || string(res.Body) != `{"Text":"hello Ada"}` {
		t.Errorf("%s, %v", res.Body, err)
	}
	conn.Close()
	if err := p.Kill(); err != nil {
		t.Error(err)
	}
	_ = p.Wait()
	<-port.Done()
}
