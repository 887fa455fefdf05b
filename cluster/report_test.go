package cluster

import (
	"encoding/json"
	"testing"
	"time"

	"throttle-proxy/integration/redistest"
)

// Replicas report only while somebody looks, and the first look finds them all.
func TestRedis_ReplicasReportWhileSomebodyLooks(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t) // its own: it is killed
	client := server.Client()
	reporter := func(name string, started time.Time) *Redis {
		return open(t, server.URL(), Options{
			Self:   Replica{ID: name, Name: name, Started: started},
			Report: func() []byte { return []byte("of " + name) },
		})
	}
	began := time.Now()
	a, b, c := reporter("a", began), reporter("b", began), reporter("c", began)
	defer c.Close()
	defer a.Close()
	knows := func(n int) func() bool { return func() bool { return len(a.Status().Peers) == n } }
	eventually(t, "all know each other", knows(2))
	if keys := must(t, client.Keys(t.Context(), "*report*")); len(keys) > 0 {
		t.Errorf("%v are there though nobody looks", keys)
	}
	reports, err := a.Reports(t.Context())
	if err != nil || string(reports["b"]) != "of b" || string(reports["c"]) != "of c" || len(reports) != 2 {
		t.Errorf("got %q and %v, want those of b and c", reports, err)
	}
	for _, key := range must(t, client.Keys(t.Context(), "*{fleet}:[rw]e*")) {
		if ttl := must(t, client.PTTL(t.Context(), key)); ttl <= 0 {
			t.Errorf("%s has no end", key)
		}
	}

	// One that ends is not missed. One that dies is, until another has its name.
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	value, _ := json.Marshal(Replica{ID: "e", Name: "e", Started: began})
	must(t, client.Set(t.Context(), a.replicaKey("e"), value, beatExpiry))
	must(t, heartbeatScript.Run(t.Context(), client, []string{a.replicasKey(), a.controlKey(), a.followedKey("e")}, "e", beatExpiry.Milliseconds(), 0, "0 0"))
	eventually(t, "e is missed", func() bool { return len(a.Status().Missing) > 0 })
	if missing := a.Status().Missing; len(missing) != 1 || missing[0].Name != "e" || missing[0].Silent < 2*beatExpiry {
		t.Errorf("got %+v, want e alone", missing)
	}
	again := reporter("e", began.Add(time.Second))
	defer again.Close()
	eventually(t, "it is there again", func() bool { return len(a.Status().Missing) == 0 })

	server.Kill()
	eventually(t, "the store is away", func() bool { return len(a.Status().Away) > 0 })
	if reports, err := a.Reports(t.Context()); err == nil {
		t.Errorf("got %v of a store that is away", reports)
	}
}
