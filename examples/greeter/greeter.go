// Package greeter is what callers of the cell greeter need to know: its
// methods and what goes in and out. The cell itself is in cmd/greeter.
package greeter

import "cell.network/cell"

// Hello greets whoever Req names.
var Hello = cell.NewMethod[Req, Res]("greeter/hello")

// Req says whom to greet.
type Req struct{ Name string }

// Res is the greeting.
type Res struct{ Text string }
