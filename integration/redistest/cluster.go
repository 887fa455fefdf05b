package redistest

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
)

// slots is how many a Redis Cluster has.
const slots = 16384

// Cluster is a Redis Cluster of three masters that cover all slots.
type Cluster struct {
	Nodes    []*Server // the masters at the start
	Replicas []*Server // of each of them, in that order, or none
}

// StartCluster starts a cluster of masters without replicas.
func StartCluster(tb testing.TB) *Cluster {
	tb.Helper()
	return startCluster(tb, false)
}

// StartReplicatedCluster starts a cluster in which each master has a replica
// that takes its place.
func StartReplicatedCluster(tb testing.TB) *Cluster {
	tb.Helper()
	return startCluster(tb, true)
}

func startCluster(tb testing.TB, replicated bool) *Cluster {
	tb.Helper()
	c := &Cluster{}
	start := func() *Server {
		return Start(tb, "--cluster-enabled", "yes", "--cluster-port", FreePort(tb), "--cluster-node-timeout", "3000",
			"--repl-diskless-sync-delay", "0", "--cluster-replica-validity-factor", "0")
	}
	for range 3 {
		c.Nodes = append(c.Nodes, start())
		if replicated {
			c.Replicas = append(c.Replicas, start())
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	first := c.Nodes[0].Client()
	for i, node := range c.Nodes {
		if err := node.Client().ClusterAddSlotsRange(ctx, i*slots/3, (i+1)*slots/3-1).Err(); err != nil {
			tb.Fatal(err)
		}
	}
	all := append(c.Nodes[:3:3], c.Replicas...)
	for _, node := range all[1:] {
		host, port, _ := net.SplitHostPort(node.Addr)
		if err := first.Do(ctx, "cluster", "meet", host, port, node.setting("--cluster-port")).Err(); err != nil {
			tb.Fatal(err)
		}
	}
	for i, replica := range c.Replicas {
		client, master := replica.Client(), id(c.Nodes[i])
		await(tb, "a replica knows its master", func(ctx context.Context) bool {
			return client.ClusterReplicate(ctx, master).Err() == nil
		})
	}
	for _, node := range all {
		client := node.Client()
		await(tb, "the cluster has formed", func(ctx context.Context) bool {
			nodes := client.ClusterNodes(ctx).Val()
			return strings.Contains(client.ClusterInfo(ctx).Val(), "cluster_state:ok") &&
				strings.Count(nodes, "\n") == len(all) && strings.Count(nodes, "slave") == len(c.Replicas)
		})
	}
	for _, replica := range c.Replicas {
		replica.awaitMaster()
	}
	return c
}

// URL returns the cluster's URL, as --redis takes it.
func (c *Cluster) URL() string { return "redis+cluster://" + addrs(c.Nodes) }

// Owner returns the place in Nodes of the master that has key at the start.
func (c *Cluster) Owner(key string) int {
	return min(c.slot(key)*3/slots, 2)
}

// MoveSlot moves the slot of key, with all that is in it, between two masters.
func (c *Cluster) MoveSlot(key string, from, to *Server) {
	from.tb.Helper()
	m := c.beginMove(key, from, to)
	for {
		keys := from.Client().ClusterGetKeysInSlot(m.ctx, m.slot, 100).Val()
		if len(keys) == 0 {
			break
		}
		m.migrate(keys...)
	}
	for _, node := range append([]*Server{to, from}, c.Nodes...) {
		m.do(node, "cluster", "setslot", m.slot, "node", id(to))
	}
	m.cancel()
}

// MoveKey begins to move the slot of key, and moves nothing but that key.
// MoveSlot ends it.
func (c *Cluster) MoveKey(key string, from, to *Server) {
	from.tb.Helper()
	m := c.beginMove(key, from, to)
	m.migrate(key)
	m.cancel()
}

// move is a slot on its way.
type move struct {
	ctx      context.Context
	cancel   context.CancelFunc
	slot     int
	from, to *Server
}

func (c *Cluster) beginMove(key string, from, to *Server) *move {
	from.tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	m := &move{ctx, cancel, c.slot(key), from, to}
	m.do(to, "cluster", "setslot", m.slot, "importing", id(from))
	m.do(from, "cluster", "setslot", m.slot, "migrating", id(to))
	return m
}

func (m *move) migrate(keys ...string) {
	m.from.tb.Helper()
	host, port, _ := net.SplitHostPort(m.to.Addr)
	args := []any{"migrate", host, port, "", 0, startTimeout.Milliseconds(), "replace", "keys"}
	for _, key := range keys {
		args = append(args, key)
	}
	m.do(m.from, args...)
}

// do tells node something that does no harm twice: a connection may end under it.
func (m *move) do(node *Server, args ...any) {
	m.from.tb.Helper()
	err := node.Client().Do(m.ctx, args...).Err()
	if errors.Is(err, io.EOF) {
		err = node.Client().Do(m.ctx, args...).Err()
	}
	if err != nil {
		m.from.tb.Fatalf("%v: %v", args[:2], err)
	}
}

func (c *Cluster) slot(key string) int {
	return int(c.Nodes[0].Client().ClusterKeySlot(context.Background(), key).Val())
}

// id returns what a cluster knows its node by.
func id(node *Server) string {
	node.tb.Helper()
	id, err := node.Client().ClusterMyID(context.Background()).Result()
	if err != nil {
		node.tb.Fatal(err)
	}
	return id
}

func addrs(servers []*Server) string {
	var all []string
	for _, s := range servers {
		all = append(all, s.Addr)
	}
	return strings.Join(all, ",")
}
