//go:build !linux

package node

// Sample implements [Meter].
func (SystemMeter) Sample(int) (Usage, error) { return Usage{}, ErrNotMeasured }
