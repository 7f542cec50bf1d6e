package capsid

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"syscall"
	"time"
)

// dataFolder is where a program finds the folder of [Spec.Data], or memory of
// [Limits.Data].
const dataFolder = "/cell/data"

// dataInterval is how often a folder is measured that the file system itself
// does not bound.
const dataInterval = time.Second

// bytesPerFile is how many bytes of a folder's limit a file counts for at least.
const bytesPerFile = 1024

var errTooMuch = errors.New("too much")

// measure adds up what a folder takes on its disk, and says errTooMuch as soon
// as that is beyond limit. Files that were deleted while open are not seen.
func measure(dir string, limit int64) (total int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) { // deleted meanwhile; or hidden, and counted by its own name
			return nil
		}
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return nil //nolint:nilerr // deleted meanwhile
		}
		n := int64(0)
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			n = st.Blocks * 512
		}
		if total += max(n, bytesPerFile); total > limit {
			return errTooMuch
		}
		return nil
	})
	return total, err
}

// guardData ends p when its folder outgrows its limit.
func (p *proc) guardData(dir string, limit int64) {
	for {
		select {
		case <-p.done:
			return
		case <-time.After(dataInterval):
		}
		if _, err := measure(dir, limit); errors.Is(err, errTooMuch) {
			p.condemn(fmt.Sprintf("it filled %s beyond %s", dataFolder, bytesText(limit)))
			return
		}
	}
}
