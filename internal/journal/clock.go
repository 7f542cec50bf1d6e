package journal

import (
	"cmp"
	"errors"
	"fmt"
	"strconv"
	"time"
)

// MaxSkew is how far ahead of this clock another node's stamp may be.
const MaxSkew = 5 * time.Minute

// ErrStamp says that a text is no stamp, or one from too far ahead.
var ErrStamp = errors.New("bad time stamp")

const (
	stampWall  = "2006-01-02T15:04:05.000000000Z"
	stampSize  = len(stampWall) + len("_00000")
	maxCounter = 99999
)

// Stamp is a point of the hybrid logical clock; its text form is in the package comment.
type Stamp struct {
	Wall  int64 // nanoseconds since 1970
	Count uint32
}

func (s Stamp) wallTime() time.Time { return time.Unix(0, s.Wall).UTC() }

// String returns the stamp's text form, which has a fixed length.
func (s Stamp) String() string {
	return s.wallTime().Format(stampWall) + fmt.Sprintf("_%05d", s.Count)
}

// Compare returns -1, 0 or +1 as s is before, equal to or after t.
func (s Stamp) Compare(t Stamp) int {
	return cmp.Or(cmp.Compare(s.Wall, t.Wall), cmp.Compare(s.Count, t.Count))
}

// ParseStamp reads the text form. Errors wrap [ErrStamp].
func ParseStamp(text string) (Stamp, error) {
	if len(text) != stampSize {
		return Stamp{}, fmt.Errorf("%w: %d characters, want %d", ErrStamp, len(text), stampSize)
	}
	wall, err := time.Parse(stampWall, text[:len(stampWall)])
	if err != nil {
		return Stamp{}, fmt.Errorf("%w: %q", ErrStamp, text)
	}
	count, err := strconv.ParseUint(text[len(stampWall)+1:], 10, 32)
	s := Stamp{Wall: wall.UnixNano(), Count: uint32(count)}
	if err != nil || s.String() != text {
		return Stamp{}, fmt.Errorf("%w: %q", ErrStamp, text)
	}
	return s, nil
}

// clock is a hybrid logical clock: it never goes back, though the wall clock may.
type clock struct{ last Stamp }

// now returns a stamp later than all before it.
func (c *clock) now(wall time.Time) Stamp {
	switch ns := wall.UnixNano(); {
	case ns > c.last.Wall:
		c.last = Stamp{Wall: ns}
	case c.last.Count < maxCounter:
		c.last.Count++
	default:
		c.last = Stamp{Wall: c.last.Wall + 1}
	}
	return c.last
}

// observe makes all later stamps later than s.
func (c *clock) observe(s Stamp, wall time.Time) error {
	if ahead := s.wallTime().Sub(wall); ahead > MaxSkew {
		return fmt.Errorf("%w: %v ahead of this clock", ErrStamp, ahead.Round(time.Second))
	}
	if s.Compare(c.last) > 0 {
		c.last = s
	}
	return nil
}
