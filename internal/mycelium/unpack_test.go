package mycelium

import (
	"bytes"
	"compress/zlib"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cell.network/cell/internal/record"
)

var update = flag.Bool("update", false, "rewrite testdata")

var testLimits = Limits{Packed: 1 << 20, Unpacked: 1 << 20, File: 1 << 19, Files: 1000}

func TestUnpack(t *testing.T) {
	e, commit := small()
	dir := t.TempDir()
	if err := receive(bytes.NewReader(e.pack()), signed(t, commit, smallFiles(), nil), testLimits, dir); err != nil {
		t.Fatal(err)
	}
	got := listing(t, filepath.Join(dir, partTree))
	if len(got) != 3 || got["cmd/greet.sh"] != "hello\n (program)" || got["cmd/link"] != "-> ../go.mod" {
		t.Errorf("unpacked %q", got)
	}
	if sum, err := hashDir(filepath.Join(dir, partTree), 3); err != nil || sum != hashFiles(smallFiles()) {
		t.Errorf("what lies on disk has another hash (%v)", err)
	}
	if b, err := os.ReadFile(filepath.Join(dir, partPack)); err != nil || !bytes.Equal(b, e.pack()) {
		t.Errorf("the pack kept is not the pack that came (%v)", err)
	}
	if _, err := hashDir(filepath.Join(dir, partTree), 2); !errors.Is(err, ErrTree) {
		t.Errorf("more files than allowed: %v", err)
	}
}

// The hash of a tree and the form of a pack are the protocol.
func TestUnpackVector(t *testing.T) {
	const tree = "5dc73b8b3de1733bb5fdb6eb8dcb844e149af15a467202d7e5fc770bcf1b0d09"
	if got := fmt.Sprintf("%x", hashFiles(smallFiles())); got != tree {
		t.Errorf("the tree's hash is %s", got)
	}
	e, commit := small()
	if *update {
		if err := os.WriteFile("testdata/small.pack", e.pack(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	pack, err := os.ReadFile("testdata/small.pack")
	if err != nil {
		t.Fatal(err)
	}
	got, err := unpack(bytes.NewReader(pack), commit, testLimits, t.TempDir())
	if err != nil || fmt.Sprintf("%x", got.tree) != tree {
		t.Errorf("%+v, %v", got, err)
	}
}

// Nothing of these trees may ever lie on a disk, even where the author signed it.
func TestUnpackRefusesTrees(t *testing.T) {
	deep := func(e *evil, n int) objectID {
		id := e.tree(line(modeFile, "f", e.blob("x")))
		for range n {
			id = e.tree(line(modeDir, "d", id))
		}
		return id
	}
	link := func(path, target string) func(e *evil) objectID {
		return func(e *evil) objectID {
			id := e.blob(target)
			parts := strings.Split(path, "/")
			l := line(modeLink, parts[len(parts)-1], id)
			for i := len(parts) - 2; i >= 0; i-- {
				l = line(modeDir, parts[i], e.tree(l))
			}
			return e.tree(l)
		}
	}
	cases := map[string]struct {
		make func(e *evil) objectID
		want error
	}{
		"submodule":      {func(e *evil) objectID { return e.tree(line("160000", "sub", objectID{1})) }, ErrTree},
		"group-writable": {func(e *evil) objectID { return e.tree(line("100664", "f", e.blob("x"))) }, ErrTree},
		"padded mode":    {func(e *evil) objectID { return e.tree(line("040000", "d", e.tree(line(modeFile, "f", e.blob("x"))))) }, ErrTree},
		"device":         {func(e *evil) objectID { return e.tree(line("20000", "f", e.blob("x"))) }, ErrTree},
		"empty tree":     {func(e *evil) objectID { return e.tree() }, ErrTree},
		"empty folder":   {func(e *evil) objectID { return e.tree(line(modeDir, "d", e.tree())) }, ErrTree},
		"unsorted": {func(e *evil) objectID {
			return e.tree(line(modeFile, "b", e.blob("x")), line(modeFile, "a", e.blob("x")))
		}, ErrContent},
		"twice": {func(e *evil) objectID {
			return e.tree(line(modeFile, "a", e.blob("x")), line(modeFile, "a", e.blob("x")))
		}, ErrContent},
		"file and folder": {func(e *evil) objectID {
			return e.tree(line(modeFile, "a", e.blob("x")), line(modeDir, "a", e.tree(line(modeFile, "f", e.blob("x")))))
		}, ErrTree},
		"link and folder": {func(e *evil) objectID {
			return e.tree(line(modeLink, "A", e.blob(".")), line(modeDir, "a", e.tree(line(modeFile, "f", e.blob("x")))))
		}, ErrTree},
		"two cases": {func(e *evil) objectID {
			return e.tree(line(modeFile, "README", e.blob("x")), line(modeFile, "readme", e.blob("x")))
		}, ErrTree},
		"two cases of umlaut": {func(e *evil) objectID {
			return e.tree(line(modeFile, "Ä", e.blob("x")), line(modeFile, "ä", e.blob("x")))
		}, ErrTree},
		"kelvin sign": {func(e *evil) objectID {
			return e.tree(line(modeFile, "k", e.blob("x")), line(modeFile, "\u212a", e.blob("x")))
		}, ErrTree},
		"combining accent":    {func(e *evil) objectID { return e.tree(line(modeFile, "e\u0301", e.blob("x"))) }, ErrTree},
		"ignored character":   {func(e *evil) objectID { return e.tree(line(modeFile, ".g\u200cit", e.blob("x"))) }, ErrTree},
		"right to left":       {func(e *evil) objectID { return e.tree(line(modeFile, "a\u202egpj.go", e.blob("x"))) }, ErrTree},
		"nested deep":         {func(e *evil) objectID { return deep(e, 100) }, ErrTree},
		"cut tree":            {func(e *evil) objectID { return e.tree("100644 f\x00short") }, ErrContent},
		"no tree":             {func(e *evil) objectID { return e.blob("x") }, ErrContent},
		"link out":            {link("a/b/out", "../../../etc/passwd"), ErrTree},
		"absolute link":       {link("out", "/etc/passwd"), ErrTree},
		"link through links":  {link("out", "d/../../x"), ErrTree},
		"link into git":       {link("out", ".git/config"), ErrTree},
		"link nowhere":        {link("out", ""), ErrTree},
		"link with backslash": {link("out", `..\..\x`), ErrTree},
		"link with control":   {link("out", "a\nb"), ErrTree},
		"long link":           {link("out", strings.Repeat("a/", 600)+"a"), ErrTooBig},
		"link of known text": {func(e *evil) objectID { // a link whose content has come before, as a file
			id := e.blob("/etc/passwd")
			return e.tree(line(modeFile, "a", id), line(modeLink, "b", id))
		}, ErrTree},
		"long path": {func(e *evil) objectID {
			id := e.tree(line(modeFile, "f", e.blob("x")))
			for range 6 {
				id = e.tree(line(modeDir, strings.Repeat("d", 200), id))
			}
			return id
		}, ErrTree},
		"tree bomb": {func(e *evil) objectID { // 10^30 files in 3 kB
			id := e.tree(line(modeFile, "f", e.blob("x")))
			for range 30 {
				var lines []string
				for i := range 10 {
					lines = append(lines, line(modeDir, string(rune('a'+i)), id))
				}
				id = e.tree(lines...)
			}
			return id
		}, ErrTooBig},
		"many files": {func(e *evil) objectID {
			var lines []string
			id := e.blob("x")
			for i := range testLimits.Files + 1 {
				lines = append(lines, line(modeFile, string([]rune{rune('a' + i/676), rune('a' + i/26%26), rune('a' + i%26)}), id))
			}
			return e.tree(lines...)
		}, ErrTooBig},
		"one content many times": {func(e *evil) objectID { // 20 MB in 1 kB
			var lines []string
			id := e.blob(strings.Repeat("\x00", 400_000))
			for i := range 50 {
				lines = append(lines, line(modeFile, string([]rune{rune('a' + i/26), rune('a' + i%26)}), id))
			}
			return e.tree(lines...)
		}, ErrTooBig},
		"large file": {func(e *evil) objectID { return e.tree(line(modeFile, "f", e.blob(strings.Repeat("\x00", 600_000)))) }, ErrTooBig},
	}
	type bad = struct {
		make func(e *evil) objectID
		want error
	}
	for _, name := range []string{"", ".", "..", ".git", ".GIT", ".Git", "git~1", "GIT~12", ".gitmodules", "a/b", `a\b`, "c:", "a:b", "nul\x01", "a\n", "\x1b[31m", "\x7f",
		"dot.", "space ", ".git.", ".git ", "\xff\xfe", strings.Repeat("n", 256), "\u1100\u1161", "\uf900"} {
		cases["name "+name] = bad{func(e *evil) objectID { return e.tree(line(modeFile, name, e.blob("x"))) }, ErrTree}
		cases["folder "+name] = bad{func(e *evil) objectID { return e.tree(line(modeDir, name, e.tree(line(modeFile, "f", e.blob("x"))))) }, ErrTree}
	}
	for name, c := range cases {
		var e evil
		commit := e.commit(c.make(&e))
		outside := t.TempDir()
		dir := filepath.Join(outside, "q")
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		_, err := unpack(bytes.NewReader(e.pack()), commit, testLimits, dir)
		if !errors.Is(err, c.want) {
			t.Errorf("%q: %v, want %v", name, err, c.want)
		}
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("%q took %v", name, took)
		}
		if left, _ := os.ReadDir(outside); len(left) != 1 {
			t.Errorf("%q wrote outside of its folder", name)
		}
	}
}

// Bytes that are no pack of the commit are found out, whoever sends them.
func TestUnpackRefusesPacks(t *testing.T) {
	e, commit := small()
	good := e.pack()
	count := uint32(len(e.order))
	// repack writes the objects of small with one replaced.
	repack := func(i int, change func(*object)) []byte {
		e, _ := small()
		change(&e.order[i])
		return e.pack()
	}
	// raw is a pack that starts with one hand-made entry.
	raw := func(head []byte, body string) []byte {
		var b bytes.Buffer
		z := zlib.NewWriter(&b)
		_, _ = io.WriteString(z, body)
		_ = z.Close()
		return sealPack(append(append([]byte(packHead+"\x00\x00\x00\x01"), head...), b.Bytes()...))
	}
	blob, last := 0, len(e.order)-1
	if e.order[last].kind != kindCommit || e.order[blob].kind != kindBlob {
		t.Fatal("small has changed")
	}
	for name, c := range map[string]struct {
		pack []byte
		want error
	}{
		"empty":            {nil, io.EOF},
		"not a pack":       {[]byte("HTTP/1.1 200 OK\r\n\r\n"), ErrContent},
		"version 3":        {[]byte("PACK\x00\x00\x00\x03\x00\x00\x00\x01"), ErrContent},
		"cut":              {good[:len(good)/2], io.ErrUnexpectedEOF},
		"no checksum":      {good[:len(good)-20], io.EOF},
		"wrong checksum":   {append(bytes.Clone(good[:len(good)-1]), good[len(good)-1]^1), ErrContent},
		"one too many":     {recount(good, count+1), ErrContent},
		"one too few":      {recount(good, count-1), ErrContent},
		"none":             {recount(good, 0), ErrContent},
		"another content":  {repack(blob, func(o *object) { o.data = []byte("HELLO\n") }), ErrContent},
		"longer content":   {repack(blob, func(o *object) { o.data = append(bytes.Clone(o.data), 'x') }), ErrContent},
		"another commit":   {repack(last, func(o *object) { o.data = append(bytes.Clone(o.data), 'x') }), ErrContent},
		"a delta":          {raw([]byte{7<<4 | 1}, "x"), ErrContent},
		"a tag":            {raw([]byte{4<<4 | 1}, "x"), ErrContent},
		"endless size":     {raw(bytes.Repeat([]byte{0x90 | 0x0f}, 40), "x"), ErrContent},
		"bomb that says":   {raw([]byte{0x90, 0x80, 0x80, 0x80, 0x10}, strings.Repeat("\x00", 1<<20)), ErrTooBig},
		"bomb that hides":  {raw([]byte{0x91, 0x01}, strings.Repeat("\x00", 8<<20)), ErrContent},
		"says too much":    {raw([]byte{0x9f, 0x01}, "x"), ErrContent},
		"not deflated":     {append([]byte(packHead+"\x00\x00\x00\x01\x91\x01"), bytes.Repeat([]byte{0xff}, 100)...), ErrContent},
		"garbage deflated": {append([]byte(packHead+"\x00\x00\x00\x01\x91\x01\x78\x9c"), bytes.Repeat([]byte{0xff}, 100)...), ErrContent},
	} {
		if _, err := unpack(bytes.NewReader(c.pack), commit, testLimits, t.TempDir()); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	s := signed(t, commit, smallFiles(), nil)
	for i := range good {
		b := bytes.Clone(good)
		b[i] ^= 0x10
		dir := filepath.Join(t.TempDir(), "q")
		_ = os.Mkdir(dir, 0o755)
		if err := receive(bytes.NewReader(b), s, testLimits, dir); err == nil {
			t.Errorf("accepted with byte %d flipped", i)
		}
	}
}

// A commit that is not what the author signed is refused though it is whole.
func TestReceiveRefuses(t *testing.T) {
	e, commit := small()
	for name, c := range map[string]struct {
		change func(*record.Spore)
		want   error
	}{
		"nothing":        {func(*record.Spore) {}, nil},
		"another tree":   {func(s *record.Spore) { s.Tree[0] ^= 1 }, ErrContent},
		"larger":         {func(s *record.Spore) { s.Size++ }, ErrContent},
		"smaller":        {func(s *record.Spore) { s.Size-- }, ErrTooBig},
		"more files":     {func(s *record.Spore) { s.Files++ }, ErrContent},
		"fewer files":    {func(s *record.Spore) { s.Files-- }, ErrTooBig},
		"another commit": {func(s *record.Spore) { s.Commit = strings.Repeat("0", 40) }, ErrContent},
		"too large":      {func(s *record.Spore) { s.Size = 1 << 40 }, ErrTooBig},
		"too many":       {func(s *record.Spore) { s.Files = 1 << 30 }, ErrTooBig},
	} {
		if err := receive(bytes.NewReader(e.pack()), signed(t, commit, smallFiles(), c.change), testLimits, t.TempDir()); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

func TestCheckLink(t *testing.T) {
	for _, c := range []struct {
		path, target string
		ok           bool
	}{
		{"a", "b", true}, {"a", "./b", true}, {"a", ".", true}, {"a/b", "..", true}, {"a/b", "../c/d", true}, {"a/b/c", "../../d", true},
		{"a", "..", false}, {"a", "../b", false}, {"a/b", "../../c", false}, {"a/b/c", "d/../../../e", false}, {"a/b/c", "d/../e", false}, {"a", "/b", false},
		{"a", "", false}, {"a", "b//c", false}, {"a", "b/", false}, {"a", "./../b", false}, {"a", ".git/x", false}, {"a", "b\x00c", false}, {"a", "c:/x", false},
	} {
		if err := checkLink(c.path, c.target); (err == nil) != c.ok || err != nil && !errors.Is(err, ErrTree) {
			t.Errorf("%s -> %s: %v", c.path, c.target, err)
		}
	}
}

func FuzzUnpack(f *testing.F) {
	e, commit := small()
	f.Add(e.pack())
	want := hashFiles(smallFiles())
	f.Fuzz(func(t *testing.T, pack []byte) {
		got, err := unpack(bytes.NewReader(pack), commit, testLimits, t.TempDir())
		if err == nil && got.tree != want {
			t.Errorf("accepted another tree, %x", got.tree)
		}
	})
}

func FuzzParseTree(f *testing.F) {
	e, _ := small()
	for _, o := range e.order {
		f.Add(o.data)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		entries, err := parseTree(b)
		if err != nil {
			if !errors.Is(err, ErrTree) && !errors.Is(err, ErrContent) {
				t.Errorf("untyped error: %v", err)
			}
			return
		}
		var again []byte
		for _, e := range entries {
			if strings.ContainsAny(e.name, "/\\\x00") || e.name == ".." {
				t.Errorf("accepted the name %q", e.name)
			}
			again = append(again, line(e.mode, e.name, e.id)...)
		}
		if !bytes.Equal(again, b) {
			t.Errorf("read %q as %q", b, again)
		}
	})
}

func FuzzCheckLink(f *testing.F) {
	f.Add("a/b", "../c")
	f.Fuzz(func(t *testing.T, path, target string) {
		if checkLink(path, target) == nil && !filepath.IsLocal(filepath.Join("root", filepath.Dir(path), target)) {
			t.Errorf("%q -> %q leads out", path, target)
		}
	})
}
