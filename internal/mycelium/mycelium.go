// Package mycelium publishes, keeps, fetches and hands out releases of cells:
// git commits without their history, signed by their authors.
//
// A release is a [record.Spore]. Its tree hash is SHA-256 over
//
//	"cell-tree 1\n", then for each file, sorted by the bytes of its path:
//	<mode> SP <size> SP <hex SHA-256 of the content> SP <path> LF
//
// where mode is 100644, 100755 or 120000 (a link; its content is what it leads
// to). Paths that some system reads as something else, links that lead out and
// submodules are refused: see [ErrTree].
//
// What travels is a git pack of version 2 without deltas that holds, in this
// order, the commit, its trees in the order of a walk from the top, and each
// content once in the order of paths. It is checked object by object while it
// comes, by this package alone: git never reads what came from a peer before
// all of it has been verified. Only publishing, mirrors and folders need git installed.
//
// Protocol /cell/<16 hex>/spore/1: one request and one answer a stream, each
// 4 bytes of length, big endian, and one CBOR map with small integers as keys,
// of which unknown ones are ignored:
//
//	request, at most [MaxRequest] bytes
//	  1  uint      op: 1 record, 2 pack, 3 head
//	  2  bytes 32  author
//	  3  text      name
//	  4  text      record, head: only a release that is called so; absent: any
//	  5  bytes 32  SHA-256 of the record; absent in op 1: the newest; not in op 3
//	answer, at most [MaxAnswer] bytes
//	  1  uint      0 ok · 1 there is none · 2 busy, ask another
//	  2  bytes     record: the release's record; head: the highest ever seen, which may have expired
//	  3  [bytes]   record: the author's grants that go with it, at most [MaxGrants]
//	  4  uint      pack: bytes of the pack, which follows the answer
//
// On disk, under Config.Dir:
//
//	trees/<tree hash>/                      a release's files, read-only
//	cells/<author>/<name>/releases/<epoch>.<seq>   record and grants: the release is installed
//	cells/<author>/<name>/head              the same of the highest ever installed
//	cells/<author>/<name>/fork              two records that contradict each other, if the author signed any
//	cells/<author>/<name>/repo.git          bare git repository with commits, tags and packs
//	tmp/                                    what is not verified yet; emptied at the start
package mycelium

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"cell.network/cell/internal/host"
	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/record"
)

// ErrTooBig says that a release exceeds this node's limits, or what its author
// signed.
var ErrTooBig = errors.New("too big")

// Limits on a release. A release whose author signs more is refused.
type Limits struct {
	Packed   int64 // bytes of the pack; default 64 MiB, at most 1 GiB
	Unpacked int64 // bytes of all files; default 256 MiB
	File     int64 // bytes of one file; default 32 MiB
	Files    int   // default 50,000
}

func (l *Limits) fill() error {
	if l.Packed == 0 {
		l.Packed = 64 << 20
	}
	if l.Unpacked == 0 {
		l.Unpacked = 256 << 20
	}
	if l.File == 0 {
		l.File = 32 << 20
	}
	if l.Files == 0 {
		l.Files = 50_000
	}
	if l.Packed < 0 || l.Packed > 1<<30 || l.Unpacked < 0 || l.File < 0 || l.Files < 0 {
		return fmt.Errorf("bad limits %+v", *l)
	}
	return nil
}

// admit fails for releases that are too big by their own word.
func (l Limits) admit(s record.Spore) error {
	if s.Size > l.Unpacked || s.Files > l.Files {
		return fmt.Errorf("%w: the release has %d bytes in %d files, this node takes %d in %d", ErrTooBig, s.Size, s.Files, l.Unpacked, l.Files)
	}
	return nil
}

// Config is how a store is made. Dir and Network are required.
type Config struct {
	Dir     string // made where it is missing; one store at a time
	Network identity.Network
	Host    *host.Host // nil: there are no seeds, neither here nor elsewhere
	Mirror  Mirror     // default: git over https
	Git     string     // the git command; default "git", looked for in PATH
	Limits  Limits

	// Offer says whether peers are given releases of a cell. Default: of every cell.
	Offer func(identity.Cell) bool

	MaxUploads     int // packs handed out at once; default 16
	MaxPeerUploads int // of which to one peer; default 4
}

// Store keeps releases. It is safe for concurrent use.
type Store struct {
	conf    Config
	git     git
	pace    pace
	fetches flights

	publishing sync.Mutex // held from choosing a release's number to installing it
	installing sync.Mutex // held while files of installed releases change

	mu    sync.Mutex // guards what follows
	cells map[identity.Cell]*shelf

	uploads uploads
	ctx     context.Context // ends with Close
	cancel  context.CancelFunc
	tasks   sync.WaitGroup // streams being served

	step func(string) // called between any two steps of an install; for tests
}

// New opens the store in a folder and throws away what an earlier life did not
// finish.
func New(c Config) (*Store, error) {
	if _, err := identity.ParseNetwork(string(c.Network)); err != nil {
		return nil, fmt.Errorf("open releases: %w", err)
	}
	if c.Git == "" {
		c.Git = "git"
	}
	if c.MaxUploads == 0 {
		c.MaxUploads = 16
	}
	if c.MaxPeerUploads == 0 {
		c.MaxPeerUploads = 4
	}
	if err := c.Limits.fill(); err != nil {
		return nil, fmt.Errorf("open releases: %w", err)
	}
	dir, err := filepath.Abs(c.Dir)
	if err != nil || c.Dir == "" {
		return nil, fmt.Errorf("open releases: folder %q: %w", c.Dir, err)
	}
	c.Dir = dir
	s := &Store{conf: c, git: git{c.Git}, pace: defaultPace, cells: make(map[identity.Cell]*shelf), step: func(string) {}}
	if s.conf.Mirror == nil {
		s.conf.Mirror = GitMirror{Git: c.Git}
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	if err := os.RemoveAll(s.tmpDir()); err != nil {
		return nil, fmt.Errorf("open releases: %w", err)
	}
	for _, d := range []string{s.tmpDir(), filepath.Join(dir, "trees"), filepath.Join(dir, "cells")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return nil, fmt.Errorf("open releases: %w", err)
		}
	}
	if err := s.load(); err != nil {
		return nil, fmt.Errorf("open releases: %w", err)
	}
	return s, nil
}

// Close ends what is handed out and waits for it.
func (s *Store) Close() error {
	s.mu.Lock()
	s.cancel()
	s.mu.Unlock()
	if s.conf.Host != nil {
		s.conf.Host.RemoveStreamHandler(s.protocol())
	}
	s.tasks.Wait()
	return nil
}

func (s *Store) tmpDir() string { return filepath.Join(s.conf.Dir, "tmp") }

func (s *Store) treeDir(tree [32]byte) string {
	return filepath.Join(s.conf.Dir, "trees", fmt.Sprintf("%x", tree))
}

func (s *Store) cellDir(c identity.Cell) string {
	return filepath.Join(s.conf.Dir, "cells", c.Author.String(), string(c.Name))
}

func (s *Store) repoDir(c identity.Cell) string { return filepath.Join(s.cellDir(c), "repo.git") }

func (s *Store) packFile(p record.Spore) string {
	return filepath.Join(s.repoDir(p.Cell), "objects", "pack", "pack-"+p.Commit+".pack")
}

// quarantine makes an empty folder for what is not verified yet.
func (s *Store) quarantine() (dir string, remove func(), err error) {
	if dir, err = os.MkdirTemp(s.tmpDir(), "in-"); err != nil {
		return "", nil, err
	}
	return dir, func() { _ = os.RemoveAll(dir) }, nil
}

// pace bounds how long a transfer may take.
type pace struct {
	grace time.Duration // from the request to the first byte, and in all
	stall time.Duration // between two bytes
	floor int64         // bytes per second that come on average, after grace
}

var defaultPace = pace{grace: 5 * time.Second, stall: 5 * time.Second, floor: 64 << 10}

// deadline is when the next byte must have come, of a transfer that began at
// start and has done n bytes.
func (p pace) deadline(start time.Time, n int64) time.Time {
	end := start.Add(p.grace + time.Duration(float64(n)/float64(p.floor)*float64(time.Second)))
	if stall := time.Now().Add(p.stall); stall.Before(end) {
		return stall
	}
	return end
}
