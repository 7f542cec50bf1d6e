// The hostile program tries one thing that a replica must not be able to do,
// named by its first argument, and says whether it could. Bombs are as large as
// their argument says, and never larger.
package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"time"
)

// attack returns nil where it succeeded.
type attack func(args []string) error

var errNothing = errors.New("it had no effect")

func main() {
	if len(os.Args) < 2 {
		os.Exit(2)
	}
	name, args := os.Args[1], os.Args[2:]
	switch name {
	case "leaf": // of a bomb
		time.Sleep(20 * time.Second)
		return
	case "idle":
		fmt.Println("up")
		time.Sleep(10 * time.Minute)
		return
	}
	for _, table := range []map[string]attack{files, others, network, kernel, bombs, lives, link} {
		if f := table[name]; f != nil {
			if err := f(args); err != nil {
				fmt.Println("refused:", err)
				os.Exit(3)
			}
			fmt.Println("SUCCEEDED")
			return
		}
	}
	fmt.Println("there is no attack", name)
	os.Exit(2)
}

// again is this program once more. Where namespaces can be had it is root in
// some of its own.
func again(root bool, args ...string) *exec.Cmd {
	c := exec.Command("/proc/self/exe", args...)
	c.Stdout, c.Stderr = os.Stdout, os.Stderr
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if root {
		c.SysProcAttr.Cloneflags = syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS | syscall.CLONE_NEWNET
		c.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		c.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	return c
}

// powerful tries f, and then once more as root of namespaces of its own. As
// root of the machine it tries only that: it must do no harm where nothing
// holds it.
func powerful(name string, f func(args []string) error) attack {
	return func(args []string) error {
		err := error(syscall.EPERM)
		if !hostRoot() {
			err = f(args)
		}
		if err == nil || len(args) > 0 && args[len(args)-1] == "second" {
			return err
		}
		c := again(true, append(append([]string{name}, args...), "second")...)
		c.Stdout = nil
		if c.Run() == nil {
			return nil
		}
		return err
	}
}

// hostRoot reports whether this process could change the machine.
func hostRoot() bool {
	b, err := os.ReadFile("/proc/self/uid_map")
	var inside, outside, size int64
	if n, _ := fmt.Sscan(string(b), &inside, &outside, &size); err != nil || n != 3 {
		return os.Getuid() == 0
	}
	return os.Getuid() == 0 && outside == 0 && size > 1
}

func number(args []string, i int) int {
	n, err := strconv.Atoi(args[i])
	if err != nil {
		panic(err)
	}
	return n
}

func errno(e syscall.Errno) error {
	if e == 0 {
		return nil
	}
	return e
}
