package ribosome

import (
	"io/fs"
	"testing"

	"cell.network/cell"
)

// sdk is what nodes bring along.
func sdk(*testing.T) fs.FS { return cell.Source }
