package cluster

import (
	"fmt"
	"testing"
	"time"

	"throttle-proxy/limiter"
)

// budgetBehaviours are what it owes of budgets.
var budgetBehaviours = map[string]func(t *testing.T, fleet []replica){
	"A duplicate spends no budget": func(t *testing.T, fleet []replica) {
		two := charge("two", "2/h")
		lock := admit(t, fleet[0], request("a", two)).Grant
		for _, r := range fleet {
			if v := expect(t, r, Duplicate, request("a", two)); v.Decisions != nil {
				t.Errorf("got %+v, want no decisions", v.Decisions)
			}
		}
		lock.Release(time.Minute)
		for _, r := range fleet {
			eventually(t, "held", func() bool { return ask(t, r, request("a", two)).Outcome == Held })
		}
		admit(t, fleet[0], request("b", two))
	},
	"A limited ask leaves no lock": func(t *testing.T, fleet []replica) {
		one := charge("one", "1/h")
		admit(t, fleet[0], request("a", one))
		for i, r := range fleet {
			body := fmt.Sprint("b", i)
			expect(t, r, Limited, request(body, one))
			for _, r := range fleet {
				admit(t, r, request(body)).Grant.Release(0)
			}
		}
	},
	"A verdict tells of each budget": func(t *testing.T, fleet []replica) {
		five, one := charge("five", "5/h"), charge("one", "1/h,burst=1")
		admitted := admit(t, fleet[0], request("a", five, one))
		limited := expect(t, fleet[1], Limited, request("b", five, one))
		// The ages of budgets on a real store are not known to the second.
		const hour, recent = time.Hour, time.Minute
		near := func(d, want time.Duration) bool { return d <= want && d > want-recent }
		for i, test := range []struct {
			got         limiter.Decision
			allowed     bool
			remaining   int
			next, reset time.Duration
		}{
			{admitted.Decisions[0], true, 4, hour / 5, hour / 5},
			{admitted.Decisions[1], true, 0, hour, hour},
			{limited.Decisions[0], true, 4, hour / 5, hour / 5},
			{limited.Decisions[1], false, 0, hour, hour},
		} {
			d := test.got
			if d.Allowed != test.allowed || d.Remaining != test.remaining || !near(d.NextAfter, test.next) || !near(d.ResetAfter, test.reset) {
				t.Errorf("%d: got %+v, want %+v", i, d, test)
			}
		}
	},
	"Two windows are charged together or not at all": func(t *testing.T, fleet []replica) {
		// Where one refuses, the other stays as it was: also a full one of burst 1,
		// on which a trial charge would leave its trace.
		spent, wide, full := charge("spent", "1/h,burst=1"), charge("wide", "4/h"), charge("full", "1/h,burst=1")
		admit(t, fleet[0], request("a", spent, wide))
		for i, charges := range [][]Charge{{wide, spent}, {spent, full}, {full, spent, wide}} {
			expect(t, fleet[i], Limited, request("b", charges...))
		}
		for i, r := range fleet {
			if got := admit(t, r, request(fmt.Sprint("c", i), wide)).Decisions[0].Remaining; got != 2-i {
				t.Errorf("got %d remaining, want %d", got, 2-i)
			}
		}
		admit(t, fleet[0], request("d", full))
	},
	"Two full windows of burst 1 admit one": func(t *testing.T, fleet []replica) {
		hour, day := charge("hour", "1/h"), charge("day", "1/d")
		admit(t, fleet[0], request("a", hour, day))
		v := expect(t, fleet[1], Limited, request("b", hour, day))
		if !v.Decisions[0].Refused() || !v.Decisions[1].Refused() {
			t.Errorf("got %+v, want two refusals", v.Decisions)
		}
	},
	"Concurrent asks are admitted within their budget": func(t *testing.T, fleet []replica) {
		const burst, perSecond = 20, 50
		limit := charge("limit", fmt.Sprintf("%d/s,burst=%d", perSecond, burst))
		from := time.Now()
		got := concurrently(t, 200, func(i int) Outcome { return ask(t, fleet[i%3], request(fmt.Sprint(i), limit)).Outcome })
		// One more, since the store's clock is not ours.
		most := burst + 1 + int(time.Since(from).Seconds()*perSecond)
		if n := got[Admitted]; n < burst || n > most || n+got[Limited] != 200 {
			t.Errorf("got %v, want %d to %d admitted and the rest limited", got, burst, most)
		}
	},
	"NextAfter waited out admits, and a refusal is not charged": func(t *testing.T, fleet []replica) {
		for text, interval := range map[string]time.Duration{
			"10/s,burst=1": 100 * time.Millisecond,
			"20/s,burst=3": 50 * time.Millisecond,
			"3/s,burst=1":  333334 * time.Microsecond,
		} {
			limit := charge(text, text)
			var v Verdict
			eventually(t, "limited", func() bool {
				for i := range 8 {
					ask(t, fleet[i%2], unlocked(limit))
				}
				v = ask(t, fleet[2], unlocked(limit)) // knows nothing by itself, so it is told by the store
				return v.Outcome == Limited
			})
			// Had refusals been charged, it would be longer than one interval.
			next := v.Decisions[0].NextAfter
			if next <= 0 || next > interval {
				t.Errorf("%s: got NextAfter %v, want at most %v", text, next, interval)
			}
			time.Sleep(next)
			admit(t, fleet[0], unlocked(limit))
		}
	},
	"Callers have budgets of their own": func(t *testing.T, fleet []replica) {
		for _, caller := range []string{"alice", "bob", ""} {
			one := charge("one", "1/h")
			one.Caller = caller
			admit(t, fleet[0], request("1"+caller, one))
			expect(t, fleet[1], Limited, request("2"+caller, one))
		}
	},
	"Routes of one pool share a budget, others do not": func(t *testing.T, fleet []replica) {
		one := charge("one", "1/h")
		admit(t, fleet[0], request("first route", one))
		expect(t, fleet[1], Limited, request("second route", one))
		other := request("a route alone", one)
		other.Tag = "alone"
		admit(t, fleet[1], other)
	},
}
