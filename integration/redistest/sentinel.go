package redistest

import (
	"context"
	"crypto/tls"
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
	Nodes []*Server   // the sentinels
	Data  []*Server   // the master at the start, and its replicas
	tls   *tls.Config // of clients; nil without TLS
	files TLSFiles    // of the servers, likewise
}

// masterName is what the sentinels know the master by.
const masterName = "main"

const sentinelConfig = `
%s
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
	s.start(func(port string) string { return "port " + port })
	return s
}

// StartTLSSentinels starts a master alone, and its sentinels, all of which speak
// TLS alone. The files are what a client needs.
func StartTLSSentinels(tb testing.TB) (*Sentinels, TLSFiles) {
	tb.Helper()
	server, client, config := newTLSFiles(tb)
	s := &Sentinels{tls: config, files: server}
	s.Data = []*Server{startTLS(tb, server, config, "--tls-replication", "yes", "--tls-auth-clients", "no")} // a server's certificate is no good for a client
	s.start(func(port string) string {
		return fmt.Sprintf("port 0\ntls-port %s\ntls-replication yes\ntls-auth-clients no\ntls-ca-cert-file %s\ntls-cert-file %s\ntls-key-file %s", port, server.CA, server.Cert, server.Key)
	})
	return s, client
}

// RenewTLS gives all servers certificates of another authority, and returns what a
// client needs from now on.
func (s *Sentinels) RenewTLS() TLSFiles {
	tb := s.Data[0].tb
	tb.Helper()
	server, client, config := newTLSFiles(tb)
	for to, from := range map[string]string{s.files.CA: server.CA, s.files.Cert: server.Cert, s.files.Key: server.Key} {
		content, err := os.ReadFile(from)
		if err != nil {
			tb.Fatal(err)
		}
		if err := os.WriteFile(to, content, 0o600); err != nil {
			tb.Fatal(err)
		}
	}
	for _, node := range append(s.Data, s.Nodes...) {
		node.Kill()
		node.Restart()
		node.tls = config
	}
	s.tls = config
	return client
}

// start starts the sentinels. listen is what their configuration says of a port.
func (s *Sentinels) start(listen func(port string) string) {
	master, replicas := s.Data[0], len(s.Data)-1
	tb := master.tb
	tb.Helper()
	host, port, _ := net.SplitHostPort(master.Addr)
	for range 3 {
		own, dir := FreePort(tb), tb.TempDir()
		config := filepath.Join(dir, "sentinel.conf")
		if err := os.WriteFile(config, fmt.Appendf(nil, sentinelConfig, listen(own), dir, host, port), 0o600); err != nil {
			tb.Fatal(err)
		}
		s.Nodes = append(s.Nodes, launch(&Server{
			Addr: net.JoinHostPort("127.0.0.1", own),
			tb:   tb,
			tls:  s.tls,
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
}

func (s *Sentinels) client(node *Server) *redis.SentinelClient {
	client := redis.NewSentinelClient(&redis.Options{Addr: node.Addr, TLSConfig: node.tls})
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
	scheme := "redis"
	if s.tls != nil {
		scheme = "rediss"
	}
	return scheme + "+sentinel://" + addrs(s.Nodes) + "?master_name=" + masterName
}
