package cluster

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"throttle-proxy/limiter"
)

// Another replica may give back to a budget, or an operator raise or delete it.
func TestRedis_RefusalIsBelievedForASecond(t *testing.T) {
	server := startRedis(t)
	one, more := charge("one", "1/h"), charge("more", "1/h")
	r, other := join(t, server.URL(), Options{}), join(t, server.URL(), Options{Self: Replica{ID: "replica-1"}})
	grant := admit(t, other, unlocked(one, more)).Grant
	expect(t, r, Limited, unlocked(one))
	expect(t, r, Limited, unlocked(more))
	grant.Unsent()
	eventually(t, "admitted", func() bool { return ask(t, r, unlocked(one)).Outcome == Admitted })
	expect(t, r, Limited, unlocked(one))
	must(t, server.Client().FlushAll(t.Context()))
	for _, c := range []Charge{one, more} {
		eventually(t, "admitted", func() bool { return ask(t, r, unlocked(c)).Outcome == Admitted })
	}
}

// What is told of a refusal is how long the budget refuses, not for how long that
// is believed.
func TestKnown_RefusalTellsWhenTheNextIsDue(t *testing.T) {
	for name, believed := range map[string]time.Duration{"a store's": beatInterval, "a memory's": time.Hour} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				k := newKnown("replica-0")
				k.believed = min(k.believed, believed)
				a := unlocked(charge("one", "1/h"))
				asked := k.now()
				time.Sleep(100 * time.Millisecond) // until the answer comes
				k.deny(a, []limiter.Decision{{NextAfter: time.Hour}}, asked)
				time.Sleep(believed - 101*time.Millisecond)
				v, refused := k.refusal(a)
				if want := time.Hour - believed + time.Millisecond; !refused || v.Decisions[0].NextAfter != want {
					t.Errorf("got %+v, %t, want a refusal for %v", v, refused, want)
				}
				time.Sleep(time.Millisecond)
				if v, refused := k.refusal(a); refused {
					t.Errorf("got %+v, want nothing known", v)
				}
			})
		})
	}
}

// Also on a replica that looks for no lock, since it is alone.
func TestKnown_WhatWasFoundUnlockedIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const each = 1000
		k := newKnown("replica-0")
		for round := range 5 {
			for i := range each {
				a := request(fmt.Sprint(round, " ", i), charge("one", "1/h"))
				k.deny(a, []limiter.Decision{{NextAfter: time.Hour}}, k.now())
			}
			if n := k.unlocked.Len(); n > each {
				t.Fatalf("got %d remembered, want the last %d", n, each)
			}
			time.Sleep(beatInterval)
		}
	})
}

// What refuses now may have begun after another replica took the lock.
func TestKnown_LockFoundFreeUnderAnEarlierRefusalIsLookedForAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKnown("replica-0")
		a := request("a", charge("one", "1/h"))
		other := request("b", a.Charges[0])
		deny := func() { k.deny(other, []limiter.Decision{{NextAfter: time.Hour}}, k.now()) }
		deny()
		_, before := k.isUnlocked(a)
		time.Sleep(time.Millisecond)
		deny()
		k.foundUnlocked(a, before)
		if unlocked, _ := k.isUnlocked(a); unlocked {
			t.Error("got it free by a look from before")
		}
		_, now := k.isUnlocked(a)
		k.foundUnlocked(a, now)
		if unlocked, _ := k.isUnlocked(a); !unlocked {
			t.Error("got it to be looked for again at once")
		}
	})
}
