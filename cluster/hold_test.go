package cluster

import (
	"strings"
	"testing"
	"time"

	"throttle-proxy/integration/redistest"
)

// A hold refuses on every replica, also where the store never had the lock, or
// has lost it.
func TestRedis_HoldIsInTheStoreThoughTheLockIsNot(t *testing.T) {
	for name, release := range map[string]func(t *testing.T, r *Redis, server *redistest.Server, link *redistest.Link){
		"admitted and ended during an outage": func(t *testing.T, r *Redis, _ *redistest.Server, link *redistest.Link) {
			link.Refuse()
			link.Cut()
			lose(t, r)
			degraded(t, r, Admitted, by(Local, request("a"))).Grant.Release(time.Hour)
			link.Heal()
		},
		"admitted during an outage, and ended after it": func(t *testing.T, r *Redis, server *redistest.Server, _ *redistest.Link) {
			server.Pause()
			grant := degraded(t, r, Admitted, by(Local, request("a"))).Grant
			server.Resume()
			eventually(t, "asked", func() bool {
				v := ask(t, r, by(Open, request("b")))
				v.Grant.Release(0)
				return !v.Degraded
			})
			grant.Release(time.Hour)
		},
		"a store that lost the lock": func(t *testing.T, r *Redis, server *redistest.Server, _ *redistest.Link) {
			grant := admit(t, r, request("a")).Grant
			must(t, server.Client().FlushAll(t.Context()))
			grant.Release(time.Hour)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := startRedis(t)
			link, client := redistest.NewLink(t, server.Addr), server.Client()
			r, other := join(t, link.URL(), Options{Timeout: storeTimeout, LockTTL: time.Hour}), join(t, server.URL(), Options{Self: Replica{ID: "replica-1"}})
			admit(t, r, request("so that the clock is known")).Grant.Release(0)
			release(t, r, server, link)
			expect(t, r, Held, request("a"))
			eventually(t, "held", func() bool { return strings.HasSuffix(client.Get(t.Context(), lockKey(request("a"))).Val(), heldMark) })
			if left := must(t, client.PTTL(t.Context(), lockKey(request("a")))); left < 50*time.Minute || left > time.Hour {
				t.Errorf("got a hold of %v, want an hour", left)
			}
			if v := expect(t, other, Held, request("a")); v.Holder.Replica != "replica-0" || v.Holder.RequestID == "" {
				t.Errorf("got holder %+v, want replica-0's", v.Holder)
			}
		})
	}
}
