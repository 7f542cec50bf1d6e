package main

import (
	"errors"
	"testing"
	"time"

	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/record"
)

func TestForge(t *testing.T) {
	author := identity.NewPrivate()
	s, err := record.SignSpore(author, record.Spore{
		Cell: identity.Cell{Author: author.Public(), Name: "greeter"}, Seq: 3, Version: "0.2.0", Commit: "0123456789012345678901234567890123456789",
		Files: 1, Serve: record.Serve{Open: true}, Issued: time.Now(), Expires: time.Now().Add(time.Hour),
	})
	if err != nil {
		t.Fatal(err)
	}
	forged, err := forge(s)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := record.OpenSpore(forged, s.Cell, time.Now()); !errors.Is(err, record.ErrSignature) {
		t.Errorf("a forged release: %v", err)
	}
	if _, err := record.OpenSpore(s.Raw, s.Cell, time.Now()); err != nil {
		t.Errorf("the release that it was made of: %v", err)
	}
	s.Raw = []byte("nothing")
	if _, err := forge(s); err == nil {
		t.Error("nothing was forged, without an error")
	}
}
