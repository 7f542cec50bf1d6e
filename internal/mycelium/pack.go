package mycelium

import (
	"bufio"
	"bytes"
	"cmp"
	"compress/flate"
	"compress/zlib"
	"crypto/sha1"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"slices"
)

// packHead starts a pack: then comes the number of objects, 4 bytes.
const packHead = "PACK\x00\x00\x00\x02"

// packWriter writes a pack without deltas.
type packWriter struct {
	w       *bufio.Writer
	sum     hash.Hash
	deflate *zlib.Writer
}

func newPackWriter(w io.Writer, count int) (*packWriter, error) {
	p := &packWriter{sum: sha1.New()}
	p.w = bufio.NewWriterSize(io.MultiWriter(w, p.sum), 64<<10)
	p.deflate = zlib.NewWriter(p.w)
	_, err := p.w.Write(binary.BigEndian.AppendUint32([]byte(packHead), uint32(count)))
	return p, err
}

// add writes an object of size bytes that body writes.
func (p *packWriter) add(k kind, size int64, body func(io.Writer) error) error {
	b := byte(k)<<4 | byte(size&15)
	for size >>= 4; size > 0; size >>= 7 {
		if err := p.w.WriteByte(b | 0x80); err != nil {
			return err
		}
		b = byte(size & 127)
	}
	if err := p.w.WriteByte(b); err != nil {
		return err
	}
	p.deflate.Reset(p.w)
	if err := body(p.deflate); err != nil {
		return err
	}
	return p.deflate.Close()
}

func (p *packWriter) end() error {
	if err := p.w.Flush(); err != nil {
		return err
	}
	_, err := p.w.Write(p.sum.Sum(nil))
	return errors.Join(err, p.w.Flush())
}

// packed is where an object lies in a pack.
type packed struct {
	id     objectID
	offset int64
	crc    uint32 // of the bytes as packed
}

// packReader reads a pack without deltas, object by object in the order in
// which it is asked for them, and copies what it has read to a file.
type packReader struct {
	in    *bufio.Reader
	to    *bufio.Writer
	limit int64 // bytes of the pack

	offset  int64
	sum     hash.Hash
	crc     hash.Hash32
	fresh   []byte // read, but not yet in sum and crc
	left    uint32 // objects that have not begun
	inflate io.ReadCloser
	objects []packed
}

func newPackReader(r io.Reader, to io.Writer, limit int64) (*packReader, error) {
	p := &packReader{in: bufio.NewReaderSize(r, 64<<10), to: bufio.NewWriterSize(to, 64<<10), limit: limit, sum: sha1.New(), crc: crc32.NewIEEE()}
	head := make([]byte, len(packHead)+4)
	if _, err := io.ReadFull(p, head); err != nil {
		return nil, err
	}
	if !bytes.HasPrefix(head, []byte(packHead)) {
		return nil, fmt.Errorf("%w: no git pack", ErrContent)
	}
	p.left = binary.BigEndian.Uint32(head[len(packHead):])
	return p, nil
}

// Read is for the inflater, as is ReadByte.
func (p *packReader) Read(b []byte) (int, error) {
	n, err := p.in.Read(b)
	if e := p.took(b[:n]); e != nil {
		err = e
	}
	return n, err
}

func (p *packReader) ReadByte() (byte, error) {
	b, err := p.in.ReadByte()
	if err != nil {
		return 0, err
	}
	return b, p.took([]byte{b})
}

func (p *packReader) took(b []byte) error {
	if p.offset += int64(len(b)); p.offset > p.limit {
		return fmt.Errorf("%w: pack of more than %d bytes", ErrTooBig, p.limit)
	}
	if p.fresh = append(p.fresh, b...); len(p.fresh) >= 4096 {
		p.flush()
	}
	_, err := p.to.Write(b)
	return err
}

func (p *packReader) flush() {
	p.sum.Write(p.fresh)
	p.crc.Write(p.fresh)
	p.fresh = p.fresh[:0]
}

// finish ends the object that was begun last.
func (p *packReader) finish() error {
	if p.inflate == nil || len(p.objects) == 0 {
		return nil
	}
	switch n, err := p.inflate.Read(make([]byte, 1)); {
	case n != 0:
		return fmt.Errorf("%w: packed object that is longer than it says", ErrContent)
	case !errors.Is(err, io.EOF):
		return packError(err)
	}
	p.flush()
	p.objects[len(p.objects)-1].crc = p.crc.Sum32()
	return nil
}

func (p *packReader) next(id objectID, k kind) (int64, io.Reader, error) {
	if err := p.finish(); err != nil {
		return 0, nil, err
	}
	if p.left == 0 {
		return 0, nil, fmt.Errorf("%w: the pack lacks %s %s", ErrContent, k, id)
	}
	p.left--
	p.flush()
	p.crc.Reset()
	p.objects = append(p.objects, packed{id: id, offset: p.offset})
	b, err := p.ReadByte()
	if err != nil {
		return 0, nil, err
	}
	if got := kind(b >> 4 & 7); got != k {
		return 0, nil, fmt.Errorf("%w: the pack has an object of type %d where %s %s should be", ErrContent, got, k, id)
	}
	size := int64(b & 15)
	for shift := 4; b&0x80 != 0; shift += 7 {
		if b, err = p.ReadByte(); err != nil {
			return 0, nil, err
		}
		if shift > 4+7*5 {
			return 0, nil, fmt.Errorf("%w: packed object with an endless size", ErrContent)
		}
		size |= int64(b&127) << shift
	}
	if p.inflate == nil {
		p.inflate, err = zlib.NewReader(p)
	} else {
		err = p.inflate.(zlib.Resetter).Reset(p, nil)
	}
	if err != nil {
		return 0, nil, packError(err)
	}
	return size, inflated{p.inflate}, nil
}

// inflated names what is wrong with packed bytes.
type inflated struct{ r io.Reader }

func (i inflated) Read(b []byte) (int, error) {
	n, err := i.r.Read(b)
	return n, packError(err)
}

func packError(err error) error {
	var corrupt flate.CorruptInputError
	if errors.Is(err, zlib.ErrHeader) || errors.Is(err, zlib.ErrChecksum) || errors.Is(err, zlib.ErrDictionary) || errors.As(err, &corrupt) {
		return fmt.Errorf("%w: packed object: %w", ErrContent, err)
	}
	return err
}

// end checks that the pack ends here and returns where its objects lie and its
// checksum.
func (p *packReader) end() ([]packed, []byte, error) {
	if err := p.finish(); err != nil {
		return nil, nil, err
	}
	if p.left != 0 {
		return nil, nil, fmt.Errorf("%w: the pack has %d objects more", ErrContent, p.left)
	}
	p.flush()
	want := p.sum.Sum(nil)
	got := make([]byte, sha1.Size)
	if _, err := io.ReadFull(p, got); err != nil {
		return nil, nil, err
	}
	if !bytes.Equal(got, want) {
		return nil, nil, fmt.Errorf("%w: checksum of the pack", ErrContent)
	}
	return p.objects, got, p.to.Flush()
}

// writeIndex writes git's index of a pack, version 2.
func writeIndex(w io.Writer, objects []packed, packSum []byte) error {
	slices.SortFunc(objects, func(a, b packed) int { return cmp.Or(bytes.Compare(a.id[:], b.id[:]), cmp.Compare(a.offset, b.offset)) })
	b := []byte("\xfftOc\x00\x00\x00\x02")
	n := 0
	for first := range 256 {
		for n < len(objects) && int(objects[n].id[0]) <= first {
			n++
		}
		b = binary.BigEndian.AppendUint32(b, uint32(n))
	}
	for _, o := range objects {
		b = append(b, o.id[:]...)
	}
	for _, o := range objects {
		b = binary.BigEndian.AppendUint32(b, o.crc)
	}
	for _, o := range objects {
		b = binary.BigEndian.AppendUint32(b, uint32(o.offset)) // below 2 GiB: see Limits
	}
	b = append(b, packSum...)
	sum := sha1.Sum(b)
	_, err := w.Write(append(b, sum[:]...))
	return err
}
