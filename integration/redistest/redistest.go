// Package redistest starts real Redis servers for tests, alone and together,
// and links to them that fail. It is the only place that does. A redis-server
// that is missing fails the test.
package redistest

import (
	"context"
	"crypto/tls"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// startTimeout bounds how long servers may take to answer and to know of each
// other, on a machine that is busy with other tests.
const startTimeout = time.Minute

// Server is one redis-server. It ends with the test.
type Server struct {
	Addr    string // 127.0.0.1:port, or the path of a socket
	tb      testing.TB
	network string
	scheme  string
	tls     *tls.Config // of Client; nil without TLS
	args    []string
	env     []string
	cmd     *exec.Cmd
	exited  chan struct{}
	clock   string        // the file that says by how much its wall clock is off; empty if none does
	skew    time.Duration // what it says

	mu     sync.Mutex
	client *redis.Client // see Client; nil before the first
}

// Start starts a redis-server without persistence on a loopback port. args are
// added to its command line and override what is set here.
func Start(tb testing.TB, args ...string) *Server {
	tb.Helper()
	port := FreePort(tb)
	return launch(&Server{
		Addr: net.JoinHostPort("127.0.0.1", port),
		tb:   tb,
		args: append(defaults(tb, "--port", port), args...),
	})
}

// StartUnix starts a server that listens on a unix socket alone.
func StartUnix(tb testing.TB, args ...string) *Server {
	tb.Helper()
	dir, err := os.MkdirTemp("", "redis") // of a test with a long name TempDir is too long for a socket
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = os.RemoveAll(dir) })
	path := filepath.Join(dir, "s")
	return launch(&Server{
		Addr:    path,
		tb:      tb,
		network: "unix",
		scheme:  "unix",
		args:    append(defaults(tb, "--port", "0", "--unixsocket", path), args...),
	})
}

// StartTLS starts a server that speaks TLS alone, and only with who has a
// certificate for it. The files are what a client needs.
func StartTLS(tb testing.TB, args ...string) (*Server, TLSFiles) {
	tb.Helper()
	server, client, config := newTLSFiles(tb)
	return startTLS(tb, server, config, args...), client
}

func startTLS(tb testing.TB, files TLSFiles, config *tls.Config, args ...string) *Server {
	tb.Helper()
	port := FreePort(tb)
	return launch(&Server{
		Addr:   net.JoinHostPort("127.0.0.1", port),
		tb:     tb,
		scheme: "rediss",
		tls:    config,
		args: append(defaults(tb, "--port", "0", "--tls-port", port, "--tls-auth-clients", "yes",
			"--tls-ca-cert-file", files.CA, "--tls-cert-file", files.Cert, "--tls-key-file", files.Key), args...),
	})
}

// StartReplicaOf starts a server that follows master, and returns once it has
// what master has.
func StartReplicaOf(tb testing.TB, master *Server, args ...string) *Server {
	tb.Helper()
	host, port, _ := net.SplitHostPort(master.Addr)
	s := Start(tb, append([]string{"--replicaof", host + " " + port, "--repl-diskless-sync-delay", "0"}, args...)...)
	s.awaitMaster()
	return s
}

// defaults are the arguments of all servers, and those given.
func defaults(tb testing.TB, args ...string) []string {
	tb.Helper()
	return append([]string{
		"--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--enable-debug-command", "local", "--dir", tb.TempDir(),
	}, args...)
}

// ACLUser returns the arguments that give a server a user. rules are as in ACL
// SETUSER.
func ACLUser(name, password, rules string) []string {
	return append([]string{"--user", name, "on", ">" + password}, strings.Fields(rules)...)
}

func launch(s *Server) *Server {
	s.tb.Helper()
	if s.network == "" {
		s.network = "tcp"
	}
	if s.scheme == "" {
		s.scheme = "redis"
	}
	s.start()
	s.tb.Cleanup(s.Kill)
	return s
}

func (s *Server) start() {
	s.tb.Helper()
	s.cmd = exec.Command("redis-server", s.args...)
	s.cmd.Env = append(os.Environ(), s.env...)
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
		conn, err := net.DialTimeout(s.network, s.Addr, time.Second)
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

// awaitMaster returns once a server that follows another has what that has.
func (s *Server) awaitMaster() {
	s.tb.Helper()
	client := s.Client()
	await(s.tb, "the replica follows its master", func(ctx context.Context) bool {
		return strings.Contains(client.Info(ctx, "replication").Val(), "master_link_status:up")
	})
}

// await returns once condition holds.
func await(tb testing.TB, what string, condition func(context.Context) bool) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	for !condition(ctx) {
		select {
		case <-ctx.Done():
			tb.Fatalf("not in %s: %s", startTimeout, what)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// URL returns the server's URL without credentials, as --redis takes it.
func (s *Server) URL() string { return s.scheme + "://" + s.Addr }

// Client returns the client for the test's own use, as the default user: always the same,
// since a test that looks again and again would else run out of connections.
func (s *Server) Client() *redis.Client {
	s.mu.Lock()
	defer s.mu.Unlock()
	password := s.setting("--requirepass")
	if s.client == nil || s.client.Options().Password != password {
		client := redis.NewClient(&redis.Options{Network: s.network, Addr: s.Addr, Password: password, TLSConfig: s.tls})
		s.tb.Cleanup(func() { _ = client.Close() })
		s.client = client
	}
	return s.client
}

// setting returns the value of an argument, or nothing.
func (s *Server) setting(name string) string {
	if i := slices.Index(s.args, name); i >= 0 {
		return s.args[i+1]
	}
	return ""
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

// Restart starts a killed server again at the same address, with what it has
// saved.
func (s *Server) Restart() {
	s.tb.Helper()
	s.start()
}

// Configure adds args to the command line of the next Restart.
func (s *Server) Configure(args ...string) { s.args = append(s.args, args...) }

// FreePort returns a loopback port that nothing listens on, below the range
// that the system takes ports for outgoing connections from. Until tb ends nobody
// else is given it, in any process: the port of the same number for UDP, where no
// server listens, is taken meanwhile.
func FreePort(tb testing.TB) string {
	tb.Helper()
	for range 1000 {
		address := fmt.Sprintf("127.0.0.1:%d", 10000+rand.IntN(20000))
		ours, err := net.ListenPacket("udp", address)
		if err != nil {
			continue
		}
		listener, err := net.Listen("tcp", address)
		if err != nil {
			_ = ours.Close()
			continue
		}
		_ = listener.Close()
		tb.Cleanup(func() { _ = ours.Close() })
		_, port, _ := net.SplitHostPort(address)
		return port
	}
	tb.Fatal("no free port")
	return ""
}
