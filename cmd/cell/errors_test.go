package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"testing"

	"cell.network/cell/internal/frame"
	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/node"
	"cell.network/cell/internal/record"
)

// The exit codes are a promise to scripts.
func TestExitCodes(t *testing.T) {
	called := func(c frame.Code) error { return &frame.Error{Code: c, Message: "m"} }
	for _, c := range []struct {
		err  error
		exit int
		hint bool
	}{
		{errors.New("anything"), 1, false},
		{identity.ErrName, 2, true},
		{identity.ErrKey, 2, true},
		{&node.FileError{File: "Cell.toml", Line: 1, Column: 1}, 2, true},
		{node.ErrNoManifest, 2, true},
		{record.ErrMalformed, 2, true},
		{identity.ErrUnknownAuthor, 3, true},
		{node.NewError(node.CodeNoReplica, "m", ""), 3, false},
		{&node.APIError{Code: node.CodeNoReplica, Message: "m"}, 3, false}, // from a node that sent no exit code
		{node.ErrNotRunning, 4, true},
		{identity.ErrKeyMode, 5, true},
		{record.ErrSignature, 5, false},
		{record.ErrStale, 5, false},
		{record.ErrGrant, 5, false},
		{record.ErrNetwork, 5, true},
		{fs.ErrPermission, 5, false},
		{context.DeadlineExceeded, 6, true},
		{node.NewError(node.CodeVersion, "m", ""), 7, false},
		{context.Canceled, 130, false},

		{called(frame.Failed), 1, false},
		{called(frame.NoMethod), 1, true},
		{called(frame.Overloaded), 1, false},
		{called(frame.Unavailable), 1, true},
		{called(frame.NoReplica), 3, true},
		{called(frame.Refused), 5, true},
		{called(frame.Timeout), 6, true},
		{called(frame.Version), 7, false},
		{called(frame.Cancelled), 130, false},
		{called(999), 1, false},
	} {
		got := describe(fmt.Errorf("wrapped: %w", c.err))
		if got.Exit != c.exit || (got.Hint != "") != c.hint || got.Message == "" {
			t.Errorf("%v: got %+v, want exit %d, hint %v", c.err, got, c.exit, c.hint)
		}
	}
}
