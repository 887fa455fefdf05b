package cluster

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// spreadOut has 20 callers come at once, to one replica after the other, for a
// budget of 10/s that admits one at a time. Each comes back twice at most, after
// what it was told, in whole seconds, as Retry-After tells it.
func spreadOut(t *testing.T, fleet []replica) {
	const callers, retries = 20, 2
	ten := charge("ten", "10/s,burst=1")
	var admitted atomic.Int64
	var all sync.WaitGroup
	for i := range callers {
		all.Go(func() {
			for try := range 1 + retries {
				v := ask(t, fleet[(i+try)%len(fleet)], unlocked(ten))
				if v.Outcome == Admitted {
					admitted.Add(1)
					return
				}
				if d := v.Decisions[0]; v.Outcome != Limited || v.Wait < d.NextAfter || d.NextAfter > 150*time.Millisecond || v.Wait > 20*time.Second {
					t.Errorf("got %+v, want a wait from the next instant, within 100ms, to 20s", v)
					return
				}
				time.Sleep((v.Wait + time.Second - 1).Truncate(time.Second))
			}
		})
	}
	all.Wait()
	const want = 15 // 3, if all were told the same
	if n := admitted.Load(); n < want {
		t.Errorf("%d of %d callers came through, want at least %d", n, callers, want)
	}
	t.Logf("%d of %d callers came through", admitted.Load(), callers)
}

func TestMemory_CallersRefusedTogetherComeThrough(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { spreadOut(t, []replica{NewMemory("replica-0")}) })
}

func TestRedis_CallersRefusedTogetherComeThrough(t *testing.T) {
	t.Parallel()
	server := startRedis(t)
	fleet := make([]replica, 3)
	for i := range fleet {
		fleet[i] = join(t, server.URL(), Options{Self: Replica{ID: fmt.Sprint("replica-", i)}})
	}
	knowEachOther(t, fleet)
	spreadOut(t, fleet)
}

// spreadBehaviours are what a fleet owes callers that it refuses.
var spreadBehaviours = map[string]func(t *testing.T, fleet []replica){
	"Callers refused together are told successive instants": func(t *testing.T, fleet []replica) {
		knowEachOther(t, fleet)
		minute := charge("minute", "1/m,burst=9")
		for range 9 {
			admit(t, fleet[0], unlocked(minute))
		}
		told := map[time.Duration]int{}
		for i := range 9 {
			r := fleet[i%3]
			// From the second time on the replica answers by what it remembers.
			v := expect(t, r, Limited, unlocked(minute))
			if next := v.Decisions[0].NextAfter; v.Wait < next-time.Second || v.Wait > 9*time.Minute || next <= 0 || next > time.Minute {
				t.Errorf("got a wait of %s, want from the next instant, in %s, to 9m", v.Wait, next)
			}
			told[v.Wait.Round(time.Minute)]++
		}
		// Each of three replicas tells its first the next instant: it cannot know of
		// the others'.
		if len(told) < 7 {
			t.Errorf("9 callers were told %v, want at least 7 instants", told)
		}
		// Also before the body is read.
		if v, known := fleet[0].Refusal(unlocked(minute)); !known || v.Wait <= 0 {
			t.Errorf("got %+v, %t, want a wait", v, known)
		}
	},
	"A caller's wait does not depend on what others are told": func(t *testing.T, fleet []replica) {
		knowEachOther(t, fleet)
		for _, caller := range []string{"alice", "bob"} {
			own := charge("own", "1/m,burst=5")
			own.Caller = caller
			for range 5 {
				admit(t, fleet[0], unlocked(own))
			}
			for i := range 2 {
				v := expect(t, fleet[0], Limited, unlocked(own))
				if first := v.Wait <= time.Minute; first != (i == 0) {
					t.Errorf("%s: got a wait of %s the %d. time", caller, v.Wait, i+1)
				}
			}
		}
	},
	"Of several budgets the longest wait counts": func(t *testing.T, fleet []replica) {
		second, hour := charge("second", "1/s"), charge("hour", "1/h")
		admit(t, fleet[0], unlocked(second, hour))
		for _, r := range fleet {
			if v := expect(t, r, Limited, unlocked(second, hour)); v.Wait < 59*time.Minute || v.Wait > time.Hour {
				t.Errorf("got a wait of %s, want about 1h", v.Wait)
			}
		}
	},
	"A duplicate does not put others off": func(t *testing.T, fleet []replica) {
		minute := charge("minute", "1/m,burst=5")
		a := request("a", minute)
		admit(t, fleet[0], a)
		for range 4 {
			admit(t, fleet[0], unlocked(minute))
		}
		expect(t, fleet[0], Limited, request("b", minute))
		for range 20 {
			expect(t, fleet[0], Duplicate, a)
		}
		if v := expect(t, fleet[0], Limited, request("c", minute)); v.Wait > 2*time.Minute {
			t.Errorf("got a wait of %s, want up to 2m", v.Wait)
		}
	},
}
