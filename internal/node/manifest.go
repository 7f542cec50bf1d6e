package node

import (
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"cell.network/cell/internal/identity"
)

// ManifestFile is the name of the file that describes a cell.
const ManifestFile = "Cell.toml"

// Limits on a manifest.
const (
	maxManifest = 64 << 10 // bytes
	maxMirrors  = 16
	maxNeeds    = 64
	maxReplicas = 10_000
)

// ErrNoManifest says that a folder holds no Cell.toml.
var ErrNoManifest = errors.New("no " + ManifestFile)

// Manifest is what Cell.toml says, with defaults filled in.
type Manifest struct {
	Cell    CellSection
	Build   BuildSection
	Run     RunSection
	Scaling ScalingSection
	Limits  LimitsSection
	Needs   map[identity.Name]identity.Ref // local name to the cell meant
}

// CellSection is [cell].
type CellSection struct {
	Name    identity.Name
	Version string   // default "0.0.0"
	Mirrors []string // URLs to fetch the source from when no peer has it
	Serve   []Server // who may serve it; default: the author's colony
}

// Server is one entry of serve: "colony", "*" or a key.
type Server struct {
	Colony bool         // machines of the author's own colony
	Any    bool         // everybody
	Key    identity.Key // a node or a colony, unless one of the above
}

// BuildSection is [build]. Without Cmd a folder with go.mod is built by go.
type BuildSection struct {
	Cmd []string
	Out string // path of the binary inside the folder; needed with Cmd
}

// RunSection is [run]. Without Cmd the built binary is run.
type RunSection struct {
	Cmd    []string      // any program; it is given $PORT
	Health string        // path of an HTTP health check, with Cmd only
	Drain  time.Duration // time to finish what is in flight; default 10 s
}

// ScalingSection is [scaling]. Percentages are whole numbers.
type ScalingSection struct {
	MinReplicas        int // default 1
	MaxReplicas        int // default 8
	CPUTarget          int // default 60
	ScaleUpThreshold   int // default 80
	ScaleDownThreshold int // default 30
	InflightTarget     int // requests at once per replica; default 16
}

// LimitsSection is [limits]. Zero means none.
type LimitsSection struct {
	CPU    float64 // cores
	Memory int64   // bytes
}

// manifestFile mirrors the text of Cell.toml.
type manifestFile struct {
	Schema *int `toml:"schema"`
	Cell   struct {
		Name    nameText    `toml:"name"`
		Version versionText `toml:"version"`
		Mirrors []urlText   `toml:"mirrors"`
		Serve   []Server    `toml:"serve"`
	} `toml:"cell"`
	Build struct {
		Cmd []string  `toml:"cmd"`
		Out localPath `toml:"out"`
	} `toml:"build"`
	Run struct {
		Cmd    []string     `toml:"cmd"`
		Health string       `toml:"health"`
		Drain  durationText `toml:"drain"`
	} `toml:"run"`
	Scaling struct {
		MinReplicas        int `toml:"min_replicas"`
		MaxReplicas        int `toml:"max_replicas"`
		CPUTarget          int `toml:"cpu_target"`
		ScaleUpThreshold   int `toml:"scale_up_threshold"`
		ScaleDownThreshold int `toml:"scale_down_threshold"`
		InflightTarget     int `toml:"inflight_target"`
	} `toml:"scaling"`
	Limits struct {
		CPU    float64  `toml:"cpu"`
		Memory sizeText `toml:"memory"`
	} `toml:"limits"`
	Needs map[string]refText `toml:"needs"`
}

// LoadManifest reads Cell.toml in dir. Errors wrap [ErrNoManifest] or are a
// [*FileError].
func LoadManifest(dir string) (Manifest, error) {
	path := filepath.Join(dir, ManifestFile)
	if st, err := os.Stat(path); err == nil && !st.Mode().IsRegular() { // opening a pipe would wait for ever
		return Manifest{}, fmt.Errorf("read cell: %s is not a regular file", path)
	}
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return Manifest{}, fmt.Errorf("read cell: %w in %s", ErrNoManifest, dir)
	}
	if err != nil {
		return Manifest{}, fmt.Errorf("read cell: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxManifest+1))
	if err != nil {
		return Manifest{}, fmt.Errorf("read cell: %w", err)
	}
	return ParseManifest(path, text)
}

// ParseManifest reads the text of a Cell.toml; file is its name in errors.
func ParseManifest(file string, text []byte) (Manifest, error) {
	if len(text) > maxManifest {
		return Manifest{}, &FileError{File: file, Line: 1, Column: 1, Message: fmt.Sprintf("longer than %d bytes", maxManifest)}
	}
	var t manifestFile
	t.Cell.Version.version = "0.0.0"
	t.Run.Drain.Duration = 10 * time.Second
	t.Scaling.MinReplicas, t.Scaling.MaxReplicas = 1, 8
	t.Scaling.CPUTarget, t.Scaling.ScaleUpThreshold, t.Scaling.ScaleDownThreshold = 60, 80, 30
	t.Scaling.InflightTarget = 16
	if err := decodeTOML(file, text, &t); err != nil {
		return Manifest{}, err
	}
	if err := t.check(file, text); err != nil {
		return Manifest{}, err
	}
	m := Manifest{
		Cell:    CellSection{Name: t.Cell.Name.name, Version: t.Cell.Version.version, Serve: t.Cell.Serve},
		Build:   BuildSection{Cmd: t.Build.Cmd, Out: t.Build.Out.path},
		Run:     RunSection{Cmd: t.Run.Cmd, Health: t.Run.Health, Drain: t.Run.Drain.Duration},
		Scaling: ScalingSection(t.Scaling),
		Limits:  LimitsSection{CPU: t.Limits.CPU, Memory: t.Limits.Memory.bytes},
		Needs:   make(map[identity.Name]identity.Ref, len(t.Needs)),
	}
	for _, u := range t.Cell.Mirrors {
		m.Cell.Mirrors = append(m.Cell.Mirrors, u.url)
	}
	if len(m.Cell.Serve) == 0 {
		m.Cell.Serve = []Server{{Colony: true}}
	}
	for name, ref := range t.Needs {
		m.Needs[identity.Name(name)] = ref.ref
	}
	return m, nil
}

// check holds what one value alone cannot tell.
func (t *manifestFile) check(file string, text []byte) error {
	fail := func(key, format string, args ...any) error {
		return keyError(file, text, strings.Split(key, "."), format, args...)
	}
	s := t.Scaling
	switch {
	case t.Schema != nil && *t.Schema != 1:
		return fail("schema", "schema %d is not known to this version, which reads 1", *t.Schema)
	case t.Cell.Name.name == "":
		return fail("cell", "[cell] has no name, the one key that is required")
	case len(t.Cell.Mirrors) > maxMirrors:
		return fail("cell.mirrors", "%d mirrors, %d are allowed", len(t.Cell.Mirrors), maxMirrors)
	case len(t.Build.Cmd) > 0 && t.Build.Out.path == "":
		return fail("build.cmd", "cmd needs out, the path of what it makes")
	case len(t.Build.Cmd) == 0 && t.Build.Out.path != "":
		return fail("build.out", "out needs cmd, which makes it")
	case t.Run.Health != "" && len(t.Run.Cmd) == 0:
		return fail("run.health", "health needs cmd: an SDK cell says itself when it is ready")
	case t.Run.Health != "" && !strings.HasPrefix(t.Run.Health, "/"):
		return fail("run.health", "a health path starts with /")
	case s.MinReplicas < 0 || s.MinReplicas > maxReplicas:
		return fail("scaling.min_replicas", "must lie between 0 and %d", maxReplicas)
	case s.MaxReplicas < 1 || s.MaxReplicas > maxReplicas:
		return fail("scaling.max_replicas", "must lie between 1 and %d", maxReplicas)
	case s.MinReplicas > s.MaxReplicas:
		return fail("scaling.min_replicas", "min_replicas %d is above max_replicas %d", s.MinReplicas, s.MaxReplicas)
	case s.InflightTarget < 1:
		return fail("scaling.inflight_target", "must be at least 1")
	case t.Limits.CPU < 0:
		return fail("limits.cpu", "must not be negative")
	case len(t.Needs) > maxNeeds:
		return fail("needs", "%d needs, %d are allowed", len(t.Needs), maxNeeds)
	}
	for _, p := range []struct {
		key   string
		value int
	}{
		{"cpu_target", s.CPUTarget}, {"scale_up_threshold", s.ScaleUpThreshold}, {"scale_down_threshold", s.ScaleDownThreshold},
	} {
		if p.value < 1 || p.value > 100 {
			return fail("scaling."+p.key, "is a percentage from 1 to 100")
		}
	}
	if s.ScaleDownThreshold >= s.ScaleUpThreshold {
		return fail("scaling.scale_down_threshold", "must lie below scale_up_threshold, which is %d", s.ScaleUpThreshold)
	}
	for name := range t.Needs {
		if _, err := identity.ParseName(name); err != nil {
			return keyError(file, text, []string{"needs", name}, "%v", err)
		}
	}
	return nil
}

// The types below read one value each. They are structs because the decoder
// stores strings and numbers into anything else without asking it.

type nameText struct{ name identity.Name }

func (n *nameText) UnmarshalText(b []byte) (err error) {
	n.name, err = identity.ParseName(string(b))
	return err
}

type refText struct{ ref identity.Ref }

func (r *refText) UnmarshalText(b []byte) (err error) {
	r.ref, err = identity.ParseRef(string(b))
	return err
}

type versionText struct{ version string }

func (v *versionText) UnmarshalText(b []byte) error {
	ref, err := identity.ParseRef("x:" + string(b))
	if err != nil {
		return fmt.Errorf("bad version %q: write it like 0.1.0", b)
	}
	v.version = ref.Version
	return nil
}

type urlText struct{ url string }

func (u *urlText) UnmarshalText(b []byte) error {
	parsed, err := url.Parse(string(b))
	if err != nil || parsed.Host == "" || !slices.Contains([]string{"https", "http", "ssh", "git"}, parsed.Scheme) {
		return fmt.Errorf("bad mirror %q: write a URL like https://example.org/greeter", b)
	}
	u.url = string(b)
	return nil
}

type localPath struct{ path string }

func (p *localPath) UnmarshalText(b []byte) error {
	if !filepath.IsLocal(string(b)) {
		return fmt.Errorf("path %q leaves the cell's folder", b)
	}
	p.path = string(b)
	return nil
}

type durationText struct{ time.Duration }

func (d *durationText) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	if err != nil || v < 0 || v > time.Hour {
		return fmt.Errorf("bad duration %q: write it like \"10s\", at most \"1h\"", b)
	}
	d.Duration = v
	return nil
}

type sizeText struct{ bytes int64 }

func (s *sizeText) UnmarshalText(b []byte) error {
	units := []struct {
		suffix string
		bytes  int64
	}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"kB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"B", 1}}
	for _, u := range units {
		digits, ok := strings.CutSuffix(string(b), u.suffix)
		if !ok {
			continue
		}
		n, err := strconv.ParseInt(digits, 10, 64)
		if err == nil && n > 0 && n <= (1<<50)/u.bytes {
			s.bytes = n * u.bytes
			return nil
		}
	}
	return fmt.Errorf("bad size %q: write it like \"256MiB\"", b)
}

// UnmarshalText reads "colony", "*" or a key.
func (s *Server) UnmarshalText(b []byte) error {
	switch string(b) {
	case "colony":
		*s = Server{Colony: true}
		return nil
	case "*":
		*s = Server{Any: true}
		return nil
	}
	k, err := identity.ParseKey(string(b))
	if err != nil {
		return fmt.Errorf("bad entry %q: write \"colony\", \"*\" or a key", b)
	}
	*s = Server{Key: k}
	return nil
}
