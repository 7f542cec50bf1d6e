// The victim is what the tests of capsid put into a sandbox: it tries things
// and says how they went.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"cell.network/cell/internal/membrane"
	"golang.org/x/sys/unix"
)

func main() {
	if len(os.Args) < 2 {
		os.Exit(0)
	}
	switch os.Args[1] {
	case "exit":
		n, _ := strconv.Atoi(os.Args[2])
		os.Exit(n)
	case "hello": // a word, as a message of no bytes, over descriptor 3
		_, _ = os.NewFile(3, "link").Write(make([]byte, 4))
	case "signal":
		syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	case "look": // for the sandbox only: outside, root would succeed
		look()
	case "descriptors":
		for fd := range 256 { // there may be no /proc
			if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil {
				fmt.Println(fd)
			}
		}
	case "keys":
		keys()
	case "rewrite": // its own program, once that no longer runs
		if err := rewrite(); err != nil {
			fmt.Println(err)
		}
	case "rewritten":
		f, err := os.OpenFile("/proc/self/fd/9", os.O_WRONLY, 0)
		if err == nil {
			_, err = f.Write([]byte("evil"))
		}
		fmt.Println("write:", err)
		fmt.Println("chmod:", os.NewFile(9, "program").Chmod(0o777))
	case "flood":
		n, _ := strconv.Atoi(os.Args[2])
		for range n {
			fmt.Println(strings.Repeat("x", 1023))
		}
	case "eat":
		n, _ := strconv.Atoi(os.Args[2])
		b := make([]byte, n<<20)
		for i := 0; i < len(b); i += 4096 {
			b[i] = 1
		}
		fmt.Println("ate", len(b)>>20)
	case "breed":
		var n int
		for ; n < 10000; n++ {
			if _, err := syscall.ForkExec("/proc/self/exe", []string{"victim", "leaf"}, &syscall.ProcAttr{}); err != nil {
				break
			}
		}
		fmt.Println(n)
	case "tree": // a child, and a grandchild that does all it can to get away
		start("leaf", os.Args[2])
		_, _ = start("middle", os.Args[2]).Process.Wait()
		fmt.Println("up")
		if len(os.Args) > 3 && os.Args[3] == "exit" {
			return
		}
		wait()
	case "middle":
		start("leaf", os.Args[2])
	case "leaf":
		select {
		case <-time.After(time.Minute): // lest a failing test leaves it for ever
		}
	case "link": // echo what comes over descriptor 3
		f := os.NewFile(3, "link")
		_, _ = io.Copy(f, f)
	case "serve":
		link, err := membrane.LinkFromFD(3)
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		_, err = membrane.Serve(context.Background(), link, []string{"hello"}, nil)
		fmt.Println(err)
		wait()
	case "silent":
		wait()
	case "hangup":
		os.NewFile(3, "link").Close()
		wait()
	}
}

// keys looks for a key of the session that the node was started in.
func keys() {
	session, err := unix.KeyctlGetKeyringID(unix.KEY_SPEC_SESSION_KEYRING, false)
	if err == nil {
		_, err = unix.KeyctlSearch(session, "user", "capsid-test", 0)
	}
	fmt.Println("key found:", err == nil)
}

func rewrite() error {
	program, err := os.Open("/proc/self/exe")
	if err != nil {
		return err
	}
	if err := unix.Dup3(int(program.Fd()), 9, 0); err != nil {
		return err
	}
	b, err := io.ReadAll(program)
	if err != nil {
		return err
	}
	if err := os.WriteFile("/tmp/copy", b, 0o755); err != nil {
		return err
	}
	return syscall.Exec("/tmp/copy", []string{"victim", "rewritten"}, nil)
}

func wait() { time.Sleep(time.Minute) }

func start(args ...string) *exec.Cmd {
	c := exec.Command("/proc/self/exe", args...)
	c.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := c.Start(); err != nil {
		fmt.Println("start:", err)
		os.Exit(1)
	}
	return c
}

func look() {
	r := map[string]any{"pid": os.Getpid(), "uid": os.Getuid(), "env": os.Environ(), "args": os.Args}
	attempt := func(what string, err error) { r[what] = err == nil }
	list := func(dir string) (names []string) {
		es, _ := os.ReadDir(dir)
		for _, e := range es {
			names = append(names, e.Name())
		}
		return names
	}
	r["root"] = list("/")
	r["dev"] = list("/dev")
	r["descriptors"] = list("/proc/self/fd")
	var processes int
	for _, n := range list("/proc") {
		if _, err := strconv.Atoi(n); err == nil {
			processes++
		}
	}
	r["processes"] = processes
	_, err := os.ReadFile("/etc/passwd")
	attempt("read /etc/passwd", err)
	attempt("write /x", os.WriteFile("/x", nil, 0o600))
	attempt("write /tmp/x", os.WriteFile("/tmp/x", []byte("x"), 0o600))
	attempt("write core_pattern", os.WriteFile("/proc/sys/kernel/core_pattern", []byte("core"), 0o600))
	attempt("write its own program", func() error {
		f, err := os.OpenFile("/proc/self/exe", os.O_WRONLY, 0)
		if err == nil {
			f.Close()
		}
		return err
	}())
	_, err = net.DialTimeout("udp", "1.1.1.1:53", time.Second)
	attempt("reach the network", err)
	attempt("mount", syscall.Mount("x", "/tmp", "tmpfs", 0, ""))
	c := exec.Command("/proc/self/exe", "exit", "0")
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER}
	attempt("make a user namespace", c.Run())
	attempt("make a child", exec.Command("/proc/self/exe", "exit", "0").Run())
	b, _ := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(b)) {
		if k, v, _ := strings.Cut(line, ":"); strings.HasPrefix(k, "Cap") || k == "NoNewPrivs" {
			r[k] = strings.TrimSpace(v)
		}
	}
	_ = json.NewEncoder(os.Stdout).Encode(r)
}
