package cell_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"strings"
	"time"

	cell "cell.network/cell"
)

// What a cell declares for itself and for its callers.
type (
	Req struct{ Name string }
	Res struct{ Text string }
)

var Hello = cell.NewMethod[Req, Res]("greeter/hello")

func ExampleNewMethod() {
	hello := cell.NewMethod[Req, Res]("greeter/hello")
	fmt.Println(hello)
	// Output: greeter/hello
}

func ExampleMethod_From() {
	fmt.Println(Hello.From("greeter@alice"))
	// Output: greeter@alice/hello
}

// The whole main of a cell.
func ExampleMain() {
	cell.Main(cell.On(Hello, func(ctx context.Context, in Req) (Res, error) {
		return Res{Text: "hello " + in.Name}, nil
	}))
}

func ExampleOn() {
	hello := cell.On(Hello, func(ctx context.Context, in Req) (Res, error) {
		if in.Name == "" {
			return Res{}, cell.Errorf(cell.Invalid, "name is empty")
		}
		return Res{Text: "hello " + in.Name}, nil
	})
	shout := cell.On(cell.NewMethod[[]byte, []byte]("greeter/shout"), func(ctx context.Context, in []byte) ([]byte, error) {
		return []byte(strings.ToUpper(string(in))), nil
	})
	cell.Main(hello, shout)
}

// A call from any program on a machine where a node runs.
func ExampleMethod_Call() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	out, err := Hello.Call(ctx, Req{Name: "Ada"})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(out.Text)
}

// A call of a cell whose package is not at hand.
func ExampleCall() {
	out, err := cell.Call[map[string]any](context.Background(), "greeter@alice/hello", map[string]string{"Name": "Ada"})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(out["Text"])
}

func ExampleErrorf() {
	err := cell.Errorf(cell.Invalid, "%d is no month", 13)
	fmt.Println(err, cell.CodeOf(err))
	// Output: 13 is no month invalid
}

func ExampleCodeOf() {
	fmt.Println(cell.CodeOf(nil), cell.CodeOf(errors.New("no luck")), cell.CodeOf(context.DeadlineExceeded))
	// Output: ok failed timeout
}

func ExampleError() {
	_, err := Hello.Call(context.Background(), Req{Name: "Ada"})
	var e *cell.Error
	switch {
	case errors.Is(err, &cell.Error{Code: cell.NoReplica}):
		fmt.Println("nobody greets today")
	case errors.As(err, &e) && e.Code.NotExecuted():
		fmt.Println("worth another try:", e.Message)
	}
}
