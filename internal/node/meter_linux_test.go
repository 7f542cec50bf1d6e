package node

import (
	"os"
	"os/exec"
	"testing"
	"time"
)

func TestMeterSeesTheTree(t *testing.T) {
	if _, err := exec.LookPath("sh"); err != nil {
		t.Skip("needs a shell")
	}
	before, err := SystemMeter{}.Sample(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	// A child whose own child burns 300 ms: the work is two generations down.
	c := exec.Command("sh", "-c", `sh -c 'i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done'; read x`)
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		in.Close()
		_ = c.Wait()
	}()
	limit := time.Now().Add(20 * time.Second)
	for {
		u, err := SystemMeter{}.Sample(c.Process.Pid)
		if err != nil {
			t.Fatal(err)
		}
		all, err := SystemMeter{}.Sample(os.Getpid())
		if err != nil {
			t.Fatal(err)
		}
		if u.CPU >= 100*time.Millisecond && u.Memory > 0 && all.CPU >= before.CPU+100*time.Millisecond && all.Memory > u.Memory {
			return
		}
		if time.Now().After(limit) {
			t.Fatalf("child %+v, all %+v, before %+v", u, all, before)
		}
		time.Sleep(10 * time.Millisecond) // the meter is polled in the product, too
	}
}

func TestMeterOfNobody(t *testing.T) {
	if u, err := (SystemMeter{}).Sample(1 << 30); err == nil {
		t.Errorf("a process that is not there uses %+v", u)
	}
}
