package cluster

import (
	"slices"
	"testing"
	"time"

	"throttle-proxy/limiter"
)

// commanded is a replica that operators can tell something.
type commanded interface {
	Control(Order) (Receipt, error)
	Status() Status
}

// order has a fleet follow an order, as all of it must.
func order(t *testing.T, r replica, o Order) Receipt {
	t.Helper()
	receipt, err := r.(commanded).Control(o)
	if err != nil || len(receipt.Missing) > 0 || len(receipt.Holds) == 0 {
		t.Fatalf("got %+v, %v, want that all replicas follow", receipt, err)
	}
	return receipt
}

// routed is ask as one of a route.
func routed(a Ask) Ask {
	a.Route = a.Tag
	return a
}

func limitTo(name, rate string) Order {
	return Order{Deed: SetLimit, Tag: "slack", Limits: []string{name}, Rate: charge(name, rate).Limit}
}

func restore(limits ...string) Order {
	return Order{Deed: TakeBack, Route: "slack", Tag: "slack", Limits: limits}
}

// controlBehaviours are what it owes operators.
var controlBehaviours = map[string]func(t *testing.T, fleet []replica){
	"A limit that an operator sets holds on all replicas, until it is taken back": func(t *testing.T, fleet []replica) {
		knowEachOther(t, fleet)
		wide := charge("wide", "1000/h")
		admit(t, fleet[0], unlocked(wide))
		order(t, fleet[0], limitTo("wide", "2/h"))
		for _, r := range fleet[:2] { // of two, one is spent
			if v := ask(t, r, unlocked(wide)); v.Outcome == Admitted && !slices.Equal(v.Limits, []limiter.Limit{charge("wide", "2/h").Limit}) {
				t.Errorf("got %+v, want the limit told by which it was decided", v)
			}
		}
		for _, r := range fleet {
			expect(t, r, Limited, unlocked(wide))
			if v, known := r.Refusal(unlocked(wide)); !known || v.Limits == nil {
				t.Errorf("got %+v, %t, want it known, and by which limit", v, known)
			}
			admit(t, r, unlocked(charge("other", "1000/h")))
		}
		order(t, fleet[1], restore("wide"))
		for _, r := range fleet {
			if v := admit(t, r, unlocked(wide)); v.Limits != nil { // also where the refusal was known
				t.Errorf("got %v, want the configured limit", v.Limits)
			}
		}
	},
	"A limit that an operator sets for a time ends by itself": func(t *testing.T, fleet []replica) {
		knowEachOther(t, fleet)
		o := limitTo("wide", "1/d")
		o.For = 2 * time.Second
		order(t, fleet[0], o)
		for _, r := range fleet {
			if changed := r.(commanded).Status().Changed; len(changed) != 1 || changed[0].Left <= 0 || changed[0].Left > o.For || changed[0].Limit != "wide" {
				t.Errorf("got %+v, want one that ends", changed)
			}
		}
		admit(t, fleet[0], unlocked(charge("wide", "1000/h")))
		expect(t, fleet[0], Limited, unlocked(charge("wide", "1000/h"))) // from now on this replica knows it for a day
		time.Sleep(o.For)
		eventually(t, "the limit is as it was", func() bool {
			return ask(t, fleet[0], unlocked(charge("wide", "1000/h"))).Outcome == Admitted
		})
	},
	"A paused route refuses all, but duplicates first": func(t *testing.T, fleet []replica) {
		knowEachOther(t, fleet)
		holder := routed(request("a"))
		grant := admit(t, fleet[0], holder).Grant
		order(t, fleet[1], Order{Deed: SetPause, Route: "slack", For: time.Hour, Message: "back soon"})
		for _, r := range fleet {
			again := holder
			expect(t, r, Duplicate, again)
			v := expect(t, r, Paused, routed(request("b")))
			if v.Message != "back soon" || v.Wait <= 0 || v.Wait > time.Hour {
				t.Errorf("got %+v, want a message and a wait", v)
			}
			if v, known := r.Refusal(routed(unlocked())); !known || v.Outcome != Paused {
				t.Errorf("got %+v, %t, want it refused before the body", v, known)
			}
			other := request("b")
			other.Route = "other"
			admit(t, r, other).Grant.Release(0)
		}
		grant.Release(0)
		order(t, fleet[2], Order{Deed: SetPause, Route: "slack"})
		if v := expect(t, fleet[0], Paused, routed(request("b"))); v.Wait != 0 {
			t.Errorf("got %v, want no end", v.Wait)
		}
		order(t, fleet[2], restore())
		for _, r := range fleet {
			admit(t, r, routed(request("b"))).Grant.Release(0)
		}
	},
	"A pause refuses those that wait": func(t *testing.T, fleet []replica) {
		knowEachOther(t, fleet)
		slow := routed(unlocked(charge("slow", "1/h")))
		admit(t, fleet[0], slow)
		slow.Wait = 2 * time.Hour
		over := make(chan Verdict)
		go func() {
			v, _ := fleet[0].Admit(t.Context(), slow)
			over <- v
		}()
		eventually(t, "it waits", func() bool { return fleet[0].(commanded).Status().Waiting == 1 })
		order(t, fleet[0], Order{Deed: SetPause, Route: "slack"})
		if v := <-over; v.Outcome != Paused {
			t.Errorf("got %+v, want it paused", v)
		}
	},
	"A budget that is filled has nothing spent, also where its refusal was known": func(t *testing.T, fleet []replica) {
		knowEachOther(t, fleet)
		shared, alice := charge("shared", "1/d"), charge("each", "1/d")
		alice.Caller = "5e8848"
		bob := alice
		bob.Caller = "81b637"
		for _, c := range []Charge{shared, alice, bob} {
			admit(t, fleet[0], unlocked(c))
			for _, r := range fleet {
				expect(t, r, Limited, unlocked(c))
			}
		}
		order(t, fleet[1], Order{Deed: FillBudget, Tag: "slack", Limits: []string{"shared"}})
		order(t, fleet[1], Order{Deed: FillBudget, Tag: "slack", Limits: []string{"each"}, Caller: "5e8848"})
		admit(t, fleet[0], unlocked(shared))
		admit(t, fleet[2], unlocked(alice))
		for _, r := range fleet {
			for _, c := range []Charge{shared, alice, bob} {
				expect(t, r, Limited, unlocked(c))
			}
		}
	},
	"A lock that is freed lets equal requests pass, whatever becomes of its exchange": func(t *testing.T, fleet []replica) {
		knowEachOther(t, fleet)
		inFlight, held := request("in flight"), request("held")
		grant := admit(t, fleet[0], inFlight).Grant
		admit(t, fleet[0], held).Grant.Release(time.Hour)
		for _, a := range []Ask{inFlight, held} {
			receipt := order(t, fleet[1], Order{Deed: FreeLock, Tag: "slack", RequestID: a.RequestID})
			if receipt.Freed != 1 {
				t.Errorf("got %+v, want one lock freed", receipt)
			}
		}
		next := admit(t, fleet[0], request("in flight")).Grant
		admit(t, fleet[2], request("held")).Grant.Release(0)
		grant.Release(time.Hour) // leaves the next one's lock as it is, and no hold
		for _, r := range fleet {
			expect(t, r, Duplicate, request("in flight"))
		}
		next.Release(0)
		for _, r := range fleet {
			admit(t, r, request("in flight")).Grant.Release(0)
		}
		if receipt := order(t, fleet[0], Order{Deed: FreeLock, Tag: "slack", RequestID: "nobody"}); receipt.Freed != 0 {
			t.Errorf("got %+v, want none freed", receipt)
		}
	},
}
