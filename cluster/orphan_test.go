package cluster

import (
	"context"
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

func TestRedis_LocksThatEndDuringAnOutageLeaveNoOrphan(t *testing.T) {
	t.Parallel()
	server := startRedis(t)
	link := redistest.NewLink(t, server.Addr)
	told := newChanges()
	r, other := join(t, link.URL(), Options{Timeout: storeTimeout, Observe: told.observe}), join(t, server.URL(), Options{})
	ended, held := admit(t, r, request("ended")).Grant, admit(t, r, request("held")).Grant
	link.Refuse()
	link.Cut()
	lose(t, r)
	degraded(t, r, Admitted, by(Local, request("began and ended"))).Grant.Release(0)
	during := degraded(t, r, Admitted, by(Local, request("goes on"))).Grant
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
		v.Grant.Release(0)
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
			v.Grant.Release(0)
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
		v.Grant.Release(0)
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
		lock  *Grant
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
			link.LoseAnswers(1, plainGuardScript.Hash())
			v = admit(t, r, a)
			link.Heal()
			value = client.Get(t.Context(), lockKey(a)).Val()
			if v.Degraded && strings.HasPrefix(value, v.Grant.lock.value+" ") {
				return true
			}
			v.Grant.Release(0)
			return false
		})
		if !v.Grant.lock.doubtful.Load() {
			t.Errorf("%s: got no doubt about a lock that the store may yet take", policy)
		}
		expect(t, r, Duplicate, a)
		all = append(all, adopted{a, v.Grant, value})
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
		link.LoseAnswers(1, plainGuardScript.Hash())
		v, err := r.Admit(t.Context(), a)
		v.Grant.Release(0)
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
		first, _ := r.undecided(by(Local, a), newGrant(a, r), r.partOf(a.Tag), errors.New("no answer"))
		v := <-second
		link.Heal()
		if first.Outcome == Duplicate { // the answer was faster
			v.Grant.Release(0)
			continue
		}
		if first.Outcome != Admitted || v.Outcome != Duplicate || v.Grant != nil {
			t.Fatalf("got %+v and %+v, want an admission and a duplicate", first, v)
		}
		expect(t, r, Duplicate, a)
		first.Grant.Release(0)
		eventually(t, "free", func() bool { return ask(t, other, a).Outcome == Admitted })
		return
	}
	t.Fatal("the answer was always faster")
}
