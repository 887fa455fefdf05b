package cluster

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"throttle-proxy/integration/redistest"
)

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
			const key = "throttle:2:{slack}:rate:ten"
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
