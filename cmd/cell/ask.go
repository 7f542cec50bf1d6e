package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/node"
	"github.com/spf13/cobra"
)

// maxAnswers is how many bytes of answers are read.
const maxAnswers = 4096

// mayAsk reports whether err is that an author is not trusted, and a person is
// there to be asked.
func (a *app) mayAsk(err error) bool {
	var refused *node.APIError
	return a.asks && !a.json && errors.As(err, &refused) && refused.Code == node.CodeUntrusted && !refused.Author.IsZero()
}

// askTrust asks whether the author of a cell that was refused is to be trusted,
// and if so does what cell trust add --host does. Otherwise it returns refused.
func (a *app) askTrust(c *cobra.Command, cell string, refused error) error {
	var e *node.APIError
	if !errors.As(refused, &e) {
		return refused
	}
	h, s, err := a.load()
	if err != nil {
		return err
	}
	name := identity.Name(s.Petname(e.Author))
	who := e.Author.String()
	if name != "" {
		who += "  whom you call " + string(name)
	}
	a.term.say(`The author of %s is not trusted on this host:

  %s

To trust an author means that this host builds and runs his code, now and in all
releases to come. Do so only where you know that the key is his: compare it with one
that he gave you.
`, clean(cell), who)
	answers := bufio.NewReader(io.LimitReader(a.stdin, maxAnswers))
	yes, err := a.ask(c.Context(), answers, "trust this author on this host? [y/N] ")
	if err != nil {
		return err
	}
	if yes = strings.ToLower(yes); yes != "y" && yes != "yes" {
		return refused
	}
	if name == "" {
		if name, err = a.askName(c.Context(), answers, s.Authors, e.Author); err != nil {
			return err
		}
	}
	return a.trust(c, h, s, name, e.Author, true)
}

// askName asks for a petname until it is good; none is good, too.
func (a *app) askName(ctx context.Context, answers *bufio.Reader, taken identity.Petnames, author identity.Key) (identity.Name, error) {
	for {
		text, err := a.ask(ctx, answers, "what do you call him? a name, as in greeter@NAME, or nothing: ")
		if err != nil || text == "" {
			return "", err
		}
		name, err := identity.ParseName(text)
		switch key, ok := taken[text]; {
		case err != nil:
			a.term.say("%s", clean(err.Error()))
		case ok && key != author:
			a.term.say("%s is the name of another author", name)
		default:
			return name, nil
		}
	}
}

// ask puts a question and returns what is typed up to Enter, without the blanks
// around it: "" where nobody answers any more.
func (a *app) ask(ctx context.Context, answers *bufio.Reader, question string) (string, error) {
	fmt.Fprint(a.term.err, question)
	typed := make(chan string, 1)
	go func() {
		text, _ := answers.ReadString('\n') // an end is an answer, too
		typed <- text
	}()
	select {
	case text := <-typed:
		if !strings.HasSuffix(text, "\n") {
			a.term.say("")
		}
		return strings.TrimSpace(text), nil
	case <-ctx.Done(): // reading cannot be broken off; the process ends soon
		a.term.say("")
		return "", ctx.Err()
	}
}
