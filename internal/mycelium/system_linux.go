package mycelium

import (
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// dieWithNode has the kernel kill a process when the thread that starts it
// ends: keep that thread for as long.
func dieWithNode(a *syscall.SysProcAttr) { a.Pdeathsig = syscall.SIGKILL }

// syncTree makes durable what lies under a folder.
func syncTree(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.Syncfs(int(f.Fd()))
}
