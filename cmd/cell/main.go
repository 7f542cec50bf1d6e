// Command cell runs a node and steers it: it is the one program of Cell, both
// the daemon (`cell up`) and the stateless client of its control socket.
package main

import (
	"context"
	"os"

	"cell.network/cell/internal/capsid"
)

func main() {
	capsid.Init() // where this process is a sandbox's first one, it goes no further
	os.Exit(run(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}
