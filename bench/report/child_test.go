package report

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
)

func TestMain(m *testing.M) {
	PlayPart(map[string]Part{
		"double": func(arg []byte) (any, func(), error) {
			var n int
			err := json.Unmarshal(arg, &n)
			return 2 * n, func() {}, err
		},
		"file": func([]byte) (any, func(), error) {
			b, err := io.ReadAll(os.NewFile(3, "given"))
			return string(b), func() {}, err
		},
		"fails": func([]byte) (any, func(), error) { return nil, nil, errors.New("cannot do it") },
	})
	os.Exit(m.Run())
}

func TestChild(t *testing.T) {
	var got int
	c, err := StartChild("double", 21, &got)
	if err != nil {
		t.Fatal(err)
	}
	if got != 42 {
		t.Errorf("the child says %d", got)
	}
	for range 2 {
		if used, err := c.CPU(); err != nil || used <= 0 {
			t.Errorf("CPU time %v, error %v", used, err)
		}
	}
	if err := c.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	if _, err := c.CPU(); err == nil {
		t.Error("a child that has ended tells its CPU time")
	}
}

func TestChildIsGivenFiles(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.WriteString("hello"); err != nil {
		t.Fatal(err)
	}
	w.Close()
	var got string
	c, err := StartChild("file", nil, &got, r)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got != "hello" {
		t.Errorf("the child reads %q", got)
	}
}

func TestChildSaysWhyItFails(t *testing.T) {
	for part, want := range map[string]string{"fails": "cannot do it", "unknown": "no such part"} {
		if _, err := StartChild(part, nil, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v", part, err)
		}
	}
}
