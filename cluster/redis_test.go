package cluster

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"throttle-proxy/integration/redistest"
)

// store is a Redis of either kind, with keys for one test alone.
type store struct {
	url, prefix string
	servers     []*redistest.Server
}

func TestRedis(t *testing.T) {
	server := startRedis(t)
	testStore(t, store{url: server.URL(), servers: []*redistest.Server{server}})
}

func TestRedisCluster(t *testing.T) {
	skipIfShort(t)
	cluster := redistest.StartCluster(t)
	testStore(t, store{url: cluster.URL(), servers: cluster.Nodes})
}

// testStore runs the behaviours, and the faults after them.
func testStore(t *testing.T, s store) {
	for i, name := range slices.Sorted(maps.Keys(behaviours)) {
		t.Run(name, func(t *testing.T) {
			fleet := make([]replica, 3)
			for n := range fleet {
				fleet[n] = join(t, s.url, Options{Prefix: fmt.Sprint("prefix-", i), Self: Replica{ID: fmt.Sprint("replica-", n)}})
			}
			behaviours[name](t, fleet)
		})
	}
	for i, name := range slices.Sorted(maps.Keys(faults)) {
		t.Run(name, func(t *testing.T) {
			s.prefix = fmt.Sprint("fault-", i)
			faults[name](t, s)
		})
	}
}

// faults are what may happen to a Redis of either kind.
var faults = map[string]func(t *testing.T, s store){
	"A store that was paused locks and charges nothing for which nobody waits": pause,
	// Asked again, a budget would be charged twice, and an ask be refused by its own lock.
	"A lost answer is not asked for again":                loseAnswers,
	"A key that is lost in flight comes back":             keysOfFlightsComeBack,
	"A key that is another's by now stays that, and ends": keysOfOthersStay,
}

func startRedis(t testing.TB, args ...string) *redistest.Server {
	t.Helper()
	skipIfShort(t)
	return redistest.Start(t, args...)
}

func skipIfShort(t testing.TB) {
	t.Helper()
	if testing.Short() {
		t.Skip("starts a redis-server")
	}
}

func connect(t *testing.T, url string, timeout time.Duration) redis.UniversalClient {
	t.Helper()
	client, err := NewClient(url, TLSFiles{}, timeout)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// open returns a replica that the test has to close. What o leaves out is set
// to what no test has to wait for.
func open(t testing.TB, url string, o Options) *Redis {
	t.Helper()
	if o.Prefix == "" {
		o.Prefix = "throttle"
	}
	if o.Self.ID == "" {
		o.Self = Replica{ID: "replica-0"}
	}
	if o.LockTTL == 0 {
		o.LockTTL = time.Minute
	}
	if o.Timeout == 0 {
		o.Timeout = 10 * time.Second
	}
	if o.Replicas == 0 {
		o.Replicas = 1
	}
	o.Pipeline = true
	if o.Connect == nil {
		e, err := NewEndpoint(func() (string, error) { return url, nil }, TLSFiles{}, o.Timeout)
		if err != nil {
			t.Fatal(err)
		}
		o.Connect, o.Watch, o.Dialled = e.Connect, e.Watch, e.Dialled
	}
	r, err := NewRedis(o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// join returns a replica that ends with the test.
func join(t testing.TB, url string, o Options) *Redis {
	t.Helper()
	r := open(t, url, o)
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// must returns the value of a command of the test's own.
func must[T any](t *testing.T, cmd interface{ Result() (T, error) }) T {
	t.Helper()
	value, err := cmd.Result()
	if err != nil {
		t.Fatal(err)
	}
	return value
}
