//go:build !linux

package pheromone

import (
	"errors"
	"os"
)

// listenChanges is for systems that tell of changes; here they are looked for.
func listenChanges() (*os.File, error) { return nil, errors.ErrUnsupported }
