package redistest

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
)

// Sentinels are three sentinels that watch one master and its replicas.
type Sentinels struct {
	Nodes []*Server // the sentinels
	Data  []*Server // the master at the start, and its replicas
}

// masterName is what the sentinels know the master by.
const masterName = "main"

const sentinelConfig = `
port %s
bind 127.0.0.1
dir %s
sentinel monitor ` + masterName + ` %s %s 2
sentinel down-after-milliseconds ` + masterName + ` 1000
sentinel failover-timeout ` + masterName + ` 5000
`

// StartSentinels starts a master, its replicas and the sentinels, and returns
// once they know of each other.
func StartSentinels(tb testing.TB, replicas int) *Sentinels {
	tb.Helper()
	master := Start(tb, "--repl-diskless-sync-delay", "0")
	s := &Sentinels{Data: []*Server{master}}
	for range replicas {
		s.Data = append(s.Data, StartReplicaOf(tb, master))
	}
	host, port, _ := net.SplitHostPort(master.Addr)
	for range 3 {
		own, dir := FreePort(tb), tb.TempDir()
		config := filepath.Join(dir, "sentinel.conf")
		if err := os.WriteFile(config, fmt.Appendf(nil, sentinelConfig, own, dir, host, port), 0o600); err != nil {
			tb.Fatal(err)
		}
		s.Nodes = append(s.Nodes, launch(&Server{
			Addr: net.JoinHostPort("127.0.0.1", own),
			tb:   tb,
			args: []string{config, "--sentinel"},
		}))
	}
	for _, node := range s.Nodes {
		client := s.client(node)
		await(tb, "a sentinel knows all others", func(ctx context.Context) bool {
			state := client.Master(ctx, masterName).Val()
			return state["num-slaves"] == fmt.Sprint(replicas) && state["num-other-sentinels"] == fmt.Sprint(len(s.Nodes)-1)
		})
	}
	return s
}

func (s *Sentinels) client(node *Server) *redis.SentinelClient {
	client := redis.NewSentinelClient(&redis.Options{Addr: node.Addr})
	node.tb.Cleanup(func() { _ = client.Close() })
	return client
}

// Master returns the server that a sentinel takes for the master.
func (s *Sentinels) Master(of *Server) *Server {
	addr := s.client(of).GetMasterAddrByName(context.Background(), masterName).Val()
	i := slices.IndexFunc(s.Data, func(data *Server) bool { return data.Addr == strings.Join(addr, ":") })
	if i < 0 {
		of.tb.Fatalf("the sentinel's master is nobody's: %v", addr)
	}
	return s.Data[i]
}

// URL returns the URL of the master by way of its sentinels, as --redis takes it.
func (s *Sentinels) URL() string {
	return "redis+sentinel://" + addrs(s.Nodes) + "?master_name=" + masterName
}
