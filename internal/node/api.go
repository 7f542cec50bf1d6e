package node

import (
	"net/http"
	"time"

	"cell.network/cell/internal/identity"
)

// Protocol is the version of the control API; it goes into [HeaderProtocol].
const Protocol = 1

// HeaderProtocol names the header that carries [Protocol] in requests and answers.
const HeaderProtocol = "Cell-Protocol"

// UpgradeFrame is the protocol that POST /v1/connect upgrades to.
const UpgradeFrame = "cell-frame/1"

// Status says what a node is and where it listens.
type Status struct {
	Version  string           `json:"version"`
	Protocol int              `json:"protocol"`
	Node     identity.Key     `json:"node"`
	Author   identity.Key     `json:"author,omitzero"` // whom a bare name means
	Colony   identity.Key     `json:"colony,omitzero"` // zero: the node is in none
	Network  identity.Network `json:"network"`
	Mode     string           `json:"mode"`                     // one of the Mode constants
	Only     bool             `json:"bootstrap_only,omitempty"` // no cells: a way into the network, and a relay
	Listen   []string         `json:"listen"`                   // full multiaddrs, /p2p included
	LAN      LANStatus        `json:"lan"`
	DHT      DHTStatus        `json:"dht"`
	Started  time.Time        `json:"started"`
	Home     string           `json:"home"` // folder of config.toml and keys
	PID      int              `json:"pid"`
}

// LANStatus says whether announcements reach the local network.
type LANStatus struct {
	OK         bool     `json:"ok"`
	Interfaces []string `json:"interfaces,omitempty"` // those that work
	Note       string   `json:"note,omitempty"`       // why not, in plain words
}

// DHTStatus says how many nodes the routing table holds.
type DHTStatus struct {
	Size int    `json:"size"`
	Note string `json:"note,omitempty"`
}

// Step names a stage of starting a cell, in the order in which they come.
type Step string

// The steps of /v1/run.
const (
	StepRead     Step = "read"
	StepBuild    Step = "build"
	StepStart    Step = "start"
	StepReady    Step = "ready"
	StepAnnounce Step = "announce"
	StepAlive    Step = "alive"
)

// The further steps of /v1/grow, before and after those.
const (
	StepFind   Step = "find"
	StepFetch  Step = "fetch"
	StepVerify Step = "verify"
	StepSeed   Step = "seed"
)

// StepDrain is the step of /v1/drain.
const StepDrain Step = "drain"

// Published is a release that the node signed and now seeds.
type Published struct {
	Cell    string    `json:"cell"` // name@author
	Version string    `json:"version"`
	Seq     uint64    `json:"seq"`
	Commit  string    `json:"commit"`
	Tag     string    `json:"tag"` // in the repository that it was published from
	Expires time.Time `json:"expires"`
	Bytes   int64     `json:"bytes"`
	Files   int       `json:"files"`
}

// Progress is a line of /v1/run, /v1/grow and /v1/drain. The last one holds
// Replica or Error, the others Step and Text; a drain that is done just ends.
// A build may report several lines of one step.
type Progress struct {
	Step    Step      `json:"step,omitempty"`
	Text    string    `json:"text,omitempty"`
	TookMS  float64   `json:"took_ms,omitempty"` // 0 while the step goes on
	Replica *Replica  `json:"replica,omitempty"`
	Error   *APIError `json:"error,omitempty"`
}

// The states of a replica.
const (
	ReplicaStarting = "starting"
	ReplicaAlive    = "alive"
	ReplicaDraining = "draining"
	ReplicaExited   = "exited"
)

// Replica is a process that serves a cell, or served it.
type Replica struct {
	ID          string    `json:"id"`
	Cell        string    `json:"cell"`  // name@author
	State       string    `json:"state"` // one of the Replica constants
	PID         int       `json:"pid,omitempty"`
	Started     time.Time `json:"started"`
	Methods     []string  `json:"methods,omitempty"` // names without the cell
	Served      uint64    `json:"served"`            // requests since the start
	Inflight    int       `json:"inflight"`
	CPUSeconds  float64   `json:"cpu_s,omitempty"`        // that its processes used since the start
	Memory      int64     `json:"memory,omitempty"`       // resident bytes of its processes now
	Enforced    []string  `json:"enforced,omitempty"`     // limits that the system holds
	NotEnforced []string  `json:"not_enforced,omitempty"` // limits that it does not, and why
	Exit        string    `json:"exit,omitempty"`         // how it ended, in words
}

// CellStatus is what this node knows of a whole cell, on all hosts, and what it
// has decided about it.
type CellStatus struct {
	Cell     string  `json:"cell"` // name@author
	Version  string  `json:"version,omitempty"`
	Seq      uint64  `json:"seq,omitempty"` // of the release that this node holds; 0: none
	Want     int     `json:"want"`          // replicas that there should be
	Live     int     `json:"live"`
	Starting int     `json:"starting"`
	Draining int     `json:"draining"`
	Min      int     `json:"min"`
	Max      int     `json:"max"`
	Stopped  bool    `json:"stopped,omitempty"`
	Bounds   string  `json:"bounds"`            // where Min and Max come from: "Cell.toml" or "scaled by z6Mk… at TIME"
	Code     bool    `json:"code"`              // this node could start it now
	Drained  bool    `json:"drained,omitempty"` // this node was told to let go of it
	Offered  float64 `json:"offered"`           // requests a second that came
	Shed     float64 `json:"shed"`              // of these, refused for load
	Inflight float64 `json:"inflight"`
	P99MS    float64 `json:"p99_ms"`   // of the slowest replica
	CPU      float64 `json:"cpu"`      // mean share of the limit, 0..1
	Decision string  `json:"decision"` // the standing one of this node, a sentence

	Replicas []ReplicaLoad `json:"replicas"`
	Hosts    []HostLoad    `json:"hosts"`
}

// ReplicaLoad is a replica as its host tells others of it.
type ReplicaLoad struct {
	Node       identity.Key `json:"node"`
	Self       bool         `json:"self,omitempty"` // on this node
	ID         uint64       `json:"id"`             // of this node
	Generation uint64       `json:"generation"`     // order of birth in the cell: lower is older
	State      string       `json:"state"`          // starting, alive, draining, dead or failed
	Offered    float64      `json:"offered"`        // requests a second that came
	Shed       float64      `json:"shed"`           // of these, refused for load
	Inflight   float64      `json:"inflight"`
	P99MS      float64      `json:"p99_ms"`
	CPU        float64      `json:"cpu"`    // share of its limit, 0..1
	Memory     int64        `json:"memory"` // bytes
}

// HostLoad is a host that has a cell, or could have it.
type HostLoad struct {
	Node    identity.Key `json:"node"`
	Self    bool         `json:"self,omitempty"`
	Code    bool         `json:"code"`     // it could start the cell now
	Room    int          `json:"room"`     // replicas that it would still take
	CPUFree float64      `json:"cpu_free"` // 0..1
	AgeMS   float64      `json:"age_ms"`   // since it last said so
}

// Scaled is an operator's word on how many replicas a cell has.
type Scaled struct {
	Cell       string `json:"cell"` // name@author
	Min        int    `json:"min"`
	Max        int    `json:"max"`
	Stopped    bool   `json:"stopped,omitempty"`
	Everywhere bool   `json:"everywhere"` // signed and told to all hosts; false: holds on this node only, since no key is here
}

// Found is a line of /v1/lookup: a node that serves the cell, or, with
// follow=1, one that serves it no more. A node that is found again without
// having gone has other addresses or another state. The last line may hold
// only Error.
type Found struct {
	Cell   string       `json:"cell,omitempty"` // name@author
	Node   identity.Key `json:"node,omitzero"`
	Addrs  []string     `json:"addrs,omitempty"`  // multiaddrs
	Tier   string       `json:"tier,omitempty"`   // self, cache, lan or dht
	Hops   *int         `json:"hops,omitempty"`   // nodes of the DHT that were asked for its lease, one after the other; nil: it came otherwise
	Holder identity.Key `json:"holder,omitzero"`  // the last of them
	TookMS float64      `json:"took_ms"`          // since the lookup began
	RTTMS  float64      `json:"rtt_ms,omitempty"` // to the node and back; 0: not measured
	State  string       `json:"state,omitempty"`  // alive or draining
	Gone   bool         `json:"gone,omitempty"`   // it serves the cell no more
	Why    string       `json:"why,omitempty"`    // how it is known that it serves, or why it does no more
	Error  *APIError    `json:"error,omitempty"`
}

// Peer is another node that this one knows.
type Peer struct {
	Node      identity.Key `json:"node"`
	Addrs     []string     `json:"addrs,omitempty"`
	Tiers     []string     `json:"tiers,omitempty"` // lan, dht: where it was met
	Connected bool         `json:"connected"`
	Path      string       `json:"path,omitempty"`   // direct, or relayed via a node; "": not connected
	RTTMS     float64      `json:"rtt_ms,omitempty"` // 0: not measured
	Cells     int          `json:"cells"`            // that it serves, as far as this node knows
}

// Pong is a line of /v1/ping. A line with Error is a lost ping; the rest goes on.
type Pong struct {
	Node  identity.Key `json:"node,omitzero"`
	RTTMS float64      `json:"rtt_ms"`
	Path  string       `json:"path,omitempty"` // direct, relayed via a node, or self
	Addr  string       `json:"addr,omitempty"` // of a direct path
	Error *APIError    `json:"error,omitempty"`
}

// The outcomes of a check.
const (
	CheckOK   = "ok"
	CheckWarn = "warn"
	CheckFail = "fail"
)

// Check is one finding of `cell doctor`.
type Check struct {
	Name     string `json:"name"`
	Status   string `json:"status"`           // one of the Check constants
	Evidence string `json:"evidence"`         // what was seen
	Remedy   string `json:"remedy,omitempty"` // what to do, unless ok
}

// Requests and wrapped answers of the control API.
type (
	RunRequest struct {
		Dir string `json:"dir"`
	} // absolute
	PublishRequest struct {
		Dir     string `json:"dir"`     // absolute
		Version string `json:"version"` // "": that of Cell.toml
	}
	GrowRequest struct {
		Ref     string   `json:"ref"`
		Mirrors []string `json:"mirrors,omitempty"`
	}
	KillRequest struct {
		Replica string `json:"replica"`
	}
	StopRequest struct {
		Cell string `json:"cell"`
	} // a reference, as typed
	ScaleRequest struct {
		Cell  string `json:"cell"`          // a reference, as typed
		Min   *int   `json:"min,omitempty"` // nil: as it is
		Max   *int   `json:"max,omitempty"`
		Reset bool   `json:"reset,omitempty"` // back to the bounds of Cell.toml
	}
	DrainRequest struct {
		Target string `json:"target"` // "": the whole node; a cell, or a replica such as greeter-3
		Undo   bool   `json:"undo,omitempty"`
	}
	PingRequest struct {
		Target string `json:"target"` // a node key or a reference of a cell
		Count  int    `json:"count"`
	}
	ReplicaList struct {
		Replicas []Replica `json:"replicas"`
	}
	CellList struct {
		Cells []CellStatus `json:"cells"`
	}
	PeerList struct {
		Peers []Peer `json:"peers"`
	}
	CheckList struct {
		Checks []Check `json:"checks"`
	}
	ErrorBody struct {
		Error *APIError `json:"error"`
	}
)

// Exit codes of `cell`. They are promised to scripts: never change one.
const (
	ExitOK          = 0
	ExitFailed      = 1
	ExitUsage       = 2
	ExitNotFound    = 3 // no such cell, or no replica of it
	ExitNotRunning  = 4 // the node is not reachable
	ExitRefused     = 5 // by trust: signature, unknown author, permission
	ExitTimeout     = 6
	ExitVersion     = 7 // node and cell speak different protocols
	ExitInterrupted = 130
)

// Codes of an [APIError].
const (
	CodeFailed      = "failed"
	CodeUsage       = "usage"
	CodeNoCell      = "no_such_cell"
	CodeNoReplica   = "no_replica"
	CodeNotRunning  = "not_running"
	CodeRefused     = "refused"
	CodeUntrusted   = "untrusted" // refused since the operator does not trust the author
	CodeTimeout     = "timeout"
	CodeVersion     = "version_mismatch"
	CodeInterrupted = "interrupted"
)

var exits = map[string]int{
	CodeFailed: ExitFailed, CodeUsage: ExitUsage, CodeNoCell: ExitNotFound, CodeNoReplica: ExitNotFound,
	CodeNotRunning: ExitNotRunning, CodeRefused: ExitRefused, CodeUntrusted: ExitRefused,
	CodeTimeout: ExitTimeout, CodeVersion: ExitVersion, CodeInterrupted: ExitInterrupted,
}

var statuses = map[string]int{
	CodeUsage: http.StatusBadRequest, CodeNoCell: http.StatusNotFound, CodeNoReplica: http.StatusNotFound,
	CodeRefused: http.StatusForbidden, CodeUntrusted: http.StatusForbidden, CodeTimeout: http.StatusGatewayTimeout, CodeVersion: http.StatusUpgradeRequired,
	CodeNotRunning: http.StatusServiceUnavailable,
}

// APIError is an error for people and for scripts at once.
type APIError struct {
	Code    string `json:"code"`           // one of the Code constants
	Message string `json:"message"`        // what and why, lower case, no full stop
	Hint    string `json:"hint,omitempty"` // what to do next
	Exit    int    `json:"exit,omitempty"` // status of the command that meets it

	Author identity.Key `json:"author,omitzero"` // who is not trusted, with CodeUntrusted
}

// NewError makes an error with the exit code that belongs to code. Hint may be empty.
func NewError(code, message, hint string) *APIError {
	exit, ok := exits[code]
	if !ok {
		exit = ExitFailed
	}
	return &APIError{Code: code, Message: message, Hint: hint, Exit: exit}
}

// Untrusted makes the error of a cell whose author may not run code here.
func Untrusted(author identity.Key) *APIError {
	e := NewError(CodeUntrusted, "code of "+author.String()+" may not run here: the author is not trusted",
		"if you know the author: cell trust add NAME "+author.String()+" --host")
	e.Author = author
	return e
}

func (e *APIError) Error() string { return e.Message }

// Is reports whether target is an APIError with the same code, so that
// errors.Is(err, &APIError{Code: CodeTimeout}) works.
func (e *APIError) Is(target error) bool {
	t, ok := target.(*APIError)
	return ok && t.Code == e.Code
}

// HTTPStatus is the status under which the control API sends e.
func (e *APIError) HTTPStatus() int {
	if s, ok := statuses[e.Code]; ok {
		return s
	}
	return http.StatusInternalServerError
}
