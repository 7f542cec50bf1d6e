package frame

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// Code says why a call failed. It crosses the wire: append only.
type Code uint32

// The codes. A code that this version does not know is passed on as it is.
const (
	OK          Code = 0  // not an error
	Failed      Code = 1  // the handler returned an error of its own
	Cancelled   Code = 2  // the caller gave up
	Timeout     Code = 3  // the caller's deadline passed
	NoMethod    Code = 4  // the cell has no such method
	NoReplica   Code = 5  // no replica of the cell was found
	Overloaded  Code = 6  // too many calls at once; not executed
	TooLarge    Code = 7  // a body or a target is over the limit
	Invalid     Code = 8  // the request could not be understood
	Refused     Code = 9  // trust or policy forbids it
	Draining    Code = 10 // the replica finishes what it has and takes nothing new; not executed
	Unavailable Code = 11 // the connection was lost; whether it was executed is unknown
	Version     Code = 12 // the two sides speak different versions
	Internal    Code = 13 // a bug on the serving side, such as a panic
	NotSent     Code = 14 // the request never left this side; not executed
)

var codeNames = [...]string{
	OK: "ok", Failed: "failed", Cancelled: "cancelled", Timeout: "timeout", NoMethod: "no_method",
	NoReplica: "no_replica", Overloaded: "overloaded", TooLarge: "too_large", Invalid: "invalid",
	Refused: "refused", Draining: "draining", Unavailable: "unavailable", Version: "version",
	Internal: "internal", NotSent: "not_sent",
}

// String returns the code's name as JSON and the command line write it: "no_replica".
func (c Code) String() string {
	if int(c) < len(codeNames) {
		return codeNames[c]
	}
	return fmt.Sprintf("code_%d", uint32(c))
}

// NotExecuted reports whether a call that failed with c surely had no effect,
// so that another replica may be tried.
func (c Code) NotExecuted() bool {
	switch c {
	case NoMethod, NoReplica, Overloaded, Refused, Draining, NotSent, Version:
		return true
	}
	return false
}

// Error is what every failed call returns. Match it by code:
//
//	errors.Is(err, &frame.Error{Code: frame.NoReplica})
type Error struct {
	Code    Code
	Message string // for people, one sentence, lower case; at most MaxMessage bytes cross the wire
	Hint    string // what to do about it, may be empty; at most MaxMeta bytes cross the wire
}

// Error returns the message or, where there is none, the code's name.
func (e *Error) Error() string {
	if e.Message != "" {
		return e.Message
	}
	return e.Code.String()
}

// Is matches another *Error of the same code; Timeout matches
// [context.DeadlineExceeded] and Cancelled matches [context.Canceled].
func (e *Error) Is(target error) bool {
	switch target {
	case context.DeadlineExceeded:
		return e.Code == Timeout
	case context.Canceled:
		return e.Code == Cancelled
	}
	t, ok := target.(*Error)
	return ok && t.Code == e.Code
}

// AsError returns err as it would cross the wire: an *Error in its chain keeps
// code and hint, the end of a context becomes Timeout or Cancelled, anything
// else Failed. The message is that of err as a whole.
func AsError(err error) *Error {
	var e *Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &e):
		if any(e) == any(err) {
			return e
		}
		return &Error{Code: e.Code, Message: err.Error(), Hint: e.Hint}
	case errors.Is(err, context.DeadlineExceeded):
		return &Error{Code: Timeout, Message: err.Error()}
	case errors.Is(err, context.Canceled):
		return &Error{Code: Cancelled, Message: err.Error()}
	}
	return &Error{Code: Failed, Message: err.Error()}
}

// Clip returns e as it may cross the wire: message and hint cut to their sizes
// and valid UTF-8, and OK, which is no error, turned into Internal.
func (e *Error) Clip() *Error {
	code := e.Code
	if code == OK {
		code = Internal
	}
	return &Error{Code: code, Message: clip(e.Message, MaxMessage), Hint: clip(e.Hint, MaxMeta)}
}

func errorf(c Code, format string, args ...any) *Error {
	return &Error{Code: c, Message: fmt.Sprintf(format, args...)}
}

// clip makes s valid UTF-8 of at most limit bytes.
func clip(s string, limit int) string {
	if len(s) > limit {
		for limit > 0 && !utf8.RuneStart(s[limit]) {
			limit--
		}
		s = s[:limit]
	}
	if utf8.ValidString(s) {
		return s
	}
	return strings.ToValidUTF8(s, "?")
}
