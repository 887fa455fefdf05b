package cluster

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"throttle-proxy/integration/redistest"
)

// What was never sent is given back without the store too: from this replica's
// shares, from what it owes, and once the store answers from what that has.
func TestRedis_WhatWasNeverSentDuringAnOutageIsGivenBack(t *testing.T) {
	t.Parallel()
	server := startRedis(t)
	link := redistest.NewLink(t, server.Addr)
	told := newChanges()
	r, other := join(t, link.URL(), Options{Timeout: storeTimeout, Observe: told.observe}), join(t, server.URL(), Options{Self: Replica{ID: "replica-1"}})
	stored, owed, shared := charge("stored", "10/h"), charge("owed", "10/h"), charge("shared", "1/s,burst=1")
	before := admit(t, r, request("before", stored)).Grant
	link.Refuse()
	link.Cut()
	lose(t, r)
	told.next(t, StoreAway)
	before.Unsent()
	var grants []*Grant
	for range 3 {
		grants = append(grants, degraded(t, r, Admitted, by(Open, unlocked(owed))).Grant)
	}
	grants[0].Unsent() // is not the last
	grants[2].Unsent()
	grants[2].Unsent()
	var share *Grant
	eventually(t, "a share", func() bool {
		v := ask(t, r, by(Local, request("share", shared)))
		share = v.Grant
		return v.Outcome == Admitted
	})
	for range 5 {
		share.Unsent()
		share = degraded(t, r, Admitted, by(Local, request("share", shared))).Grant
	}
	share.Unsent()
	link.Heal()
	told.next(t, StoreBack)
	if got := admit(t, other, unlocked(owed)).Decisions[0].Remaining; got != 7 {
		t.Errorf("got %d remaining, want 7", got)
	}
	client := server.Client()
	eventually(t, "given back", func() bool { return client.Exists(t.Context(), "throttle:2:{slack}:rate:stored").Val() == 0 })
	admit(t, other, request("before"))
	admit(t, other, request("share", shared))
}

// Where a refund may have been carried out it is not told again: it would give
// back another's request.
func TestRedis_RefundIsToldOnce(t *testing.T) {
	server := startRedis(t)
	link := redistest.NewLink(t, server.Addr)
	r, other := join(t, link.URL(), Options{Timeout: storeTimeout}), join(t, server.URL(), Options{Self: Replica{ID: "replica-1"}})
	three := charge("three", "3/h")
	admit(t, other, unlocked(three))
	grant := admit(t, r, unlocked(three)).Grant
	eventually(t, "the scripts are there", func() bool { return r.Status().Live == 2 })
	link.LoseAnswers(1, refundScript.hash)
	grant.Unsent()
	admit(t, other, unlocked(three)) // may have the TAT that was given back
	time.Sleep(2 * retryAfter)       // for a second time
	admit(t, other, unlocked(three))
	expect(t, other, Limited, unlocked(three))
}

// A refusal can be on its way while what it refuses for is given back.
func TestRedis_RefusalFromBeforeARefundIsForgotten(t *testing.T) {
	server := startRedis(t)
	link, client := redistest.NewLink(t, server.Addr), server.Client()
	r := join(t, link.URL(), Options{})
	one := charge("one", "1/h")
	grant := admit(t, r, request("a", one)).Grant
	eventually(t, "the scripts are there", func() bool { return r.Status().Live == 1 })
	before := scriptsRun(t, client)
	believeLong(r)
	link.Delay(700 * time.Millisecond)
	refused := make(chan Verdict)
	go func() {
		v, _ := r.Admit(context.Background(), request("b", one))
		refused <- v
	}()
	eventually(t, "decided", func() bool { return scriptsRun(t, client) > before })
	grant.Unsent()
	link.Heal()
	if v := <-refused; v.Outcome != Limited {
		t.Fatalf("got %+v, want a refusal from before", v)
	}
	admit(t, r, request("b", one))
}

// Whatever number of callers comes, what all of them share is not forgotten.
func TestMemory_CallersDisplaceNoSharedBudgetAndNoneJustSpent(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := NewMemory("replica-0")
		shared, callers := charge("shared", "1/m,burst=1"), charge("callers", "1/h,burst=1")
		admit(t, m, unlocked(shared))
		for i := range Capacity + 10 {
			callers.Caller = fmt.Sprint(i)
			admit(t, m, unlocked(callers))
		}
		for range 100 {
			expect(t, m, Limited, unlocked(shared))
		}
		expect(t, m, Limited, unlocked(callers)) // the last one's
	})
}

func TestMemory_CallersCoolDownsDisplaceNoRoutes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := NewMemory("replica-0")
		for _, name := range []string{"", "of a pool"} {
			admit(t, m, under(unlocked(), name))
			m.Pause("slack", name, time.Minute, 429)
		}
		for i := range Capacity + 10 {
			m.Pause("slack", fmt.Sprint(i), time.Hour, 429)
		}
		for _, names := range [][]string{{""}, {"of a pool"}, {"of another", fmt.Sprint(Capacity + 9)}} {
			expect(t, m, CoolingDown, under(unlocked(), names...))
		}
		all := m.Status().Pauses
		callers := len(slices.DeleteFunc(slices.Clone(all), func(p PauseStatus) bool { return !p.Caller }))
		if len(all) != Capacity+2 || callers != Capacity {
			t.Errorf("got %d cool-downs, %d of them callers', want all but two of %d", len(all), callers, Capacity+2)
		}
	})
}
