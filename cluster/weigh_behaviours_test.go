package cluster

import (
	"strings"
	"testing"
	"time"
)

// weigh asks what would decide a, many times, since nothing is taken.
func weigh(t *testing.T, r replica, want Outcome, a Ask) (w Weighed) {
	t.Helper()
	for range 3 {
		var err error
		if w, err = r.(interface{ Weigh(Ask) (Weighed, error) }).Weigh(a); err != nil || w.Outcome != want || w.Grant != nil {
			t.Fatalf("got %+v, %v, want outcome %d", w, err, want)
		}
	}
	return w
}

// weighBehaviours are what it tells of an ask without giving it anything.
var weighBehaviours = map[string]func(t *testing.T, fleet []replica){
	"What is weighed takes nothing": func(t *testing.T, fleet []replica) {
		a := routed(under(request("a", charge("two", "2/d")), ""))
		a.Slots = []Slot{{Name: "few", Most: 1}}
		for _, r := range fleet {
			w := weigh(t, r, Admitted, a)
			if w.Decisions[0].Remaining != 2 || w.Used[0] != 0 || w.Cooling[0] != 0 || !strings.HasPrefix(w.Lock, "{slack}:lock:") {
				t.Errorf("got %+v, want all there is", w)
			}
		}
		v, err := fleet[0].Admit(t.Context(), a)
		if err != nil || v.Outcome != Admitted {
			t.Fatalf("got %+v, %v, want it admitted", v, err)
		}
		v.Grant.Release(0)
	},
	"What is weighed is what would be decided": func(t *testing.T, fleet []replica) {
		few := func(a Ask) Ask {
			a = routed(under(a, ""))
			a.Slots = []Slot{{Name: "few", Most: 1}}
			return a
		}
		two := charge("two", "2/d")
		holder := few(request("a", two))
		grant, err := fleet[0].Admit(t.Context(), holder)
		if err != nil || grant.Outcome != Admitted {
			t.Fatalf("got %+v, %v, want it admitted", grant, err)
		}
		r := fleet[0]
		if w := weigh(t, r, Duplicate, few(request("a", two))); w.Holder.RequestID != holder.RequestID || w.Decisions[0].Remaining != 1 || w.Used[0] != 1 {
			t.Errorf("got %+v, want the holder, and what is behind it", w)
		}
		weigh(t, r, Busy, few(request("b", two)))
		weigh(t, r, Admitted, request("b", two))
		grant.Grant.Release(time.Hour)
		weigh(t, r, Held, few(request("a", two)))
		admit(t, r, unlocked(two))
		if w := weigh(t, r, Limited, few(request("b", two))); w.Wait <= 0 || w.Wait > 12*time.Hour {
			t.Errorf("got %v, want up to 12h", w.Wait)
		}
		order(t, r, limitTo("two", "10/s"))
		if w := weigh(t, r, Admitted, few(request("b", two))); w.Limits == nil || w.Decisions[0].Remaining != 8 {
			t.Errorf("got %+v, want the limit that an operator has set", w)
		}
		r.Pause("slack", "", time.Minute, 429)
		if w := weigh(t, r, CoolingDown, few(request("b", two))); w.Wait <= 0 || w.Wait > time.Minute || w.Cooling[0] != w.Wait {
			t.Errorf("got %+v, want up to 1m", w)
		}
		order(t, r, Order{Deed: SetPause, Route: "slack", Message: "back soon"})
		if w := weigh(t, r, Paused, few(request("b", two))); w.Message != "back soon" || w.Cooling[0] <= 0 {
			t.Errorf("got %+v, want the operator's, and the cool-down behind it", w)
		}
		weigh(t, r, Held, few(request("a", two)))
	},
	"What is kept under a key decides first": func(t *testing.T, fleet []replica) {
		keyed := func(content string) Ask {
			a := request("key")
			a.Key = &Key{Content: *request(content).Fingerprint, Keep: time.Hour}
			return a
		}
		leader := admit(t, fleet[0], keyed("one"))
		weigh(t, fleet[1], Duplicate, keyed("one"))
		weigh(t, fleet[1], KeyReused, keyed("other"))
		leader.Grant.Keep([]byte("an answer"))
		leader.Grant.Release(0)
		for _, r := range fleet {
			if w := weigh(t, r, Replayed, keyed("one")); len(w.Answer) > 0 {
				t.Errorf("it has the answer: %s", w.Answer)
			}
			weigh(t, r, KeyReused, keyed("other"))
		}
	},
}
