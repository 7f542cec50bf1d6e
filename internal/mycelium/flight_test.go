package mycelium

import (
	"context"
	"errors"
	"testing"
)

// Whoever begins a fetch hears all of its steps, however soon the first is told.
func TestFlightTellsFirstStep(t *testing.T) {
	var s flights
	failed := errors.New("failed")
	for i := range 2000 {
		heard := 0
		_, err := s.do(t.Context(), "greeter", func(Step) { heard++ }, func(_ context.Context, report func(Step)) (Release, error) {
			report(Step{Kind: StepRefused})
			return Release{}, failed
		})
		if heard != 1 || !errors.Is(err, failed) {
			t.Fatalf("fetch %d: %d steps of 1 were heard, %v", i, heard, err)
		}
	}
}
