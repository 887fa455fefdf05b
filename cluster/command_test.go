package cluster

import (
	"strings"
	"testing"
)

// TestLongAnswerCostsNoOtherCommand: the room in which commands are written is kept as
// long as it is usual.
func TestLongAnswerCostsNoOtherCommand(t *testing.T) {
	for size, want := range map[int]bool{1000: true, 300_000: false} {
		c := newCommand("throttle")
		c.arg(strings.Repeat("a", size))
		c.done()
		if got := cap(c.text) >= size; got != want {
			t.Errorf("an argument of %d bytes: got that its room is kept: %v, want %v", size, got, want)
		}
	}
}
