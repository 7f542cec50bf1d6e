//go:build !linux

package main

import (
	"context"
	"runtime"

	"cell.network/cell/internal/home"
	"cell.network/cell/internal/node"
)

func checkSandbox(context.Context, home.Home) []node.Check {
	return bad(node.CheckWarn, "sandbox", runtime.GOOS+" has no namespaces: replicas run as processes of this user", "run cells of authors that you trust only, or use a Linux host")
}
