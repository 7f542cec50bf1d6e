package identity

import (
	"encoding/hex"
	"errors"
	"strings"
	"testing"
)

func TestParseName(t *testing.T) {
	for _, s := range []string{"a", "greeter", "a-b-c", "0", strings.Repeat("a", 63)} {
		if n, err := ParseName(s); err != nil || string(n) != s {
			t.Errorf("ParseName(%q) = %q, %v", s, n, err)
		}
	}
	for _, s := range []string{"", "-a", "a-", "A", "a b", "a_b", "ä", "a\x00", "a/b", strings.Repeat("a", 64), "\x1b[31m"} {
		if _, err := ParseName(s); !errors.Is(err, ErrName) {
			t.Errorf("ParseName(%q) = %v, want ErrName", s, err)
		} else if strings.ContainsAny(err.Error(), "\x00\x1b") {
			t.Errorf("error carries control characters: %q", err)
		}
	}
}

func TestParseRef(t *testing.T) {
	key := PrivateFromSeed([32]byte{7}).Public().String()
	for _, s := range []string{"greeter", "greeter@alice", "greeter@alice:1.4.0", "greeter:2.0.0-rc.1+b3", "greeter@" + key, "greeter@" + key + ":1"} {
		if r, err := ParseRef(s); err != nil || r.String() != s {
			t.Errorf("ParseRef(%q) = %q, %v", s, r, err)
		}
	}
	for _, s := range []string{"", "@alice", "greeter@", "greeter:", "greeter@a@b", "greeter@ALICE", "greeter@alice:", "greeter:a b", "greeter@" + key[:20] + "!"} {
		if _, err := ParseRef(s); !errors.Is(err, ErrName) {
			t.Errorf("ParseRef(%q) = %v, want ErrName", s, err)
		}
	}
}

func TestParseMethod(t *testing.T) {
	r, m, err := ParseMethod("greeter@alice:1.0/Say.hello_2")
	if err != nil || r.Author != "alice" || r.Version != "1.0" || m != "Say.hello_2" {
		t.Errorf("got %+v %q %v", r, m, err)
	}
	for _, s := range []string{"greeter", "greeter/", "/hello", "greeter/a/b", "greeter/a b", "greeter/" + strings.Repeat("a", 64)} {
		if _, _, err := ParseMethod(s); !errors.Is(err, ErrName) {
			t.Errorf("ParseMethod(%q) = %v, want ErrName", s, err)
		}
	}
}

func TestResolve(t *testing.T) {
	me, alice := PrivateFromSeed([32]byte{1}).Public(), PrivateFromSeed([32]byte{2}).Public()
	pets := Petnames{"alice": alice}
	for _, c := range []struct {
		ref  string
		def  Key
		want Key
	}{{"g", me, me}, {"g@alice", me, alice}, {"g@" + alice.String(), Key{}, alice}} {
		r, _ := ParseRef(c.ref)
		if got, err := r.Resolve(c.def, pets); err != nil || got != (Cell{c.want, "g"}) {
			t.Errorf("%s: %v, %v", c.ref, got, err)
		}
	}
	for _, ref := range []string{"g", "g@bob"} {
		r, _ := ParseRef(ref)
		if _, err := r.Resolve(Key{}, pets); !errors.Is(err, ErrUnknownAuthor) {
			t.Errorf("%s: %v, want ErrUnknownAuthor", ref, err)
		}
	}
}

// The formula of NameKey is part of the protocol: these sums may never change.
func TestNameKeyVectors(t *testing.T) {
	c := Cell{Author: PrivateFromSeed([32]byte{1}).Public(), Name: "greeter"}
	for net, want := range map[Network]string{
		Public: "186e9709ea14b5094cfb044688597fc83f57117161ec99ed4f7d74c061ef3aa3",
		"lab":  "1a1920a08b2559df88fd237788b2f8f8c50a7514b48ff299bffb72ed280ec528",
	} {
		k := c.Key(net.ID())
		if got := hex.EncodeToString(k[:]); got != want {
			t.Errorf("NameKey of %s in %s = %s, want %s", c, net, got, want)
		}
	}
	other := Cell{Author: PrivateFromSeed([32]byte{2}).Public(), Name: "greeter"}
	if c.Key(Public.ID()) == other.Key(Public.ID()) {
		t.Error("two authors share a key")
	}
}

func FuzzParse(f *testing.F) {
	f.Add("greeter@alice:1.4.0/hello")
	f.Add("z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK")
	f.Fuzz(func(t *testing.T, s string) {
		if k, err := ParseKey(s); err == nil && k.String() != s {
			t.Errorf("key %q has a second text form %q", s, k)
		}
		if r, err := ParseRef(s); err == nil && r.String() != s {
			t.Errorf("reference %q came back as %q", s, r)
		}
		if r, m, err := ParseMethod(s); err == nil && r.String()+"/"+m != s {
			t.Errorf("method %q came back as %q/%q", s, r, m)
		}
	})
}
