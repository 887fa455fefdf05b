package cluster

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"throttle-proxy/integration/redistest"
)

// What becomes of asks while a real store is away, and of what they took when
// it is back.

// storeTimeout is the shortest that a busy machine does not take for an outage.
const storeTimeout = 500 * time.Millisecond

// changes are what an observer is told.
type changes chan Change

func newChanges() changes { return make(changes, 1000) }

func (c changes) observe(change Change) { c <- change }

// next returns the next change, which must be of a kind.
func (c changes) next(t *testing.T, want ChangeKind) Change {
	t.Helper()
	select {
	case got := <-c:
		if got.Kind != want {
			t.Fatalf("got change %+v, want kind %d", got, want)
		}
		return got
	case <-time.After(time.Minute):
		t.Fatalf("change %d was not told", want)
		return Change{}
	}
}

func (c changes) none(t *testing.T) {
	t.Helper()
	select {
	case got := <-c:
		t.Errorf("got change %+v, want none", got)
	default:
	}
}

// lose asks until the store is away.
func lose(t *testing.T, r *Redis) {
	t.Helper()
	eventually(t, "away", func() bool {
		_, _ = r.Admit(t.Context(), unlocked(charge("lose", "1000/h")))
		_, away := r.Away()
		return away
	})
}

func by(policy WhenUndecided, a Ask) Ask {
	a.WhenUndecided = policy
	return a
}

// degraded expects a verdict that was made without the store.
func degraded(t *testing.T, r *Redis, want Outcome, a Ask) Verdict {
	t.Helper()
	v := expect(t, r, want, a)
	if !v.Degraded || v.Fault == "" || (v.Share > 0) != (a.WhenUndecided == Local) {
		t.Fatalf("got %+v, want a degraded verdict that says why", v)
	}
	return v
}

// outages are ways in which a store gives no answer.
var outages = map[string]struct {
	begin, end func(t *testing.T, server *redistest.Server, link *redistest.Link)
	faults     []string
	forgets    bool
}{
	"killed": {
		func(t *testing.T, server *redistest.Server, link *redistest.Link) {
			server.Kill()
			link.Refuse()
			link.Cut()
		},
		func(t *testing.T, server *redistest.Server, link *redistest.Link) { server.Restart(); link.Heal() },
		[]string{"refused", "closed"}, true,
	},
	"stopped": {
		func(t *testing.T, server *redistest.Server, link *redistest.Link) { server.Pause() },
		func(t *testing.T, server *redistest.Server, link *redistest.Link) { server.Resume() },
		[]string{"timeout"}, false,
	},
	"silent": {
		func(t *testing.T, server *redistest.Server, link *redistest.Link) { link.Silence() },
		func(t *testing.T, server *redistest.Server, link *redistest.Link) { link.Heal(); link.Cut() },
		[]string{"timeout"}, false,
	},
}

func TestRedis_DecidesAsTheAskSaysWhileTheStoreIsAway(t *testing.T) {
	for name, outage := range outages {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := startRedis(t)
			link := redistest.NewLink(t, server.Addr)
			told := newChanges()
			r := join(t, link.URL(), Options{Timeout: storeTimeout, LockTTL: time.Hour, Observe: told.observe})
			other := join(t, server.URL(), Options{Self: Replica{ID: "replica-1"}})
			held := admit(t, r, request("before"))
			ten := charge("ten", "10/h")
			admit(t, other, unlocked(ten))
			outage.begin(t, server, link)

			v, err := r.Admit(t.Context(), by(Closed, request("first")))
			if !errors.Is(err, ErrUndecided) || v.Outcome != 0 || !v.Degraded || !slices.Contains(outage.faults, v.Fault) || FaultOf(err) != v.Fault {
				t.Errorf("closed: got %+v, %v, want undecided by one of %v", v, err, outage.faults)
			}
			lose(t, r)
			if change := told.next(t, StoreAway); change.Err == nil || change.Tag != "" {
				t.Errorf("got %+v, want the store with an error", change)
			}
			for i := range 50 {
				v, err := r.Admit(t.Context(), by(Closed, unlocked(ten)))
				if !errors.Is(err, ErrUndecided) || v.Outcome != 0 || !v.Degraded || v.Fault != "store-away" {
					t.Errorf("closed: got %+v, %v, want undecided without an ask", v, err)
				}
				degraded(t, r, Admitted, by(Open, unlocked(ten, charge("one", "1/h"))))
				if v := degraded(t, r, Limited, by(Local, unlocked(ten))); v.Decisions[0].NextAfter <= 0 || v.Share != 1 && v.Share != 2 {
					t.Errorf("local: got %+v, want a share with nothing in it yet", v)
				}
				for _, policy := range []WhenUndecided{Local, Open} {
					body := fmt.Sprint(policy, i)
					if v := degraded(t, r, Admitted, by(policy, request(body))); v.Fault != "store-away" || v.Lock == nil {
						t.Errorf("%s: got %+v, want a lock", policy, v)
					}
					expect(t, r, Duplicate, by(policy, request(body)))
				}
			}
			for _, policy := range []WhenUndecided{Local, Open} {
				expect(t, r, Duplicate, by(policy, request("before")))
				got := concurrently(t, 50, func(int) Outcome { return ask(t, r, by(policy, request("equal by "+string(policy)))).Outcome })
				if got[Admitted] != 1 || got[Duplicate] != 49 {
					t.Errorf("%s: got %v, want one admitted and 49 duplicates", policy, got)
				}
			}
			// What needs no store tells nothing of it.
			if v := admit(t, r, unlocked()); v.Degraded {
				t.Errorf("got %+v, want no word of the store", v)
			}
			told.none(t)
			s := r.Status()
			if len(s.Away) != 1 || s.Away[0].Tag != "" || s.Away[0].Since.IsZero() || s.Away[0].Fault == "" || s.Faults["store-away"] != 0 {
				t.Errorf("got %+v", s)
			}

			outage.end(t, server, link)
			if change := told.next(t, StoreBack); change.Lasted <= 0 || change.Lasted > time.Since(s.Away[0].Since) {
				t.Errorf("got %+v", change)
			}
			if _, away := r.Away(); away || len(r.Status().Away) > 0 {
				t.Error("still away")
			}
			eventually(t, "decided by the store", func() bool {
				v := ask(t, r, by(Open, request("after")))
				v.Lock.Release(0)
				return !v.Degraded
			})
			// The locks of what is in flight are the fleet's again. Who asks for one
			// before it is, takes it.
			eventually(t, "all locks taken", func() bool { return r.Status().Renewed >= s.Renewed+uint64(len(s.Locks)) })
			for _, body := range []string{"before", "local7", "open7"} {
				eventually(t, "a duplicate elsewhere", func() bool {
					v := ask(t, other, request(body))
					v.Lock.Release(0)
					return v.Outcome == Duplicate && v.Holder.Replica == "replica-0"
				})
			}
			// 50 were admitted of ten.
			if v := expect(t, other, Limited, unlocked(ten)); v.Decisions[0].ResetAfter > time.Hour {
				t.Errorf("got %+v, want an empty budget", v.Decisions[0])
			}
			held.Lock.Release(0)
			admit(t, other, request("before"))
		})
	}
}

func TestRedis_SharesBeginEmptyAndFillAtTheirRate(t *testing.T) {
	server := startRedis(t)
	server.Kill()
	r := join(t, server.URL(), Options{Timeout: storeTimeout, Replicas: 4})
	limit := by(Local, unlocked(charge("limit", "40/s,burst=80")))
	from := time.Now()
	for admitted := 0; admitted < 8; time.Sleep(5 * time.Millisecond) {
		v := ask(t, r, limit)
		if v.Share != 4 || !v.Degraded || v.Outcome != Admitted && v.Outcome != Limited {
			t.Fatalf("got %+v, want one fourth", v)
		}
		if v.Outcome == Admitted {
			admitted++
		}
		if most := int(time.Since(from) / (100 * time.Millisecond)); admitted > most {
			t.Fatalf("got %d admitted after %v, want at most %d", admitted, time.Since(from), most)
		}
		if time.Since(from) > time.Minute {
			t.Fatalf("got %d admitted in a minute", admitted)
		}
	}
}

func TestRedis_SharesAreOfTheReplicasThatLived(t *testing.T) {
	server := startRedis(t)
	var fleet []*Redis
	for i := range 3 {
		fleet = append(fleet, join(t, server.URL(), Options{Timeout: storeTimeout, Replicas: 9, Self: Replica{ID: fmt.Sprint("replica-", i)}}))
	}
	eventually(t, "three known", func() bool {
		return !slices.ContainsFunc(fleet, func(r *Redis) bool { return r.Status().Live != 3 })
	})
	server.Kill()
	for _, r := range fleet {
		if v := degraded(t, r, Limited, by(Local, unlocked(charge("limit", "9/h")))); v.Share != 3 {
			t.Errorf("got %+v, want a third", v)
		}
	}
}

// Since a store that is out of memory answers, it can tell who asks it.
func TestRedis_StoreThatIsAwayIsNotAsked(t *testing.T) {
	server := startRedis(t)
	client := server.Client()
	told := newChanges()
	r := join(t, server.URL(), Options{Observe: told.observe})
	five := charge("five", "5/h")
	lock := admit(t, r, request("before")).Lock
	must(t, client.ConfigSet(t.Context(), "maxmemory", "1"))
	lose(t, r)
	told.next(t, StoreAway)
	// What was under way ends first.
	r.Pause("slack", "a", time.Minute)
	time.Sleep(2 * retryAfter)
	must(t, client.ConfigResetStat(t.Context()))
	for i := range 1000 {
		degraded(t, r, Admitted, by(Open, request(fmt.Sprint(i), five))).Lock.Release(time.Duration(i%2) * time.Minute)
	}
	lock.Release(0)
	r.Pause("slack", "b", time.Minute)
	before := r.Status().Faults["out-of-memory"]
	eventually(t, "looked for", func() bool { return r.Status().Faults["out-of-memory"] >= before+3 })
	if n := scriptsRun(t, client); n > 0 {
		t.Errorf("got %d scripts run, want none", n)
	}
	told.none(t)

	must(t, client.ConfigSet(t.Context(), "maxmemory", "0"))
	told.next(t, StoreBack)
	other := join(t, server.URL(), Options{})
	eventually(t, "released", func() bool { return ask(t, other, request("before")).Outcome == Admitted })
	eventually(t, "paused", func() bool { return ask(t, other, under(unlocked(), "b")).Outcome == CoolingDown })
	expect(t, other, Limited, unlocked(five))
	// Nothing else is left of the thousand.
	for _, key := range keysOf(t, client) {
		if strings.Contains(key, ":lock:") && key != lockKey(request("before")) {
			t.Errorf("got %s, want no lock", key)
		}
	}
}

func TestRedis_SingleBlipsTellNothing(t *testing.T) {
	server := startRedis(t)
	link := redistest.NewLink(t, server.Addr)
	told := newChanges()
	r := join(t, link.URL(), Options{Timeout: storeTimeout, Observe: told.observe})
	many := charge("many", "1000/h")
	for range 3 {
		eventually(t, "undecided", func() bool {
			link.LoseAnswers(1, r.guard.Hash())
			_, err := r.Admit(t.Context(), unlocked(many))
			return err != nil
		})
		eventually(t, "decided", func() bool {
			_, err := r.Admit(t.Context(), unlocked(many))
			return err == nil
		})
		for range 20 {
			if _, err := r.Admit(t.Context(), unlocked(many)); err != nil {
				t.Fatal(err)
			}
		}
	}
	eventually(t, "no longer suspected", func() bool { return !r.parts.of("").probing.Load() })
	told.none(t)
	if s := r.Status(); len(s.Away) > 0 || s.Faults["timeout"] == 0 {
		t.Errorf("got %+v, want three timeouts and no outage", s)
	}
}

// Many asks can be on one connection, or on a few, that is cut.
func TestRedis_OneCutIsNoOutage(t *testing.T) {
	server := startRedis(t)
	link := redistest.NewLink(t, server.Addr)
	told := newChanges()
	r := join(t, link.URL(), Options{Timeout: 5 * time.Second, Observe: told.observe})
	const asks = 20 * failuresRunning
	many := charge("many", "1000/h")
	var failed atomic.Int64
	for range 3 {
		link.Silence()
		var asking sync.WaitGroup
		for range asks {
			asking.Go(func() {
				if _, err := r.Admit(t.Context(), unlocked(many)); err != nil {
					failed.Add(1)
				}
			})
		}
		eventually(t, "all are asking", func() bool { return r.conn.Load().asking.Load() == asks })
		link.Heal() // for new connections
		link.Cut()
		asking.Wait()
		eventually(t, "decided", func() bool {
			_, err := r.Admit(t.Context(), unlocked(many))
			return err == nil
		})
	}
	if failed.Load() < failuresRunning {
		t.Fatalf("%d asks have failed", failed.Load())
	}
	told.none(t)
}

// A replica without traffic, which a load balancer may have taken out for
// being degraded, must come back too, again and again, and tell of each once.
func TestRedis_StoreIsFoundBackWithoutAnAsk(t *testing.T) {
	server := startRedis(t)
	told := newChanges()
	r := join(t, server.URL(), Options{Observe: told.observe})
	for range 3 {
		server.Kill()
		for range 10 {
			undecided(t, r, unlocked(charge("many", "1000/h")))
		}
		told.next(t, StoreAway)
		server.Restart()
		told.next(t, StoreBack)
	}
	admit(t, r, unlocked(charge("many", "1000/h")))
	told.none(t)
}

// Nobody needs to ask a store for it to be missed.
func TestRedis_HeartbeatsFindThatTheStoreIsAway(t *testing.T) {
	t.Parallel()
	server := startRedis(t)
	told := newChanges()
	r := join(t, server.URL(), Options{Observe: told.observe})
	eventually(t, "known", func() bool { return r.Status().Live == 1 })
	server.Kill()
	told.next(t, StoreAway)
}

func TestRedis_WhatWasAdmittedIsCharged(t *testing.T) {
	for name, test := range map[string]struct {
		forgets  bool
		policy   WhenUndecided
		before   int
		admitted int // of 10
		left     int
	}{
		"a store that kept its budgets":   {false, Open, 2, 4, 4},
		"a store that restarted empty":    {true, Open, 2, 4, 6},
		"more than there was":             {false, Open, 2, 50, 0},
		"more than there was, and empty":  {true, Open, 2, 50, 0},
		"nothing, if nothing is admitted": {false, Closed, 2, 0, 8},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := startRedis(t)
			link := redistest.NewLink(t, server.Addr)
			told := newChanges()
			r := join(t, link.URL(), Options{Timeout: storeTimeout, Observe: told.observe})
			ten := charge("ten", "10/h")
			for range test.before {
				admit(t, r, unlocked(ten))
			}
			link.Refuse()
			link.Cut()
			if test.forgets {
				server.Kill()
				server.Restart()
			}
			lose(t, r)
			told.next(t, StoreAway)
			for range test.admitted {
				degraded(t, r, Admitted, by(test.policy, unlocked(ten)))
			}
			link.Heal()
			told.next(t, StoreBack)
			client := server.Client()
			const key = "throttle:1:{slack}:rate:ten"
			if ttl := must(t, client.PTTL(t.Context(), key)); ttl <= 0 || ttl > time.Hour {
				t.Errorf("got TTL %v, want up to 1h", ttl)
			}
			other := join(t, server.URL(), Options{})
			v := ask(t, other, unlocked(ten))
			d := v.Decisions[0]
			if want := test.left - 1; want >= 0 && (v.Outcome != Admitted || d.Remaining != want) {
				t.Errorf("got %+v, want %d remaining", v, want)
			}
			if test.left == 0 && (v.Outcome != Limited || d.NextAfter > 6*time.Minute || d.ResetAfter > time.Hour || d.ResetAfter < 50*time.Minute) {
				t.Errorf("got %+v, want an empty budget and no less", v)
			}
		})
	}
}

// The time of an outage must not be spent twice: by the replicas meanwhile, and
// from the budget that has been earned in the store when it is back.
func TestRedis_OutageHandsOutNoSecondBurst(t *testing.T) {
	for _, replicas := range []int{1, 8} {
		t.Run(fmt.Sprint(replicas, " replicas"), func(t *testing.T) {
			t.Parallel()
			const rate, burst = 40, 60
			server := startRedis(t)
			link := redistest.NewLink(t, server.Addr)
			told := newChanges()
			var fleet []*Redis
			for i := range replicas {
				fleet = append(fleet, join(t, link.URL(), Options{Timeout: storeTimeout, Self: Replica{ID: fmt.Sprint("replica-", i)}, Observe: told.observe}))
			}
			eventually(t, "all known", func() bool {
				return !slices.ContainsFunc(fleet, func(r *Redis) bool { return r.Status().Live != replicas })
			})
			limit := by(Local, unlocked(charge("limit", fmt.Sprintf("%d/s,burst=%d", rate, burst))))
			var admitted, alone, after atomic.Int64
			var asking sync.WaitGroup
			stop := make(chan struct{})
			from := time.Now()
			for _, r := range fleet {
				asking.Go(func() {
					wasAlone := false
					for {
						v, _ := r.Admit(t.Context(), limit)
						wasAlone = wasAlone || v.Degraded
						if v.Outcome == Admitted {
							admitted.Add(1)
							if v.Degraded {
								alone.Add(1)
							} else if wasAlone {
								after.Add(1)
							}
						}
						select {
						case <-stop:
							return
						case <-time.After(2 * time.Millisecond):
						}
					}
				})
			}
			eventually(t, "the burst is spent", func() bool { return admitted.Load() >= burst })
			link.Refuse() // so that the store gets no ask that is not answered
			link.Cut()
			for range fleet {
				told.next(t, StoreAway)
			}
			eventually(t, "as much is earned alone", func() bool { return alone.Load() >= burst })
			link.Heal()
			for range fleet {
				told.next(t, StoreBack)
			}
			eventually(t, "as much is earned in the store", func() bool { return after.Load() >= burst })
			close(stop)
			asking.Wait()
			took := time.Since(from)
			// One for each replica's share, and what the others earn in the moment
			// between two of them.
			most := burst + int(rate*took.Seconds()) + replicas + rate/4
			if got := int(admitted.Load()); got > most {
				t.Errorf("got %d admitted in %v, %d of them alone and %d afterwards; want at most %d", got, took, alone.Load(), after.Load(), most)
			}
		})
	}
}

func TestRedis_LocksThatEndDuringAnOutageLeaveNoOrphan(t *testing.T) {
	t.Parallel()
	server := startRedis(t)
	link := redistest.NewLink(t, server.Addr)
	told := newChanges()
	r, other := join(t, link.URL(), Options{Timeout: storeTimeout, Observe: told.observe}), join(t, server.URL(), Options{})
	ended, held := admit(t, r, request("ended")).Lock, admit(t, r, request("held")).Lock
	link.Refuse()
	link.Cut()
	lose(t, r)
	degraded(t, r, Admitted, by(Local, request("began and ended"))).Lock.Release(0)
	during := degraded(t, r, Admitted, by(Local, request("goes on"))).Lock
	ended.Release(0)
	held.Release(time.Minute)
	expect(t, other, Duplicate, request("ended"))
	link.Heal()
	told.next(t, StoreAway)
	told.next(t, StoreBack)
	eventually(t, "free", func() bool { return ask(t, other, request("ended")).Outcome == Admitted })
	eventually(t, "held", func() bool { return ask(t, other, request("held")).Outcome == Held })
	admit(t, other, request("began and ended"))
	eventually(t, "taken", func() bool { return r.Status().Renewed > 0 }) // which whoever asks before can prevent
	eventually(t, "a duplicate", func() bool {
		v := ask(t, other, request("goes on"))
		v.Lock.Release(0)
		return v.Outcome == Duplicate
	})
	during.Release(0)
	admit(t, other, request("goes on"))
}

// Of asks that are sent together none may wait for the others, nor leave its
// lock behind.
func TestRedis_ManyAsksThatGetNoAnswerLeaveNoOrphan(t *testing.T) {
	t.Parallel()
	server := startRedis(t)
	r := join(t, server.URL(), Options{Timeout: storeTimeout})
	const asks = 10 * fewAsks
	together := func(what string, begin func(a Ask)) {
		t.Helper()
		var asking sync.WaitGroup
		for i := range asks {
			asking.Go(func() { begin(request(fmt.Sprint(what, i))) })
		}
		asking.Wait()
	}
	together("answered", func(a Ask) {
		if v, err := r.Admit(t.Context(), a); err == nil {
			v.Lock.Release(0)
		}
	})
	server.Pause()
	var undecided atomic.Int64
	together("not answered", func(a Ask) {
		if _, err := r.Admit(t.Context(), a); errors.Is(err, ErrUndecided) {
			undecided.Add(1)
		}
	})
	if n := undecided.Load(); n != asks {
		t.Errorf("got %d undecided of %d", n, asks)
	}
	server.Resume()
	client := server.Client()
	// Where the breaker has opened there is a probe to wait for.
	eventually(t, "asked again", func() bool {
		v, err := r.Admit(t.Context(), request("again"))
		v.Lock.Release(0)
		return err == nil
	})
	eventually(t, "no lock is left", func() bool {
		return !slices.ContainsFunc(keysOf(t, client), func(key string) bool { return strings.Contains(key, ":lock:") })
	})
}

func TestRedis_LockWhoseAnswerWasLostIsAdopted(t *testing.T) {
	t.Parallel()
	server := startRedis(t)
	link, client := redistest.NewLink(t, server.Addr), server.Client()
	const ttl = 3 * time.Second
	r, other := join(t, link.URL(), Options{Timeout: storeTimeout, LockTTL: ttl}), join(t, server.URL(), Options{})
	type adopted struct {
		ask   Ask
		lock  *Lock
		value string
	}
	var all []adopted
	for _, policy := range []WhenUndecided{Local, Open} {
		a := by(policy, request(string(policy)))
		var v Verdict
		var value string
		// The answer that is lost may be that the script is not there yet, and on a
		// busy machine it may only be late.
		eventually(t, "an answer lost to an ask that the store has granted", func() bool {
			link.LoseAnswers(1, r.guard.Hash())
			v = admit(t, r, a)
			link.Heal()
			value = client.Get(t.Context(), lockKey(a)).Val()
			if v.Degraded && strings.HasPrefix(value, v.Lock.value+" ") {
				return true
			}
			v.Lock.Release(0)
			return false
		})
		if !v.Lock.doubtful.Load() {
			t.Errorf("%s: got no doubt about a lock that the store may yet take", policy)
		}
		expect(t, r, Duplicate, a)
		all = append(all, adopted{a, v.Lock, value})
	}
	time.Sleep(ttl + ttl/10)
	for _, adopted := range all {
		a := adopted.ask
		if got := must(t, client.Get(t.Context(), lockKey(a))); got != adopted.value {
			t.Errorf("%s: got %q, want %q: not lost in between", a.WhenUndecided, got, adopted.value)
		}
		expect(t, other, Duplicate, a)
		adopted.lock.Release(0)
		eventually(t, "free", func() bool { return ask(t, other, a).Outcome == Admitted })
	}
	// One that does not go on is given back.
	a := request("closed")
	eventually(t, "an answer lost", func() bool {
		link.LoseAnswers(1, r.guard.Hash())
		v, err := r.Admit(t.Context(), a)
		v.Lock.Release(0)
		link.Heal()
		return err != nil
	})
	eventually(t, "free", func() bool { return ask(t, other, a).Outcome == Admitted })
}

// An ask can get no answer, and go on, while an equal one is on its way.
func TestRedis_EqualAsksOfWhichOneGotNoAnswerDoNotRunTogether(t *testing.T) {
	t.Parallel()
	server := startRedis(t)
	link, client := redistest.NewLink(t, server.Addr), server.Client()
	r, other := join(t, link.URL(), Options{}), join(t, server.URL(), Options{})
	for round := range 20 {
		a := request(fmt.Sprint(round))
		admit(t, r, unlocked(charge("many", "1000/h"))) // connected
		link.Delay(300 * time.Millisecond)
		second := make(chan Verdict, 1)
		go func() {
			v, _ := r.Admit(context.Background(), a)
			second <- v
		}()
		eventually(t, "admitted by the store", func() bool { return must(t, client.Exists(t.Context(), lockKey(a))) == 1 })
		first, _ := r.undecided(by(Local, a), newLock(a, r), r.parts.of(a.Tag), errors.New("no answer"))
		v := <-second
		link.Heal()
		if first.Outcome == Duplicate { // the answer was faster
			v.Lock.Release(0)
			continue
		}
		if first.Outcome != Admitted || v.Outcome != Duplicate || v.Lock != nil {
			t.Fatalf("got %+v and %+v, want an admission and a duplicate", first, v)
		}
		expect(t, r, Duplicate, a)
		first.Lock.Release(0)
		eventually(t, "free", func() bool { return ask(t, other, a).Outcome == Admitted })
		return
	}
	t.Fatal("the answer was always faster")
}

// A store that stood still may take a lock only after it was told of its end.
func TestRedis_DoubtfulLockIsReleasedOnceMore(t *testing.T) {
	server := startRedis(t)
	r := join(t, server.URL(), Options{})
	eventually(t, "the scripts are there", func() bool { return r.Status().Live == 1 })
	for doubtful, want := range map[bool][]int{false: {0, 0}, true: {1, 0}} {
		lock := newStoredLock(request("a"), "replica-0", r)
		lock.doubtful.Store(doubtful)
		tasks := []*task{r.ending(lock, 0)}
		for i, n := range want {
			if again := r.perform(tasks, false); len(again) != n {
				t.Errorf("doubtful %t, time %d: got %d to tell again, want %d", doubtful, i+1, len(again), n)
			}
		}
	}
}

func TestRedis_RenewalWithoutAnAnswerMakesALockDoubtful(t *testing.T) {
	server := startRedis(t)
	r := join(t, server.URL(), Options{LockTTL: time.Hour}) // renewed by this test alone
	lock := admit(t, r, request("a")).Lock
	if !r.renew() || lock.doubtful.Load() {
		t.Error("got doubt about a lock that was renewed")
	}
	server.Kill()
	if r.renew() || !lock.doubtful.Load() {
		t.Error("got no doubt about a lock that the store may yet take again")
	}
}

func TestRedis_PauseThatIsOverIsNotTold(t *testing.T) {
	server := startRedis(t)
	r := join(t, server.URL(), Options{})
	for _, d := range []time.Duration{0, -1, -time.Hour} {
		r.Pause("slack", "", d)
	}
	admit(t, r, under(unlocked(), ""))
	if s := r.Status(); len(s.Faults) > 0 || len(s.Pauses) > 0 {
		t.Errorf("got %+v, want neither faults nor pauses", s)
	}
}

// How much is charged is tested in the limiter package.
func TestChargeScript_BadKeyKeepsNoneOfTheOthersFromBeingCharged(t *testing.T) {
	server := startRedis(t)
	client := server.Client()
	const key = "throttle:1:{slack}:rate:ten"
	must(t, client.RPush(t.Context(), key, "value"))
	results := must(t, slicer{chargeScript.Run(t.Context(), client, []string{key, key + "-2"}, 10, 360, 10, 1, 10, 360, 10, 2.5)})
	if err, _ := results[0].(error); FaultOf(err) != "wrong-type" || results[1] != int64(1) {
		t.Errorf("got %v, want an error about the type, and 1", results)
	}
	if ttl := must(t, client.PTTL(t.Context(), key+"-2")); ttl > 15*time.Minute || ttl < 14*time.Minute {
		t.Errorf("got TTL %v, want 15m", ttl)
	}
}

type slicer struct{ *redis.Cmd }

func (s slicer) Result() ([]any, error) { return s.Slice() }

func TestRedis_KeyOfAWrongTypeIsNoOutage(t *testing.T) {
	server := startRedis(t)
	client := server.Client()
	told := newChanges()
	r := open(t, server.URL(), Options{Observe: told.observe})
	ten, bad := charge("ten", "10/h"), charge("bad", "1000/s,burst=1")
	lock := request("a")
	must(t, client.RPush(t.Context(), lockKey(lock), "value"))
	must(t, client.RPush(t.Context(), "throttle:1:{slack}:rate:bad", "value"))
	for range 30 {
		for _, a := range []Ask{lock, unlocked(bad)} {
			undecided(t, r, by(Closed, a))
			if v := degraded(t, r, Admitted, by(Open, a)); v.Fault != "wrong-type" {
				t.Errorf("got %+v, want a wrong type", v)
			} else if v.Lock != nil {
				expect(t, r, Duplicate, lock)
				v.Lock.Release(0)
			}
			eventually(t, "a share", func() bool {
				v := ask(t, r, by(Local, a))
				v.Lock.Release(0)
				if v.Share != 1 || v.Fault != "wrong-type" {
					t.Fatalf("got %+v, want a wrong type", v)
				}
				return v.Outcome == Admitted
			})
		}
		// The store decides all others.
		if v := admit(t, r, request("b")); v.Degraded {
			t.Errorf("got %+v, want the store's verdict", v)
		} else {
			v.Lock.Release(0)
		}
	}
	// Of what else was admitted with them the store is told at once.
	degraded(t, r, Admitted, by(Open, request("a", ten)))
	other := join(t, server.URL(), Options{})
	eventually(t, "charged", func() bool { return ask(t, other, unlocked(ten)).Decisions[0].Remaining < 9 })

	// Renewals and ends of such locks are not repeated.
	must(t, client.ConfigResetStat(t.Context()))
	time.Sleep(10 * retryAfter)
	if n := scriptsRun(t, client); n > 3 {
		t.Errorf("got %d scripts run, want none of them again and again", n)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	told.none(t)
	if r.Status().Faults["wrong-type"] == 0 {
		t.Error("not counted")
	}
}

// readable are faults of a store that can be reached, and may be read.
var readable = map[string]struct {
	fault      string
	begin, end func(t *testing.T, server *redistest.Server, client *redis.Client)
}{
	"out of memory": {
		"out-of-memory",
		func(t *testing.T, _ *redistest.Server, c *redis.Client) {
			must(t, c.ConfigSet(t.Context(), "maxmemory", "1"))
		},
		func(t *testing.T, _ *redistest.Server, c *redis.Client) {
			must(t, c.ConfigSet(t.Context(), "maxmemory", "0"))
		},
	},
	"read-only": {
		"readonly",
		func(t *testing.T, _ *redistest.Server, c *redis.Client) {
			must(t, c.Do(t.Context(), "replicaof", "127.0.0.1", "1"))
		},
		func(t *testing.T, _ *redistest.Server, c *redis.Client) {
			must(t, c.Do(t.Context(), "replicaof", "no", "one"))
		},
	},
	"a password": {
		"auth",
		func(t *testing.T, _ *redistest.Server, c *redis.Client) {
			must(t, c.ConfigSet(t.Context(), "requirepass", "new"))
			must(t, c.Do(t.Context(), "client", "kill", "type", "normal", "skipme", "yes"))
		},
		func(t *testing.T, _ *redistest.Server, c *redis.Client) {
			must(t, c.ConfigSet(t.Context(), "requirepass", ""))
		},
	},
	"no rights": {
		"auth",
		func(t *testing.T, _ *redistest.Server, c *redis.Client) {
			must(t, c.Do(t.Context(), "acl", "setuser", "default", "-evalsha", "-eval", "-set"))
		},
		func(t *testing.T, _ *redistest.Server, c *redis.Client) {
			must(t, c.Do(t.Context(), "acl", "setuser", "default", "+@all"))
		},
	},
	"loading": {
		"loading",
		func(t *testing.T, server *redistest.Server, c *redis.Client) {
			must(t, c.Do(t.Context(), "debug", "populate", 20_000))
			must(t, c.Save(t.Context()))
			server.Kill()
			// Long, unless it is told to hurry.
			server.Configure("--key-load-delay", "10000", "--loading-process-events-interval-bytes", "1024")
			server.Restart()
		},
		func(t *testing.T, _ *redistest.Server, c *redis.Client) {
			must(t, c.ConfigSet(t.Context(), "key-load-delay", "0"))
		},
	},
}

func TestRedis_StoreThatCannotBeWrittenIsAway(t *testing.T) {
	for name, test := range readable {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := startRedis(t)
			client := server.Client()
			told := newChanges()
			r := join(t, server.URL(), Options{Observe: told.observe})
			ten := charge("ten", "10/h")
			admit(t, r, unlocked(ten))
			test.begin(t, server, client)
			eventually(t, "degraded by "+test.fault, func() bool {
				v := ask(t, r, by(Open, unlocked(ten)))
				return v.Degraded && v.Fault == test.fault
			})
			lose(t, r)
			if change := told.next(t, StoreAway); change.Err == nil {
				t.Errorf("got %+v, want an error", change)
			}
			if v, err := r.Admit(t.Context(), by(Closed, unlocked(ten))); !errors.Is(err, ErrUndecided) || v.Fault != "store-away" {
				t.Errorf("got %+v, %v, want undecided", v, err)
			}
			// It is looked for, and not found until it can be written.
			faults := func() uint64 { return r.Status().Faults[test.fault] }
			before := faults()
			eventually(t, "looked for", func() bool { return faults() >= before+3 })
			told.none(t)
			test.end(t, server, client)
			told.next(t, StoreBack)
			if v := ask(t, r, by(Open, unlocked(ten))); v.Degraded {
				t.Errorf("got %+v, want the store's verdict", v)
			}
		})
	}
}

// go-redis believes for a second that there is nothing to connect to, once as
// many dials have failed as a pool has connections.
func TestRedis_StoreIsFoundBackByANewClient(t *testing.T) {
	t.Parallel()
	server := startRedis(t)
	told := newChanges()
	r := join(t, server.URL(), Options{Timeout: storeTimeout, Observe: told.observe})
	old := r.redis()
	server.Kill()
	for range 20 * runtime.GOMAXPROCS(0) {
		if old.Ping(t.Context()).Err() == nil {
			t.Fatal("the store is there")
		}
	}
	lose(t, r)
	told.next(t, StoreAway)
	server.Restart()
	told.next(t, StoreBack)
	if r.redis() == old {
		t.Error("got the client of before")
	}
	if v := ask(t, r, by(Open, request("a"))); v.Degraded {
		t.Errorf("got %+v, want the store's verdict", v)
	}
	eventually(t, "the old one closed", func() bool { return errors.Is(old.Ping(t.Context()).Err(), redis.ErrClosed) })
}

func TestRedis_CloseDuringAnOutageLeavesNoGoroutine(t *testing.T) {
	for _, name := range []string{"killed", "silent", "stopped"} {
		server := startRedis(t)
		link := redistest.NewLink(t, server.Addr)
		told := newChanges()
		r := open(t, link.URL(), Options{Timeout: storeTimeout, Observe: told.observe})
		var locks []*Lock
		for i := range 10 {
			locks = append(locks, admit(t, r, request(fmt.Sprint(i))).Lock)
		}
		outages[name].begin(t, server, link)
		lose(t, r)
		for i := range 100 {
			locks = append(locks, degraded(t, r, Admitted, by(Open, request(fmt.Sprint("b", i), charge("ten", "10/h")))).Lock)
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

// While a slot moves, a script for keys of which some have moved is refused. One
// for a single key follows it.
func TestRedisCluster_LocksAreKeptWhileTheirSlotMoves(t *testing.T) {
	t.Parallel()
	skipIfShort(t)
	nodes := redistest.StartCluster(t)
	const ttl = 3 * time.Second
	r := join(t, nodes.URL(), Options{LockTTL: ttl})
	var locks []*Lock
	for i := range 10 {
		locks = append(locks, admit(t, r, request(fmt.Sprint(i))).Lock)
	}
	from := nodes.Nodes[nodes.Owner("{slack}")]
	to := nodes.Nodes[(nodes.Owner("{slack}")+1)%3]
	nodes.MoveKey(lockKey(request("0")), from, to)
	before := r.Status().Renewed
	eventually(t, "each renewed twice at least", func() bool { return r.Status().Renewed >= before+uint64(3*len(locks)) })
	if s := r.Status(); s.Lost > 0 {
		t.Errorf("got %d locks lost", s.Lost)
	}
	for _, lock := range locks {
		lock.Release(0)
	}
	client := connect(t, nodes.URL(), 10*time.Second)
	defer client.Close()
	eventually(t, "no lock is left", func() bool {
		return !slices.ContainsFunc(locks, func(lock *Lock) bool {
			return client.Get(t.Context(), "throttle:1:"+string(lock.appendKey(nil))).Err() != redis.Nil
		})
	})
}

// In a cluster one master can be away, and only its routes are without a store.
func TestRedisCluster_OneMasterAway(t *testing.T) {
	t.Parallel()
	skipIfShort(t)
	nodes := redistest.StartCluster(t)
	for _, node := range nodes.Nodes {
		must(t, node.Client().ConfigSet(t.Context(), "cluster-require-full-coverage", "no"))
	}
	// One tag of each.
	tags := make([]string, 3)
	for i := 0; slices.Contains(tags, ""); i++ {
		tag := fmt.Sprint("route", i)
		tags[nodes.Owner("{"+tag+"}")] = tag
	}
	told := newChanges()
	r := join(t, nodes.URL(), Options{Timeout: 2 * time.Second, Observe: told.observe})
	of := func(tag string, a Ask) Ask {
		a.Tag = tag
		return by(Open, a)
	}
	many := charge("many", "1000/h")
	for _, tag := range tags {
		eventually(t, "decided by the store", func() bool { return !ask(t, r, of(tag, unlocked(many))).Degraded })
	}
	nodes.Nodes[1].Kill()
	lostTag := tags[1]
	eventually(t, "away", func() bool {
		ask(t, r, of(lostTag, unlocked(many)))
		return len(r.Status().Away) > 0
	})
	if change := told.next(t, StoreAway); change.Tag != lostTag {
		t.Errorf("got %+v, want %s away", change, lostTag)
	}
	if s := r.Status(); len(s.Away) != 1 || s.Away[0].Tag != lostTag {
		t.Errorf("got %+v, want %s away", s.Away, lostTag)
	}
	for i := range 50 {
		if v := admit(t, r, of(lostTag, request(fmt.Sprint(i)))); !v.Degraded || v.Fault != "store-away" {
			t.Errorf("got %+v, want no ask", v)
		}
	}
	for _, tag := range []string{tags[0], tags[2]} {
		decided := 0
		eventually(t, "decided by the store", func() bool {
			v := ask(t, r, of(tag, request("a", many)))
			v.Lock.Release(0)
			if !v.Degraded {
				decided++
			}
			return decided == 20
		})
	}
	told.none(t)
	nodes.Nodes[1].Restart()
	if change := told.next(t, StoreBack); change.Tag != lostTag {
		t.Errorf("got %+v, want %s back", change, lostTag)
	}
	eventually(t, "decided by the store", func() bool { return !ask(t, r, of(lostTag, unlocked(many))).Degraded })
}
