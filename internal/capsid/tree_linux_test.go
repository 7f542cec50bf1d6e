package capsid

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"cell.network/cell/internal/capsid/stage"
)

// processes finds all processes that have token among their arguments.
func processes(t *testing.T, token string) (pids []int) {
	t.Helper()
	es, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range es {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if st, err := stage.ReadStat(pid); err == nil && !st.Zombie && bytes.Contains(b, []byte(token)) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// gone waits until no process has token any more.
func gone(t *testing.T, token string) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		left := processes(t, token)
		if len(left) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("still there: %v", left)
		}
	}
}

// three waits until a tree is complete: itself, child, runaway grandchild. For a
// moment after exec a process has no arguments.
func three(t *testing.T, token string) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); len(processes(t, token)) != 3; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("processes: %v", processes(t, token))
		}
	}
}

func token(t *testing.T) string {
	return fmt.Sprintf("%s-%d", strings.ReplaceAll(t.Name(), "/", "-"), time.Now().UnixNano())
}

func TestKillEndsTheTree(t *testing.T) {
	each(t, func(t *testing.T, iso Isolation, _ bool) {
		out, name := newLog(), token(t)
		p := start(t, newCapsid(t), Spec{Args: []string{"tree", name}, Log: out, Isolation: iso})
		out.await(t, "up")
		three(t, name)
		if err := p.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := p.Wait(); err == nil {
			t.Error("exit status 0 after Kill")
		}
		if left := processes(t, name); len(left) > 0 { // Wait promises it
			t.Errorf("still there after Wait: %v", left)
		}
	})
}

func TestTreeEndsWithItsProgram(t *testing.T) {
	each(t, func(t *testing.T, iso Isolation, _ bool) {
		name := token(t)
		p := start(t, newCapsid(t), Spec{Args: []string{"tree", name, "exit"}, Isolation: iso})
		if err := p.Wait(); err != nil {
			t.Error(err)
		}
		if left := processes(t, name); len(left) > 0 {
			t.Errorf("still there: %v", left)
		}
	})
}

func TestCloseEndsAll(t *testing.T) {
	each(t, func(t *testing.T, iso Isolation, _ bool) {
		c, name := newCapsid(t), token(t)
		for range 3 {
			out := newLog()
			start(t, c, Spec{Args: []string{"tree", name}, Log: out, Isolation: iso})
			out.await(t, "up")
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		if left := processes(t, name); len(left) > 0 {
			t.Errorf("still there: %v", left)
		}
	})
}

// beNode is another process: a node that starts the victim and waits to be killed.
func beNode(iso string) {
	c := New(Config{StateDir: os.Getenv("CAPSID_TEST_STATE")})
	s := Spec{Path: os.Getenv(envVictim), Args: []string{"tree", os.Getenv("CAPSID_TEST_TOKEN")}, Log: os.Stdout}
	if iso == "none" {
		s.Isolation = None
	}
	if _, err := c.Start(context.Background(), s); err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
	// Start and leave other goroutines and threads, so that those of the node come and go.
	for range 50 {
		go func() { time.Sleep(time.Millisecond) }()
	}
	select {}
}

func TestKilledNode(t *testing.T) {
	each(t, func(t *testing.T, iso Isolation, sandbox bool) {
		name, out, state := token(t), newLog(), t.TempDir()
		mode := "auto"
		if iso == None {
			mode = "none"
		}
		node := exec.Command("/proc/self/exe")
		node.Env = append(os.Environ(), envNode+"="+mode, envVictim+"="+victimPath(t), "CAPSID_TEST_STATE="+state, "CAPSID_TEST_TOKEN="+name)
		node.Stdout, node.Stderr = out, os.Stderr
		if err := node.Start(); err != nil {
			t.Fatal(err)
		}
		out.await(t, "up")
		three(t, name)
		for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
			if es, _ := os.ReadDir(state); len(es) == 1 { // the program may be up before its record is written
				break
			}
		}
		if es, _ := os.ReadDir(state); len(es) == 1 {
			if r, err := readRecord(filepath.Join(state, es[0].Name())); err != nil || r.Path != victimPath(t) {
				t.Errorf("on record is %q, %v", r.Path, err)
			}
		}
		_ = node.Process.Kill()
		_ = node.Wait()
		gone(t, name)

		c := New(Config{StateDir: state}) // its successor finds the record and nobody behind it
		defer c.Close()
		if es, _ := os.ReadDir(state); len(es) != 1 {
			t.Errorf("%d records", len(es))
		}
		if _, err := c.Reap(); err != nil {
			t.Error(err)
		}
		if es, _ := os.ReadDir(state); len(es) != 0 {
			t.Errorf("%d records after Reap", len(es))
		}
	})
}
