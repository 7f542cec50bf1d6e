package report

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"
)

// Child is another process of the same program, which plays one part and tells
// what CPU time it has used. It ends with this one.
type Child struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
	mu  sync.Mutex // one question at a time
}

// childArg is the first argument of a child, before its part.
const childArg = "part"

// startTime is how long a child may take to get ready.
const startTime = 60 * time.Second

// StartChild starts this program as part, which is given arg as JSON, and waits
// until it has said ready, whatever that is for the part. files become
// descriptors 3 and up, and are closed here.
func StartChild(part string, arg, ready any, files ...*os.File) (*Child, error) {
	defer func() {
		for _, f := range files {
			_ = f.Close()
		}
	}()
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", part, err)
	}
	text, err := json.Marshal(arg)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", part, err)
	}
	c := &Child{cmd: exec.Command(self, childArg, part, string(text))}
	c.cmd.Stderr, c.cmd.ExtraFiles = os.Stderr, files
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		return nil, fmt.Errorf("start %s: %w", part, err)
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", part, err)
	}
	c.out = bufio.NewReader(out)
	if err := c.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", part, err)
	}
	late := time.AfterFunc(startTime, func() { _ = c.cmd.Process.Kill() })
	defer late.Stop()
	if err := c.read(ready); err != nil {
		_ = c.Close()
		return nil, fmt.Errorf("start %s: %w", part, err)
	}
	return c, nil
}

// CPU asks the child what it has used.
func (c *Child) CPU() (time.Duration, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, err := io.WriteString(c.in, "\n"); err != nil {
		return 0, fmt.Errorf("ask child: %w", err)
	}
	var used time.Duration
	err := c.read(&used)
	return used, err
}

func (c *Child) read(v any) error {
	line, err := c.out.ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("hear child: %w", err)
	}
	var fault struct{ Error string }
	if json.Unmarshal(line, &fault) == nil && fault.Error != "" {
		return errors.New(fault.Error)
	}
	if v == nil {
		return nil
	}
	return json.Unmarshal(line, v)
}

// Close ends the child and waits for it.
func (c *Child) Close() error {
	late := time.AfterFunc(10*time.Second, func() { _ = c.cmd.Process.Kill() })
	defer late.Stop()
	_ = c.in.Close()
	return c.cmd.Wait()
}

// Part is what a child does: it starts with the JSON that [StartChild] was
// given, and returns what to say when it is ready, and how to end.
type Part func(arg []byte) (ready any, stop func(), err error)

// PlayPart plays the part that this process was started for and does not
// return; in the process that started it all, it returns at once. Call it
// before anything else in main.
func PlayPart(parts map[string]Part) {
	if len(os.Args) != 4 || os.Args[1] != childArg {
		return
	}
	os.Exit(play(parts[os.Args[2]], []byte(os.Args[3])))
}

func play(part Part, arg []byte) int {
	say := json.NewEncoder(os.Stdout)
	if part == nil {
		_ = say.Encode(map[string]string{"error": "no such part"})
		return 2
	}
	ready, stop, err := part(arg)
	if err != nil {
		_ = say.Encode(map[string]string{"error": strings.TrimSpace(err.Error())})
		return 1
	}
	defer stop()
	if say.Encode(ready) != nil {
		return 1
	}
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		if say.Encode(CPU()) != nil {
			return 1
		}
	}
	return 0
}
