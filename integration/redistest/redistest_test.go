package redistest

import (
	"testing"
	"time"
)

func TestServersOfEveryKindAnswer(t *testing.T) {
	if testing.Short() {
		t.Skip("needs a redis-server")
	}
	tlsServer, _ := StartTLS(t)
	for name, server := range map[string]*Server{
		"plain":    Start(t),
		"password": Start(t, "--requirepass", "secret"),
		"unix":     StartUnix(t),
		"TLS":      tlsServer,
	} {
		if err := server.Client().Ping(t.Context()).Err(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSkewedClocksAndTheirSteps(t *testing.T) {
	const decade = 10 * 365 * 24 * time.Hour
	for _, skew := range []time.Duration{-decade, 0, decade} {
		server := StartSkewed(t, skew)
		client := server.Client()
		for _, step := range []time.Duration{0, 3 * time.Second, -1500 * time.Millisecond, -700 * time.Millisecond, -decade} {
			server.StepClock(step)
			skew += step
			before := time.Now()
			got, err := client.Time(t.Context()).Result() // to the microsecond
			if err != nil {
				t.Fatal(err)
			}
			if got = got.Add(-skew); got.Before(before.Truncate(time.Microsecond)) || got.After(time.Now()) {
				t.Errorf("off by %s: the clock shows %s, want between %s and %s", skew, got, before, time.Now())
			}
		}
	}
}

func TestSentinels_PromoteAReplica(t *testing.T) {
	if testing.Short() {
		t.Skip("needs a redis-server")
	}
	s := StartSentinels(t, 1)
	s.Data[0].Kill()
	eventually(t, "the replica is the master", func() bool { return s.Master(s.Nodes[0]) == s.Data[1] })
}

func TestCluster_PromotesAReplicaAndMovesASlot(t *testing.T) {
	if testing.Short() {
		t.Skip("needs a redis-server")
	}
	c := StartReplicatedCluster(t)
	owner := c.Owner("key")
	from, to := c.Nodes[owner], c.Nodes[(owner+1)%3]
	if err := from.Client().Set(t.Context(), "key", "value", 0).Err(); err != nil {
		t.Fatal(err)
	}
	c.MoveSlot("key", from, to)
	if got := to.Client().Get(t.Context(), "key").Val(); got != "value" {
		t.Errorf("after the move: got %q", got)
	}
	replica := c.Replicas[(owner+1)%3].Client()
	eventually(t, "the replica has it", func() bool { return replica.DBSize(t.Context()).Val() == 1 })
	to.Kill()
	eventually(t, "the replica is a master", func() bool { return replica.Set(t.Context(), "key", "other", 0).Err() == nil })
}
