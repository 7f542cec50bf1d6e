// Package cell serves and calls cells: small programs that find each other by
// name and author, on a local network or across the internet, with no server
// in between.
//
// A cell is a program with a Cell.toml. It declares its methods in a package
// that its callers import too:
//
//	package greeter
//
//	type Req struct{ Name string }
//	type Res struct{ Text string }
//
//	var Hello = cell.NewMethod[Req, Res]("greeter/hello")
//
// its main serves them, and any other program calls them:
//
//	cell.Main(cell.On(greeter.Hello, hello))
//
//	out, err := greeter.Hello.Call(ctx, greeter.Req{Name: "Ada"})
//
// A running copy of a cell is a replica. It is started by a node (`cell run`),
// never by hand, keeps no state that must outlive it, and has no other way out
// than descriptor 3, on which its node hands it connections. Other programs
// reach cells through the node that runs on their machine (`cell up`).
//
// Values travel as CBOR and follow the rules of encoding/json for field names
// and tags; a cell answers JSON to who asks in JSON. A []byte is never encoded.
// Every call has the deadline of its context, and the handler sees that
// deadline; when the caller gives up, the handler's context ends. Every failed
// call has an [*Error] in its chain, whose [Code] tells what to do.
package cell
