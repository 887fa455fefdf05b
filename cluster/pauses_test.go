package cluster

import (
	"fmt"
	"regexp"
	"testing"
	"time"

	"throttle-proxy/integration/redistest"
)

// What stands in the store is believed as far as it can be true.
func TestRedis_StoredPause(t *testing.T) {
	server := startRedis(t)
	client := server.Client()
	r := join(t, server.URL(), Options{})
	other := join(t, server.URL(), Options{Self: Replica{ID: "replica-1"}})
	const longest = 5 * time.Minute
	value := func(left, length time.Duration, status string) string {
		return fmt.Sprintf("%d %d %s", must(t, client.Time(t.Context())).Add(left).UnixMilli(), length.Milliseconds(), status)
	}
	for i, tt := range []struct {
		what   string
		value  string
		most   time.Duration // of the wait; 0 for an ask that is admitted
		status int
		stays  bool // beside another of four minutes
	}{
		{"as it is written", value(time.Minute, 2*time.Minute, "429"), time.Minute, 429, false},
		{"with its status", value(time.Minute, 2*time.Minute, "503"), time.Minute, 503, false},
		{"longer than is allowed", value(time.Hour, time.Hour, "429"), longest, 429, true},
		{"longer than is allowed, and most of that is over", value(55*time.Minute+10*time.Second, time.Hour, "503"), 10 * time.Second, 503, true},
		{"longer than is allowed, which is over", value(54*time.Minute, time.Hour, "429"), 0, 0, true},
		{"of a clock that has been set back an hour since", value(time.Hour+time.Second, time.Minute, "429"), 0, 0, false},
		{"of a clock that has been set back a little", value(time.Minute+500*time.Millisecond, time.Minute, "429"), time.Minute, 429, false},
		{"over", value(-time.Second, time.Minute, "429"), 0, 0, false},
		{"garbage", "garbage", 0, 0, false},
		{"empty", "", 0, 0, false},
		{"an instant alone", "99999999999999", 0, 0, false},
	} {
		a := under(unlocked(), "", fmt.Sprint(i))
		a.LongestPause = longest
		key := fmt.Sprint("throttle:2:{slack}:cool:", i)
		must(t, client.Set(t.Context(), key, tt.value, 2*time.Hour))
		if tt.most == 0 {
			admit(t, r, a)
		} else if v := expect(t, r, CoolingDown, a); v.Wait <= 0 || v.Wait > tt.most || v.Status != tt.status {
			t.Errorf("%s: got a wait of %s and status %d, want up to %s and %d", tt.what, v.Wait, v.Status, tt.most, tt.status)
		}
		// It keeps none from beginning, nor shortens what is true.
		r.Pause("slack", fmt.Sprint(i), 4*time.Minute, 503)
		got := must(t, client.Get(t.Context(), key))
		if begins := regexp.MustCompile(`^\d{13} (240000|23\d{4}) 503$`).MatchString(got); begins == tt.stays {
			t.Errorf("%s: became %q", tt.what, got)
		}
		if tt.stays {
			continue
		}
		if v := expect(t, other, CoolingDown, a); v.Wait <= 3*time.Minute || v.Status != 503 {
			t.Errorf("%s: another replica got a wait of %s and status %d, want 4m and 503", tt.what, v.Wait, v.Status)
		}
	}
	key := "throttle:2:{slack}:cool:list"
	must(t, client.LPush(t.Context(), key, "x"))
	admit(t, r, under(unlocked(), "list"))
	r.Pause("slack", "list", time.Minute, 429)
	expect(t, other, CoolingDown, under(unlocked(), "list"))
	if ttl := must(t, client.PTTL(t.Context(), key)); ttl <= 0 || ttl > time.Minute {
		t.Errorf("got TTL %s, want up to 1m", ttl)
	}
}

// A cool-down ends in time on the replica that began it, and is over at once for
// who only knows of it by a clock that has been set, in either direction.
func TestRedis_PauseWhileTheClockOfTheStoreIsSet(t *testing.T) {
	t.Parallel()
	for _, step := range []time.Duration{-time.Hour, time.Hour} {
		t.Run(step.String(), func(t *testing.T) {
			t.Parallel()
			const pause = 2 * time.Second
			skipIfShort(t)
			server := redistest.StartSkewed(t, 0)
			knows, other := join(t, server.URL(), Options{}), join(t, server.URL(), Options{Self: Replica{ID: "replica-1"}})
			a := under(unlocked(), "")
			admit(t, knows, a) // both have asked by the clock as it was
			admit(t, other, a)
			began := time.Now()
			knows.Pause("slack", "", pause, 503)
			server.StepClock(step)
			admit(t, other, a)
			if v := ask(t, knows, a); v.Outcome == Admitted && time.Since(began) < pause {
				t.Errorf("got %+v after %s, want what the replica knows by itself", v, time.Since(began))
			}
			eventually(t, "over where it began", func() bool { return ask(t, knows, a).Outcome == Admitted })
			if lasted := time.Since(began); lasted < pause {
				t.Errorf("it lasted %s, want at least %s", lasted, pause)
			}
			if n := must(t, server.Client().Exists(t.Context(), "throttle:2:{slack}:cool")); n != 0 {
				t.Error("it is still in the store")
			}
		})
	}
}
