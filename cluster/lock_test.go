package cluster

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestRedis_RenewalKeepsALockBeyondItsTTL(t *testing.T) {
	t.Parallel()
	server := startRedis(t)
	client := server.Client()
	const ttl = 3 * time.Second // two thirds of it may pass without a renewal
	r := join(t, server.URL(), Options{LockTTL: ttl})
	a := request("a")
	admit(t, r, a)
	admitted := time.Now()
	value := must(t, client.Get(t.Context(), lockKey(a)))
	time.Sleep(ttl + ttl/10 - time.Since(admitted))
	if got := must(t, client.Get(t.Context(), lockKey(a))); got != value {
		t.Errorf("got %q, want %q: not lost in between", got, value)
	}
}

func TestRedis_LockOfADeadReplicaGoesWithinItsTTL(t *testing.T) {
	t.Parallel()
	server := startRedis(t)
	client := server.Client()
	const ttl = time.Second
	r, other := open(t, server.URL(), Options{LockTTL: ttl}), join(t, server.URL(), Options{})
	admit(t, r, request("a"))
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if left := must(t, client.PTTL(t.Context(), lockKey(request("a")))); left > ttl {
		t.Errorf("got %v left, want at most %v", left, ttl)
	}
	eventually(t, "free", func() bool { return ask(t, other, request("a")).Outcome == Admitted })
}

func TestRedis_RenewalTakesAMissingLockAgain(t *testing.T) {
	t.Parallel()
	server := startRedis(t)
	client := server.Client()
	r := join(t, server.URL(), Options{LockTTL: time.Second})
	a := request("a")
	lock := admit(t, r, a).Grant
	for name, lose := range map[string]func(){
		"deleted":                     func() { must(t, client.Del(t.Context(), lockKey(a))) },
		"everything flushed":          func() { must(t, client.FlushAll(t.Context())) },
		"the scripts flushed as well": func() { must(t, client.FlushAll(t.Context())); must(t, client.ScriptFlush(t.Context())) },
	} {
		lose()
		eventually(t, "taken again after "+name, func() bool {
			return strings.HasPrefix(client.Get(t.Context(), lockKey(a)).Val(), lock.lock.value+" ")
		})
		if ttl := must(t, client.PTTL(t.Context(), lockKey(a))); ttl <= 0 || ttl > time.Second {
			t.Errorf("%s: got TTL %v, want up to 1s", name, ttl)
		}
	}
	lock.Release(0)
	admit(t, join(t, server.URL(), Options{}), request("a"))
}

func TestRedis_AnothersLockIsLostAndNotTouched(t *testing.T) {
	t.Parallel()
	server := startRedis(t)
	client := server.Client()
	lost := make(chan struct{}, 100)
	r := join(t, server.URL(), Options{LockTTL: time.Second, Observe: func(change Change) {
		if change.Kind != LockLost {
			t.Errorf("got change %+v, want LockLost", change)
		}
		lost <- struct{}{}
	}})
	other := join(t, server.URL(), Options{Self: Replica{ID: "replica-1"}})
	a := request("a")
	lock := admit(t, r, a).Grant
	// As after a pause longer than the TTL.
	eventually(t, "taken, unless the renewal comes first", func() bool {
		must(t, client.Del(t.Context(), lockKey(a)))
		return ask(t, other, a).Outcome == Admitted
	})
	value := must(t, client.Get(t.Context(), lockKey(a)))
	select {
	case <-lost:
	case <-time.After(20 * time.Second):
		t.Error("not reported")
	}
	// Several renewals later: one loss is one report, for whoever counts them.
	time.Sleep(time.Second)
	if n := len(lost); n > 0 {
		t.Errorf("got %d more reports, want none", n)
	}
	lock.Release(0)
	if got := must(t, client.Get(t.Context(), lockKey(a))); got != value {
		t.Errorf("got %q, want %q", got, value)
	}
	if ttl := must(t, client.PTTL(t.Context(), lockKey(a))); ttl < 30*time.Second {
		t.Errorf("got TTL %v, want the other's", ttl)
	}
}

func TestRedis_ReleaseDoesNotTouchASuccessor(t *testing.T) {
	server := startRedis(t)
	client := server.Client()
	r, other := join(t, server.URL(), Options{}), join(t, server.URL(), Options{})
	for _, hold := range []time.Duration{0, time.Second} {
		a := request(hold.String())
		lock := admit(t, r, a).Grant
		must(t, client.Del(t.Context(), lockKey(a)))
		admit(t, other, a)
		value := must(t, client.Get(t.Context(), lockKey(a)))
		lock.Release(hold)
		// The loop does one thing after the other: this release is the last.
		admit(t, r, request("last"+hold.String())).Grant.Release(0)
		if got := must(t, client.Get(t.Context(), lockKey(a))); got != value {
			t.Errorf("hold %v: got %q, want %q", hold, got, value)
		}
	}
}

func TestRedis_ManyReleasesAtOnce(t *testing.T) {
	server := startRedis(t)
	client := server.Client()
	r := join(t, server.URL(), Options{})
	const many = 3*batchSize + 1
	locks := make([]*Grant, many)
	for i := range locks {
		locks[i] = admit(t, r, request(fmt.Sprint(i))).Grant
	}
	concurrently(t, many, func(i int) Outcome {
		locks[i].Release(0)
		if n := must(t, client.Exists(t.Context(), "throttle:2:"+string(locks[i].lock.appendKey(nil)))); n != 0 {
			t.Error("there after Release returned")
		}
		return Admitted
	})
	if keys := keysOf(t, client); len(keys) != 0 {
		t.Errorf("got %d keys, want none", len(keys))
	}
}

func TestRedis_BudgetsAndLocksOutliveReplicas(t *testing.T) {
	server := startRedis(t)
	one, ten := charge("one", "1/h"), charge("ten", "10/h")
	for i := range 3 {
		r := open(t, server.URL(), Options{})
		if got := admit(t, r, request(fmt.Sprint(i), ten)).Decisions[0].Remaining; got != 9-i {
			t.Errorf("got %d remaining, want %d", got, 9-i)
		}
		if v := ask(t, r, request("a", one)); (v.Outcome == Admitted) != (i == 0) {
			t.Errorf("replica %d: got %+v", i, v)
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
	}
	r := join(t, server.URL(), Options{})
	expect(t, r, Duplicate, request("0"))
	// What a replica knows by itself is not known to others.
	if v, known := r.Refusal(request("0", one)); known {
		t.Errorf("got %+v, want nothing known", v)
	}
}

// A store that stood still may take a lock only after it was told of its end.
func TestRedis_DoubtfulLockIsReleasedOnceMore(t *testing.T) {
	server := startRedis(t)
	r := join(t, server.URL(), Options{})
	eventually(t, "the scripts are there", func() bool { return r.Status().Live == 1 })
	for doubtful, want := range map[bool][]int{false: {0, 0}, true: {1, 0}} {
		lock := storedLock(request("a"))
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
	lock := admit(t, r, request("a")).Grant
	if !r.renew() || lock.lock.doubtful.Load() {
		t.Error("got doubt about a lock that was renewed")
	}
	server.Kill()
	if r.renew() || !lock.lock.doubtful.Load() {
		t.Error("got no doubt about a lock that the store may yet take again")
	}
}

// storedLock is the lock that an ask wants of a store.
func storedLock(a Ask) *lock {
	l := newGrant(a, nil).lock
	l.toStore("replica-0")
	return l
}
