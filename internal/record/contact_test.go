package record

import (
	"bytes"
	"encoding/hex"
	"errors"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"cell.network/cell/internal/identity"
)

func contactOffer() ContactOffer {
	return ContactOffer{Addrs: [][]byte{{4, 10, 0, 0, 1, 0x91, 2, 0x23, 0x6b, 0xcc, 3}, bytes.Repeat([]byte{9}, 67)},
		Server: true, Relay: true, Order: Order{5, 1}, Issued: epoch}
}

func contact(t testing.TB, change func(*ContactOffer)) Contact {
	t.Helper()
	o := contactOffer()
	if change != nil {
		change(&o)
	}
	c, err := SignContact(node, net0, o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func goodbye(o *ContactOffer) { o.Left, o.Order.Sequence = true, 2 }

func TestContactRoundTrip(t *testing.T) {
	want, o := contact(t, nil), contactOffer()
	got, err := OpenContact(bytes.Clone(want.Raw), net0, epoch.Add(ContactLife))
	if err != nil {
		t.Fatal(err)
	}
	if got.Node() != node.Public() || !got.Server || !got.Relay || got.Left || got.Order != o.Order || !reflect.DeepEqual(got.Addrs, o.Addrs) ||
		!got.Expires().Equal(epoch.Add(ContactLife)) || !bytes.Equal(got.Raw, want.Raw) {
		t.Errorf("came back as %+v", got)
	}
	left := contact(t, goodbye)
	if got, err := OpenContact(left.Raw, net0, epoch.Add(ContactLife)); err != nil || !got.Left || got.Server || got.Relay || len(got.Addrs) != 0 {
		t.Errorf("a goodbye came back as %+v, %v", got, err)
	}
	t.Logf("%d bytes with two addresses, %d without any, %d of a goodbye", len(want.Raw), len(contact(t, func(o *ContactOffer) { o.Addrs = nil }).Raw), len(left.Raw))
}

func TestContactLeavesOutWhatDoesNotFit(t *testing.T) {
	addrs := func(n, size int) func(*ContactOffer) {
		return func(o *ContactOffer) {
			o.Addrs = nil
			for i := range n {
				o.Addrs = append(o.Addrs, bytes.Repeat([]byte{byte(i + 1)}, size))
			}
		}
	}
	for _, c := range []struct{ n, size, want int }{{0, 0, 0}, {4, 20, 4}, {9, 20, 4}, {4, 67, 4}, {4, MaxAddrSize, 3}} {
		got := contact(t, addrs(c.n, c.size))
		if len(got.Addrs) != c.want || len(got.Raw) > MaxContactSize {
			t.Errorf("%d addresses of %d bytes: %d kept, %d bytes", c.n, c.size, len(got.Addrs), len(got.Raw))
		}
	}
	if _, err := SignContact(node, net0, ContactOffer{Addrs: [][]byte{make([]byte, MaxAddrSize+1)}, Issued: epoch}); !errors.Is(err, ErrMalformed) {
		t.Errorf("an address too long: %v", err)
	}
}

func TestOpenContactRefuses(t *testing.T) {
	good := contact(t, nil)
	sign := func(ttl time.Duration, addrs ...[]byte) []byte {
		raw, err := Sign(node, Header{Domain: DomainContact, Network: net0, Issued: epoch, TTL: ttl}, contactPayload{Addrs: addrs})
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	a := []byte{1}
	if _, err := OpenContact(sign(ContactLife, a, a, a, a), net0, epoch); err != nil {
		t.Fatal("the contact that the cases change:", err)
	}
	flip := bytes.Clone(good.Raw)
	flip[3] ^= 1
	for name, c := range map[string]struct {
		raw  []byte
		at   time.Time
		want error
	}{
		"empty":             {nil, epoch, ErrMalformed},
		"cut":               {good.Raw[:len(good.Raw)-1], epoch, ErrMalformed},
		"trailing byte":     {append(bytes.Clone(good.Raw), 0), epoch, ErrMalformed},
		"too long":          {make([]byte, MaxContactSize+1), epoch, ErrSize},
		"flipped":           {flip, epoch, ErrSignature},
		"a row":             {row(t, func(o *RowOffer) { o.Cells, o.Member = nil, nil }).Raw, epoch, ErrDomain},
		"from the future":   {good.Raw, epoch.Add(-MaxSkew - time.Second), ErrClock},
		"expired":           {good.Raw, epoch.Add(ContactLife + MaxSkew + time.Second), ErrStale},
		"goodbye, expired":  {contact(t, goodbye).Raw, epoch.Add(ContactLife + MaxSkew + time.Second), ErrStale},
		"another life":      {sign(time.Hour, a), epoch, ErrMalformed},
		"five addresses":    {sign(ContactLife, a, a, a, a, a), epoch, ErrMalformed},
		"empty address":     {sign(ContactLife, nil), epoch, ErrMalformed},
		"long address":      {sign(ContactLife, make([]byte, MaxAddrSize+1)), epoch, ErrMalformed},
		"goodbye from here": {sign(0, a), epoch, ErrMalformed},
	} {
		if _, err := OpenContact(c.raw, net0, c.at); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	if _, err := OpenContact(good.Raw, identity.Network("else").ID(), epoch); !errors.Is(err, ErrNetwork) {
		t.Errorf("other network: %v", err)
	}
}

// The bytes of a contact are the protocol: this file may only grow.
func TestContactVectors(t *testing.T) {
	var b strings.Builder
	for _, v := range []struct {
		name string
		raw  []byte
	}{
		{"contact", contact(t, nil).Raw},
		{"client", contact(t, func(o *ContactOffer) { o.Server, o.Relay, o.Addrs = false, false, nil }).Raw},
		{"goodbye", contact(t, goodbye).Raw},
	} {
		b.WriteString(v.name + " " + hex.EncodeToString(v.raw) + "\n")
	}
	if *update {
		if err := os.WriteFile("testdata/contact.txt", []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile("testdata/contact.txt")
	if err != nil || b.String() != string(want) {
		t.Errorf("contacts no longer encode as in testdata/contact.txt (%v)", err)
	}
}

func FuzzOpenContact(f *testing.F) {
	f.Add(contact(f, nil).Raw)
	f.Add(contact(f, goodbye).Raw)
	f.Add(lease(f, nil).Raw)
	f.Fuzz(func(t *testing.T, raw []byte) {
		c, err := OpenContact(raw, net0, epoch)
		if err != nil && Reason(err) == "other" {
			t.Errorf("untyped error: %v", err)
		}
		if err == nil && (len(raw) > MaxContactSize || len(c.Addrs) > MaxContactAddrs || c.Left && (c.Server || len(c.Addrs) > 0)) {
			t.Errorf("accepted a contact outside of its rules: %+v", c)
		}
	})
}

// Signatures keep the fuzzer of whole contacts away from the payload.
func FuzzContactPayload(f *testing.F) {
	for _, p := range []contactPayload{{Addrs: [][]byte{}}, {Server: true, Relay: true, Addrs: contactOffer().Addrs}} {
		b, err := encoding.Marshal(p)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var p contactPayload
		if decoding.Unmarshal(b, &p) != nil {
			return
		}
		raw, err := Sign(node, Header{Domain: DomainContact, Network: net0, Issued: epoch, TTL: ContactLife}, p)
		if err != nil {
			return // too long
		}
		if c, err := OpenContact(raw, net0, epoch); err == nil && len(c.Addrs) != len(p.Addrs) || err != nil && Reason(err) == "other" {
			t.Errorf("%+v, %v", c, err)
		}
	})
}
