package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"cell.network/cell/internal/frame"
	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/node"
	"github.com/spf13/cobra"
)

func (a *app) callCmd() *cobra.Command {
	var timeout time.Duration
	c := &cobra.Command{
		Use:   "call METHOD [JSON]",
		Short: "Call a method of a cell, wherever it runs",
		Long: `Calls a method, written cell/method, of a cell that runs here or anywhere in the
network, and prints its answer. The request is JSON, given as an argument or, for
"-", read from stdin; without one it is {}.

The answer is indented on a terminal and printed as it came otherwise. Exit codes:
1 the cell answered with an error, 3 no replica was found, 5 refused, 6 no answer in time.`,
		Example: `  cell call greeter/hello '{"Name":"Ada"}'
  cell call greeter@alice/hello - < request.json`,
		Args: takes(1, 2),
		RunE: func(c *cobra.Command, args []string) error {
			if _, _, err := identity.ParseMethod(args[0]); err != nil {
				return err
			}
			body, err := a.body(args[1:])
			if err != nil {
				return err
			}
			if timeout <= 0 {
				return usage(c, "--timeout must be above 0")
			}
			ctx, cancel := context.WithTimeout(c.Context(), timeout)
			defer cancel()
			client, err := a.dial()
			if err != nil {
				return err
			}
			defer client.Close()
			stream, err := client.Connect(ctx)
			if err != nil {
				return err
			}
			conn := frame.NewConn(stream, frame.Config{})
			defer conn.Close()
			res, err := conn.Call(ctx, frame.Request{Target: args[0], Codec: frame.JSON, Body: body})
			if err != nil {
				return err
			}
			return a.answer(res)
		},
		ValidArgsFunction: a.completeMethods,
	}
	c.Flags().DurationVar(&timeout, "timeout", 10*time.Second, "how long to wait for the answer")
	a.jsonFlag(c, "print errors as JSON too, and the answer on one line")
	return c
}

// body is the request: an argument, stdin, or {}.
func (a *app) body(args []string) ([]byte, error) {
	body := []byte("{}")
	if len(args) == 1 && args[0] == "-" {
		var err error
		if body, err = io.ReadAll(io.LimitReader(a.stdin, frame.MaxBody+1)); err != nil {
			return nil, fmt.Errorf("read stdin: %w", err)
		}
	} else if len(args) == 1 {
		body = []byte(args[0])
	}
	if len(body) > frame.MaxBody {
		return nil, node.NewError(node.CodeUsage, fmt.Sprintf("the request is longer than %d bytes", frame.MaxBody), "")
	}
	var any json.RawMessage
	if err := json.Unmarshal(body, &any); err != nil {
		return nil, node.NewError(node.CodeUsage, "the request is not JSON: "+err.Error(), `quote it for the shell: '{"Name":"Ada"}'`)
	}
	return body, nil
}

func (a *app) answer(res frame.Response) error {
	if res.Codec != frame.JSON {
		return a.term.copy(bytes.NewReader(res.Body))
	}
	var out bytes.Buffer
	switch {
	case a.json && json.Compact(&out, res.Body) == nil, a.term.outTTY && json.Indent(&out, res.Body, "", "  ") == nil:
	default:
		out.Reset()
		out.Write(res.Body)
	}
	if !bytes.HasSuffix(out.Bytes(), []byte("\n")) {
		out.WriteByte('\n')
	}
	if a.term.outTTY {
		for line := range bytes.Lines(out.Bytes()) {
			a.term.print("%s\n", clean(string(line)))
		}
		return nil
	}
	_, err := a.term.out.Write(out.Bytes())
	return err
}
