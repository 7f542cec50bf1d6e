package main

import (
	"strings"

	"cell.network/cell/internal/journal"
	"cell.network/cell/internal/node"
	"github.com/spf13/cobra"
)

// nouns are the words of Cell in plain sentences, in the order in which a
// reader meets them.
var nouns = []struct{ word, meaning string }{
	{"cell", "A service: a program with a Cell.toml, named after its author as in greeter@z6Mk…."},
	{"node", "The daemon, one per host, that finds, builds, starts and watches cells; cell up starts it."},
	{"replica", "One running process of a cell; it keeps nothing that must outlive it."},
	{"author", "Whoever wrote a cell, known by an Ed25519 public key."},
	{"colony", "All the machines of one operator, certified by his colony key."},
	{"petname", "A name that you gave to an author's key; it means something on your machine only."},
	{"network", "A set of nodes that find each other; the default one is called public."},
	{"method", "Something that a cell can be asked to do, written cell/method as in greeter/hello."},
	{"lease", "A node's signed statement that it serves a cell at some addresses, good for minutes."},
	{"grant", "An author's signed statement of who may serve his cells."},
	{"membership", "A colony's signed statement that a node is one of its machines."},
	{"tombstone", "A lease that takes back the one before it: the node no longer serves the cell."},
	{"pheromone", "An announcement on the local network, sent by UDP multicast."},
	{"DHT", "A table that all nodes keep together, in which leases can be found without a server."},
	{"holder", "A node of the DHT that keeps leases for others."},
	{"contact", "A node's signed statement of where it is reached and what it does for others."},
	{"life", "The time between a node's start and its end; what it announced in one no longer counts in the next."},
	{"rumour", "A node that one neighbour alone has told of and that has never spoken to this one: no member yet."},
	{"suspicion", "A node's signed word that another does not answer; the other may refute it."},
	{"relay", "A node that passes on what two others cannot send each other directly."},
	{"path", "How a node is reached: direct, or relayed via another."},
	{"hint", "An address to enter a network through, signed by somebody you chose to believe."},
	{"tier", "One of the ways to find a cell: self, cache, lan and dht; all are tried at once."},
	{"membrane", "The one connection through which a sandboxed replica speaks to its node and to others."},
	{"axon", "A connection between two nodes that carries the calls of their cells."},
	{"capsid", "The sandbox in which a replica runs."},
	{"ribosome", "The part of a node that makes a cell's program from its source."},
	{"spore", "A release of a cell's source, signed by its author, that anybody can pass on."},
	{"mitosis", "A cell under load grows another replica."},
	{"apoptosis", "A replica that is not needed drains and ends itself."},
	{"journal", "What happened on a node, one line an event, each with the event that led to it."},
}

func (a *app) glossaryCmd() *cobra.Command {
	c := &cobra.Command{
		Use:     "glossary [WORD]",
		Short:   "Explain the words and the kinds of events",
		Example: "  cell glossary\n  cell glossary lease",
		Args:    takes(0, 1),
		RunE: func(c *cobra.Command, args []string) error {
			type entry struct {
				Word    string `json:"word"`
				Sort    string `json:"sort"` // noun or event
				Meaning string `json:"meaning"`
			}
			var list []entry
			for _, n := range nouns {
				list = append(list, entry{n.word, "noun", n.meaning})
			}
			for _, k := range journal.Kinds {
				list = append(list, entry{string(k.Kind), "event", k.Meaning})
			}
			if len(args) == 1 {
				var words []string
				var found []entry
				for _, e := range list {
					if words = append(words, e.Word); strings.EqualFold(e.Word, args[0]) {
						found = append(found, e)
					}
				}
				if len(found) == 0 {
					e := node.NewError(node.CodeNoCell, "no such word: "+clean(args[0]), "see them all: cell glossary")
					if near := nearest(args[0], words); near != "" {
						e.Hint = "did you mean: cell glossary " + near
					}
					return e
				}
				list = found
			}
			if a.json {
				return a.term.json(map[string]any{"glossary": list})
			}
			sort := ""
			for _, e := range list {
				if e.Sort != sort && len(args) == 0 {
					if sort != "" {
						a.term.print("\n")
					}
					a.term.print("%s\n", map[string]string{"noun": "Words", "event": "Kinds of events (see: cell events)"}[e.Sort])
					sort = e.Sort
				}
				a.term.print("  %-15s %s\n", e.Word, e.Meaning)
			}
			return nil
		},
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			var words []string
			for _, n := range nouns {
				words = append(words, n.word)
			}
			return append(words, kindNames()...), cobra.ShellCompDirectiveNoFileComp
		},
	}
	a.jsonFlag(c, `print {"glossary":[{"word","sort","meaning"}]}`)
	return c
}
