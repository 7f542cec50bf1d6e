package main

import (
	"slices"
	"strings"

	"cell.network/cell/internal/home"
	"cell.network/cell/internal/identity"
	"cell.network/cell/internal/node"
	"github.com/spf13/cobra"
)

func (a *app) trustCmd() *cobra.Command {
	c := &cobra.Command{
		Use:   "trust",
		Short: "Say whose code may run here, and name authors",
		Long: `Without more, lists the authors that you named or that you let run code here.
Your own code, and that of your default author, always may.`,
		Example: `  cell trust add alice z6Mk…           # names an author: greeter@alice
  cell trust add alice --host          # and lets his code run on this host
  cell trust rm alice`,
		Args: cobra.ArbitraryArgs,
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) > 0 {
				return noSuchCommand(c, args)
			}
			return a.trustList()
		},
	}
	a.jsonFlag(c, `print {"authors":[{"name","key","host"}]}`)
	ls := &cobra.Command{
		Use: "ls", Short: "List authors", Args: takes(0, 0),
		RunE: func(*cobra.Command, []string) error { return a.trustList() },
	}
	a.jsonFlag(ls, `print {"authors":[{"name","key","host"}]}`)
	c.AddCommand(a.trustAddCmd(), a.trustRmCmd(), ls)
	return c
}

type trusted struct {
	Name string       `json:"name,omitempty"`
	Key  identity.Key `json:"key"`
	Host bool         `json:"host"`          // his code may run here
	Own  string       `json:"own,omitempty"` // "own key" or "default author"
}

func (a *app) trustList() error {
	h, s, err := a.load()
	if err != nil {
		return err
	}
	var own identity.Key
	if p, err := identity.LoadPrivate(h.Key(node.RoleAuthor)); err == nil {
		own = p.Public()
	}
	var list []trusted
	add := func(name string, k identity.Key) {
		t := trusted{Name: name, Key: k, Host: s.Trusts(k, own)}
		switch k {
		case own:
			t.Own = "own key"
		case s.Author:
			t.Own = "default author"
		}
		list = append(list, t)
	}
	for name, k := range s.Authors {
		add(name, k)
	}
	slices.SortFunc(list, func(x, y trusted) int { return strings.Compare(x.Name, y.Name) })
	for _, k := range append([]identity.Key{own, s.Author}, s.Hosts...) {
		if !k.IsZero() && !slices.ContainsFunc(list, func(t trusted) bool { return t.Key == k }) {
			add("", k)
		}
	}
	if a.json {
		if list == nil {
			list = []trusted{}
		}
		return a.term.json(map[string]any{"authors": list})
	}
	if len(list) == 0 {
		a.term.say("nobody yet; add an author with: cell trust add NAME KEY")
		return nil
	}
	rows := make([][]string, len(list))
	for i, t := range list {
		may := "no"
		if t.Host {
			may = "yes"
		}
		rows[i] = []string{t.Name, t.Key.String(), may, t.Own}
	}
	a.term.table("NAME AUTHOR MAY-RUN-HERE NOTE", rows)
	return nil
}

func (a *app) trustAddCmd() *cobra.Command {
	var host bool
	c := &cobra.Command{
		Use:     "add NAME [KEY]",
		Short:   "Name an author; with --host, let his code run here",
		Example: "  cell trust add alice z6Mk… --host",
		Args:    takes(1, 2),
		RunE: func(c *cobra.Command, args []string) error {
			h, s, err := a.load()
			if err != nil {
				return err
			}
			key, known := s.Authors[args[0]]
			var name identity.Name
			if k, err := identity.ParseKey(args[0]); err == nil { // a key without a name
				if len(args) == 2 {
					return usage(c, "the name comes first: cell trust add NAME KEY")
				}
				key, known = k, true
			} else if name, err = identity.ParseName(args[0]); err != nil {
				return err
			}
			if len(args) == 2 {
				k, err := identity.ParseKey(args[1])
				if err != nil {
					return err
				}
				if known && key != k {
					return node.NewError(node.CodeRefused, args[0]+" is the name of another author, "+key.String(), "take it from him first: cell trust rm "+args[0])
				}
				key, known = k, true
			}
			if !known {
				return node.NewError(node.CodeUsage, "the author "+args[0]+" has no key yet", "name it: cell trust add "+args[0]+" KEY")
			}
			if name == "" && !host {
				return usage(c, "a key alone needs a name, or --host")
			}
			return a.trust(c, h, s, name, key, host)
		},
	}
	c.Flags().BoolVar(&host, "host", false, "let code of this author run on this host")
	return c
}

// trust keeps an author's name, if any, and with host that his code may run here.
func (a *app) trust(c *cobra.Command, h home.Home, s node.Settings, name identity.Name, key identity.Key, host bool) error {
	if name != "" {
		if err := node.EditSettings(h, key.String(), "authors", string(name)); err != nil {
			return err
		}
	}
	if host && !slices.Contains(s.Hosts, key) {
		if err := node.EditSettings(h, keyTexts(append(s.Hosts, key)), "trust", "hosts"); err != nil {
			return err
		}
	}
	return a.reload(c)
}

func (a *app) trustRmCmd() *cobra.Command {
	var hostOnly bool
	c := &cobra.Command{
		Use:   "rm NAME|KEY",
		Short: "Forget an author's name and that his code may run here",
		Long: `Forgets an author's name, and that his code may run here; with --host only the latter.
Replicas that run already are not ended.`,
		Args: takes(1, 1),
		RunE: func(c *cobra.Command, args []string) error {
			h, s, err := a.load()
			if err != nil {
				return err
			}
			key, named := s.Authors[args[0]]
			if !named {
				if key, err = identity.ParseKey(args[0]); err != nil {
					return node.NewError(node.CodeNoCell, "no author is called "+clean(args[0]), "see: cell trust")
				}
			}
			hosts := slices.DeleteFunc(slices.Clone(s.Hosts), func(k identity.Key) bool { return k == key })
			removed := len(hosts) < len(s.Hosts)
			if removed {
				if err := node.EditSettings(h, keyTexts(hosts), "trust", "hosts"); err != nil {
					return err
				}
			}
			for name, k := range s.Authors {
				if k == key && !hostOnly && (name == args[0] || !named) {
					if err := node.EditSettings(h, nil, "authors", name); err != nil {
						return err
					}
					removed = true
				}
			}
			if !removed {
				return node.NewError(node.CodeNoCell, clean(args[0])+" is not trusted", "see: cell trust")
			}
			return a.reload(c)
		},
	}
	c.Flags().BoolVar(&hostOnly, "host", false, "keep the name, only take back that his code may run here")
	return c
}

func keyTexts(keys []identity.Key) []string {
	out := make([]string, len(keys))
	for i, k := range keys {
		out[i] = k.String()
	}
	return out
}
