package ribosome

import (
	"io/fs"
	"os"
	"testing"
	"testing/fstest"
)

// sdk is a stand-in.
func sdk(t *testing.T) fs.FS {
	b, err := os.ReadFile("../../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	return fstest.MapFS{
		"go.mod": {Data: b}, "LICENSE": {Data: []byte("x")},
		"cell.go": {Data: []byte(`package cell
import ("context"; "fmt"; "github.com/fxamacker/cbor/v2")
type Method[In, Out any] struct{ name string }
func NewMethod[In, Out any](n string) Method[In, Out] { return Method[In, Out]{n} }
type Service struct{ n string }
func On[In, Out any](m Method[In, Out], f func(context.Context, In) (Out, error)) Service { return Service{m.name} }
func Main(s ...Service) { b, _ := cbor.Marshal(s[0].n); fmt.Println("cell", b) }
`)},
	}
}
