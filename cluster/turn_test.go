package cluster

import (
	"testing"
	"time"

	"throttle-proxy/limiter"
)

// Once a budget has refused, one ask at a time finds out whether it goes on to.
func TestKnown_AsksOfARefusingBudgetTakeTurns(t *testing.T) {
	k, ask := newKnown("replica-0"), request("a", charge("one", "1/h"))
	if mine, others := k.turnOf(ask); mine.over != nil || others != nil {
		t.Fatal("got a turn where nothing has refused")
	}
	refused := Verdict{Outcome: Limited, Decisions: []limiter.Decision{{NextAfter: time.Hour}}}
	k.deny(ask, refused.Decisions, k.now())
	first, _ := k.turnOf(ask)
	_, others := k.turnOf(ask)
	if first.over == nil || others == nil {
		t.Fatalf("got %v and %v, want one that asks and one that waits", first, others)
	}
	k.endTurn(first, refused, 0)
	<-others
	if first, _ = k.turnOf(ask); first.over == nil {
		t.Fatal("got none, want the next one's turn")
	}
	k.endTurn(first, Verdict{}, 0) // no answer: nobody waits for another any more
	if mine, others := k.turnOf(ask); mine.over != nil || others != nil {
		t.Error("got a turn after one that found out nothing")
	}
}
