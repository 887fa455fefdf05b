package cluster

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// What operators have set outlives all replicas, and a Redis that loses what it
// has.
func TestControl_OutlivesReplicasAndRedis(t *testing.T) {
	server := startRedis(t)
	client := connect(t, server.URL(), time.Minute)
	wide := unlocked(charge("wide", "1000/h"))
	first := open(t, server.URL(), Options{})
	order(t, first, limitTo("wide", "1/d"))
	order(t, first, Order{Deed: SetPause, Route: "slack", Message: "back soon"})
	if err := first.Close(); err != nil {
		t.Error(err)
	}
	if ttl := must(t, client.PTTL(t.Context(), "throttle:2:{fleet}:control")); ttl != -1 {
		t.Errorf("got a TTL of %v, want none", ttl)
	}

	second := join(t, server.URL(), Options{Self: Replica{ID: "replica-1"}})
	<-second.Started()
	expect(t, second, Paused, routed(request("a")))
	admit(t, second, wide)
	expect(t, second, Limited, wide)
	must(t, client.FlushAll(t.Context()))
	eventually(t, "Redis is told", func() bool { return client.Exists(t.Context(), "throttle:2:{fleet}:control").Val() == 1 })
	third := join(t, server.URL(), Options{Self: Replica{ID: "replica-2"}})
	<-third.Started()
	expect(t, third, Paused, routed(request("a")))

	// One order later it is another's to tell.
	must(t, client.FlushAll(t.Context()))
	if receipt := order(t, third, restore("wide")); receipt.Version != 3 {
		t.Errorf("got version %d, want 3", receipt.Version)
	}
	eventually(t, "all follow", func() bool { return len(second.Status().Changed) == 0 })
	admit(t, second, routed(request("a"))).Grant.Release(0)
}

// Nobody renews the lock of a replica that has died, and nobody knows it.
func TestControl_FreesTheLockOfAReplicaThatIsGone(t *testing.T) {
	server := startRedis(t)
	living := join(t, server.URL(), Options{Self: Replica{ID: "replica-1"}})
	gone := open(t, server.URL(), Options{})
	held := request("a")
	admit(t, gone, held).Grant.Release(time.Hour)
	if err := gone.Close(); err != nil {
		t.Error(err)
	}
	expect(t, living, Held, request("a"))
	if receipt := order(t, living, Order{Deed: FreeLock, Tag: "slack", RequestID: held.RequestID}); receipt.Freed != 0 {
		t.Errorf("got %+v, want that nobody has it", receipt)
	}
	next := admit(t, living, request("a")).Grant
	expect(t, living, Duplicate, request("a"))
	next.Release(0)
}

// Orders of several operators at once are all followed.
func TestControl_OrdersAtOnce(t *testing.T) {
	server := startRedis(t)
	fleet := []*Redis{join(t, server.URL(), Options{}), join(t, server.URL(), Options{Self: Replica{ID: "replica-1"}})}
	var all sync.WaitGroup
	const orders = 8
	for i := range orders {
		all.Go(func() {
			if _, err := fleet[i%2].Control(limitTo(fmt.Sprint("limit-", i), "1/d")); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	for _, r := range fleet {
		eventually(t, "all are followed", func() bool { return len(r.Status().Changed) == orders })
		if got := r.known.version(); got != orders {
			t.Errorf("got version %d, want %d", got, orders)
		}
	}
}

func TestControl_NamesReplicasThatGiveNoWord(t *testing.T) {
	server := startRedis(t)
	r := join(t, server.URL(), Options{Self: Replica{ID: "replica-0", Name: "web-0"}})
	client := connect(t, server.URL(), time.Minute)
	eventually(t, "it lives", func() bool { return r.Status().Live == 1 })
	must(t, client.Do(t.Context(), "ZADD", "throttle:2:{fleet}:replicas", time.Now().Add(time.Second).UnixMilli(), "silent"))
	began := time.Now()
	receipt, err := r.Control(limitTo("wide", "1/d"))
	if err != nil || !slices.Equal(receipt.Holds, []string{"web-0"}) || !slices.Equal(receipt.Missing, []string{"silent"}) {
		t.Errorf("got %+v, %v, want one that follows, and one that gives no word", receipt, err)
	}
	if took := time.Since(began); took < orderTime {
		t.Errorf("gave up after %v, want %v", took, orderTime)
	}
}

// An order waits for replicas of which a store that was emptied has not heard again.
func TestControl_WaitsForReplicasThatAnEmptyStoreDoesNotKnow(t *testing.T) {
	server := startRedis(t)
	r := join(t, server.URL(), Options{Self: Replica{ID: "replica-0", Name: "web-0"}})
	other := open(t, server.URL(), Options{Self: Replica{ID: "replica-1", Name: "web-1"}})
	eventually(t, "it knows the other", func() bool {
		peers := r.Status().Peers
		return len(peers) == 1 && peers[0].Name == "web-1"
	})
	for i := range 3 {
		must(t, server.Client().FlushAll(t.Context()))
		receipt := order(t, r, limitTo("wide", fmt.Sprint(i+1, "/d")))
		if !slices.Equal(receipt.Holds, []string{"web-0", "web-1"}) {
			t.Errorf("got %+v, want that both follow", receipt)
		}
	}
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	if receipt := order(t, r, limitTo("wide", "9/d")); !slices.Equal(receipt.Holds, []string{"web-0"}) {
		t.Errorf("got %+v, want that nobody waits for one that has ended", receipt)
	}
}

// An order of a replica that knows nobody, in a store that has forgotten everybody, is
// neither overruled by what the others know, nor followed without them.
func TestControl_WaitsForReplicasOfWhichNobodyKnows(t *testing.T) {
	server := startRedis(t)
	other := join(t, server.URL(), Options{Self: Replica{ID: "replica-1", Name: "web-1"}})
	for i := range 3 {
		order(t, other, limitTo("wide", fmt.Sprint(i+1, "/d")))
	}
	must(t, server.Client().FlushAll(t.Context()))
	r := join(t, server.URL(), Options{Self: Replica{ID: "replica-0", Name: "web-0"}})
	<-r.Started()
	receipt := order(t, r, limitTo("wide", "9/d"))
	if !slices.Equal(receipt.Holds, []string{"web-0", "web-1"}) || receipt.Version != 4 {
		t.Errorf("got %+v, want that both follow, the fourth order", receipt)
	}
}

func TestControl_ChangesNothingWithoutTheStore(t *testing.T) {
	server := startRedis(t)
	r := join(t, server.URL(), Options{Timeout: 200 * time.Millisecond, LockTTL: time.Minute})
	<-r.Started()
	server.Kill()
	if _, err := r.Control(limitTo("wide", "1/d")); !errors.Is(err, ErrStoreAway) {
		t.Errorf("got %v, want that the store is away", err)
	}
	if changed := r.Status().Changed; changed != nil {
		t.Errorf("got %+v, want nothing changed", changed)
	}
}

// What is in the store may be another's, or nonsense: what is known stays.
func TestControl_UnreadableIsNotObeyed(t *testing.T) {
	server := startRedis(t)
	r := join(t, server.URL(), Options{})
	client := connect(t, server.URL(), time.Minute)
	order(t, r, limitTo("wide", "1/d"))
	for _, value := range []string{"99 no JSON", "nonsense", `98 {"set":[{"deed":"limit","tag":"slack","limit":"wide","rate":{"Rate":-1}}]}`} {
		must(t, client.Set(t.Context(), "throttle:2:{fleet}:control", value, 0))
		r.ordered <- struct{}{}
		r.ordered <- struct{}{} // by now the first has been looked at
		if strings.HasPrefix(value, "98") {
			eventually(t, "an impossible limit is left out", func() bool { return r.known.version() == 98 && len(r.Status().Changed) == 0 })
		} else if changed := r.Status().Changed; len(changed) != 1 {
			t.Errorf("%s: got %+v, want what was known", value, changed)
		}
	}
}

// What nobody can read is told of once, and the next order puts it right: an
// operator need not know of the key.
func TestControl_OrderPutsTheUnreadableRight(t *testing.T) {
	for _, value := range []string{"99 no JSON", "nonsense", "9223372036854775807 {}", "99999999999999999999999 {}"} {
		server := startRedis(t)
		told := newChanges()
		r := join(t, server.URL(), Options{Observe: told.observe})
		client := connect(t, server.URL(), time.Minute)
		order(t, r, limitTo("wide", "1/d"))
		told.next(t, Ordered)
		must(t, client.Set(t.Context(), "throttle:2:{fleet}:control", value, 0))
		for range 3 {
			r.ordered <- struct{}{}
		}
		receipt := order(t, r, limitTo("narrow", "1/d"))
		if changed := r.Status().Changed; len(changed) != 2 || receipt.Version != r.known.version() {
			t.Errorf("%s: got %+v and %+v, want both limits", value, receipt, changed)
		}
		if strings.HasPrefix(value, "99 ") { // else it is older than what is known, which takes its place
			told.next(t, ControlUnread)
		}
		told.next(t, Ordered)
		told.none(t)
	}
}

// An order that another has overtaken before a replica looked is told of there too.
func TestControl_EachOrderIsTold(t *testing.T) {
	server := startRedis(t)
	first := Order{Deed: SetPause, Route: "slack", Text: "pause slack", By: "uid 1"}
	second := Order{Deed: TakeBack, Route: "slack", Tag: "slack", Text: "restore slack", By: "uid 2"}
	third := Order{Deed: FreeLock, Tag: "slack", RequestID: "A", Text: "unlock slack A", By: "uid 3"}
	old := open(t, server.URL(), Options{})
	order(t, old, first)
	before, _, _, err := old.keep(t.Context(), controls{})
	if err != nil {
		t.Fatal(err)
	}
	before.Version++ // given long before the start of any other, by every clock
	before.Last[0].At -= time.Hour.Microseconds()
	if _, kept, _, err := old.keep(t.Context(), before); err != nil || !kept {
		t.Fatal(kept, err)
	}
	if err := old.Close(); err != nil {
		t.Error(err)
	}

	told := newChanges()
	r := join(t, server.URL(), Options{Observe: told.observe, Self: Replica{ID: "replica-1"}})
	<-r.Started()
	if got := told.next(t, Ordered); got.Order != first.Text || got.By != first.By {
		t.Errorf("at the start: got %+v, want what explains the pause", got)
	}
	stored, _, at, err := r.keep(t.Context(), controls{})
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range []Order{second, third} {
		if stored, err = stored.with(o, at); err != nil {
			t.Fatal(err)
		}
	}
	if _, kept, _, err := r.keep(t.Context(), stored); err != nil || !kept {
		t.Fatal(kept, err)
	}
	for _, want := range []Order{second, third} {
		if got := told.next(t, Ordered); got.Order != want.Text || got.By != want.By {
			t.Errorf("got %+v, want %s", got, want.Text)
		}
	}
	s := r.Status()
	if len(s.Orders) != 3 || s.Orders[0].Text != third.Text || s.Orders[2].By != first.By || s.Orders[0].Ago > time.Minute {
		t.Errorf("got %+v, want all three, the latest first", s.Orders)
	}
	if f := s.Followed; f[SetPause] != 0 || f[TakeBack] != 1 || f[FreeLock] != 1 {
		t.Errorf("got %v, want those since the start", f)
	}
}

// What is remembered of orders has a bound.
func TestControl_RemembersTheLastOrders(t *testing.T) {
	m := NewMemory("replica")
	for i := range maxLast + 5 {
		order(t, m, Order{Deed: FreeLock, Tag: "slack", RequestID: "A", Text: fmt.Sprint("unlock ", i)})
	}
	s := m.Status()
	if len(s.Orders) != maxLast || s.Orders[0].Text != fmt.Sprint("unlock ", maxLast+4) || s.Followed[FreeLock] != maxLast+5 {
		t.Errorf("got %d orders, %v followed, the latest %q", len(s.Orders), s.Followed, s.Orders[0].Text)
	}
}
