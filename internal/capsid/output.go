package capsid

import (
	"fmt"
	"io"
	"time"
)

// What a program may print: bursts of maxBurst bytes, on average maxRate bytes
// per second. What exceeds it is dropped, not held back: a program must not
// come to a halt because nobody keeps up with its log.
const (
	maxBurst = 1 << 20
	maxRate  = 256 << 10
)

// output passes a program's prints on to a log within these bounds. It never
// fails, since a failing log would break the program's pipe.
type output struct {
	to      io.Writer
	tokens  float64 // bytes that may be passed on
	last    time.Time
	dropped int64 // bytes since the last Write that was passed on
	broken  bool  // the log failed once; it is not asked again
}

func newOutput(to io.Writer) *output {
	return &output{to: to, tokens: maxBurst, last: time.Now()}
}

// Write is called by one goroutine at a time.
func (o *output) Write(b []byte) (int, error) {
	if o.to == nil || o.broken {
		return len(b), nil
	}
	now := time.Now()
	o.tokens = min(maxBurst, o.tokens+now.Sub(o.last).Seconds()*maxRate)
	o.last = now
	if o.tokens < float64(len(b)) {
		o.dropped += int64(len(b))
		return len(b), nil
	}
	o.tokens -= float64(len(b))
	o.flushNote()
	o.pass(b)
	return len(b), nil
}

// flushNote tells the reader of the log about the gap before what follows.
func (o *output) flushNote() {
	if o.dropped > 0 {
		o.pass(fmt.Appendf(nil, "\n[cell: %d bytes of output dropped: more than %d KiB/s]\n", o.dropped, maxRate>>10))
		o.dropped = 0
	}
}

func (o *output) pass(b []byte) {
	if o.broken || o.to == nil {
		return
	}
	if _, err := o.to.Write(b); err != nil {
		o.broken = true
	}
}
