package record

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cell.network/cell/internal/identity"
)

func sporeFields() Spore {
	return Spore{
		Cell: hello, Epoch: 0, Seq: 42, Version: "1.4.0", Prev: sha256.Sum256([]byte("41")), Tree: sha256.Sum256([]byte("tree")),
		Commit: "1a3e64c6b5a2f0d1c4e7988776655443322110ff", Size: 4711, Files: 7,
		Serve: Serve{Colonies: []identity.Key{colony.Public()}}, Issued: epoch, Expires: epoch.Add(DefaultSporeLife), MinSeq: 40,
		Artefacts: []Artefact{{"darwin/arm64", sha256.Sum256([]byte("a")), 12}, {"linux/amd64", sha256.Sum256([]byte("b")), 0}},
	}
}

func spore(t testing.TB, change func(*Spore)) Spore {
	t.Helper()
	f := sporeFields()
	if change != nil {
		change(&f)
	}
	s, err := SignSpore(author, f)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// resign signs any text as a spore of hello's author.
func resign(text string) []byte {
	return append([]byte(text), armour(author.Public(), author.Sign(sshSigned([]byte(text))))...)
}

func TestSporeRoundTrip(t *testing.T) {
	for name, change := range map[string]func(*Spore){
		"usual": nil,
		"open":  func(s *Spore) { s.Serve = Serve{Open: true} },
		"first": func(s *Spore) { s.Seq, s.MinSeq, s.Prev, s.Artefacts = 1, 0, [32]byte{}, nil },
		"full": func(s *Spore) {
			s.Cell.Name, s.Version = identity.Name(strings.Repeat("n", identity.MaxName)), strings.Repeat("9", 64)
			s.Epoch, s.Seq, s.Size, s.Files = 1<<63-1, 1<<63-1, 1<<62, 1<<31-1
			for range MaxColonies - 1 {
				s.Serve.Colonies = append(s.Serve.Colonies, colony.Public())
			}
			s.Artefacts = nil
			for i := range MaxArtefacts {
				s.Artefacts = append(s.Artefacts, Artefact{strings.Repeat("a", 16) + "/" + strings.Repeat("b", 15) + string(rune('a'+i)), [32]byte{}, 1 << 62})
			}
			s.Expires = s.Issued.Add(MaxSporeLife)
		},
	} {
		want := spore(t, change)
		got, err := OpenSpore(bytes.Clone(want.Raw), want.Cell, epoch.Add(DefaultSporeLife))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got.Cell != want.Cell || got.Order() != (Order{want.Epoch, want.Seq}) || got.Version != want.Version || got.Prev != want.Prev ||
			got.Tree != want.Tree || got.Commit != want.Commit || got.Size != want.Size || got.Files != want.Files ||
			got.Serve.Open != want.Serve.Open || len(got.Serve.Colonies) != len(want.Serve.Colonies) ||
			!got.Issued.Equal(epoch) || !got.Expires.Equal(want.Expires) || got.MinSeq != want.MinSeq ||
			len(got.Artefacts) != len(want.Artefacts) || got.Hash() != want.Hash() {
			t.Errorf("%s: came back as %+v", name, got)
		}
		t.Logf("%s: %d of %d bytes", name, len(got.Raw), MaxSpore)
	}
}

// Each case changes one thing of a good spore and, but for the first ones,
// has the author himself sign the result. The positive control is that the
// unchanged text, signed the same way, is accepted.
func TestOpenSporeRefuses(t *testing.T) {
	good := spore(t, nil)
	text := string(sporeFieldsText())
	if _, err := OpenSpore(resign(text), hello, epoch); err != nil {
		t.Fatal("the unchanged text:", err)
	}
	edit := func(old, new string) []byte {
		if !strings.Contains(text, old) {
			t.Fatalf("no %q in the spore", old)
		}
		return resign(strings.Replace(text, old, new, 1))
	}
	raw := func(old, new string) []byte { return bytes.Replace(good.Raw, []byte(old), []byte(new), 1) }
	byMallet := append([]byte(text), armour(mallet.Public(), mallet.Sign(sshSigned([]byte(text))))...)
	lent := append([]byte(text), armour(author.Public(), mallet.Sign(sshSigned([]byte(text))))...)
	other := identity.Cell{Author: author.Public(), Name: "other"}
	for name, c := range map[string]struct {
		raw  []byte
		cell identity.Cell
		at   time.Time
		want error
	}{
		"empty":                {nil, hello, epoch, ErrMalformed},
		"too long":             {make([]byte, MaxSpore+1), hello, epoch, ErrSize},
		"no signature":         {[]byte(text), hello, epoch, ErrMalformed},
		"cut":                  {good.Raw[:len(good.Raw)-1], hello, epoch, ErrMalformed},
		"something behind":     {append(bytes.Clone(good.Raw), '\n'), hello, epoch, ErrMalformed},
		"changed sequence":     {bytes.ReplaceAll(bytes.ReplaceAll(good.Raw, []byte("/42\n"), []byte("/43\n")), []byte("seq 42"), []byte("seq 43")), hello, epoch, ErrSignature},
		"tag renamed":          {raw("/42\n", "/43\n"), hello, epoch, ErrMalformed},
		"changed commit":       {raw("1a3e", "1a3f"), hello, epoch, ErrSignature},
		"by a stranger":        {byMallet, hello, epoch, ErrSignature},
		"in the author's name": {lent, hello, epoch, ErrSignature},
		"of another cell":      {good.Raw, other, epoch, ErrCell},
		"expired":              {good.Raw, hello, good.Expires.Add(MaxSkew + time.Second), ErrStale},
		"from the future":      {good.Raw, hello, epoch.Add(-MaxSkew - time.Second), ErrClock},
		"one line of base64":   {unwrap(good.Raw), hello, epoch, ErrMalformed},
		"CR LF":                {resign(strings.ReplaceAll(text, "\n", "\r\n")), hello, epoch, ErrMalformed},
		"extra header":         {edit("\n\ncell-record", "\nencoding x\n\ncell-record"), hello, epoch, ErrMalformed},
		"extra line":           {edit("min-seq 40\n", "min-seq 40\nnote hello\n"), hello, epoch, ErrMalformed},
		"lines swapped":        {edit("epoch 0\nseq 42\n", "seq 42\nepoch 0\n"), hello, epoch, ErrMalformed},
		"another record":       {edit("cell-record 1", "cell-record 2"), hello, epoch, ErrMalformed},
		"tag of another cell":  {edit("tag cell/greeter/", "tag cell/other/"), hello, epoch, ErrMalformed},
		"another tagger":       {edit("tagger cell", "tagger call"), hello, epoch, ErrMalformed},
		"time of tagging":      {edit("> 1700000000", "> 1700000001"), hello, epoch, ErrMalformed},
		"leading zero":         {edit("epoch 0", "epoch 00"), hello, epoch, ErrMalformed},
		"negative":             {edit("epoch 0", "epoch -1"), hello, epoch, ErrMalformed},
		"64 bits":              {edit("epoch 0", "epoch 9223372036854775808"), hello, epoch, ErrMalformed},
		"capital hex":          {edit("object 1a3e", "object 1A3E"), hello, epoch, ErrMalformed},
		"short commit":         {edit("object 1a3e64", "object 1a3e"), hello, epoch, ErrMalformed},
		"no version":           {edit("version 1.4.0", "version "), hello, epoch, ErrMalformed},
		"bad version":          {edit("version 1.4.0", "version 1/4"), hello, epoch, ErrMalformed},
		"zero prev":            {edit("prev sha256:"+strings.Split(strings.Split(text, "prev sha256:")[1], "\n")[0], "prev sha256:"+strings.Repeat("0", 64)), hello, epoch, ErrMalformed},
		"no files":             {edit("size 4711 7", "size 4711 0"), hello, epoch, ErrMalformed},
		"serves nobody":        {edit("serve colony "+colony.Public().String(), "serve colony "), hello, epoch, ErrMalformed},
		"serves who knows":     {edit("serve colony "+colony.Public().String(), "serve any"), hello, epoch, ErrMalformed},
		"nine colonies":        {edit("serve colony ", "serve colony "+strings.Repeat(colony.Public().String()+",", MaxColonies)), hello, epoch, ErrMalformed},
		"no such day":          {edit("issued 2023-11-14", "issued 2023-02-31"), hello, epoch, ErrMalformed},
		"expires before":       {edit("expires 2023-12", "expires 2022-12"), hello, epoch, ErrMalformed},
		"lives too long":       {edit("expires 2023-12", "expires 2025-12"), hello, epoch, ErrMalformed},
		"min-seq above seq":    {edit("min-seq 40", "min-seq 43"), hello, epoch, ErrMalformed},
		"artefacts unsorted":   {edit("artefact darwin", "artefact zos"), hello, epoch, ErrMalformed},
		"artefact of no place": {edit("artefact darwin/arm64", "artefact ../arm64"), hello, epoch, ErrMalformed},
		"not ASCII":            {edit("version 1.4.0", "version 1.4.ö"), hello, epoch, ErrMalformed},
		"nul":                  {edit("version 1.4.0", "version 1.4\x00"), hello, epoch, ErrMalformed},
	} {
		_, err := OpenSpore(c.raw, c.cell, c.at)
		if !errors.Is(err, c.want) || Reason(err) == "other" {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

func sporeFieldsText() []byte {
	s := sporeFields()
	s.Issued, s.Expires = s.Issued.UTC(), s.Expires.UTC()
	return s.text()
}

// unwrap writes a signature on one line: git would accept that.
func unwrap(raw []byte) []byte {
	head, sig, _ := strings.Cut(string(raw), sigBegin)
	body := strings.TrimSuffix(sig, sigEnd)
	return []byte(head + sigBegin + strings.ReplaceAll(body, "\n", "") + "\n" + sigEnd)
}

func TestSignSporeRefuses(t *testing.T) {
	if _, err := SignSpore(mallet, sporeFields()); err == nil {
		t.Error("signed with another's key")
	}
	if _, err := SignSpore(identity.Private{}, sporeFields()); err == nil {
		t.Error("signed with no key")
	}
	f := sporeFields()
	f.Seq = 0
	if _, err := SignSpore(author, f); !errors.Is(err, ErrMalformed) {
		t.Errorf("sequence 0: %v", err)
	}
}

// TestGitVerifiesSpore has git and ssh-keygen check a spore as anybody may.
func TestGitVerifiesSpore(t *testing.T) {
	for _, tool := range []string{"git", "ssh-keygen"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip("there is no", tool, "here to verify a tag with")
		}
	}
	dir := t.TempDir()
	git := func(stdin []byte, args ...string) (string, error) {
		cmd := exec.Command("git", args...)
		cmd.Dir, cmd.Stdin = dir, bytes.NewReader(stdin)
		cmd.Env = append(os.Environ(), "HOME="+dir, "GIT_CONFIG_NOSYSTEM=1", "GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@b", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@b")
		out, err := cmd.CombinedOutput()
		return strings.TrimSpace(string(out)), err
	}
	must := func(stdin []byte, args ...string) string {
		t.Helper()
		out, err := git(stdin, args...)
		if err != nil {
			t.Fatalf("git %v: %v: %s", args, err, out)
		}
		return out
	}
	must(nil, "init", "-q", ".")
	must(nil, "commit", "-q", "--allow-empty", "-m", "x")
	s := spore(t, func(s *Spore) { s.Commit = must(nil, "rev-parse", "HEAD") })
	signers := filepath.Join(dir, "signers")
	verify := func(raw []byte, allowed identity.Key) error {
		id := must(raw, "hash-object", "-t", "tag", "-w", "--stdin")
		must(nil, "update-ref", s.Ref(), id)
		if err := os.WriteFile(signers, []byte(AllowedSigners(allowed)+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		out, err := git(nil, "-c", "gpg.ssh.allowedSignersFile="+signers, "verify-tag", s.Ref())
		t.Logf("%v: %s", err, out)
		return err
	}
	if err := verify(s.Raw, author.Public()); err != nil {
		t.Error("git refuses a good spore:", err)
	}
	if verify(s.Raw, mallet.Public()) == nil {
		t.Error("git accepts a spore as another author's")
	}
	if verify(bytes.Replace(s.Raw, []byte("version 1.4.0"), []byte("version 1.4.1"), 1), author.Public()) == nil {
		t.Error("git accepts a changed spore")
	}
	must(nil, "fsck", "--strict")
}

// The bytes of a spore are the protocol: these must stay good for ever.
func TestSporeVector(t *testing.T) {
	s := spore(t, nil)
	if *update {
		if err := os.WriteFile("testdata/spore.tag", s.Raw, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile("testdata/spore.tag")
	if err != nil || !bytes.Equal(want, s.Raw) {
		t.Errorf("a spore is no longer written as in testdata/spore.tag (%v)", err)
	}
}

func FuzzOpenSpore(f *testing.F) {
	f.Add(spore(f, nil).Raw)
	f.Add(spore(f, func(s *Spore) { s.Serve, s.Artefacts = Serve{Open: true}, nil }).Raw)
	f.Fuzz(func(t *testing.T, raw []byte) {
		// The form is what is fuzzed: a signature does not survive a mutation.
		s, text, err := parseSpore(raw)
		if err == nil && !bytes.Equal(text, s.text()) {
			t.Errorf("accepted %q, would write %q", text, s.text())
		}
		if err == nil {
			if _, err := ParseSpore(resign(string(text))); err != nil && s.Cell.Author == author.Public() && len(text) < MaxSpore-400 {
				t.Errorf("refused when signed: %v", err)
			}
		}
		if _, err := OpenSpore(raw, hello, epoch); err != nil && Reason(err) == "other" {
			t.Errorf("untyped error: %v", err)
		}
	})
}

func BenchmarkOpenSpore(b *testing.B) {
	raw := spore(b, nil).Raw
	b.ReportAllocs()
	for b.Loop() {
		if _, err := OpenSpore(raw, hello, epoch); err != nil {
			b.Fatal(err)
		}
	}
}
