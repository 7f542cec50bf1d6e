package capsid

import (
	"fmt"

	"cell.network/cell/internal/capsid/stage"
	"golang.org/x/sys/unix"
)

// What each version of Landlock is able to refuse, added to the one before.
// Later versions than the last are used as that one.
const (
	landlockFirst = 1<<13 - 1                                                                // 1: files and folders
	landlockNet   = unix.LANDLOCK_ACCESS_NET_BIND_TCP | unix.LANDLOCK_ACCESS_NET_CONNECT_TCP // 4
	landlockScope = 1<<2 - 1                                                                 // 6: signals and abstract sockets to outside
)

var landlockFS = map[int]uint64{
	2: unix.LANDLOCK_ACCESS_FS_REFER,
	3: unix.LANDLOCK_ACCESS_FS_TRUNCATE,
	5: unix.LANDLOCK_ACCESS_FS_IOCTL_DEV,
}

// Rights of rules.
const (
	landlockRead  = unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_READ_DIR | unix.LANDLOCK_ACCESS_FS_EXECUTE
	landlockWrite = unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_TRUNCATE
	landlockMake  = unix.LANDLOCK_ACCESS_FS_REMOVE_DIR | unix.LANDLOCK_ACCESS_FS_REMOVE_FILE | unix.LANDLOCK_ACCESS_FS_MAKE_DIR |
		unix.LANDLOCK_ACCESS_FS_MAKE_REG | unix.LANDLOCK_ACCESS_FS_MAKE_SOCK | unix.LANDLOCK_ACCESS_FS_MAKE_FIFO |
		unix.LANDLOCK_ACCESS_FS_MAKE_SYM | unix.LANDLOCK_ACCESS_FS_REFER
	landlockFile = unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_EXECUTE | landlockWrite // what holds for a file
)

// landlockVersion is what the kernel has: 0 for none.
func landlockVersion() int {
	v, _, e := unix.RawSyscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if e != 0 {
		return 0
	}
	return int(v)
}

// landlock is the ruleset for a program in the sandbox, or on the machine's
// own file tree where sandbox is nil.
func landlock(version int, o stage.Order, mounts []stage.Mount) *stage.Landlock {
	if version == 0 {
		return nil
	}
	l := &stage.Landlock{FS: landlockFirst}
	for v, rights := range landlockFS {
		if version >= v {
			l.FS |= rights
		}
	}
	if version >= 4 && (o.Sandbox == nil || !o.Sandbox.Loopback) {
		l.Net = landlockNet
	}
	if version >= 6 {
		l.Scoped = landlockScope
	}
	allow := func(path string, rights uint64) {
		l.Rules = append(l.Rules, stage.Rule{Path: path, Allow: rights & l.FS})
	}
	folder := func(path string, file, write bool) {
		rights := uint64(landlockRead)
		if write {
			rights |= landlockWrite | landlockMake
		}
		if file {
			rights &= landlockFile
		}
		allow(path, rights)
	}
	allow("/dev/null", landlockFile)
	allow("/dev/zero", landlockFile)
	if o.Sandbox != nil {
		allow("/", landlockRead)
		folder("/tmp", false, true)
		folder(dataFolder, false, true)
	} else {
		allow("/dev/urandom", landlockFile&^landlockWrite)
		for _, path := range systemFolders {
			folder(path, false, false)
		}
	}
	for _, m := range mounts {
		switch {
		case o.Sandbox == nil:
			folder(m.From, m.File, m.Write)
		case m.Write:
			folder(m.To, m.File, true)
		}
	}
	return l
}

// systemFolders are what a program sees, beside its own, where it has no file
// tree of its own: what it is loaded with.
var systemFolders = []string{"/usr", "/lib", "/lib64", "/bin"}

func landlockText(version int) string {
	if version < 4 {
		return fmt.Sprintf("held to its files by Landlock, version %d", version)
	}
	return fmt.Sprintf("held to its files, and from TCP, by Landlock, version %d", version)
}
