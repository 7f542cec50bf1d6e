package cell

import "embed"

// Source holds the source files of this package and of those that it imports
// from this module, under their paths in it: what a node gives to the cells
// that it builds, so that a new cell needs no network. Programs that do not
// mention it do not carry it.
//
//go:embed LICENSE go.mod
//go:embed call.go codec.go doc.go errors.go method.go node.go serve.go source.go
//go:embed internal/frame/call.go internal/frame/conn.go internal/frame/error.go internal/frame/header.go
//go:embed internal/frame/inbound.go internal/frame/queue.go internal/frame/serve.go internal/frame/times.go internal/frame/worker.go
//go:embed internal/home/home.go
//go:embed internal/identity/key.go internal/identity/name.go internal/identity/private.go
//go:embed internal/membrane/link.go internal/membrane/memory.go internal/membrane/port.go
//go:embed internal/membrane/replica.go internal/membrane/waiters.go
//go:embed internal/ops/ops.go
var Source embed.FS
