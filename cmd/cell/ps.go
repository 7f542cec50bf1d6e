package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"cell.network/cell/internal/node"
	"github.com/spf13/cobra"
)

func (a *app) psCmd() *cobra.Command {
	var quiet, wide bool
	c := &cobra.Command{
		Use:   "ps",
		Short: "List the replicas on this host",
		Long: `Lists the replicas on this host. SERVED counts requests since the start, BUSY those
in flight. With --wide also what of the sandbox the system holds, and what not.`,
		Args: takes(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			client, err := a.dial()
			if err != nil {
				return err
			}
			defer client.Close()
			replicas, err := client.Replicas(c.Context())
			if err != nil {
				return err
			}
			switch {
			case a.json:
				if replicas == nil {
					replicas = []node.Replica{}
				}
				return a.term.json(node.ReplicaList{Replicas: replicas})
			case quiet:
				for _, r := range replicas {
					a.term.print("%s\n", clean(r.ID))
				}
				return nil
			case len(replicas) == 0:
				a.term.say("no cell runs here; start one with: cell run DIR")
				return nil
			}
			rows := make([][]string, len(replicas))
			for i, r := range replicas {
				rows[i] = []string{r.ID, shortCell(r.Cell), state(r), pid(r.PID), age(r.Started),
					strconv.FormatUint(r.Served, 10), strconv.Itoa(r.Inflight), cpu(r), mebibytes(r.Memory), strings.Join(methods(r), ",")}
				if wide {
					rows[i] = append(rows[i], strings.Join(r.Enforced, ", "), strings.Join(r.NotEnforced, ", "))
				}
			}
			header := "ID CELL STATE PID AGE SERVED BUSY CPU MEMORY METHODS"
			if wide {
				header += " ENFORCED NOT-ENFORCED"
			}
			a.term.table(header, rows)
			return nil
		},
	}
	c.Flags().BoolVarP(&quiet, "quiet", "q", false, "print ids only")
	c.Flags().BoolVarP(&wide, "wide", "w", false, "print what the sandbox enforces")
	a.jsonFlag(c, `print {"replicas":[…]}`)
	return c
}

// age is how long ago t was, in whole seconds.
func age(t time.Time) string {
	if d := time.Since(t).Round(time.Second); d < 48*time.Hour {
		return d.String()
	}
	return duration(time.Since(t))
}

func state(r node.Replica) string {
	if r.State == node.ReplicaExited && r.Exit != "" {
		return fmt.Sprintf("%s (%s)", r.State, r.Exit)
	}
	return r.State
}

// methods are the names of a replica's methods without that of the cell.
func methods(r node.Replica) []string {
	out := make([]string, len(r.Methods))
	for i, m := range r.Methods {
		out[i] = m[strings.LastIndexByte(m, '/')+1:]
	}
	return out
}

// cpu is the processor time that a replica used, or "" where nobody measures.
func cpu(r node.Replica) string {
	if r.Memory == 0 {
		return ""
	}
	return duration(time.Duration(r.CPUSeconds * float64(time.Second)))
}

func pid(p int) string {
	if p == 0 {
		return ""
	}
	return strconv.Itoa(p)
}

// shortCell shortens the author's key in name@author.
func shortCell(s string) string {
	name, author, ok := strings.Cut(s, "@")
	if k, _, err := node.ParseTarget(author); ok && err == nil && !k.IsZero() {
		return name + "@" + k.Short()
	}
	return s
}
