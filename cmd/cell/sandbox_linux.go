package main

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"cell.network/cell/internal/home"
	"cell.network/cell/internal/node"
)

// checkSandbox tries whether this user may make namespaces, of which the
// sandbox of replicas is built.
func checkSandbox(ctx context.Context, _ home.Home) []node.Check {
	self, err := os.Executable()
	if err != nil {
		return bad(node.CheckWarn, "sandbox", err.Error(), "")
	}
	cmd := exec.CommandContext(ctx, self, "version")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
	if err := cmd.Run(); err != nil {
		remedy := "allow them for this user, or accept that replicas see the host's network and files"
		var number syscall.Errno
		if errors.As(err, &number) && number == syscall.ENOSPC {
			remedy = "raise user.max_user_namespaces: sysctl -w user.max_user_namespaces=10000"
		}
		for _, knob := range []string{"kernel/unprivileged_userns_clone", "kernel/apparmor_restrict_unprivileged_userns"} {
			if v, e := os.ReadFile("/proc/sys/" + knob); e == nil {
				remedy += "; " + strings.ReplaceAll(knob, "/", ".") + " is " + strings.TrimSpace(string(v))
			}
		}
		return bad(node.CheckWarn, "sandbox", "no user namespaces: "+err.Error(), remedy)
	}
	return ok("sandbox", "user, mount, process and network namespaces")
}
