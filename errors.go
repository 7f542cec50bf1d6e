package cell

import (
	"context"
	"errors"
	"fmt"

	"cell.network/cell/internal/frame"
)

// Error is why a call failed, with a code for programs, a message and a hint
// for people. Find it with [errors.As], or match it by code:
//
//	errors.Is(err, &cell.Error{Code: cell.NoReplica})
//
// [Timeout] also matches context.DeadlineExceeded, and [Cancelled] matches context.Canceled.
type Error = frame.Error

// Code says why a call failed. Its String is the name that JSON and the
// command line use, such as no_replica.
type Code = frame.Code

// The codes. Code.NotExecuted tells which of them mean that the call surely had no effect.
const (
	OK          = frame.OK          // no error
	Failed      = frame.Failed      // the handler returned an error of its own
	Cancelled   = frame.Cancelled   // the caller gave up
	Timeout     = frame.Timeout     // the caller's deadline passed
	NoMethod    = frame.NoMethod    // the cell has no such method
	NoReplica   = frame.NoReplica   // no replica of the cell was found
	Overloaded  = frame.Overloaded  // too many calls at once; not executed
	TooLarge    = frame.TooLarge    // a value is over the limit of 4 MiB
	Invalid     = frame.Invalid     // the request could not be understood
	Refused     = frame.Refused     // trust or policy forbids it
	Draining    = frame.Draining    // the replica finishes what it has and takes nothing new; not executed
	Unavailable = frame.Unavailable // the connection was lost; whether it was executed is unknown
	Version     = frame.Version     // the two sides speak different versions
	Internal    = frame.Internal    // a bug on the serving side, such as a panic
	NotSent     = frame.NotSent     // the request never left this machine; not executed
)

// Errorf makes an error with a code, for handlers that want their callers to
// tell failures apart. %w keeps the text of what it wraps, and nothing else.
func Errorf(code Code, format string, args ...any) error {
	return &Error{Code: code, Message: fmt.Errorf(format, args...).Error()}
}

// CodeOf returns the code of err: OK for nil, Timeout and Cancelled where a
// context ended, Failed for an error without a code.
func CodeOf(err error) Code {
	if err == nil {
		return OK
	}
	return frame.AsError(err).Code
}

// callError is what [Call] returns. To a handler's own caller, while he waits,
// it is no more than Failed: that the ledger has no replica does not mean that the greeter has none.
type callError struct {
	target string
	err    *Error
}

func (e *callError) Error() string { return "call " + e.target + ": " + e.err.Error() }
func (e *callError) Unwrap() error { return e.err }

// answer turns what a handler returned into what its caller is told. ctx is the
// handler's: where it has ended, that is why a call of the handler failed.
func answer(ctx context.Context, err error) error {
	var c *callError
	if !errors.As(err, &c) {
		return err
	}
	code := Failed
	if ctx.Err() != nil {
		code = CodeOf(ctx.Err())
	}
	return &Error{Code: code, Message: err.Error(), Hint: c.err.Hint}
}
