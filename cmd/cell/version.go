package main

import (
	"runtime"

	"cell.network/cell/internal/node"
	"cell.network/cell/internal/ribosome"
	"github.com/spf13/cobra"
)

func (a *app) versionCmd() *cobra.Command {
	c := &cobra.Command{
		Use:   "version",
		Short: "Print the version of this program",
		Args:  takes(0, 0),
		RunE: func(*cobra.Command, []string) error {
			if !a.json {
				a.term.print("cell %s (%s, %s/%s)\n", node.Version(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
				return nil
			}
			return withRibosome(func(r *ribosome.Ribosome) error {
				return a.term.json(struct {
					Version  string `json:"version"`
					Go       string `json:"go"`
					OS       string `json:"os"`
					Arch     string `json:"arch"`
					Protocol int    `json:"protocol"` // of the control API
					SDK      string `json:"sdk"`      // version that new cells require
				}{node.Version(), runtime.Version(), runtime.GOOS, runtime.GOARCH, node.Protocol, r.SDKVersion()})
			})
		},
	}
	a.jsonFlag(c, "print {version, go, os, arch, protocol, sdk}")
	return c
}
