package cluster

import (
	"context"
	"fmt"
	"testing"
	"time"

	"throttle-proxy/integration/redistest"
)

// A place costs no trip more than an admission, and no candidate does; the rest of
// an ask that has waited costs one.
func TestRedis_TripsOfRequestsThatWait(t *testing.T) {
	server := startRedis(t)
	var m meter
	r := join(t, server.URL(), Options{Connect: m.connect(t, server.URL())})
	eventually(t, "alone", func() bool { return r.Status().Live == 1 })
	paced, free := charge("paced", "2/s,burst=1"), charge("free", "100/h")
	admit(t, r, unlocked(paced))
	for _, step := range []struct {
		name string
		ask  Ask
		want int
	}{
		{"one budget", request("a", paced), 1},
		{"with a candidate", candidate(request("b", paced), free), 1},
		{"two budgets", request("c", paced, free), 2},
		{"a slot", slotted(request("d", paced), 5), 2},
		{"a slot, and no wait for a budget", slotted(request("e", free), 5), 1},
	} {
		m.reset()
		v := ask(t, r, patient(step.ask, time.Minute))
		if scripts, gets := m.read(); v.Outcome != Admitted || scripts != step.want || gets != 0 {
			t.Errorf("%s: got outcome %d with %d scripts and %d gets, want %d", step.name, v.Outcome, scripts, gets, step.want)
		}
	}
}

func candidate(a Ask, c Charge) Ask {
	a.Candidates = []Charge{c}
	return a
}

// slotsLast is a TTL that passes while a test waits.
const slotsLast = 500 * time.Millisecond

func TestRedis_SlotsLastAsLongAsTheirExchange(t *testing.T) {
	t.Parallel()
	server := startRedis(t)
	client := server.Client()
	r := join(t, server.URL(), Options{LockTTL: slotsLast})
	other := join(t, server.URL(), Options{LockTTL: slotsLast, Self: Replica{ID: "replica-1"}})
	grant := admit(t, r, slotted(unlocked(), 1)).Grant
	for end := time.Now().Add(3 * slotsLast); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if v := ask(t, other, slotted(unlocked(), 1)); v.Outcome == Admitted {
			v.Grant.Release(0)
			if r.Status().SlotsLost == 0 { // it could not be renewed in time, and found so
				t.Fatal("the slot was given to another while its exchange was under way")
			}
		}
	}
	// What a store has lost is taken again.
	client.FlushAll(t.Context())
	eventually(t, "taken again", func() bool { return client.ZCard(t.Context(), "throttle:2:{slack}:slots:at-once").Val() == 1 })
	expect(t, other, Busy, slotted(unlocked(), 1))
	grant.Release(0)
	admit(t, other, slotted(unlocked(), 1)).Grant.Release(0)
	if n := client.Exists(t.Context(), "throttle:2:{slack}:slots:at-once").Val(); n != 0 {
		t.Error("a slot is left")
	}
}

func TestRedis_SlotsOfAReplicaThatIsGoneEndWithTheirTTL(t *testing.T) {
	t.Parallel()
	server := startRedis(t)
	link := redistest.NewLink(t, server.Addr)
	gone := join(t, link.URL(), Options{LockTTL: slotsLast, Timeout: storeTimeout})
	r := join(t, server.URL(), Options{LockTTL: slotsLast, Self: Replica{ID: "replica-1"}})
	for i := range 3 {
		admit(t, gone, slotted(request(fmt.Sprint(i)), 3))
	}
	link.Refuse()
	link.Cut()
	expect(t, r, Busy, slotted(unlocked(), 3))
	v := ask(t, r, patient(slotted(unlocked(), 3), time.Minute))
	if v.Outcome != Admitted || v.Used[0] != 1 {
		t.Errorf("got %+v, want all of them free", v)
	}
}

func TestRedis_SlotsWithoutTheStore(t *testing.T) {
	t.Parallel()
	server := startRedis(t)
	link := redistest.NewLink(t, server.Addr)
	told := newChanges()
	r := join(t, link.URL(), Options{Timeout: storeTimeout, Replicas: 1, Observe: told.observe})
	other := join(t, server.URL(), Options{Self: Replica{ID: "replica-1"}})
	knowEachOther(t, []replica{r, other})
	first := admit(t, r, slotted(unlocked(), 4)).Grant
	link.Refuse()
	link.Cut()
	lose(t, r)
	// Two replicas live: each has two of four, of which one is taken.
	during := degraded(t, r, Admitted, by(Local, slotted(unlocked(), 4))).Grant
	degraded(t, r, Busy, by(Local, slotted(unlocked(), 4)))
	admitted := degraded(t, r, Admitted, by(Open, slotted(unlocked(), 4))).Grant
	admitted.Release(0)
	first.Release(0)
	link.Heal()
	told.next(t, StoreAway)
	told.next(t, StoreBack)
	key := "throttle:2:{slack}:slots:at-once"
	eventually(t, "what goes on is known, and what has ended is not", func() bool {
		members := server.Client().ZRange(t.Context(), key, 0, -1).Val()
		return len(members) == 1 && members[0] == during.taken.token
	})
	during.Release(0)
	eventually(t, "none is left", func() bool { return server.Client().ZCard(t.Context(), key).Val() == 0 })
}

// What is asked for and not answered is freed, unless it goes on.
func TestRedis_SlotsOfALostAnswerAreFreed(t *testing.T) {
	t.Parallel()
	server := startRedis(t)
	link := redistest.NewLink(t, server.Addr)
	r := join(t, link.URL(), Options{Timeout: storeTimeout, LockTTL: time.Hour})
	admit(t, r, unlocked())
	link.LoseAnswers(1, "at-once")
	if v, err := r.Admit(t.Context(), by(Closed, slotted(unlocked(), 1))); err == nil {
		t.Fatalf("got %+v, want no answer", v)
	}
	link.Heal()
	link.Cut()
	other := join(t, server.URL(), Options{Self: Replica{ID: "replica-1"}})
	eventually(t, "free", func() bool {
		v := ask(t, other, slotted(unlocked(), 1))
		v.Grant.Release(0)
		return v.Outcome == Admitted
	})
}

// A place is the store's, and is kept while it is away: nobody has to ask again.
func TestRedis_WhoWaitsGoesAlsoWhileTheStoreIsAway(t *testing.T) {
	t.Parallel()
	server := startRedis(t)
	r := join(t, server.URL(), Options{Timeout: storeTimeout})
	limit := charge("limit", "2/s,burst=1")
	admit(t, r, unlocked(limit))
	done := make(chan reply, 2)
	for range cap(done) {
		go func() {
			v, err := r.Admit(context.Background(), patient(by(Closed, unlocked(limit)), time.Minute))
			done <- reply{Verdict: v, err: err}
		}()
	}
	waitsHere(t, r, 2)
	server.Kill()
	for range cap(done) {
		if got := <-done; got.err != nil || got.Outcome != Admitted {
			t.Errorf("got %+v, want it admitted", got)
		}
	}
}
