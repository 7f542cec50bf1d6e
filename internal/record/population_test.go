package record

import (
	"bytes"
	"encoding/hex"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"cell.network/cell/internal/identity"
)

func population(t testing.TB, signer identity.Private, change func(*PopulationOffer)) Population {
	t.Helper()
	o := PopulationOffer{Cell: hello, Min: 2, Max: 12, Order: Order{1_700_000_000_000, 1}, Issued: epoch, TTL: year}
	if change != nil {
		change(&o)
	}
	p, err := SignPopulation(signer, net0, o)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestPopulationRoundTrip(t *testing.T) {
	for name, change := range map[string]func(*PopulationOffer){
		"bounds":        func(*PopulationOffer) {},
		"one":           func(o *PopulationOffer) { o.Min, o.Max = 1, 1 },
		"none or more":  func(o *PopulationOffer) { o.Min = 0 },
		"as many as go": func(o *PopulationOffer) { o.Min, o.Max = MaxPopulation, MaxPopulation },
		"Cell.toml":     func(o *PopulationOffer) { o.Min, o.Max = 0, 0 },
		"stopped":       func(o *PopulationOffer) { o.Stopped = true },
		"for a while":   func(o *PopulationOffer) { o.TTL = time.Millisecond },
	} {
		want := PopulationOffer{Cell: hello, Min: 2, Max: 12, Order: Order{1_700_000_000_000, 1}, Issued: epoch, TTL: year}
		change(&want)
		p, err := OpenPopulation(bytes.Clone(population(t, colony, change).Raw), net0, epoch)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		got := PopulationOffer{Cell: p.Cell, Min: p.Min, Max: p.Max, Stopped: p.Stopped, Order: p.Order, Issued: epoch, TTL: p.TTL}
		if got != want || !p.Issued.Equal(epoch) || p.Signer != colony.Public() || p.Network != net0 {
			t.Errorf("%s: came back as %+v", name, p)
		}
	}
}

func TestLargestPopulationFits(t *testing.T) {
	p := population(t, author, func(o *PopulationOffer) {
		o.Cell.Name = identity.Name(strings.Repeat("n", identity.MaxName))
		o.Min, o.Max, o.Order = MaxPopulation, MaxPopulation, Order{1 << 62, 1 << 62}
		o.TTL = maxTTL
	})
	t.Logf("the longest population has %d of %d bytes, a usual one %d", len(p.Raw), MaxPopulationSize, len(population(t, author, nil).Raw))
	if len(p.Raw)+64 > MaxPopulationSize {
		t.Errorf("the longest population has %d bytes and leaves no reserve", len(p.Raw))
	}
}

// Each case changes one thing of a good population, which is opened first.
func TestOpenPopulationRefuses(t *testing.T) {
	good := population(t, author, nil)
	sign := func(ttl time.Duration, payload any) []byte {
		raw, err := Sign(author, Header{Domain: DomainPopulation, Network: net0, Issued: epoch, TTL: ttl}, payload)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	with := func(change func(*populationPayload)) []byte {
		p := populationPayload{Author: hello.Author, Name: "greeter", Min: 2, Max: 12}
		change(&p)
		return sign(year, p)
	}
	if _, err := OpenPopulation(with(func(*populationPayload) {}), net0, epoch); err != nil {
		t.Fatal("the unchanged population:", err)
	}
	flip := func(i int) []byte {
		b := bytes.Clone(good.Raw)
		b[i] ^= 1
		return b
	}
	for name, c := range map[string]struct {
		raw  []byte
		at   time.Time
		want error
	}{
		"empty":             {nil, epoch, ErrMalformed},
		"cut":               {good.Raw[:len(good.Raw)-1], epoch, ErrMalformed},
		"trailing byte":     {append(bytes.Clone(good.Raw), 0), epoch, ErrMalformed},
		"too long":          {make([]byte, MaxPopulationSize+1), epoch, ErrSize},
		"flipped signature": {flip(3), epoch, ErrSignature},
		"flipped bound":     {flip(len(good.Raw) - 3), epoch, ErrSignature},
		"a membership":      {func() []byte { _, m := certs(t); return m.Raw }(), epoch, ErrDomain},
		"from the future":   {good.Raw, epoch.Add(-MaxSkew - time.Second), ErrClock},
		"run out":           {good.Raw, epoch.Add(year + MaxSkew + time.Second), ErrStale},
		"no ttl":            {sign(0, populationPayload{Author: hello.Author, Name: "greeter", Min: 2, Max: 12}), epoch, ErrMalformed},
		"ttl too long":      {sign(maxTTL+time.Hour, populationPayload{Author: hello.Author, Name: "greeter", Min: 2, Max: 12}), epoch, ErrMalformed},
		"a negative ttl":    {sign(-time.Hour, populationPayload{Author: hello.Author, Name: "greeter", Min: 2, Max: 12}), epoch, ErrMalformed},
		"bad name":          {with(func(p *populationPayload) { p.Name = "A B" }), epoch, ErrMalformed},
		"no name":           {with(func(p *populationPayload) { p.Name = "" }), epoch, ErrMalformed},
		"no author":         {with(func(p *populationPayload) { p.Author = identity.Key{} }), epoch, ErrMalformed},
		"more than most":    {with(func(p *populationPayload) { p.Min = 13 }), epoch, ErrMalformed},
		"min without max":   {with(func(p *populationPayload) { p.Max = 0 }), epoch, ErrMalformed},
		"negative min":      {with(func(p *populationPayload) { p.Min = -1 }), epoch, ErrMalformed},
		"negative bounds":   {with(func(p *populationPayload) { p.Min, p.Max = -2, -1 }), epoch, ErrMalformed},
		"negative max":      {with(func(p *populationPayload) { p.Min, p.Max = 0, -1 }), epoch, ErrMalformed},
		"too many":          {with(func(p *populationPayload) { p.Max = MaxPopulation + 1 }), epoch, ErrMalformed},
		"beyond an int":     {sign(year, []any{hello.Author[:], "greeter", 0, uint64(1) << 63, false}), epoch, ErrMalformed},
		"a field too few":   {sign(year, []any{hello.Author[:], "greeter", 0, 1}), epoch, ErrMalformed},
		"a field too many":  {sign(year, []any{hello.Author[:], "greeter", 0, 1, false, 0}), epoch, ErrMalformed},
		"a number as bool":  {sign(year, []any{hello.Author[:], "greeter", 0, 1, 1}), epoch, ErrMalformed},
	} {
		if _, err := OpenPopulation(c.raw, net0, c.at); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	if _, err := OpenPopulation(good.Raw, identity.Network("else").ID(), epoch); !errors.Is(err, ErrNetwork) {
		t.Errorf("other network: %v", err)
	}
	if _, err := SignPopulation(author, net0, PopulationOffer{Cell: hello, Min: 3, Max: 2, Issued: epoch, TTL: year}); !errors.Is(err, ErrMalformed) {
		t.Errorf("signed by ourselves against the rules: %v, want ErrMalformed", err)
	}
}

func TestPopulationCounts(t *testing.T) {
	for name, c := range map[string]struct {
		signer identity.Private
		colony identity.Key
		want   bool
	}{
		"the author":                   {author, colony.Public(), true},
		"the author, no colony":        {author, identity.Key{}, true},
		"our colony":                   {colony, colony.Public(), true},
		"a colony, and we have none":   {colony, identity.Key{}, false},
		"another colony":               {mallet, colony.Public(), false},
		"a stranger, and no colony":    {mallet, identity.Key{}, false},
		"a machine, for its colony":    {node, colony.Public(), false},
		"the author, who is a colony,": {author, author.Public(), true},
	} {
		if got := population(t, c.signer, nil).Counts(c.colony); got != c.want {
			t.Errorf("%s: counts %v, want %v", name, got, c.want)
		}
	}
	if (Population{Cell: hello}).Counts(identity.Key{}) {
		t.Error("nobody's word counts where there is no colony")
	}
}

// Of two records exactly one holds, whatever the order in which they arrive.
func TestPopulationSupersedes(t *testing.T) {
	at := func(signer identity.Private, incarnation, sequence uint64) Population {
		return population(t, signer, func(o *PopulationOffer) { o.Order = Order{incarnation, sequence} })
	}
	first := at(author, 5, 9)
	for name, later := range map[string]Population{
		"next in sequence":    at(author, 5, 10),
		"of a newer start":    at(author, 6, 0),
		"by another operator": at(colony, 5, 10),
	} {
		if !later.Supersedes(first) || first.Supersedes(later) {
			t.Errorf("%s: does not hold where the first was said before", name)
		}
	}
	if same := at(author, 5, 9); first.Supersedes(same) || same.Supersedes(first) {
		t.Error("a record supersedes itself")
	}
	if tie := at(colony, 5, 9); tie.Supersedes(first) == first.Supersedes(tie) {
		t.Error("two of one order: nodes that hear them in another order disagree")
	}
	if !first.Supersedes(Population{}) || (Population{}).Supersedes(first) {
		t.Error("a record does not hold where nobody has spoken")
	}
}

// The bytes of a population are the protocol: this file may only grow.
func TestPopulationVectors(t *testing.T) {
	var b strings.Builder
	for _, v := range []struct {
		name string
		raw  []byte
	}{
		{"scaled", population(t, author, nil).Raw},
		{"stopped", population(t, colony, func(o *PopulationOffer) { o.Stopped, o.Order.Sequence = true, 2 }).Raw},
		{"reset", population(t, colony, func(o *PopulationOffer) { o.Min, o.Max, o.Order.Sequence = 0, 0, 3 }).Raw},
	} {
		b.WriteString(v.name + " " + hex.EncodeToString(v.raw) + "\n")
	}
	if *update {
		if err := os.WriteFile("testdata/population.txt", []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile("testdata/population.txt")
	if err != nil || b.String() != string(want) {
		t.Errorf("populations no longer encode as in testdata/population.txt (%v)", err)
	}
}

func FuzzOpenPopulation(f *testing.F) {
	f.Add(population(f, author, nil).Raw)
	f.Add(population(f, colony, func(o *PopulationOffer) { o.Min, o.Max, o.Stopped = 0, 0, true }).Raw)
	f.Add(lease(f, nil).Raw)
	f.Fuzz(func(t *testing.T, raw []byte) {
		p, err := OpenPopulation(raw, net0, epoch)
		if err == nil && (p.Min < 0 || p.Max < p.Min || p.Max > MaxPopulation || p.Signer.IsZero() || p.Cell.Author.IsZero() || len(raw) > MaxPopulationSize) {
			t.Errorf("accepted a population outside of its rules: %+v", p)
		}
		if err != nil && Reason(err) == "other" {
			t.Errorf("untyped error: %v", err)
		}
	})
}

// Signatures keep the fuzzer of whole populations away from the payload.
func FuzzPopulationPayload(f *testing.F) {
	for _, p := range []populationPayload{{}, {Author: hello.Author, Name: "greeter", Min: 2, Max: 12, Stopped: true}} {
		b, err := encoding.Marshal(p)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var p populationPayload
		if decoding.Unmarshal(b, &p) != nil {
			return
		}
		cell, err := p.check()
		if err != nil && !errors.Is(err, ErrMalformed) {
			t.Errorf("untyped error: %v", err)
		}
		if err == nil && (p.Min < 0 || p.Max < p.Min || p.Max > MaxPopulation || cell.Author.IsZero() || string(cell.Name) != p.Name) {
			t.Errorf("accepted a population outside of its rules: %+v", p)
		}
	})
}
