package mycelium

import "syscall"

// dieWithNode has the kernel kill a process when the thread that starts it
// ends: keep that thread for as long.
func dieWithNode(a *syscall.SysProcAttr) { a.Pdeathsig = syscall.SIGKILL }
