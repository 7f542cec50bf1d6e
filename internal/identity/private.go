package identity

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// maxKeyFile bounds what is read of a key file; a PKCS #8 Ed25519 key has about 120 bytes.
const maxKeyFile = 4096

// Private is a secret Ed25519 key. It has no text form and cannot be printed.
type Private struct {
	_   [0]func() // not comparable: compare public keys
	key ed25519.PrivateKey
}

// NewPrivate makes a key from the system's randomness.
func NewPrivate() Private {
	seed := make([]byte, ed25519.SeedSize)
	_, _ = rand.Read(seed) // crypto/rand.Read never fails
	return Private{key: ed25519.NewKeyFromSeed(seed)}
}

// PrivateFromSeed makes the key that a 32-byte seed determines: for tests and simulations.
func PrivateFromSeed(seed [ed25519.SeedSize]byte) Private {
	return Private{key: ed25519.NewKeyFromSeed(seed[:])}
}

// IsZero reports whether p holds no key.
func (p Private) IsZero() bool { return p.key == nil }

// Public returns the key's public half, or the zero Key.
func (p Private) Public() Key {
	if p.key == nil {
		return Key{}
	}
	return Key(p.key[ed25519.SeedSize:])
}

// Sign signs msg as RFC 8032 has it. It panics on a zero Private.
func (p Private) Sign(msg []byte) []byte { return ed25519.Sign(p.key, msg) }

// Raw returns the 64-byte secret (seed, then public key) for libraries that
// want it. Keep it in memory only.
func (p Private) Raw() []byte { return append([]byte(nil), p.key...) }

// String keeps secrets out of logs.
func (p Private) String() string { return "private key of " + p.Public().String() }

// GoString keeps secrets out of %#v.
func (p Private) GoString() string { return p.String() }

// ErrKeyMode says that a key file can be read by others.
var ErrKeyMode = errors.New("key file is readable by others")

// Save writes p to a new file with mode 0600 as PKCS #8 PEM and makes it
// durable before it returns. An existing file is never replaced: the error
// wraps [fs.ErrExist].
func (p Private) Save(path string) error {
	der, err := x509.MarshalPKCS8PrivateKey(p.key)
	if err != nil {
		return fmt.Errorf("encode key: %w", err)
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), ".key-*") // created 0600
	if err != nil {
		return saveError(path, err)
	}
	defer os.Remove(tmp.Name())
	err = pem.Encode(tmp, &pem.Block{Type: "PRIVATE KEY", Bytes: der})
	if err == nil {
		err = tmp.Sync()
	}
	if e := tmp.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Link(tmp.Name(), path) // unlike rename, fails where the file exists
	}
	if err == nil {
		err = syncDir(filepath.Dir(path))
	}
	if err != nil {
		return saveError(path, err)
	}
	return nil
}

// saveError says what to do about a full disk, which is met here first.
func saveError(path string, err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("write key file: %w; make room on the disk that holds %s", err, filepath.Dir(path))
	}
	return fmt.Errorf("write key file: %w", err)
}

// LoadPrivate reads a key that [Private.Save] wrote. A file that others may
// read is refused with [ErrKeyMode]; a missing one with [fs.ErrNotExist].
func LoadPrivate(path string) (Private, error) {
	f, err := os.Open(path)
	if err != nil {
		return Private{}, fmt.Errorf("read key: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return Private{}, fmt.Errorf("read key: %w", err)
	}
	if st.Mode().Perm()&0o077 != 0 {
		return Private{}, fmt.Errorf("%w: %s has mode %04o; run: chmod 600 %s", ErrKeyMode, path, st.Mode().Perm(), path)
	}
	if st.Size() > maxKeyFile {
		return Private{}, fmt.Errorf("read key: %s has %d bytes, too many for a key", path, st.Size())
	}
	b := make([]byte, st.Size())
	if n, err := f.Read(b); err != nil || n != len(b) {
		return Private{}, fmt.Errorf("read key: %s: short file (%d of %d bytes)", path, n, len(b))
	}
	block, _ := pem.Decode(b)
	if block == nil || block.Type != "PRIVATE KEY" {
		return Private{}, fmt.Errorf("read key: %s holds no PEM private key", path)
	}
	k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return Private{}, fmt.Errorf("read key: %s: %w", path, err)
	}
	ed, ok := k.(ed25519.PrivateKey)
	if !ok {
		return Private{}, fmt.Errorf("read key: %s holds a %T, not an Ed25519 key", path, k)
	}
	return Private{key: ed}, nil
}

// LoadOrCreate reads the key at path or, where there is none, makes and saves one.
func LoadOrCreate(path string) (p Private, created bool, err error) {
	p, err = LoadPrivate(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return p, false, err
	}
	p = NewPrivate()
	if err = p.Save(path); errors.Is(err, fs.ErrExist) { // another process was first
		p, err = LoadPrivate(path)
		return p, false, err
	}
	return p, err == nil, err
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
