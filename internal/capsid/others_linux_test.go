package capsid

import (
	"os"
	"os/exec"
	"syscall"
	"testing"
)

// TestAsOthers runs the other tests again: as an ordinary user, and where
// there are no user namespaces.
func TestAsOthers(t *testing.T) {
	if os.Getenv(envExpect) != "" {
		t.Skip("this is such a run")
	}
	if testing.Short() {
		t.Skip("short")
	}
	again := func(t *testing.T, expect, more string, attr *syscall.SysProcAttr, env ...string) {
		t.Parallel()
		tmp, err := os.MkdirTemp("", "capsid")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(tmp)
		if err := os.Chmod(tmp, 0o777); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("/proc/self/exe", "-test.timeout=60s", "-test.run=Exit|StartErrors|Sandbox|processes|Link|Tree|KilledNode|Reap|Serve"+more)
		cmd.Dir = "/"
		cmd.Env = append(os.Environ(), "TMPDIR="+tmp, envVictim+"="+victimPath(t), envHostile+"="+hostilePath(t), envExpect+"="+expect)
		cmd.Env = append(cmd.Env, env...)
		cmd.SysProcAttr = attr
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
	}
	t.Run("no user namespaces", func(t *testing.T) {
		if !hasSandbox(t) {
			t.Skip("this test as a whole is such a run")
		}
		again(t, "keeper", "", &syscall.SysProcAttr{
			Cloneflags:  syscall.CLONE_NEWUSER, // in one of its own it may forbid itself further ones
			UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
		}, envForbid+"=1")
	})
	t.Run("nobody", func(t *testing.T) {
		if os.Getuid() != 0 {
			t.Skip("needs root; the other tests have run as an ordinary user")
		}
		expect := "keeper"
		if hasSandbox(t) {
			expect = "sandbox"
		}
		again(t, expect, "|Attack|Terminate|Reasons", &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}})
	})
	t.Run("nobody without user namespaces", func(t *testing.T) {
		if os.Getuid() != 0 || !hasSandbox(t) {
			t.Skip("needs root and user namespaces")
		}
		again(t, "keeper", "|Attack|Terminate|Reasons", &syscall.SysProcAttr{
			Cloneflags:                 syscall.CLONE_NEWUSER,
			UidMappings:                []syscall.SysProcIDMap{{ContainerID: 1000, HostID: nobody, Size: 1}},
			GidMappings:                []syscall.SysProcIDMap{{ContainerID: 1000, HostID: nobody, Size: 1}},
			GidMappingsEnableSetgroups: true,
			Credential:                 &syscall.Credential{Uid: 1000, Gid: 1000},
			AmbientCaps:                []uintptr{24}, // CAP_SYS_RESOURCE, to forbid with
		}, envForbid+"=1")
	})
}
