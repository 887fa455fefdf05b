package cluster

import (
	"testing"
	"time"
)

// grantBehaviours are how what was granted ends.
var grantBehaviours = map[string]func(t *testing.T, fleet []replica){
	"A request that was never sent gives back its lock and its places": func(t *testing.T, fleet []replica) {
		hour, day, alices := charge("hour", "1/h"), charge("day", "3/d"), charge("alices", "1/h")
		alices.Caller = "alice"
		for i := range 6 {
			v := admit(t, fleet[i%3], request("a", hour, day, alices))
			if got := v.Decisions[1].Remaining; got != 2 {
				t.Errorf("got %d remaining, want 2", got)
			}
			v.Grant.Unsent()
		}
		// Without a lock, too.
		for i := range 6 {
			admit(t, fleet[i%3], unlocked(hour, alices)).Grant.Unsent()
		}
	},
	"A place is given back only while it is the last": func(t *testing.T, fleet []replica) {
		two := charge("two", "2/h")
		first := admit(t, fleet[0], unlocked(two)).Grant
		second := admit(t, fleet[1], unlocked(two)).Grant
		first.Unsent()
		expect(t, fleet[2], Limited, unlocked(two))
		second.Unsent()
		admit(t, fleet[0], unlocked(two))
		expect(t, fleet[1], Limited, unlocked(two))
	},
	"Only what ends a grant first counts": func(t *testing.T, fleet []replica) {
		one := charge("one", "1/h")
		sent := admit(t, fleet[0], request("sent", one)).Grant
		sent.Release(0)
		sent.Unsent()
		expect(t, fleet[1], Limited, request("a", one))

		two := charge("two", "2/h")
		unsent := admit(t, fleet[0], request("unsent", two)).Grant
		unsent.Unsent()
		unsent.Release(time.Hour)
		admit(t, fleet[1], request("unsent", two)) // which now is the last
		unsent.Unsent()
		admit(t, fleet[2], request("b", two))
		expect(t, fleet[0], Limited, request("c", two))
	},
	"What a replica knows of a budget ends with what it gives back": func(t *testing.T, fleet []replica) {
		one := charge("one", "1/h")
		grant := admit(t, fleet[0], request("a", one)).Grant
		expect(t, fleet[0], Limited, request("b", one))
		expect(t, fleet[0], Limited, request("b", one))
		grant.Unsent()
		admit(t, fleet[0], request("b", one))
	},
	"Without anything asked for nothing is granted": func(t *testing.T, fleet []replica) {
		v := admit(t, fleet[0], unlocked())
		if v.Grant != nil || v.Grant.Locked() {
			t.Errorf("got %+v, want nothing", v.Grant)
		}
		v.Grant.Release(time.Minute)
		v.Grant.Unsent()
	},
}
