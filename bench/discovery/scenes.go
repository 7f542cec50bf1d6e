package main

// Names of scenes, which are the first half of what rows show.
const (
	oursLookups  = "our lookups"
	stockLookups = "stock lookups"
)

// scenes are what children of this program play.
var scenes = map[string]scene{
	oursLookups: func(s setup, f map[string]figure) error {
		net, err := newOurs(s, newWAN(s), nil)
		if err != nil {
			return err
		}
		defer net.close()
		if err := net.preseed(); err != nil {
			return err
		}
		return lookups(s, net, f)
	},
	stockLookups: func(s setup, f map[string]figure) error {
		net, err := newStock(s, newWAN(s))
		if err != nil {
			return err
		}
		defer net.close()
		return lookups(s, net, f)
	},
}
