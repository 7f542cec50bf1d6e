// Command cell runs a node and steers it: it is the one program of Cell, both
// the daemon (`cell up`) and the stateless client of its control socket.
package main

import (
	"context"
	"os"
)

func main() {
	os.Exit(run(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}
