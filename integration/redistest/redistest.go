// Package redistest starts real redis-server processes for tests. It is the
// only place that does. A redis-server that is missing fails the test.
package redistest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// startTimeout bounds how long a server may take to answer, on a machine that
// is busy with other tests.
const startTimeout = 30 * time.Second

// Server is one redis-server on a loopback port. It ends with the test.
type Server struct {
	Addr   string // 127.0.0.1:port
	tb     testing.TB
	args   []string
	cmd    *exec.Cmd
	exited chan struct{}
}

// Start starts a redis-server without persistence. args are added to its
// command line and override what is set here.
func Start(tb testing.TB, args ...string) *Server {
	tb.Helper()
	port := FreePort(tb)
	s := &Server{
		Addr: net.JoinHostPort("127.0.0.1", port),
		tb:   tb,
		args: append([]string{
			"--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no",
			"--enable-debug-command", "local", "--dir", tb.TempDir(),
		}, args...),
	}
	s.start()
	tb.Cleanup(s.Kill)
	return s
}

func (s *Server) start() {
	s.tb.Helper()
	s.cmd = exec.Command("redis-server", s.args...)
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.cmd.Start(); err != nil {
		s.tb.Fatalf("redis-server: %v (make test installs it)", err)
	}
	s.exited = make(chan struct{})
	go func(cmd *exec.Cmd, exited chan struct{}) {
		defer close(exited)
		_ = cmd.Wait()
	}(s.cmd, s.exited)
	s.await()
}

// await returns once the server accepts connections.
func (s *Server) await() {
	s.tb.Helper()
	for deadline := time.Now().Add(startTimeout); ; {
		conn, err := net.DialTimeout("tcp", s.Addr, time.Second)
		if err == nil {
			_ = conn.Close()
			return
		}
		select {
		case <-s.exited:
			s.tb.Fatalf("redis-server %s ended at once", strings.Join(s.args, " "))
		case <-time.After(10 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			s.tb.Fatalf("redis-server does not answer: %v", err)
		}
	}
}

// URL returns the server's URL, as --redis takes it.
func (s *Server) URL() string { return "redis://" + s.Addr }

// Client returns a client for the test's own use.
func (s *Server) Client() *redis.Client {
	client := redis.NewClient(&redis.Options{Addr: s.Addr})
	s.tb.Cleanup(func() { _ = client.Close() })
	return client
}

// Pause stops the process without its noticing; Resume lets it go on.
func (s *Server) Pause()  { s.signal(syscall.SIGSTOP) }
func (s *Server) Resume() { s.signal(syscall.SIGCONT) }

func (s *Server) signal(sig syscall.Signal) {
	s.tb.Helper()
	if err := s.cmd.Process.Signal(sig); err != nil {
		s.tb.Fatalf("signal %v: %v", sig, err)
	}
}

// Kill ends the process at once, with all that it knew.
func (s *Server) Kill() {
	_ = s.cmd.Process.Kill()
	<-s.exited
}

// Restart starts a killed server again, empty, on the same port.
func (s *Server) Restart() {
	s.tb.Helper()
	s.start()
}

// Cluster is a Redis Cluster of masters without replicas.
type Cluster struct {
	Nodes []*Server
}

// StartCluster starts a cluster of three masters that cover all slots.
func StartCluster(tb testing.TB) *Cluster {
	tb.Helper()
	c := &Cluster{}
	for range 3 {
		c.Nodes = append(c.Nodes, Start(tb,
			"--cluster-enabled", "yes", "--cluster-port", FreePort(tb), "--cluster-node-timeout", "5000"))
	}
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	first := c.Nodes[0].Client()
	const slots = 16384
	for i, node := range c.Nodes {
		client := node.Client()
		if err := client.ClusterAddSlotsRange(ctx, i*slots/3, (i+1)*slots/3-1).Err(); err != nil {
			tb.Fatal(err)
		}
		if i > 0 {
			host, port, _ := net.SplitHostPort(node.Addr)
			bus := node.args[len(node.args)-3] // the value of --cluster-port
			if err := first.Do(ctx, "cluster", "meet", host, port, bus).Err(); err != nil {
				tb.Fatal(err)
			}
		}
	}
	for _, node := range c.Nodes {
		for client := node.Client(); ; {
			info, err := client.ClusterInfo(ctx).Result()
			if err == nil && strings.Contains(info, "cluster_state:ok") && strings.Contains(info, "cluster_known_nodes:3") {
				break
			}
			select {
			case <-ctx.Done():
				tb.Fatalf("the cluster did not form: %v\n%s", err, info)
			case <-time.After(20 * time.Millisecond):
			}
		}
	}
	return c
}

// URL returns the cluster's URL, as --redis takes it.
func (c *Cluster) URL() string {
	var addrs []string
	for _, node := range c.Nodes {
		addrs = append(addrs, node.Addr)
	}
	return "redis+cluster://" + strings.Join(addrs, ",")
}

// FreePort returns a loopback port that nothing listens on, below the range
// that the system takes ports for outgoing connections from.
func FreePort(tb testing.TB) string {
	tb.Helper()
	for range 1000 {
		port := 10000 + rand.IntN(20000)
		listener, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			_ = listener.Close()
			return strconv.Itoa(port)
		}
	}
	tb.Fatal("no free port")
	return ""
}
