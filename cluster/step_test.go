package cluster

import (
	"fmt"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"throttle-proxy/integration/redistest"
)

// Redis counts expiries by its wall clock: set back by an hour, it keeps for an
// hour longer what was there before.
func TestRedis_ClockOfTheStoreIsSetBack(t *testing.T) {
	t.Parallel()
	skipIfShort(t)
	server := redistest.StartSkewed(t, 0)
	client := server.Client()
	const ttl = 3 * time.Second
	r := join(t, server.URL(), Options{LockTTL: ttl})
	five := charge("five", "5/h")
	held, living, dead := request("held"), request("living"), request("dead")
	for range 5 {
		admit(t, r, unlocked(five))
	}
	now := must(t, client.Time(t.Context()))
	must(t, client.ZAdd(t.Context(), "throttle:2:{fleet}:replicas", redis.Z{Score: float64(now.UnixMilli()), Member: "gone"}))
	must(t, client.Set(t.Context(), lockKey(dead), fmt.Sprintf("1 token gone id %d", now.UnixMicro()), ttl))
	admit(t, r, living)
	admit(t, r, held).Grant.Release(time.Second)
	eventually(t, "held", func() bool { return must(t, client.PTTL(t.Context(), lockKey(held))) < 2*time.Second })
	eventually(t, "two replicas", func() bool { return r.Status().Live == 2 })

	server.StepClock(-time.Hour)
	from := time.Now()
	for _, a := range []Ask{held, dead} {
		eventually(t, "free again", func() bool {
			v := ask(t, r, a)
			v.Grant.Release(0)
			if v.Outcome == Duplicate && v.Holder.Age > time.Minute {
				t.Errorf("a holder since %s", v.Holder.Age)
			}
			return v.Outcome == Admitted
		})
	}
	eventually(t, "alone", func() bool { return r.Status().Live == 1 })
	t.Logf("all well %s after the step", time.Since(from).Round(10*time.Millisecond))
	for range 3 { // renewed all the while
		expect(t, r, Duplicate, living)
	}
	// A step hands out one more burst at most.
	admitted := 0
	for range 20 {
		if ask(t, r, unlocked(five)).Outcome == Admitted {
			admitted++
		}
	}
	if admitted > 5 {
		t.Errorf("%d admitted, want one burst at most", admitted)
	}
}
