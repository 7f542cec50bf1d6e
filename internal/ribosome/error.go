package ribosome

import (
	"errors"
	"fmt"
	"strings"

	"cell.network/cell/internal/identity"
)

// What an [Error] wraps.
var (
	ErrNoToolchain = errors.New("there is no Go toolchain")     // the go command is not to be found, or does not run
	ErrNoModule    = errors.New("there is no go.mod")           // neither in the source's folder nor above
	ErrNoProgram   = errors.New("there is no program to build") // no package main where one is looked for
	ErrSDK         = errors.New("this node has not got that version of the SDK")
	ErrCompile     = errors.New("go build failed") // Output says why
	errChanged     = errors.New("the source changes while it is built")
)

// Error is a build that failed for a reason that its user can act on.
type Error struct {
	Name   identity.Name
	Err    error
	Output string // what go printed, at most maxOutput bytes; may be empty
	Hint   string // what to do about it; may be empty
}

// Error returns the reason with what go printed, without the hint.
func (e *Error) Error() string {
	s := fmt.Sprintf("build %s: %v", e.Name, e.Err)
	if e.Output != "" {
		s += "\n" + strings.TrimRight(e.Output, "\n")
	}
	return s
}

// Unwrap returns the reason.
func (e *Error) Unwrap() error { return e.Err }
