package main

import (
	"context"
	"errors"
	"io/fs"
	"strings"
	"syscall"

	"cell.network/cell/internal/frame"
	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/node"
	"cell.network/cell/internal/record"
)

// describe gives any error the code, the hint and the exit code that users
// know. This is the only place that decides them.
func describe(err error) *node.APIError {
	var api *node.APIError
	var called *frame.Error
	if errors.As(err, &api) {
		if api.Exit == 0 {
			api = node.NewError(api.Code, api.Message, api.Hint)
		}
		return api
	}
	if errors.As(err, &called) {
		return describeCall(called)
	}
	var file *node.FileError
	code, hint := node.CodeFailed, ""
	switch {
	case errors.As(err, &file):
		code, hint = node.CodeUsage, "correct the file and try again"
	case errors.Is(err, context.Canceled):
		code = node.CodeInterrupted
	case errors.Is(err, context.DeadlineExceeded):
		return node.NewError(node.CodeTimeout, "no answer in time", "give it longer with --timeout")
	case errors.Is(err, identity.ErrName), errors.Is(err, identity.ErrKey):
		code, hint = node.CodeUsage, "names are a-z, 0-9 and -, as in greeter, greeter@alice or greeter/hello; keys start with z6Mk"
	case errors.Is(err, identity.ErrUnknownAuthor):
		code, hint = node.CodeNoCell, "give the author a name: cell trust add NAME KEY, or set your own: cell config set author KEY"
	case errors.Is(err, identity.ErrKeyMode):
		code, hint = node.CodeRefused, "whoever may have read the key can act in your name: if that matters, make a new one"
	case errors.Is(err, node.ErrNoManifest):
		code, hint = node.CodeUsage, "name the folder of a cell, or make one: cell new NAME"
	case errors.Is(err, record.ErrNetwork):
		code, hint = node.CodeRefused, "name the network that it was made for: --network NAME"
	case errors.Is(err, record.ErrMalformed), errors.Is(err, record.ErrSize):
		code, hint = node.CodeUsage, "copy it whole, on one line"
	case record.Reason(err) != "other":
		code = node.CodeRefused
	case errors.Is(err, fs.ErrPermission):
		code = node.CodeRefused
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		hint = "make room on the disk, or move the home: CELL_HOME=DIR"
	case strings.HasPrefix(err.Error(), "unknown command"), strings.HasPrefix(err.Error(), "unknown flag"):
		code, hint = node.CodeUsage, "see: cell --help"
	}
	return node.NewError(code, err.Error(), hint)
}

// describeCall does it for the outcome of a call.
func describeCall(e *frame.Error) *node.APIError {
	message, code := e.Message, node.CodeFailed
	switch e.Code {
	case frame.NoReplica:
		code = node.CodeNoReplica
	case frame.Timeout:
		code = node.CodeTimeout
	case frame.Refused:
		code = node.CodeRefused
	case frame.Version:
		code = node.CodeVersion
	case frame.Cancelled:
		code = node.CodeInterrupted
	}
	hint := e.Hint
	if hint == "" {
		switch e.Code {
		case frame.NoReplica:
			hint = "see who serves it: cell lookup NAME; run it here: cell run DIR"
		case frame.NoMethod:
			hint = "see the methods of the cells on this host: cell ps"
		case frame.Timeout:
			hint = "give it longer with --timeout; it may have been executed"
		case frame.Refused:
			hint = "see whose code and calls this node accepts: cell trust"
		case frame.Unavailable:
			hint = "the connection was lost; it may have been executed"
		}
	}
	if message == "" {
		message = e.Code.String()
	}
	return node.NewError(code, message, hint)
}
