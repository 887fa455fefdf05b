package cluster

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"throttle-proxy/integration/redistest"
	"time"

	"github.com/redis/go-redis/v9"
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

func TestChargeScript(t *testing.T) {
	server := startRedis(t)
	client := server.Client()
	const key = "throttle:2:{slack}:rate:ten"
	limit := charge("ten", "10/h").Limit.ScriptArgs(0)
	ahead := func() float64 {
		t.Helper()
		tat, _, _ := strings.Cut(client.Get(t.Context(), key).Val(), " ")
		seconds, err := strconv.ParseFloat(tat, 64)
		if tat != "" && err != nil {
			t.Fatal(err)
		}
		return max(0, seconds-float64(must(t, client.Time(t.Context())).UnixMicro())/1e6)
	}
	charged := func(requests float64) float64 {
		t.Helper()
		if n, err := chargeScript.Run(t.Context(), client, []string{key}, limit[0], limit[1], limit[2], requests).Int64Slice(); err != nil || !slices.Equal(n, []int64{1}) {
			t.Fatalf("got %d, %v, want 1", n, err)
		}
		left := ahead()
		if ttl := client.PTTL(t.Context(), key).Val().Seconds(); left > 0 && (ttl < left-1 || ttl > left+1) {
			t.Errorf("%f ahead: got TTL %f s", left, ttl)
		}
		return left / 360
	}
	// By the tolerance, since time goes on: 36 s.
	near := func(what string, got, want float64) {
		t.Helper()
		if !(got <= want+1e-3 && got >= want-0.1) { // nor is it none
			t.Errorf("%s: got %f requests charged, want %f", what, got, want)
		}
	}
	near("nothing", charged(0), 0)
	near("a part", charged(0.5), 0.5)
	near("more", charged(2.25), 2.75)
	near("to the brim", charged(8), 10)
	near("and again", charged(8), 10)
	near("and far beyond", charged(1e9), 10)
	for _, value := range []string{"garbage", "", "nan", "inf", "-1", "99999999999999999999"} {
		must(t, client.Set(t.Context(), key, value, 0))
		near(fmt.Sprintf("instead of %q", value), charged(3), 3)
	}
	// What a larger burst has spent is not given back.
	must(t, client.Set(t.Context(), key, tatIn(t, client, 2*time.Hour)+" 360 30", 2*time.Hour))
	if got := charged(1); got < 19.9 {
		t.Errorf("got %f requests charged, want 20", got)
	}
	must(t, client.Del(t.Context(), key))
	must(t, client.RPush(t.Context(), key, "value"))
	// It keeps none of the others from being charged.
	results := must(t, slicer{chargeScript.Run(t.Context(), client, []string{key, key + "-2"}, limit[0], limit[1], limit[2], 1, limit[0], limit[1], limit[2], 1)})
	if text, _ := results[0].(string); FaultOf(keyError(text)) != "wrong-type" || results[1] != int64(1) || client.Exists(t.Context(), key+"-2").Val() != 1 {
		t.Errorf("got %v, want an error about the type, and 1", results)
	}
}

type slicer struct{ *redis.Cmd }

func (s slicer) Result() ([]any, error) { return s.Slice() }
