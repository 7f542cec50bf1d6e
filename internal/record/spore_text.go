package record

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"cell.network/cell/internal/identity"
)

// sporeTime is RFC 3339 in UTC with whole seconds.
const sporeTime = "2006-01-02T15:04:05Z"

func (s Spore) tag() string { return fmt.Sprintf("cell/%s/%d", s.Cell.Name, s.Seq) }

// text is the part of a spore that is signed.
func (s Spore) text() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "object %s\ntype commit\ntag %s\ntagger cell <%s> %d +0000\n\n", s.Commit, s.tag(), sshPrincipal(s.Cell.Author), s.Issued.Unix())
	fmt.Fprintf(&b, "cell-record 1\ncell %s\nepoch %d\nseq %d\nversion %s\n", s.Cell, s.Epoch, s.Seq, s.Version)
	prev := "none"
	if s.Prev != [sha256.Size]byte{} {
		prev = fmt.Sprintf("sha256:%x", s.Prev)
	}
	fmt.Fprintf(&b, "prev %s\ntree sha256:%x\nsize %d %d\n", prev, s.Tree, s.Size, s.Files)
	serve := "open"
	if !s.Serve.Open {
		var keys []string
		for _, k := range s.Serve.Colonies {
			keys = append(keys, k.String())
		}
		serve = "colony " + strings.Join(keys, ",")
	}
	fmt.Fprintf(&b, "serve %s\nissued %s\nexpires %s\nmin-seq %d\n", serve, s.Issued.Format(sporeTime), s.Expires.Format(sporeTime), s.MinSeq)
	for _, a := range s.Artefacts {
		fmt.Fprintf(&b, "artefact %s sha256:%x %d\n", a.Platform, a.Sum, a.Size)
	}
	return b.Bytes()
}

// parseSpore reads the lines of a spore and accepts them if they are what text
// would have written. It returns the signed part too.
func parseSpore(raw []byte) (Spore, []byte, error) {
	text, _, ok := bytes.Cut(raw, []byte(sigBegin))
	if !ok {
		return Spore{}, nil, errors.New("it has no signature")
	}
	var s Spore
	l := lines{rest: string(text)}
	s.Commit = l.next("object ")
	l.next("type commit")
	l.next("tag ")
	l.next("tagger ")
	l.next("")
	l.next("cell-record 1")
	name, author, _ := strings.Cut(l.next("cell "), "@")
	s.Cell.Name, s.Cell.Author = identity.Name(name), l.key(author)
	s.Epoch = l.number(l.next("epoch "))
	s.Seq = l.number(l.next("seq "))
	s.Version = l.next("version ")
	if prev := l.next("prev "); prev != "none" {
		s.Prev = l.sum(prev)
	}
	s.Tree = l.sum(l.next("tree "))
	size, files, _ := strings.Cut(l.next("size "), " ")
	s.Size, s.Files = int64(l.number(size)), int(l.number(files))
	if keys, ok := strings.CutPrefix(l.next("serve "), "colony "); ok {
		for _, k := range strings.SplitN(keys, ",", MaxColonies+1) {
			s.Serve.Colonies = append(s.Serve.Colonies, l.key(k))
		}
	} else {
		s.Serve.Open = true
	}
	s.Issued = l.time(l.next("issued "))
	s.Expires = l.time(l.next("expires "))
	s.MinSeq = l.number(l.next("min-seq "))
	for l.err == nil && l.rest != "" && len(s.Artefacts) <= MaxArtefacts {
		f := append(strings.Fields(l.next("artefact ")), "", "", "")
		s.Artefacts = append(s.Artefacts, Artefact{Platform: f[0], Sum: l.sum(f[1]), Size: int64(l.number(f[2]))})
	}
	if l.err == nil {
		l.err = s.checkForm()
	}
	if l.err == nil && !bytes.Equal(s.text(), text) {
		l.err = errors.New("it is not written the one way in which it may be")
	}
	return s, text, l.err
}

// lines reads a spore line by line and keeps the first error.
type lines struct {
	rest string
	err  error
}

func (l *lines) fail(format string, args ...any) {
	if l.err == nil {
		l.err = fmt.Errorf(format, args...)
	}
}

// next reads a line that starts with prefix and returns what follows.
func (l *lines) next(prefix string) string {
	if l.err != nil {
		return ""
	}
	line, rest, ok := strings.Cut(l.rest, "\n")
	value, is := strings.CutPrefix(line, prefix)
	if !ok || !is {
		l.fail("there is no line %q where it should be", prefix)
		return ""
	}
	l.rest = rest
	return value
}

func (l *lines) number(s string) uint64 {
	n, err := strconv.ParseUint(s, 10, 63)
	if err != nil && l.err == nil {
		l.fail("%.30q is no number", s)
	}
	return n
}

func (l *lines) key(s string) identity.Key {
	k, err := identity.ParseKey(s)
	if err != nil {
		l.fail("%w", err)
	}
	return k
}

func (l *lines) sum(s string) (sum [sha256.Size]byte) {
	h, is := strings.CutPrefix(s, "sha256:")
	b, err := hex.DecodeString(h)
	if !is || err != nil || len(b) != len(sum) {
		l.fail("%.80q is no sha256 sum", s)
		return sum
	}
	return [sha256.Size]byte(b)
}

func (l *lines) time(s string) time.Time {
	t, err := time.Parse(sporeTime, s)
	if err != nil {
		l.fail("%.30q is no time", s)
	}
	return t
}

// isPlatform reports whether s has the form linux/amd64.
func isPlatform(s string) bool {
	os, arch, ok := strings.Cut(s, "/")
	word := func(w string) bool {
		return w != "" && len(w) <= 16 && strings.Trim(w, "abcdefghijklmnopqrstuvwxyz0123456789") == ""
	}
	return ok && word(os) && word(arch)
}
