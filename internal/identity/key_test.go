package identity

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The vectors are the did:key examples of https://w3c-ccg.github.io/did-method-key/
// and RFC 8032, section 7.1, test 1.
func TestKeyVectors(t *testing.T) {
	for _, v := range []struct{ hex, text string }{
		{"2e6fcce36701dc791488e0d0b1745cc1e33a4c1c9fcc41c63bd343dbbe0970e6", "z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK"},
		{"d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a", "z6MktwupdmLXVVqTzCw4i46r4uGyosGXRnR3XjN4Zq7oMMsw"},
	} {
		b, _ := hex.DecodeString(v.hex)
		if got := Key(b).String(); got != v.text {
			t.Errorf("text of %s = %s, want %s", v.hex, got, v.text)
		}
		k, err := ParseKey(v.text)
		if err != nil || k != Key(b) {
			t.Errorf("ParseKey(%s) = %x, %v", v.text, k, err)
		}
	}
}

func TestParseKeyRefuses(t *testing.T) {
	good := NewPrivate().Public().String()
	for _, s := range []string{
		"", "z", "6Mk", good[1:], good + "1", good[:len(good)-1], "z0OIl" + good[5:],
		"z" + encodeBase58(append([]byte{0xec, 0x01}, make([]byte, 32)...)), // X25519, not Ed25519
		"z" + encodeBase58(append([]byte{0xed, 0x01}, make([]byte, 32)...)), // zero
		"z" + strings.Repeat("1", 10000),
	} {
		if k, err := ParseKey(s); !errors.Is(err, ErrKey) {
			t.Errorf("ParseKey(%.60q) = %v, %v, want ErrKey", s, k, err)
		} else if len(err.Error()) > 300 {
			t.Errorf("error of %d characters for a hostile text", len(err.Error()))
		}
	}
}

func TestBase58KeepsLeadingZeros(t *testing.T) {
	for _, b := range [][]byte{{}, {0}, {0, 0, 1}, {1, 0}, {255, 255, 0}} {
		got, err := decodeBase58(encodeBase58(b))
		if err != nil || !bytes.Equal(got, b) {
			t.Errorf("%v came back as %v, %v", b, got, err)
		}
	}
}

func TestPrivateFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "node.key")
	p, created, err := LoadOrCreate(path)
	if err != nil || !created {
		t.Fatalf("LoadOrCreate = %v, created %v", err, created)
	}
	st, err := os.Stat(path)
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Fatalf("mode %v, %v; want 0600", st.Mode(), err)
	}
	q, created, err := LoadOrCreate(path)
	if err != nil || created || q.Public() != p.Public() {
		t.Fatalf("second LoadOrCreate gave another key: %v, created %v", err, created)
	}
	if err := NewPrivate().Save(path); !errors.Is(err, fs.ErrExist) {
		t.Fatalf("Save over a key = %v, want ErrExist", err)
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(path), ".key-*")); len(left) > 0 {
		t.Errorf("temporary files left: %v", left)
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadPrivate(path); !errors.Is(err, ErrKeyMode) || !strings.Contains(err.Error(), "chmod 600 "+path) {
		t.Errorf("readable key: %v, want ErrKeyMode and the remedy", err)
	}
}

func TestLoadPrivateRefuses(t *testing.T) {
	for name, content := range map[string]string{
		"empty": "", "text": "hello", "long": strings.Repeat("x", 10000),
		"garbage": "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
	} {
		path := filepath.Join(t.TempDir(), "k")
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := LoadPrivate(path); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: error %v does not name the file", name, err)
		}
	}
}

func TestPrivateNeverPrints(t *testing.T) {
	p := PrivateFromSeed([32]byte{1, 2, 3})
	if s := p.String() + p.GoString(); strings.Contains(s, hex.EncodeToString(p.key[:8])) || !strings.Contains(s, p.Public().String()) {
		t.Errorf("printed form: %s", s)
	}
	if sig := p.Sign([]byte("m")); !p.Public().Verify([]byte("m"), sig) || p.Public().Verify([]byte("n"), sig) || (Key{}).Verify([]byte("m"), sig) {
		t.Error("signature does not tell messages apart")
	}
}
