package cell

import (
	"context"
	"strings"

	"cell.network/cell/internal/identity"
)

// Method is a method of a cell: it takes an In and returns an Out. The zero
// Method is of no use; make one with [NewMethod].
type Method[In, Out any] struct {
	target string // cell/method
}

// NewMethod declares the method that name says, such as "greeter/hello" or
// "greeter@z6Mk…/hello". A bare cell name means: of the author whom the cell's
// [needs] or, outside of a cell, the operator names. It panics on a name that
// breaks the rules, since that is a mistake in the program.
func NewMethod[In, Out any](name string) Method[In, Out] {
	if _, _, err := identity.ParseMethod(name); err != nil {
		panic("cell.NewMethod: " + err.Error())
	}
	return Method[In, Out]{target: name}
}

// From returns the same method of another cell, such as the one of a given
// author: greeter.Hello.From("greeter@z6Mk…"). It panics like [NewMethod].
func (m Method[In, Out]) From(cell string) Method[In, Out] {
	return NewMethod[In, Out](cell + "/" + m.own())
}

// String returns the name as it was declared: cell/method.
func (m Method[In, Out]) String() string { return m.target }

// own returns the method's name without the cell's.
func (m Method[In, Out]) own() string { return m.target[strings.IndexByte(m.target, '/')+1:] }

// Call calls the method of some replica of the cell and waits for its answer,
// until ctx ends. The error has an [*Error] in its chain.
func (m Method[In, Out]) Call(ctx context.Context, in In) (Out, error) {
	return Call[Out](ctx, m.target, in)
}
