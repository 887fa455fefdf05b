package cluster

import (
	"fmt"
	"testing"
	"time"
)

// pauseBehaviours are what it owes of cool-downs.
var pauseBehaviours = map[string]func(t *testing.T, fleet []replica){
	"A pause on one replica pauses all": func(t *testing.T, fleet []replica) {
		fleet[0].Pause("slack", "", time.Minute, 429)
		for _, r := range fleet {
			v := expect(t, r, CoolingDown, under(request("a"), ""))
			if v.Wait <= 0 || v.Wait > time.Minute || v.Degraded {
				t.Errorf("got %+v, want a wait of up to 1m", v)
			}
			admit(t, r, request("a")).Grant.Release(0) // does not ask for it
		}
		// By now each knows by itself, also before the body is read.
		for _, r := range fleet {
			if v, known := r.Refusal(under(unlocked(), "")); !known || v.Outcome != CoolingDown || v.Wait <= 0 || v.Wait > time.Minute {
				t.Errorf("got %+v, %t, want a cool-down", v, known)
			}
			if v, known := r.Refusal(unlocked()); known {
				t.Errorf("got %+v, want nothing known", v)
			}
		}
		other := under(unlocked(), "")
		other.Tag = "other"
		admit(t, fleet[1], other)
	},
	"A caller's pause pauses no other": func(t *testing.T, fleet []replica) {
		fleet[0].Pause("slack", "alice", time.Minute, 429)
		for _, r := range fleet {
			expect(t, r, CoolingDown, under(request("a"), "alice", ""))
			expect(t, r, CoolingDown, under(request("a"), "", "alice"))
			admit(t, r, under(unlocked(), "bob", ""))
			admit(t, r, under(unlocked(), ""))
		}
		fleet[1].Pause("slack", "bob", time.Minute, 429)
		fleet[1].Pause("slack", "", time.Hour, 429)
		for _, r := range fleet {
			for _, names := range [][]string{{"bob", ""}, {"", "bob"}} {
				if v := expect(t, r, CoolingDown, under(unlocked(), names...)); v.Wait <= time.Minute {
					t.Errorf("got %v, want the longer wait", v.Wait)
				}
			}
		}
	},
	"A pause is only ever extended": func(t *testing.T, fleet []replica) {
		for i, r := range fleet {
			name := fmt.Sprint(i)
			r.Pause("slack", name, 10*time.Minute, 429)
			for _, r := range fleet {
				r.Pause("slack", name, time.Millisecond, 429)
				r.Pause("slack", name, 0, 429)
			}
			for _, r := range fleet {
				// Each knows of its own first.
				eventually(t, "paused for 10m", func() bool {
					return expect(t, r, CoolingDown, under(unlocked(), name)).Wait > 5*time.Minute
				})
			}
			r.Pause("slack", name, time.Hour, 429)
			if v := expect(t, r, CoolingDown, under(unlocked(), name)); v.Wait <= 30*time.Minute {
				t.Errorf("got %v, want about 1h", v.Wait)
			}
		}
	},
	"After its pause an ask is admitted": func(t *testing.T, fleet []replica) {
		const pause = 100 * time.Millisecond
		for _, r := range fleet {
			from := time.Now()
			fleet[0].Pause("slack", "", pause, 429)
			eventually(t, "admitted after the pause", func() bool {
				v := ask(t, r, under(unlocked(), ""))
				if v.Outcome == CoolingDown && (v.Wait <= 0 || v.Wait > pause) {
					t.Errorf("got a wait of %v, want up to %v", v.Wait, pause)
				}
				return v.Outcome == Admitted
			})
			if paused := time.Since(from); paused < pause-5*time.Millisecond {
				t.Errorf("admitted after %v, want at least %v", paused, pause)
			}
		}
	},
	"A pause is told with the status by which its upstream asked for it": func(t *testing.T, fleet []replica) {
		for _, step := range []struct {
			by     int
			d      time.Duration
			status int
			want   int
		}{{0, time.Minute, 503, 503}, {1, time.Second, 429, 503}, {1, time.Hour, 429, 429}, {2, 2 * time.Hour, 503, 503}} {
			fleet[step.by].Pause("slack", "", step.d, step.status)
			for _, r := range fleet {
				eventually(t, "told", func() bool { // each knows of its own first
					return expect(t, r, CoolingDown, under(unlocked(), "")).Status == step.want || step.by > 0
				})
			}
		}
		fresh := fleet[0]
		fresh.Pause("slack", "alice", 3*time.Hour, 429)
		if v := expect(t, fresh, CoolingDown, under(unlocked(), "", "alice")); v.Status != 429 || v.Wait <= 2*time.Hour {
			t.Errorf("got %+v, want the status of the longer one", v)
		}
	},
	"A paused ask takes nothing": func(t *testing.T, fleet []replica) {
		two := charge("two", "2/h")
		fleet[0].Pause("slack", "", time.Minute, 429)
		for _, r := range []int{2, 1, 0, 2, 1, 0} {
			expect(t, fleet[r], CoolingDown, under(request("a", two), ""))
		}
		if got := admit(t, fleet[1], request("a", two)).Decisions[0].Remaining; got != 1 {
			t.Errorf("got %d remaining, want 1", got)
		}
	},
}
