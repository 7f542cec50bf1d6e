package capsid

import (
	"testing"
)

func TestLink(t *testing.T) {
	each(t, func(t *testing.T, iso Isolation, _ bool) {
		p := start(t, newCapsid(t), Spec{Args: []string{"link"}, Isolation: iso})
		if err := p.Link().Send([]byte("over descriptor 3")); err != nil {
			t.Fatal(err)
		}
		got, _, err := p.Link().Recv()
		if err != nil || string(got) != "over descriptor 3" {
			t.Fatalf("%q, %v", got, err)
		}
		_ = p.Kill()
		if _, _, err := p.Link().Recv(); err == nil {
			t.Error("the link outlives the program")
		}
	})
}
