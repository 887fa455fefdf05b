package upstream

import (
	"context"
	"testing"
)

// TestLife fails if what an exchange has is not cut by its end, is cut twice or when
// it was taken back, or if its context does not end with it by its first cause.
func TestLife(t *testing.T) {
	cuts := 0
	cut := func() { cuts++ }
	var life Life
	life.takes(cut)
	if !life.spares() {
		t.Error("a connection was cut before the end")
	}
	life.takes(cut)
	before := life.Context()
	if life.Cause() != nil || before.Err() != nil {
		t.Errorf("got an end by %v before there was one", life.Cause())
	}
	life.End(errTimeout)
	life.End(errIdle)
	for name, ctx := range map[string]context.Context{"before": before, "after": life.Context()} {
		<-ctx.Done()
		if got := context.Cause(ctx); got != errTimeout {
			t.Errorf("a context made %s the end: got the cause %v, want %v", name, got, errTimeout)
		}
	}
	if life.Cause() != errTimeout || cuts != 1 || life.spares() {
		t.Errorf("got the cause %v and %d cuts, want %v and 1", life.Cause(), cuts, errTimeout)
	}
	if life.takes(cut); cuts != 2 {
		t.Error("a connection outlives an end that came before it")
	}

	var early Life
	early.End(errTimeout)
	if ctx := early.Context(); context.Cause(ctx) != errTimeout {
		t.Errorf("got the cause %v of a context that was first asked for after the end, want %v", context.Cause(ctx), errTimeout)
	}
}
