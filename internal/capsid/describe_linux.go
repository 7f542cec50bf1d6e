package capsid

import (
	"fmt"

	"cell.network/cell/internal/capsid/stage"
)

// describe says in plain words what holds for a program and what does not.
func (p *proc) describe(s Spec, o *stage.Order, support *Support, g cgroups) {
	yes := func(text string) { p.enforced = append(p.enforced, text) }
	no := func(text string) { p.notEnforced = append(p.notEnforced, text) }
	sandbox, guards := o.Sandbox != nil, o.Guards
	switch {
	case sandbox:
		files := fmt.Sprintf("sees no files but its own: empty root, /tmp of %s, /proc, /dev/null, /dev/zero, /dev/urandom", bytesText(s.Limits.Scratch))
		yes(files)
		if s.Loopback {
			yes("has a network with nobody else in it")
		} else {
			yes("has no network")
		}
		yes("sees and signals no other processes")
	case s.Isolation == None:
		no("it was asked for without a sandbox")
	default:
		no("there are no namespaces here: " + support.Sandbox)
	}
	if guards.Drop {
		yes("has no capabilities and cannot gain any")
	}
	if guards.Landlock != nil {
		yes(landlockText(support.Landlock))
	} else if s.Isolation == Auto {
		no("not held to its files by Landlock")
	}
	if guards.Filter != nil {
		yes("system calls are filtered")
	} else {
		no("system calls are not filtered")
	}
	if !sandbox {
		if guards.Landlock == nil {
			no("reads and writes every file that the node may")
		} else {
			no("reads the system's programs and libraries, and has no /tmp")
		}
		switch {
		case guards.Filter != nil:
			yes("has no network: makes none but Unix sockets")
		case guards.Landlock == nil || support.Landlock < 4:
			no("uses the network as the node may")
		default:
			no("uses the network as the node may, but for TCP")
		}
		if guards.Landlock == nil || support.Landlock < 6 {
			no("sees and signals the processes of the node's user, its keeper and the node among them")
		} else {
			yes("signals no processes but its own")
		}
	}
	yes("ends as a whole, and with its node")
	limited, unlimited := limitTexts(s.Limits, g, sandbox)
	p.enforced = append(p.enforced, limited...)
	p.notEnforced = append(p.notEnforced, unlimited...)
	switch {
	case s.Data != "":
		yes(fmt.Sprintf("ended when %s outgrows %s, looked at each second", dataFolder, bytesText(s.Limits.Data)))
		no("files that it deleted while open are not counted")
	case sandbox:
		yes(fmt.Sprintf("%s of %s, which is memory", dataFolder, bytesText(s.Limits.Data)))
	}
	if !support.OwnUsers || !sandbox {
		no("shares its user, and what the kernel counts by user, with the other replicas")
	}
}
