package cluster

import (
	"testing"
	"testing/synctest"
	"time"

	"throttle-proxy/integration/redistest"
)

// longAlone lets r believe that there has been no other replica for long.
func longAlone(r *Redis) {
	r.fleet.mu.Lock()
	defer r.fleet.mu.Unlock()
	r.fleet.met = -time.Hour
}

// Locks outlive what is known of their replicas: a duplicate of theirs is one
// also where its budget is known to be spent.
func TestRedis_LockOfAReplicaThatIsNotKnownIsFound(t *testing.T) {
	one := charge("one", "1/h")
	for name, test := range map[string]struct {
		want Outcome
		take func(t *testing.T, server *redistest.Server, second *Redis)
	}{
		"it has ended": {Held, func(t *testing.T, server *redistest.Server, _ *Redis) {
			first := open(t, server.URL(), Options{Self: Replica{ID: "replica-1"}})
			admit(t, first, request("a", one)).Grant.Release(time.Hour)
			if err := first.Close(); err != nil {
				t.Fatal(err)
			}
		}},
		"it is silent": {Duplicate, func(t *testing.T, server *redistest.Server, second *Redis) {
			link := redistest.NewLink(t, server.Addr)
			first := join(t, link.URL(), Options{Self: Replica{ID: "replica-1"}, Timeout: storeTimeout})
			knowEachOther(t, []replica{first, second})
			admit(t, first, request("a", one))
			link.Refuse()
			link.Cut()
			eventually(t, "thought gone", func() bool { return second.Status().Live == 1 })
			t.Cleanup(link.Heal)
		}},
		"the store cannot tell who lives": {Duplicate, func(t *testing.T, server *redistest.Server, _ *Redis) {
			client := server.Client()
			must(t, client.Del(t.Context(), "throttle:2:{fleet}:replicas"))
			must(t, client.RPush(t.Context(), "throttle:2:{fleet}:replicas", "value"))
			admit(t, join(t, server.URL(), Options{Self: Replica{ID: "replica-1"}}), request("a", one))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := startRedis(t)
			second := join(t, server.URL(), Options{})
			test.take(t, server, second)
			expect(t, second, Limited, request("b", one)) // known from here on
			expect(t, second, test.want, request("a", one))
		})
	}
}

func TestRedis_IsAlone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := &Redis{known: newKnown("replica-0"), options: Options{LockTTL: 2 * time.Minute, Self: Replica{ID: "replica-0"}}}
		meet := func(peers ...string) {
			r.fleet.peers = make(map[string]Peer)
			for _, id := range peers {
				r.fleet.peers[id] = Peer{read: true}
			}
			r.meet(append(peers, "replica-0"))
		}
		alone := func(want bool, after time.Duration) {
			t.Helper()
			time.Sleep(after)
			meet()
			if r.isAlone() != want {
				t.Errorf("got alone %t, want %t", !want, want)
			}
		}
		alone(false, time.Second)
		alone(true, 2*time.Minute)
		meet("replica-1")
		alone(false, time.Minute)
		alone(true, time.Minute+time.Second)
		hold := storedLock(request("a"))
		r.known.addLocked(hold, r.known.now())
		r.known.release(&Grant{lock: hold}, time.Hour)
		alone(false, 50*time.Minute)
		alone(true, 10*time.Minute)
		time.Sleep(2 * beatExpiry)
		if r.isAlone() {
			t.Error("got alone, though the store has not told for long")
		}
	})
}
