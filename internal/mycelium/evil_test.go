package mycelium

import (
	"bytes"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"testing"
	"time"

	"cell.network/cell/internal/record"
)

// evil makes git objects and packs of them without checking anything.
type evil struct {
	order []object
	known map[objectID]bool
}

func (e *evil) add(k kind, data []byte) objectID {
	id := objectID(sha1.Sum(append([]byte(fmt.Sprintf("%s %d\x00", k, len(data))), data...)))
	if !e.known[id] {
		if e.known == nil {
			e.known = make(map[objectID]bool)
		}
		e.known[id] = true
		e.order = append(e.order, object{id, k, data})
	}
	return id
}

func (e *evil) blob(text string) objectID { return e.add(kindBlob, []byte(text)) }

// line is one line of a tree.
func line(m mode, name string, id objectID) string {
	return string(m) + " " + name + "\x00" + string(id[:])
}

func (e *evil) tree(lines ...string) objectID {
	var b bytes.Buffer
	for _, l := range lines {
		b.WriteString(l)
	}
	return e.add(kindTree, b.Bytes())
}

func (e *evil) commit(tree objectID) objectID {
	return e.add(kindCommit, fmt.Appendf(nil, "tree %s\nauthor a <a@b> 1 +0000\ncommitter a <a@b> 1 +0000\n\nx\n", tree))
}

// pack writes the objects as an honest seed would: the commit, trees from the
// top, then contents in the order in which they were made.
func (e *evil) pack() []byte {
	var b bytes.Buffer
	p, err := newPackWriter(&b, len(e.order))
	if err != nil {
		panic(err)
	}
	for _, k := range []kind{kindCommit, kindTree, kindBlob} {
		objs := e.order
		for i := range objs {
			o := objs[i]
			if k == kindTree { // made from the bottom up
				o = objs[len(objs)-1-i]
			}
			if o.kind != k {
				continue
			}
			if err := p.add(o.kind, int64(len(o.data)), func(w io.Writer) error { _, err := w.Write(o.data); return err }); err != nil {
				panic(err)
			}
		}
	}
	if err := p.end(); err != nil {
		panic(err)
	}
	return b.Bytes()
}

// small is a release with three files.
func small() (*evil, objectID) {
	e := &evil{}
	hello, link := e.blob("hello\n"), e.blob("../go.mod")
	sub := e.tree(line(modeProg, "greet.sh", hello), line(modeLink, "link", link))
	e.order[0], e.order[1] = e.order[1], e.order[0]
	mod := e.blob("module greeter\n")
	// contents come in the order of paths: cmd/greet.sh, cmd/link, go.mod
	e.order = []object{e.order[1], e.order[0], e.order[2], e.order[3]}
	return e, e.commit(e.tree(line(modeDir, "cmd", sub), line(modeFile, "go.mod", mod)))
}

// smallFiles is what small holds.
func smallFiles() []file {
	f := func(path string, m mode, text string) file {
		return file{path: path, mode: m, size: int64(len(text)), sum: sha256.Sum256([]byte(text))}
	}
	return []file{f("cmd/greet.sh", modeProg, "hello\n"), f("cmd/link", modeLink, "../go.mod"), f("go.mod", modeFile, "module greeter\n")}
}

// signed is a release by alice of files that need not exist.
func signed(t testing.TB, commit objectID, files []file, change func(*record.Spore)) record.Spore {
	t.Helper()
	s := record.Spore{Cell: greeter, Seq: 1, Version: "1.0.0", Commit: commit.String(), Tree: hashFiles(files), Files: len(files),
		Serve: record.Serve{Open: true}, Issued: time.Now(), Expires: time.Now().Add(time.Hour)}
	for _, f := range files {
		s.Size += f.size
	}
	if change != nil {
		change(&s)
	}
	key := alice
	if s.Cell.Author == mallet.Public() {
		key = mallet
	}
	s, err := record.SignSpore(key, s)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// sealPack puts the right checksum behind the bytes of a pack.
func sealPack(b []byte) []byte {
	sum := sha1.Sum(b)
	return append(bytes.Clone(b), sum[:]...)
}

// recount writes another number of objects into a pack.
func recount(pack []byte, n uint32) []byte {
	b := bytes.Clone(pack[:len(pack)-sha1.Size])
	binary.BigEndian.PutUint32(b[8:], n)
	return sealPack(b)
}

func sum256(text string) [sha256.Size]byte { return sha256.Sum256([]byte(text)) }
