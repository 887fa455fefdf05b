package cluster

import (
	"fmt"
	"slices"
	"testing"
	"throttle-proxy/integration/redistest"
	"time"

	"github.com/redis/go-redis/v9"
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
