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
	for _, skew := range []time.Duration{-10 * 365 * 24 * time.Hour, 10 * 365 * 24 * time.Hour} {
		now, err := StartSkewed(t, skew).Client().Time(t.Context()).Result()
		if off := time.Until(now); err != nil || (off-skew).Abs() > time.Hour {
			t.Errorf("a clock that is to be off by %s is by %s, %v", skew, off, err)
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
