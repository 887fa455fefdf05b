package cluster

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

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
					if v := degraded(t, r, Admitted, by(policy, request(body))); v.Fault != "store-away" || v.Grant == nil {
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
				v.Grant.Release(0)
				return !v.Degraded
			})
			// The locks of what is in flight are the fleet's again. Who asks for one
			// before it is, takes it.
			eventually(t, "all locks taken", func() bool { return r.Status().Renewed >= s.Renewed+uint64(len(s.Locks)) })
			for _, body := range []string{"before", "local7", "open7"} {
				eventually(t, "a duplicate elsewhere", func() bool {
					v := ask(t, other, by(Open, request(body))) // it may have missed the store too
					v.Grant.Release(0)
					return v.Outcome == Duplicate && v.Holder.Replica == "replica-0"
				})
			}
			// 50 were admitted of ten.
			if v := expect(t, other, Limited, unlocked(ten)); v.Decisions[0].ResetAfter > time.Hour {
				t.Errorf("got %+v, want an empty budget", v.Decisions[0])
			}
			held.Grant.Release(0)
			admit(t, other, request("before"))
		})
	}
}

// Since a store that is out of memory answers, it can tell who asks it.
func TestRedis_StoreThatIsAwayIsNotAsked(t *testing.T) {
	server := startRedis(t)
	client := server.Client()
	told := newChanges()
	r := join(t, server.URL(), Options{Observe: told.observe})
	five := charge("five", "5/h")
	lock := admit(t, r, request("before")).Grant
	must(t, client.ConfigSet(t.Context(), "maxmemory", "1"))
	lose(t, r)
	told.next(t, StoreAway)
	// What was under way ends first.
	r.Pause("slack", "a", time.Minute, 429)
	time.Sleep(2 * retryAfter)
	must(t, client.ConfigResetStat(t.Context()))
	faults := func() int { return int(r.Status().Faults["out-of-memory"]) }
	before := faults()
	for i := range 1000 {
		degraded(t, r, Admitted, by(Open, request(fmt.Sprint(i), five))).Grant.Release(time.Duration(i%2) * time.Hour)
	}
	lock.Release(0)
	r.Pause("slack", "b", time.Minute, 429)
	eventually(t, "looked for", func() bool { return faults() >= before+3 })
	// Each probe runs one, and fails; one may have been on its way.
	if n, probes := scriptsRun(t, client), faults()-before; n > probes+1 {
		t.Errorf("got %d scripts run, want %d for the probes", n, probes)
	}
	told.none(t)

	must(t, client.ConfigSet(t.Context(), "maxmemory", "0"))
	told.next(t, StoreBack)
	other := join(t, server.URL(), Options{})
	eventually(t, "released", func() bool { return ask(t, other, request("before")).Outcome == Admitted })
	eventually(t, "paused", func() bool { return ask(t, other, under(unlocked(), "b")).Outcome == CoolingDown })
	expect(t, other, Limited, unlocked(five))
	// What else is left of the thousand is their holds.
	holds := func() (n int) {
		for _, key := range keysOf(t, client) {
			switch {
			case !strings.Contains(key, ":lock:") || key == lockKey(request("before")):
			case strings.HasSuffix(must(t, client.Get(t.Context(), key)), heldMark):
				n++
			default:
				t.Errorf("got %s, want no lock", key)
			}
		}
		return n
	}
	eventually(t, "500 holds", func() bool { return holds() == 500 })
}

func TestRedis_SingleBlipsTellNothing(t *testing.T) {
	server := startRedis(t)
	link := redistest.NewLink(t, server.Addr)
	told := newChanges()
	r := join(t, link.URL(), Options{Timeout: storeTimeout, Observe: told.observe})
	many := charge("many", "1000/h")
	for range 3 {
		eventually(t, "undecided", func() bool {
			link.LoseAnswers(1, plainGuardScript.Hash())
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
	eventually(t, "no longer suspected", func() bool { return r.partOf("").state() == asked })
	told.none(t)
	if s := r.Status(); len(s.Away) > 0 || s.Faults["timeout"] == 0 {
		t.Errorf("got %+v, want three timeouts and no outage", s)
	}
}

// Many asks can be on one connection, or on a few, that is cut: of as many routes, or
// of one, where those that have not gone yet go by another.
func TestRedis_OneCutIsNoOutage(t *testing.T) {
	for _, tags := range []int{20 * failuresRunning, 1} {
		t.Run(fmt.Sprint(tags, " tags"), func(t *testing.T) { testOneCut(t, 20*failuresRunning, tags) })
	}
}

func testOneCut(t *testing.T, asks, tags int) {
	server := startRedis(t)
	link := redistest.NewLink(t, server.Addr)
	told := newChanges()
	r := join(t, link.URL(), Options{Timeout: 10 * time.Second, Observe: told.observe})
	many := func(i int) Ask {
		a := unlocked(charge("many", "1000/h"))
		a.Tag = fmt.Sprint(i % tags)
		return a
	}
	var failed atomic.Int64
	for range 3 {
		link.Silence()
		var asking sync.WaitGroup
		for i := range asks {
			asking.Go(func() {
				if _, err := r.Admit(t.Context(), many(i)); err != nil {
					failed.Add(1)
				}
			})
		}
		eventually(t, "all are asking", func() bool { // and a probe may be
			sent := int(r.conn.Load().running.Load())
			if tags == 1 {
				sent += waitingAsks(r, deskID{"0", plainGuardScript})
			}
			return sent >= asks-batchesAtOnce(0)
		})
		link.Heal() // for new connections
		link.Cut()
		asking.Wait()
		eventually(t, "decided", func() bool {
			_, err := r.Admit(t.Context(), many(0))
			return err == nil
		})
	}
	if failed.Load() < int64(min(tags, failuresRunning)) {
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

func TestRedis_PauseThatIsOverIsNotTold(t *testing.T) {
	server := startRedis(t)
	r := join(t, server.URL(), Options{})
	for _, d := range []time.Duration{0, -1, -time.Hour} {
		r.Pause("slack", "", d, 429)
	}
	admit(t, r, under(unlocked(), ""))
	if s := r.Status(); len(s.Faults) > 0 || len(s.Pauses) > 0 {
		t.Errorf("got %+v, want neither faults nor pauses", s)
	}
}
