package cell

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"slices"
	"strings"

	"cell.network/cell/internal/frame"
	"cell.network/cell/internal/membrane"
	"cell.network/cell/internal/ops"
)

// descriptor is where a replica finds its node.
const descriptor = 3

// Service is a method with the function that serves it; make one with [On].
type Service struct {
	method string
	handle frame.Handler
}

// On serves method with f, which is called on a goroutine of its own for each
// call. ctx has the caller's deadline and ends when the caller gives up; pass
// it on to further calls. The caller gets the error of f with its code, where
// it has one made by [Errorf], and as [Failed] otherwise; the failure of a call
// that f itself made is Failed, too. A panic is [Internal] to the caller and a
// stack in the replica's log.
func On[In, Out any](method Method[In, Out], f func(ctx context.Context, in In) (Out, error)) Service {
	return Service{method: method.own(), handle: func(ctx context.Context, r frame.Request) (frame.Response, error) {
		var in In
		if err := decode(r.Codec, r.Body, &in); err != nil {
			return frame.Response{}, Errorf(Invalid, "read request of %s: %w", method.own(), err)
		}
		out, err := f(ctx, in)
		if err != nil {
			return frame.Response{}, answer(ctx, err)
		}
		codec, body, err := encode(r.Codec, out)
		if err != nil {
			return frame.Response{}, Errorf(Internal, "write response of %s: %w", method.own(), err)
		}
		return frame.Response{Codec: codec, Body: body}, nil
	}}
}

// Main serves services until the node stops the replica, and exits: it is all
// that a cell's main has to do. Status 0 after a stop or a drain, 1 where the
// node is gone, 2 where the program was started by hand. It does not return.
func Main(services ...Service) { os.Exit(run(os.Args[1:], os.Stderr, services)) }

func run(args []string, stderr io.Writer, services []Service) int {
	methods, handler, err := combine(services, stderr)
	if err != nil {
		fmt.Fprintf(stderr, "cell: error: %v\n", err)
		return 2
	}
	if !slices.Contains(args, "--membrane") && !membrane.IsLink(descriptor) {
		fmt.Fprintf(stderr, "cell: error: this is a cell; run it with: cell run DIR\n")
		return 2
	}
	link, err := membrane.LinkFromFD(descriptor)
	if err != nil {
		fmt.Fprintf(stderr, "cell: error: %v\n", err)
		return 1
	}
	if err := serve(context.Background(), link, methods, handler); err != nil {
		fmt.Fprintf(stderr, "cell: error: %v\n", err)
		return 1
	}
	return 0
}

// serve runs the replica; from its start on, calls of this process go through its node.
func serve(ctx context.Context, link membrane.Link, methods []string, h frame.Handler) error {
	started := make(chan *membrane.Replica, 1)
	outward.become(func(ctx context.Context, cell string) (*frame.Conn, error) {
		select {
		case r := <-started:
			started <- r
			return r.Connect(ctx, cell)
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	})
	r, err := membrane.Serve(ctx, link, methods, h)
	if err != nil {
		return err
	}
	started <- r
	return r.Wait()
}

// combine makes one handler of all services.
func combine(services []Service, log io.Writer) ([]string, frame.Handler, error) {
	byName := make(map[string]frame.Handler, len(services))
	var names []string
	for _, s := range services {
		if s.handle == nil {
			return nil, nil, errors.New("a service is empty; make it with cell.On")
		}
		if _, twice := byName[s.method]; twice {
			return nil, nil, fmt.Errorf("two services for the method %s", s.method)
		}
		byName[s.method] = s.handle
		names = append(names, s.method)
	}
	if len(names) > ops.MaxMethods {
		return nil, nil, fmt.Errorf("%d methods, a cell may have %d", len(names), ops.MaxMethods)
	}
	slices.Sort(names)
	return names, func(ctx context.Context, r frame.Request) (resp frame.Response, err error) {
		name := r.Target[strings.LastIndexByte(r.Target, '/')+1:]
		handle, ok := byName[name]
		if !ok {
			return resp, &Error{Code: NoMethod, Message: fmt.Sprintf("no method %q", name), Hint: "it has: " + strings.Join(names, ", ")}
		}
		defer func() {
			if v := recover(); v != nil {
				fmt.Fprintf(log, "panic in method %s: %v\n%s", name, v, debug.Stack())
				err = Errorf(Internal, "panic in method %s: %v", name, v)
			}
		}()
		return handle(ctx, r)
	}, nil
}
