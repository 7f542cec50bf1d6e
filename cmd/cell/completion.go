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
	return a.offerReplicas(args, prefix, func(r node.Replica) []string { return []string{bareName(r.Cell)} })
}

// completeReplicas offers the replicas on this host and their cells.
func (a *app) completeReplicas(_ *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
	return a.offerReplicas(args, prefix, func(r node.Replica) []string { return []string{bareName(r.Cell), r.ID} })
}

// completeMethods offers the methods of the cells on this host.
func (a *app) completeMethods(_ *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
	return a.offerReplicas(args, prefix, func(r node.Replica) []string {
		out := methods(r)
		for i, m := range out {
			out[i] = bareName(r.Cell) + "/" + m
		}
		return out
	})
}

// completeKnown offers the cells that the node knows, wherever they run.
func (a *app) completeKnown(_ *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
	return a.offer(args, prefix, func(ctx context.Context, client *node.Client) (words []string, err error) {
		list, err := client.Cells(ctx)
		for _, c := range list {
			words = append(words, bareName(c.Cell))
		}
		return words, err
	})
}

func (a *app) offerReplicas(args []string, prefix string, of func(node.Replica) []string) ([]string, cobra.ShellCompDirective) {
	return a.offer(args, prefix, func(ctx context.Context, client *node.Client) (words []string, err error) {
		replicas, err := client.Replicas(ctx)
		for _, r := range replicas {
			words = append(words, of(r)...)
		}
		return words, err
	})
}

// offer completes a command's only name.
func (a *app) offer(args []string, prefix string, from func(context.Context, *node.Client) ([]string, error)) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	client, err := a.dial()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), completeWait)
	defer cancel()
	words, err := from(ctx, client)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var out []string
	for _, w := range words {
		if w = clean(w); strings.HasPrefix(w, prefix) {
			out = append(out, w)
		}
	}
	slices.Sort(out)
	return slices.Compact(out), cobra.ShellCompDirectiveNoFileComp
}

// bareName is the name in name@author.
func bareName(cell string) string {
	name, _, _ := strings.Cut(cell, "@")
	return name
}
