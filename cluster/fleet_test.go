package cluster

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"throttle-proxy/integration/redistest"
)

func TestReplica_Differences(t *testing.T) {
	self := Replica{Routes: map[string]Digest{"a": {"u", "p"}, "b": {"u", "p"}, "c": {"u", "p"}}}
	for _, test := range []struct {
		other map[string]Digest
		want  []Difference
	}{
		{self.Routes, nil},
		{map[string]Digest{"c": {"u", "p"}, "b": {"u", "p"}, "a": {"u", "p"}}, nil},
		{map[string]Digest{"a": {"u", "q"}, "b": {"v", "p"}, "c": {"v", "q"}}, []Difference{{"a", "policy"}, {"b", "upstream"}, {"c", "upstream"}}},
		{map[string]Digest{"d": {"u", "p"}, "a": {"u", "p"}, "c": {"u", "q"}}, []Difference{{"b", "absence"}, {"c", "policy"}, {"d", "absence"}}},
		{nil, []Difference{{"a", "absence"}, {"b", "absence"}, {"c", "absence"}}},
	} {
		if got := self.differences(Replica{Routes: test.other}); !slices.Equal(got, test.want) {
			t.Errorf("%v: got %v, want %v", test.other, got, test.want)
		}
	}
}

func TestRedis_FleetOnRedis(t *testing.T) {
	t.Parallel()
	testFleet(t, startRedis(t).URL())
}

func TestRedis_FleetOnRedisCluster(t *testing.T) {
	t.Parallel()
	skipIfShort(t)
	testFleet(t, redistest.StartCluster(t).URL())
}

// testFleet lets replicas come and go.
func testFleet(t *testing.T, url string) {
	client := connect(t, url, 10*time.Second)
	defer client.Close()
	routes := []map[string]Digest{
		{"slack": {"u", "p"}, "teams": {"u", "p"}},
		{"slack": {"u", "p"}, "teams": {"u", "p"}},
		{"slack": {"u", "other"}, "more": {"u", "p"}},
	}
	self := func(i int) Replica {
		return Replica{ID: fmt.Sprint("replica-", i), Name: fmt.Sprint("host-", i), Version: "v1", Started: time.Unix(int64(1700000000+i), 0).UTC(), Routes: routes[i]}
	}
	var fleet []*Redis
	var told []changes
	for i := range routes {
		told = append(told, newChanges())
		fleet = append(fleet, open(t, url, Options{Self: self(i), Observe: told[i].observe}))
		if i == 0 {
			eventually(t, "alone", func() bool { s := fleet[0].Status(); return s.Live == 1 && len(s.Peers) == 0 })
		}
	}
	live := func(n int, all ...*Redis) {
		t.Helper()
		for _, r := range all {
			eventually(t, fmt.Sprint(n, " live"), func() bool { return r.Status().Live == n && len(r.Status().Peers) == n-1 })
		}
	}
	live(3, fleet...)
	want := [][]Difference{
		{{"more", "absence"}, {"slack", "policy"}, {"teams", "absence"}},
		{{"more", "absence"}, {"slack", "policy"}, {"teams", "absence"}},
		{{"more", "absence"}, {"slack", "policy"}, {"teams", "absence"}},
	}
	for i, r := range fleet {
		// Each is told of, once, that differs.
		differs := []int{2}
		if i == 2 {
			differs = []int{0, 1}
		}
		var got []int
		for range differs {
			change := told[i].next(t, ReplicaDiffers)
			if !slices.Equal(change.Peer.Differences, want[i]) {
				t.Errorf("replica %d: got %+v, want %v", i, change.Peer, want[i])
			}
			var n int
			_, _ = fmt.Sscanf(change.Peer.ID, "replica-%d", &n)
			got = append(got, n)
		}
		if slices.Sort(got); !slices.Equal(got, differs) {
			t.Errorf("replica %d: told of %v, want %v", i, got, differs)
		}
		eventually(t, "all read", func() bool {
			return !slices.ContainsFunc(r.Status().Peers, func(p Peer) bool { return p.Name == "" })
		})
		for _, peer := range r.Status().Peers {
			var n int
			_, _ = fmt.Sscanf(peer.ID, "replica-%d", &n)
			got, _ := json.Marshal(peer.Replica)
			if want, _ := json.Marshal(self(n)); string(got) != string(want) || n == i {
				t.Errorf("replica %d: got peer %s, want %s", i, got, want)
			}
		}
	}

	// One that ends is gone at once: its key and its place in the list.
	if err := fleet[2].Close(); err != nil {
		t.Error(err)
	}
	if ids := slices.Sorted(slices.Values(must(t, client.ZRange(t.Context(), "throttle:2:{fleet}:replicas", 0, -1)))); !slices.Equal(ids, []string{"replica-0", "replica-1"}) {
		t.Errorf("got %v, want the two others", ids)
	}
	if n := must(t, client.Exists(t.Context(), "throttle:2:{fleet}:replica:replica-2")); n != 0 {
		t.Error("its key is left")
	}
	live(2, fleet[:2]...)

	// One of another format counts, and is read when it can be.
	stop := make(chan struct{})
	beating := make(chan struct{})
	go func() {
		defer close(beating)
		for {
			_ = heartbeatScript.Run(t.Context(), client, []string{"throttle:2:{fleet}:replicas", "throttle:2:{fleet}:control", "throttle:2:{fleet}:followed:odd"}, "odd", beatExpiry.Milliseconds(), 0, "0 0").Err()
			select {
			case <-stop:
				return
			case <-t.Context().Done():
				return
			case <-time.After(beatInterval / 10):
			}
		}
	}()
	must(t, client.Set(t.Context(), "throttle:2:{fleet}:replica:odd", "no JSON", time.Hour))
	live(3, fleet[:2]...)
	for i := range 2 {
		told[i].none(t)
	}
	must(t, client.Set(t.Context(), "throttle:2:{fleet}:replica:odd", `{"id":"odd","name":"odd","routes":{"slack":{"upstream":"v","policy":"p"},"teams":{"upstream":"u","policy":"p"}}}`, time.Hour))
	for i := range 2 {
		change := told[i].next(t, ReplicaDiffers)
		if change.Peer.ID != "odd" || !slices.Equal(change.Peer.Differences, []Difference{{"slack", "upstream"}}) {
			t.Errorf("got %+v, want the upstream of slack on odd", change.Peer)
		}
	}
	// Some heartbeats later.
	time.Sleep(3 * beatInterval / 2)
	close(stop)
	<-beating
	for i := range 2 {
		if err := fleet[i].Close(); err != nil {
			t.Error(err)
		}
		told[i].none(t)
	}
	for _, key := range []string{"throttle:2:{fleet}:replica:replica-0", "throttle:2:{fleet}:replica:replica-1"} {
		if n := must(t, client.Exists(t.Context(), key)); n != 0 {
			t.Errorf("%s is left", key)
		}
	}
}

func TestRedis_SilentReplicaIsGoneInTime(t *testing.T) {
	t.Parallel()
	server := startRedis(t)
	client := server.Client()
	r := join(t, server.URL(), Options{})
	eventually(t, "alone", func() bool { return r.Status().Live == 1 })
	heard := time.Now()
	must(t, client.ZAdd(t.Context(), "throttle:2:{fleet}:replicas", redis.Z{Score: float64(must(t, client.Time(t.Context())).UnixMilli()), Member: "silent"}))
	eventually(t, "known", func() bool { return r.Status().Live == 2 })
	eventually(t, "gone", func() bool { return r.Status().Live == 1 })
	if gone := time.Since(heard); gone < beatExpiry-time.Second {
		t.Errorf("gone after %v, want %v", gone, beatExpiry)
	}
}

// A store that was emptied knows of everybody again.
func TestRedis_FleetIsKnownAfterAFlush(t *testing.T) {
	t.Parallel()
	server := startRedis(t)
	client := server.Client()
	r := join(t, server.URL(), Options{Self: Replica{ID: "replica-0", Name: "host-0"}})
	for range 2 {
		eventually(t, "known", func() bool {
			return r.Status().Live == 1 && strings.Contains(client.Get(t.Context(), "throttle:2:{fleet}:replica:replica-0").Val(), "host-0")
		})
		must(t, client.FlushAll(t.Context()))
	}
	late := join(t, server.URL(), Options{Self: Replica{ID: "replica-1", Name: "host-1"}})
	eventually(t, "both know both", func() bool {
		a, b := r.Status(), late.Status()
		return a.Live == 2 && b.Live == 2 && len(b.Peers) == 1 && b.Peers[0].Name == "host-0" && a.Peers[0].Name == "host-1"
	})
}

func TestRedis_StoreThatEvictsIsTold(t *testing.T) {
	for policy, evicts := range map[string]bool{"noeviction": false, "allkeys-lru": true, "volatile-ttl": true} {
		server := startRedis(t, "--maxmemory-policy", policy)
		told := newChanges()
		r := open(t, server.URL(), Options{Observe: told.observe})
		if evicts {
			if change := told.next(t, StoreEvicts); change.Policy != policy {
				t.Errorf("got %+v, want %s", change, policy)
			}
			// Told once, also when the store comes back as it was.
			server.Kill()
			for range 10 {
				undecided(t, r, unlocked(charge("many", "1000/h")))
			}
			told.next(t, StoreAway)
			server.Restart()
			told.next(t, StoreBack)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		told.none(t)
	}
}

// A key of ours that is somebody else's is told of, and leaves what was known.
func TestRedis_ReplicasOfAWrongTypeAreTold(t *testing.T) {
	t.Parallel()
	server := startRedis(t)
	client := server.Client()
	told := newChanges()
	r := join(t, server.URL(), Options{Observe: told.observe})
	other := open(t, server.URL(), Options{Self: Replica{ID: "replica-1"}})
	eventually(t, "both known", func() bool { return r.Status().Live == 2 })
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		live := r.Status().Live
		must(t, client.Del(t.Context(), "throttle:2:{fleet}:replicas"))
		must(t, client.RPush(t.Context(), "throttle:2:{fleet}:replicas", "value"))
		if change := told.next(t, FleetUnknown); FaultOf(change.Err) != "wrong-type" {
			t.Errorf("got %+v, want a wrong type", change)
		}
		if v := admit(t, r, request("a")); v.Degraded {
			t.Errorf("got %+v, want the store's verdict", v)
		} else {
			v.Grant.Release(0)
		}
		if got := r.Status().Live; got == 0 || got > live {
			t.Errorf("got %d live, want what was known", got)
		}
		before := r.Status().Faults["wrong-type"]
		eventually(t, "missed again", func() bool { return r.Status().Faults["wrong-type"] > before })
		told.none(t)
		must(t, client.Del(t.Context(), "throttle:2:{fleet}:replicas"))
		eventually(t, "counted", func() bool {
			return r.Status().Live == 1 && client.Exists(t.Context(), "throttle:2:{fleet}:replicas").Val() == 1
		})
	}
}

// A replica with another limit admits what this one has refused: what this one
// has found unlocked then is looked for again.
func TestRedis_LockIsLookedForAgainWhereReplicasDiffer(t *testing.T) {
	t.Parallel()
	server := startRedis(t)
	self := func(i int, policy string) Replica {
		return Replica{ID: fmt.Sprint("replica-", i), Routes: map[string]Digest{"slack": {"u", policy}}}
	}
	r := join(t, server.URL(), Options{Self: self(0, "1/h")})
	one, ten := charge("slack", "1/h"), charge("slack", "10/h")
	other := join(t, server.URL(), Options{Self: self(1, "10/h")})
	knowEachOther(t, []replica{r, other})
	eventually(t, "read", func() bool { return len(r.Status().Peers[0].Differences) > 0 })
	admit(t, r, request("a", one))
	for range 3 {
		expect(t, r, Limited, request("b", one))
	}
	grant := admit(t, other, request("b", ten)).Grant
	for range 3 {
		expect(t, r, Duplicate, request("b", one))
	}
	grant.Release(0)
	expect(t, r, Limited, request("b", one))
}

// Another replica may give back what has refused.
func TestRedis_LockIsLookedForAgainAfterASecond(t *testing.T) {
	t.Parallel()
	server := startRedis(t)
	r, other := join(t, server.URL(), Options{}), join(t, server.URL(), Options{Self: Replica{ID: "replica-1"}})
	knowEachOther(t, []replica{r, other})
	eventually(t, "alike", r.fleet.alike)
	one := charge("one", "1/h")
	unsent := admit(t, other, request("a", one)).Grant
	expect(t, r, Limited, request("b", one))
	unsent.Unsent()
	admit(t, other, request("b", one))
	eventually(t, "a duplicate", func() bool { return ask(t, r, request("b", one)).Outcome == Duplicate })
}
