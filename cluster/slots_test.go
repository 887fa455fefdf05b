package cluster

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"throttle-proxy/integration/redistest"
)

// While a slot moves, a script for keys of which some have moved is refused. One
// for a single key follows it.
func TestRedisCluster_LocksAreKeptWhileTheirSlotMoves(t *testing.T) {
	t.Parallel()
	skipIfShort(t)
	nodes := redistest.StartCluster(t)
	const ttl = 3 * time.Second
	r := join(t, nodes.URL(), Options{LockTTL: ttl})
	var locks []*Grant
	for i := range 10 {
		locks = append(locks, admit(t, r, request(fmt.Sprint(i))).Grant)
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
		return !slices.ContainsFunc(locks, func(lock *Grant) bool {
			return client.Get(t.Context(), "throttle:2:"+string(lock.lock.appendKey(nil))).Err() != redis.Nil
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
			v.Grant.Release(0)
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

// A slot that is moving is no outage, of its master neither: asks for its tag
// have no verdict while their keys are in two places, and all others go on.
func TestRedisCluster_SlotThatMovesIsNoOutage(t *testing.T) {
	t.Parallel()
	skipIfShort(t)
	nodes := redistest.StartCluster(t)
	told := newChanges()
	r := join(t, nodes.URL(), Options{Observe: told.observe})
	ten := charge("ten", "1000/h")
	moving := request("moving", ten)
	admit(t, r, moving).Grant.Release(0)
	owner := nodes.Owner("{slack}")
	beside := ""
	for i := 0; beside == ""; i++ {
		if tag := fmt.Sprint("route", i); nodes.Owner("{"+tag+"}") == owner {
			beside = tag
		}
	}
	from, to := nodes.Nodes[owner], nodes.Nodes[(owner+1)%3]
	nodes.MoveKey("throttle:2:{slack}:rate:ten", from, to)
	for range 3 * failuresOfTrips {
		if v := degraded(t, r, Admitted, by(Open, moving)); v.Fault != "moved" {
			t.Errorf("got %+v, want the slot's move as the fault", v)
		} else {
			v.Grant.Release(0)
		}
		a := request("a", ten)
		a.Tag = beside
		if v := admit(t, r, a); v.Degraded {
			t.Errorf("got %+v, want the store's verdict", v)
		} else {
			v.Grant.Release(0)
		}
	}
	nodes.MoveSlot("{slack}", from, to)
	eventually(t, "decided by the store", func() bool {
		v := ask(t, r, by(Open, moving))
		v.Grant.Release(0)
		return !v.Degraded
	})
	// By now it is its new master's, as soon as the client knows.
	eventually(t, "placed anew", func() bool {
		return r.partOf("slack") != r.partOf(beside)
	})
	told.none(t)
}

// However many routes a master has, it is looked for once, and told of once.
func TestRedisCluster_MasterThatIsAwayIsOneOutage(t *testing.T) {
	t.Parallel()
	skipIfShort(t)
	nodes := redistest.StartCluster(t)
	for _, node := range nodes.Nodes {
		must(t, node.Client().ConfigSet(t.Context(), "cluster-require-full-coverage", "no"))
	}
	var clients atomic.Int64
	told := newChanges()
	o := Options{Timeout: 2 * time.Second, Observe: told.observe}
	o.Connect = func(context.Context) (redis.UniversalClient, error) {
		clients.Add(1)
		return NewClient(nodes.URL(), TLSFiles{}, o.Timeout)
	}
	r := join(t, nodes.URL(), o)
	many := charge("many", "1000/h")
	var lost []string
	askAll := func() {
		concurrently(t, 60, func(i int) Outcome {
			a := by(Open, unlocked(many))
			a.Tag = fmt.Sprint("route", i)
			return ask(t, r, a).Outcome
		})
	}
	askAll()
	for i := range 60 {
		if tag := fmt.Sprint("route", i); nodes.Owner("{"+tag+"}") == 1 {
			lost = append(lost, tag)
		}
	}
	slices.Sort(lost)
	nodes.Nodes[1].Kill()
	eventually(t, "away", func() bool {
		askAll()
		return len(r.Status().Away) > 0
	})
	if change := told.next(t, StoreAway); change.Tag != strings.Join(lost, ",") {
		t.Errorf("got %+v, want %v away", change, lost)
	}
	before, from := clients.Load(), time.Now()
	for range 20 {
		askAll()
		time.Sleep(50 * time.Millisecond)
	}
	if made, most := clients.Load()-before, int64(time.Since(from)/(probeInterval/2))+1; made > most {
		t.Errorf("got %d clients made in %v, want at most %d", made, time.Since(from), most)
	}
	if s := r.Status(); len(s.Away) != 1 {
		t.Errorf("got %+v, want one part away", s.Away)
	}
	told.none(t)
	nodes.Nodes[1].Restart()
	if change := told.next(t, StoreBack); change.Tag != strings.Join(lost, ",") {
		t.Errorf("got %+v, want %v back", change, lost)
	}
}
