package cluster

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"throttle-proxy/integration/redistest"
)

func TestRedis_CloseGivesBackWhatIsQueued(t *testing.T) {
	server := startRedis(t)
	client := server.Client()
	r := open(t, server.URL(), Options{})
	const many = 6*batchSize + 1
	var locks []*Grant
	for i := range many {
		locks = append(locks, admit(t, r, request(fmt.Sprint(i))).Grant)
	}
	for _, lock := range locks {
		lock.Release(time.Minute)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	keys := keysOf(t, client)
	for _, key := range keys {
		if value := must(t, client.Get(t.Context(), key)); !strings.HasSuffix(value, " held") {
			t.Fatalf("got %q, want a hold", value)
		}
	}
	if len(keys) != many {
		t.Errorf("got %d keys, want %d", len(keys), many)
	}
}

// Also while the store is not known to answer again.
func TestRedis_CloseTellsWhatIsKept(t *testing.T) {
	for name, asks := range map[string]int{"suspect": 1, "away": failuresRunning + 1} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := startRedis(t)
			link := redistest.NewLink(t, server.Addr)
			r := open(t, link.URL(), Options{Timeout: storeTimeout})
			ten := charge("ten", "10/h")
			ended := admit(t, r, under(request("ended"), "")).Grant
			eventually(t, "alone", func() bool { return r.Status().Live == 1 })
			link.Refuse()
			link.Cut()
			for i := range asks {
				degraded(t, r, Admitted, by(Open, request(fmt.Sprint(i), ten))).Grant.Release(0)
			}
			degraded(t, r, Admitted, by(Open, request("held"))).Grant.Release(time.Hour)
			ended.Release(0)
			r.Pause("slack", "", time.Hour, 429)
			link.Heal()
			if err := r.Close(); err != nil {
				t.Fatal(err)
			}
			other := join(t, server.URL(), Options{Self: Replica{ID: "replica-1"}})
			if got := admit(t, other, request("ended", ten)).Decisions[0].Remaining; got != 9-asks {
				t.Errorf("got %d remaining, want %d", got, 9-asks)
			}
			expect(t, other, Held, request("held"))
			expect(t, other, CoolingDown, under(unlocked(), ""))
		})
	}
}

func TestRedis_CloseLeavesNoGoroutine(t *testing.T) {
	server := startRedis(t)
	r := open(t, server.URL(), Options{})
	concurrently(t, 20, func(i int) Outcome {
		v := ask(t, r, request(fmt.Sprint(i), charge("ten", "10/h")))
		v.Grant.Release(time.Duration(i%2) * time.Minute)
		return v.Outcome
	})
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "no goroutine left", func() bool {
		stacks := make([]byte, 1<<20)
		stacks = stacks[:runtime.Stack(stacks, true)]
		return !strings.Contains(string(stacks), "cluster.(*Redis)") && !strings.Contains(string(stacks), "go-redis")
	})
}

func TestRedis_CloseDuringAnOutageLeavesNoGoroutine(t *testing.T) {
	for _, name := range []string{"killed", "silent", "stopped"} {
		server := startRedis(t)
		link := redistest.NewLink(t, server.Addr)
		told := newChanges()
		r := open(t, link.URL(), Options{Timeout: storeTimeout, Observe: told.observe})
		var locks []*Grant
		for i := range 10 {
			locks = append(locks, admit(t, r, request(fmt.Sprint(i))).Grant)
		}
		outages[name].begin(t, server, link)
		lose(t, r)
		for i := range 100 {
			locks = append(locks, degraded(t, r, Admitted, by(Open, request(fmt.Sprint("b", i), charge("ten", "10/h")))).Grant)
		}
		if name == "killed" { // as it comes back
			outages[name].end(t, server, link)
		}
		for i, lock := range locks {
			lock.Release(time.Duration(i%2) * time.Minute)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		link.Cut()
		eventually(t, "no goroutine left, "+name, func() bool {
			stacks := make([]byte, 1<<20)
			stacks = stacks[:runtime.Stack(stacks, true)]
			return !strings.Contains(string(stacks), "cluster.(*Redis)") && !strings.Contains(string(stacks), "go-redis")
		})
	}
}
