package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// The documents are transcripts. Every ```console block is run: a line that
// starts with "$ " is a command, the lines below are what it must print, on
// stdout and stderr together; "…" stands for anything in a line, alone for any
// lines. A block headed up=NAME starts a node that stays up. In commands
// z6Mk… is the first node's author and /ip4/…/p2p/… its first address.
func TestDocs(t *testing.T) {
	if testing.Short() {
		t.Skip("builds and runs everything that the documents show")
	}
	files, err := filepath.Glob("../../*.md")
	if err != nil {
		t.Fatal(err)
	}
	more, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	ran := 0
	for _, file := range append(files, more...) {
		blocks := readBlocks(t, file)
		if len(blocks) == 0 {
			continue
		}
		ran++
		t.Run(filepath.Base(file), func(t *testing.T) { runDocument(t, blocks) })
	}
	if ran == 0 {
		t.Fatal("no document has a transcript")
	}
}

// docBlock is one fenced block.
type docBlock struct {
	where    string
	up       string // name of a node that stays up
	commands []docCommand
}

type docCommand struct {
	line string
	want []string
}

func readBlocks(t *testing.T, file string) []docBlock {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var blocks []docBlock
	var cur *docBlock
	for i, line := range strings.Split(string(content), "\n") {
		where := fmt.Sprintf("%s:%d", filepath.Base(file), i+1)
		switch {
		case cur == nil && strings.HasPrefix(line, "```console"):
			cur = &docBlock{where: where}
			if _, name, ok := strings.Cut(line, "up="); ok {
				cur.up = name
			}
		case cur != nil && line == "```":
			blocks = append(blocks, *cur)
			cur = nil
		case cur != nil && strings.HasPrefix(line, "$ "):
			cur.commands = append(cur.commands, docCommand{line: line[2:]})
		case cur != nil && len(cur.commands) > 0:
			c := &cur.commands[len(cur.commands)-1]
			c.want = append(c.want, line)
		case cur != nil:
			t.Fatalf("%s: output before a command", where)
		}
	}
	return blocks
}

// reader follows a document as a person would, in one folder.
type reader struct {
	dir, bin     string
	env          []string
	author, addr string
	second       string
	nodes        []*docNode
}

func runDocument(t *testing.T, blocks []docBlock) {
	port, err := freeUDPPort()
	if err != nil {
		t.Fatal(err)
	}
	base, err := os.MkdirTemp("", "cell-docs-") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(base) })
	r := &reader{dir: filepath.Join(base, "w"), bin: filepath.Join(base, "bin"), second: filepath.Join(base, "2")}
	if err := os.Mkdir(r.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := shareBuildCache(filepath.Join(base, "1")); err != nil {
		t.Fatal(err)
	}
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "CELL_") && !strings.HasPrefix(kv, "PATH=") {
			r.env = append(r.env, kv)
		}
	}
	r.env = append(r.env, "PATH="+r.bin+":"+os.Getenv("PATH"), "GOBIN="+r.bin, "CELL_HOME="+filepath.Join(base, "1"),
		"CELL_NETWORK=docs-"+strconv.Itoa(os.Getpid()), "CELL_LAN_PORT="+strconv.Itoa(port), "NO_COLOR=1")
	t.Cleanup(func() {
		for _, n := range r.nodes {
			n.stop(t)
		}
	})
	for _, b := range blocks {
		for _, c := range b.commands {
			if b.up != "" {
				r.start(t, b, c)
			} else {
				r.run(t, b, c)
			}
			if t.Failed() {
				return
			}
		}
	}
}

// command prepares a line of a document.
func (r *reader) command(ctx context.Context, line string) *exec.Cmd {
	line = regexp.MustCompile(`/ip4/…\S*`).ReplaceAllString(line, r.addr)
	line = strings.NewReplacer("z6Mk…", r.author, "/tmp/second", r.second).Replace(line)
	c := exec.CommandContext(ctx, "bash", "-c", line)
	c.Dir, c.Env = r.dir, r.env
	if strings.HasPrefix(line, "go ") {
		c.Dir = "../.."
	}
	return c
}

func (r *reader) run(t *testing.T, b docBlock, d docCommand) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	out, err := r.command(ctx, d.line).CombinedOutput()
	if err != nil {
		t.Errorf("%s: $ %s: %v\n%s", b.where, d.line, err, out)
	} else if !matches(d.want, strings.Split(strings.TrimRight(string(out), "\n"), "\n")) {
		t.Errorf("%s: $ %s printed\n%s\nnot\n%s", b.where, d.line, out, strings.Join(d.want, "\n"))
	}
}

// docNode is a node that a document started.
type docNode struct {
	cmd  *exec.Cmd
	done chan struct{}

	mu    sync.Mutex
	lines []string
	news  chan struct{}
}

// start runs a node until it has printed what the document shows.
func (r *reader) start(t *testing.T, b docBlock, d docCommand) {
	t.Helper()
	n := &docNode{cmd: r.command(context.Background(), "exec env "+d.line), done: make(chan struct{}), news: make(chan struct{}, 1)}
	out, err := n.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	var stdout bytes.Buffer
	n.cmd.Stdout = &stdout
	if err := n.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	r.nodes = append(r.nodes, n)
	go func() {
		for s := bufio.NewScanner(out); s.Scan(); {
			n.mu.Lock()
			n.lines = append(n.lines, s.Text())
			n.mu.Unlock()
			select {
			case n.news <- struct{}{}:
			default:
			}
		}
		_ = n.cmd.Wait()
		close(n.done)
	}()
	deadline := time.After(30 * time.Second)
	for {
		n.mu.Lock()
		lines := append([]string(nil), n.lines...)
		n.mu.Unlock()
		if matches(d.want, lines) {
			for _, l := range lines {
				if f := strings.Fields(l); len(f) > 1 && f[0] == "author" && r.author == "" {
					r.author = f[1]
				} else if len(f) > 1 && f[0] == "listen" && r.addr == "" {
					r.addr = f[1]
				}
			}
			return
		}
		select {
		case <-n.news:
		case <-n.done:
			t.Fatalf("%s: $ %s ended: %s", b.where, d.line, strings.Join(lines, "\n"))
		case <-deadline:
			t.Fatalf("%s: $ %s printed\n%s\nnot\n%s", b.where, d.line, strings.Join(lines, "\n"), strings.Join(d.want, "\n"))
		}
	}
}

func (n *docNode) stop(t *testing.T) {
	_ = n.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-n.done:
		if code := n.cmd.ProcessState.ExitCode(); code != 0 {
			t.Errorf("a node ended with exit code %d: %s", code, strings.Join(n.lines, "\n"))
		}
	case <-time.After(20 * time.Second):
		_ = n.cmd.Process.Kill()
		<-n.done
		t.Error("a node did not end when told to")
	}
}

// matches compares lines with a pattern in which … stands for anything.
func matches(want, got []string) bool {
	if len(want) == 0 {
		return len(got) == 0 || len(got) == 1 && got[0] == ""
	}
	if want[0] == "…" {
		for i := range len(got) + 1 {
			if len(want) == 1 || matches(want[1:], got[i:]) {
				return true
			}
		}
		return false
	}
	if len(got) == 0 {
		return false
	}
	parts := strings.Split(want[0], "…")
	for i := range parts {
		parts[i] = regexp.QuoteMeta(parts[i])
	}
	return regexp.MustCompile("^"+strings.Join(parts, ".*")+"$").MatchString(got[0]) && matches(want[1:], got[1:])
}

func TestMatches(t *testing.T) {
	for _, c := range []struct {
		want, got string
		ok        bool
	}{
		{"a", "a", true}, {"a", "b", false}, {"a…c", "abc", true}, {"…", "x\ny\nz", true}, {"…\nz", "x\ny\nz", true},
		{"…\nq", "x\ny\nz", false}, {"a\n…\nd", "a\nd", true}, {"a", "a\nb", false}, {"a.c", "abc", false}, {"", "", true},
	} {
		if matches(strings.Split(c.want, "\n"), strings.Split(c.got, "\n")) != c.ok {
			t.Errorf("%q against %q: want %v", c.want, c.got, c.ok)
		}
	}
}
