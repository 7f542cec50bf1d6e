//go:build !linux

package node

// Sample implements [Meter].
func (SystemMeter) Sample(int) (Usage, error) { return Usage{}, ErrNotMeasured }

// machineLook has nothing to remember here.
type machineLook struct{}

// Machine implements [Meter]: this system does not tell.
func (SystemMeter) Machine() (Machine, error) { return Machine{}, ErrNotMeasured }
