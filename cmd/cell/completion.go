package main

import (
	"context"
	"slices"
	"strings"
	"time"

	"cell.network/cell/internal/node"
	"github.com/spf13/cobra"
)

func (a *app) completionCmd() *cobra.Command {
	shells := []string{"bash", "zsh", "fish", "powershell"}
	return &cobra.Command{
		Use:   "completion bash|zsh|fish|powershell",
		Short: "Print a script that lets a shell complete commands and names of cells",
		Example: `  source <(cell completion bash)
  cell completion zsh > "${fpath[1]}/_cell"
  cell completion fish > ~/.config/fish/completions/cell.fish`,
		Args:      takes(1, 1),
		ValidArgs: shells,
		RunE: func(c *cobra.Command, args []string) error {
			switch args[0] {
			case "bash":
				return c.Root().GenBashCompletionV2(a.term.out, true)
			case "zsh":
				return c.Root().GenZshCompletion(a.term.out)
			case "fish":
				return c.Root().GenFishCompletion(a.term.out, true)
			case "powershell":
				return c.Root().GenPowerShellCompletionWithDesc(a.term.out)
			}
			e := usage(c, "no completion for the shell %q", clean(args[0]))
			if near := nearest(args[0], shells); near != "" {
				e.Hint = "did you mean: cell completion " + near
			}
			return e
		},
	}
}

// completeWait bounds how long a key press may wait for the node.
const completeWait = 500 * time.Millisecond

// completeCells offers the cells on this host.
func (a *app) completeCells(_ *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return a.offer(prefix, func(r node.Replica) []string {
		name, _, _ := strings.Cut(r.Cell, "@")
		return []string{name}
	})
}

// completeMethods offers the methods of the cells on this host.
func (a *app) completeMethods(_ *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return a.offer(prefix, func(r node.Replica) []string {
		name, _, _ := strings.Cut(r.Cell, "@")
		out := methods(r)
		for i, m := range out {
			out[i] = name + "/" + m
		}
		return out
	})
}

func (a *app) offer(prefix string, words func(node.Replica) []string) ([]string, cobra.ShellCompDirective) {
	client, err := a.dial()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), completeWait)
	defer cancel()
	replicas, err := client.Replicas(ctx)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var out []string
	for _, r := range replicas {
		for _, w := range words(r) {
			if w = clean(w); strings.HasPrefix(w, prefix) {
				out = append(out, w)
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out), cobra.ShellCompDirectiveNoFileComp
}
