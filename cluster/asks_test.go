package cluster

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"throttle-proxy/integration/redistest"
)

// Asks of many callers of a route that come together are decided by few scripts, each
// as if it were alone.
func TestRedis_AsksOfARouteGoTogether(t *testing.T) {
	server := startRedis(t)
	client := server.Client()
	r := join(t, server.URL(), Options{Timeout: time.Minute})
	eventually(t, "the scripts are there", func() bool { return r.Status().Live == 1 })
	const asks, budget = 100, 60
	before := callsOfEval(t, client)
	server.Pause()
	outcomes := make(map[Outcome]int)
	remaining := make(map[int]int)
	var mu sync.Mutex
	var asking sync.WaitGroup
	for i := range asks {
		asking.Go(func() {
			own := charge("own", "1/h")
			own.Caller = fmt.Sprint(i)
			v, err := r.Admit(t.Context(), request(fmt.Sprint(i), charge("all", fmt.Sprintf("%d/h", budget)), own))
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				t.Error(err)
				return
			}
			outcomes[v.Outcome]++
			if v.Outcome == Admitted {
				remaining[v.Decisions[0].Remaining]++
			}
		})
	}
	eventually(t, "all are asking", func() bool {
		return waitingAsks(r, deskID{"slack", plainGuardScript})+int(r.conn.Load().running.Load()) >= asks
	})
	server.Resume()
	asking.Wait()
	if outcomes[Admitted] != budget || outcomes[Limited] != asks-budget {
		t.Errorf("got %v, want %d admitted and %d limited", outcomes, budget, asks-budget)
	}
	for n := range budget {
		if remaining[n] != 1 {
			t.Errorf("%d were told that %d remain, want one", remaining[n], n)
		}
	}
	// Two at once, the rest in full batches; others are heartbeats, and of another time.
	if got, most := callsOfEval(t, client)-before, 2+asks/groupSize+1+10; got > most {
		t.Errorf("%d asks took %d scripts, want at most %d", asks, got, most)
	}
}

// Requests that a replica refuses by what it knows are looked for together where the
// others may have their locks, each as if it were alone.
func TestRedis_LooksForLocksGoTogether(t *testing.T) {
	server := startRedis(t)
	r := join(t, server.URL(), Options{Timeout: time.Minute})
	other := join(t, server.URL(), Options{Self: Replica{ID: "replica-1"}})
	knowEachOther(t, []replica{r, other})
	believeLong(r)
	const asks = 100
	for i := 0; i < asks; i += 2 {
		admit(t, other, request(fmt.Sprint(i)))
	}
	hourly := charge("all", "1/h")
	admit(t, other, unlocked(hourly))
	expect(t, r, Limited, unlocked(hourly))
	server.Pause()
	var asking sync.WaitGroup
	for i := range asks {
		asking.Go(func() {
			want := []Outcome{Duplicate, Limited}[i%2]
			if v, err := r.Admit(t.Context(), request(fmt.Sprint(i), hourly)); v.Outcome != want || err != nil {
				t.Errorf("got outcome %v, %v, want %v", v.Outcome, err, want)
			}
		})
	}
	eventually(t, "all but those under way wait together", func() bool {
		return waitingAsks(r, deskID{"slack", nil}) >= asks-r.pace().most
	})
	server.Resume()
	asking.Wait()
}

// waitingAsks counts those whose batch is not under way.
func waitingAsks(r *Redis, at deskID) (n int) {
	found, ok := r.desks.Load(at)
	if !ok {
		return 0
	}
	d := found.(*desk)
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, b := range d.waiting {
		n += len(b.asks)
	}
	return n
}

// callsOfEval counts the scripts that a Redis has run by their hash.
func callsOfEval(t *testing.T, client *redis.Client) int {
	t.Helper()
	calls := regexp.MustCompile(`cmdstat_evalsha:calls=(\d+)`).FindStringSubmatch(must(t, client.Info(t.Context(), "commandstats")))
	if calls == nil {
		return 0
	}
	n, err := strconv.Atoi(calls[1])
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// An ask that gives up when its batch is under way, but not sent yet, is found late:
// also one that wanted slots.
func TestRedis_WhoGaveUpInADeskHarmsNobody(t *testing.T) {
	server := startRedis(t)
	r := join(t, server.URL(), Options{Timeout: 2 * time.Second})
	admit(t, r, request("first")) // from then on it knows the store's clock
	d := &desk{script: guardScript}
	r.desks.Store(deskID{"slack", guardScript}, d)
	for range farBatches { // others, which are not late yet
		d.underWay = append(d.underWay, &batch{began: r.known.now() + time.Hour})
	}
	all := charge("all", "9/h")
	wants := by(Closed, request("second", all))
	wants.Slots = []Slot{{Name: "few", Most: 3}}
	var asking sync.WaitGroup
	asking.Go(func() { _, _ = r.Admit(t.Context(), wants) })
	eventually(t, "it waits", func() bool { return waitingAsks(r, deskID{"slack", guardScript}) == 1 })
	d.mu.Lock()
	d.underWay = nil
	b := d.goLocked(pace{1, time.Hour}, r.known.now())
	d.mu.Unlock()
	asking.Wait()
	b.ctx = t.Context() // another's, who has more time
	r.runBatches(d, b)
	if got, err := b.asks[0].answer(); err != nil || !got.late {
		t.Errorf("got %+v, %v, want an ask that is too late", got, err)
	}
	if v := admit(t, r, wants); v.Used[0] != 1 || v.Decisions[0].Remaining != 8 {
		t.Errorf("got %+v, want nothing taken before", v)
	}
}

// How far a store is turns out when it is connected to, after the client was made.
func TestRedis_BatchesAtOnceToAStoreAtSomeDistance(t *testing.T) {
	server := startRedis(t)
	link := redistest.NewLink(t, server.Addr)
	link.Delay(5 * time.Millisecond)
	r := join(t, link.URL(), Options{Timeout: time.Minute})
	<-r.Started()
	if got, least := r.pace().most, batchesAtOnce(10*time.Millisecond); got < least {
		t.Errorf("got %d batches at once, want %d", got, least)
	}
	var going sync.WaitGroup
	link.Silence()
	d := &desk{script: plainGuardScript}
	r.desks.Store(deskID{"slack", plainGuardScript}, d)
	const asks = 8
	for range asks {
		going.Go(func() { _, _ = r.Admit(t.Context(), unlocked(charge("ten", "10/h"))) })
	}
	eventually(t, "all are under way", func() bool {
		d.mu.Lock()
		defer d.mu.Unlock()
		return len(d.underWay) == asks
	})
	link.Heal() // for new connections
	link.Cut()
	going.Wait()
}

// An answer that is lost, or two, is no matter of those that ask meanwhile.
func TestRedis_LostAnswersHoldUpNobodyElse(t *testing.T) {
	server := startRedis(t)
	link := redistest.NewLink(t, server.Addr)
	r := join(t, link.URL(), Options{Timeout: 5 * time.Second})
	eventually(t, "the scripts are there", func() bool { return r.Status().Live == 1 })
	const lost, asks = 2, 40
	many := charge("many", "1000/h,burst=1000")
	concurrently(t, 10, func(int) Outcome { return ask(t, r, unlocked(many)).Outcome }) // for connections
	underWay := func() int { return int(r.conn.Load().running.Load()) }
	eventually(t, "nothing is under way", func() bool { return underWay() == 0 })
	link.LoseAnswers(lost, "slack")
	var losing sync.WaitGroup
	for i := range lost {
		losing.Go(func() {
			if v, err := r.Admit(t.Context(), unlocked(many)); !errors.Is(err, ErrUndecided) {
				t.Errorf("got %+v, %v, want no answer", v, err)
			}
		})
		eventually(t, "it is under way", func() bool { return underWay() > i })
	}
	concurrently(t, asks, func(int) Outcome { return ask(t, r, unlocked(many)).Outcome })
	losing.Wait()
	if away, is := r.Away(); is {
		t.Errorf("two lost answers are an outage: %v", away)
	}
}

// While a slot moves some asks are for the node that has it and some for the one that
// gets it: those that go together fail no more than by themselves.
func TestRedisCluster_AsksThatGoTogetherWhileTheirSlotMoves(t *testing.T) {
	skipIfShort(t)
	cluster := redistest.StartCluster(t)
	holder, r := join(t, cluster.URL(), Options{}), join(t, cluster.URL(), Options{Self: Replica{ID: "replica-1"}})
	admit(t, holder, request("held"))
	admit(t, r, request("known"))
	from := cluster.Owner("{slack}")
	must(t, cluster.Nodes[from].Client().Set(t.Context(), "{slack}moved", "", time.Hour))
	cluster.MoveKey("{slack}moved", cluster.Nodes[from], cluster.Nodes[(from+1)%3])
	said, errs := together(t, r, plainGuardScript, request("held"), request("new"), request("held"), request("newer"))
	if got, want := fmt.Sprint(said), fmt.Sprint([]Outcome{Duplicate, Admitted, Duplicate, Admitted}); got != want {
		t.Errorf("got %v, %v, want %v", got, errs, want)
	}
	var looks []*asker
	for _, body := range []string{"held", "nobody's", "held"} {
		looks = append(looks, asking(request(body), 0))
	}
	r.lookFor(t.Context(), looks)
	for i, want := range []bool{true, false, true} {
		if _, got := looks[i].reply.(string); got != want || looks[i].err != nil {
			t.Errorf("look %d: got %v, %v, want a lock: %v", i, looks[i].reply, looks[i].err, want)
		}
	}
}
