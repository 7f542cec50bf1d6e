// Command greeter serves the methods of package greeter. Run it with: cell run DIR
package main

import (
	"context"

	"cell.network/cell"
	"cell.network/cell/examples/greeter"
)

func main() {
	cell.Main(cell.On(greeter.Hello, hello))
}

func hello(ctx context.Context, in greeter.Req) (greeter.Res, error) {
	return greeter.Res{Text: "hello " + in.Name}, nil
}
