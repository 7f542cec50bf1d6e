package cell_test

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"path"
	"slices"
	"strings"
	"testing"
)

const module = "cell.network/cell"

// layers lists every package of the module from the bottom up. A package
// imports only from lower lines; a new package needs a place here, and a
// reason to be a package.
var layers = [][]string{
	{"internal/identity", "internal/home", "internal/frame", "internal/ops", "internal/journal", "internal/sim", "internal/capsid/stage"},
	{"internal/record", "internal/membrane", "internal/autonomic"},
	{"internal/host", "internal/swim"},
	{"internal/pheromone", "internal/pulse", "internal/kad", "internal/axon", "internal/capsid"},
	{"", "internal/mesh", "internal/ribosome"},
	{"internal/mycelium"},
	{"examples/greeter", "internal/node"},
	{"celltest", "cmd/cell", "faults", "examples/greeter/cmd/greeter"},
}

// sdk is what a cell's program is made of: it must stay small and quick to build.
var sdk = []string{"", "internal/membrane", "internal/frame", "internal/ops", "internal/identity", "internal/home"}

// notInSDK says what must not reach a cell's program, and why.
var notInSDK = map[string]string{
	"github.com/libp2p/":  "the node talks to the network, a replica only to its node",
	"github.com/quic-go/": "the node talks to the network, a replica only to its node",
	"net/http":            "4 MB in every cell for one upgrade request",
}

// onlyIn says which packages may import a library: a fence has one gate.
var onlyIn = map[string][]string{
	"github.com/libp2p/go-libp2p/p2p/":    {"internal/host", "internal/swim"},
	"github.com/libp2p/go-libp2p-kad-dht": {"internal/kad"},
	"github.com/spf13/cobra":              {"cmd/cell"},
	"github.com/marcopolo/simnet":         {"internal/sim"},
	"github.com/pelletier/go-toml/v2":     {"internal/node"},
}

type pkg struct {
	ImportPath   string
	Doc          string
	Name         string
	Imports      []string
	TestImports  []string
	XTestImports []string
	Deps         []string
}

func list(t *testing.T) map[string]pkg {
	t.Helper()
	out, err := exec.Command("go", "list", "-json=ImportPath,Name,Doc,Imports,TestImports,XTestImports,Deps", "./...").Output()
	if err != nil {
		var x *exec.ExitError
		if errors.As(err, &x) {
			t.Fatalf("go list: %v: %s", err, x.Stderr)
		}
		t.Fatal(err)
	}
	all := map[string]pkg{}
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all[strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, module), "/")] = p
	}
}

func layerOf(name string) int {
	return slices.IndexFunc(layers, func(l []string) bool { return slices.Contains(l, name) })
}

func TestLayers(t *testing.T) {
	for name, p := range list(t) {
		mine := layerOf(name)
		if mine < 0 {
			t.Errorf("package %q stands in no layer: give it a line in layers", name)
			continue
		}
		for _, imp := range p.Imports {
			rest, ours := strings.CutPrefix(imp, module)
			if other := strings.TrimPrefix(rest, "/"); ours && layerOf(other) >= mine {
				t.Errorf("%q (layer %d) imports %q (layer %d): imports go down", name, mine, other, layerOf(other))
			}
			for lib, gates := range onlyIn {
				if strings.HasPrefix(imp, lib) && !slices.Contains(gates, name) {
					t.Errorf("%q imports %s, which only %v may", name, imp, gates)
				}
			}
		}
	}
}

func TestLayersListNothingThatIsGone(t *testing.T) {
	all := list(t)
	for _, l := range layers {
		for _, name := range l {
			if _, ok := all[name]; !ok {
				t.Errorf("layers lists %q, which is no package", name)
			}
		}
	}
}

func TestSDKStaysSmall(t *testing.T) {
	all := list(t)
	for _, name := range sdk {
		for _, dep := range all[name].Deps {
			for bad, why := range notInSDK {
				if strings.HasPrefix(dep, bad) {
					t.Errorf("%q depends on %s: %s", name, dep, why)
				}
			}
			if rest, ours := strings.CutPrefix(dep, module); ours && !slices.Contains(sdk, strings.TrimPrefix(rest, "/")) {
				t.Errorf("%q depends on %s, which is not part of the SDK", name, dep)
			}
		}
	}
}

// A package has one package comment, and its first sentence says in plain
// words what the package does.
func TestPackageComments(t *testing.T) {
	metaphor := []string{"organism", "biolog", "living", "membrane ", "spore"}
	for name, p := range list(t) {
		want := "Package " + p.Name + " "
		if p.Name == "main" {
			want = "Command " + path.Base(p.ImportPath) + " "
		}
		if !strings.HasPrefix(p.Doc, want) {
			t.Errorf("%q: package comment starts %.40q, want %q", name, p.Doc, want)
		}
		for _, m := range metaphor {
			if strings.Contains(strings.TrimPrefix(p.Doc, want), m) {
				t.Errorf("%q: first sentence needs a metaphor (%q): %s", name, m, p.Doc)
			}
		}
	}
}
