package capsid

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"cell.network/cell/internal/capsid/stage"
	"golang.org/x/sys/unix"
)

// identify says which process has a number now.
func identify(pid int) (process, error) {
	st, err := stage.ReadStat(pid)
	if err != nil {
		return process{}, err
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return process{}, fmt.Errorf("read boot id: %w", err)
	}
	return process{PID: pid, Start: st.Start, Boot: strings.TrimSpace(string(boot))}, nil
}

// end ends a recorded process if it is still the one on record, waits for its
// end, and removes its control groups. was reports whether it was.
func end(r running) (was bool, err error) {
	defer removeGroups(r.Groups)
	if r.PID <= 1 {
		return false, nil
	}
	fd, err := unix.PidfdOpen(r.PID, 0) // from here on the number cannot change hands unseen
	if errors.Is(err, unix.ESRCH) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("open process %d: %w", r.PID, err)
	}
	defer unix.Close(fd)
	now, err := identify(r.PID)
	if errors.Is(err, os.ErrNotExist) || err == nil && now != r.process || ended(fd, 0) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if r.Kept {
		_ = unix.PidfdSendSignal(fd, unix.SIGTERM, nil, 0)
		if ended(fd, reapGrace) {
			return true, nil
		}
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return true, fmt.Errorf("kill process %d: %w", r.PID, err)
	}
	if !ended(fd, reapGrace) {
		return true, fmt.Errorf("process %d does not end", r.PID)
	}
	return true, nil
}

// ended waits for the end of the process behind a descriptor.
func ended(fd int, d time.Duration) bool {
	for deadline := time.Now().Add(d); ; {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(max(0, time.Until(deadline).Milliseconds())))
		if !errors.Is(err, unix.EINTR) {
			return err == nil && n == 1
		}
	}
}
