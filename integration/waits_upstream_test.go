package integration

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"throttle-proxy/integration/redistest"
)

// Fails if an upstream that does not read a body holds on to it.
func TestWaitForAnUpstreamThatDoesNotReadEnds(t *testing.T) {
	t.Parallel()
	over := make(chan struct{})
	w := startWaiter(t, false, true, func(*turn) { <-over }, "--timeout", "2s", "--max-body", "16MiB")
	t.Cleanup(func() { close(over) })
	body := strings.Repeat("x", 12<<20) // more than sockets and windows hold
	var asking sync.WaitGroup
	for _, route := range w.routes() {
		for name, set := range map[string]func(*http.Protocols){
			"HTTP/1.1": func(p *http.Protocols) { p.SetHTTP1(true) },
			"HTTP/2":   func(p *http.Protocols) { p.SetUnencryptedHTTP2(true) },
		} {
			asking.Go(func() {
				a, err := try(t.Context(), protoClient(t, &http.Transport{}, set), http.MethodPost, w.url+"/"+route, name+body)
				if err != nil || a.String() != "504 upstream-timeout" {
					t.Errorf("%s by %s: got %v, error %v, want 504 upstream-timeout", route, name, a, err)
				}
			})
		}
	}
	asking.Wait()
	w.expectRest(t)
}

// swallower relays connections, until it swallows those that there are: then it
// takes in what comes, and passes nothing on.
type swallower struct {
	addr string

	mu        sync.Mutex
	swallowed *bool // by the connections of now
}

func newSwallower(t *testing.T, to string) *swallower {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &swallower{addr: l.Addr().String(), swallowed: new(bool)}
	var relaying sync.WaitGroup
	pass := func(to, from net.Conn, swallowed *bool) {
		defer to.Close()
		defer from.Close()
		p := make([]byte, 32<<10)
		for {
			n, err := from.Read(p)
			s.mu.Lock()
			lost := *swallowed
			s.mu.Unlock()
			if lost && err == nil {
				continue
			}
			if _, writeErr := to.Write(p[:n]); err != nil || writeErr != nil {
				return
			}
		}
	}
	relaying.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			upstream, err := net.Dial("tcp", to)
			if err != nil {
				_ = conn.Close()
				continue
			}
			s.mu.Lock()
			swallowed := s.swallowed
			s.mu.Unlock()
			relaying.Go(func() { pass(upstream, conn, swallowed) })
			relaying.Go(func() { pass(conn, upstream, swallowed) })
			t.Cleanup(func() { _ = conn.Close(); _ = upstream.Close() })
		}
	})
	t.Cleanup(func() { _ = l.Close() })
	return s
}

func (s *swallower) swallow() {
	s.mu.Lock()
	defer s.mu.Unlock()
	*s.swallowed = true
	s.swallowed = new(bool)
}

// Fails if a connection that nothing comes out of is asked for ever. The proxy
// has to ask it for a sign of life and wait for one, which takes its time: up to
// 20 s, and here twice that before it counts as never.
func TestWaitForASwallowedConnectionEnds(t *testing.T) {
	t.Parallel()
	pair, cert, _ := newKeyPair(t, "upstream.test")
	upstreams := startUpstreams(t, pair, false, answering(okText))
	words := []string{"SSL_CERT_FILE=" + writeFile(t, "upstream.pem", cert), "--rate", "off", "--hold", "0s,unknown=0s", "--timeout", "2s", "--dedupe-header", "X-Cell"}
	var links []*swallower
	for _, u := range upstreams {
		link := newSwallower(t, u.addr)
		links = append(links, link)
		url := strings.Replace(u.url(), u.addr, link.addr, 1)
		words = append(words, "--register", "locked-"+u.name+"="+url, "--register", "streamed-"+u.name+"="+url, "--dedupe", "streamed-"+u.name+"=off")
	}
	r := startReplica(t, words...)
	ask := func(route string) answer {
		a, _ := try(t.Context(), client, http.MethodPost, r.url+"/"+route, "hello", "X-Cell: "+fmt.Sprint(nonces.Add(1)))
		return a
	}
	var routes []string
	for _, u := range upstreams {
		routes = append(routes, "locked-"+u.name, "streamed-"+u.name)
	}
	for _, route := range routes {
		expect(t, route, ask(route), "200")
	}
	for _, link := range links {
		link.swallow()
	}
	var asking sync.WaitGroup
	for _, route := range routes {
		asking.Go(func() {
			swallowed := time.Now()
			for n := 0; ; n++ {
				if a := ask(route); a.status == http.StatusOK {
					t.Logf("%s: through after %d, in %s", route, n, time.Since(swallowed).Round(time.Millisecond))
					return
				} else if a.String() != "504 upstream-timeout" && a.String() != "499 upstream-closed" {
					t.Errorf("%s: got %v", route, a)
				}
				if time.Since(swallowed) > 40*time.Second {
					t.Errorf("%s: none of %d has come through", route, n)
					return
				}
			}
		})
	}
	asking.Wait()
}

// blackHole returns an address that takes connections up to none: what is sent
// there is neither answered nor refused.
func blackHole(t *testing.T) (addr string) {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Close(fd) })
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	name, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	addr = fmt.Sprint("127.0.0.1:", name.(*syscall.SockaddrInet4).Port)
	for range 10 { // its queue, which nobody takes from, is full when one is not answered
		conn, err := net.DialTimeout("tcp", addr, 500*time.Millisecond)
		if err != nil {
			return addr
		}
		t.Cleanup(func() { _ = conn.Close() })
	}
	t.Fatal("the queue has no end")
	return ""
}

// Fails if a dial that nobody answers outlasts the drain: by itself it ends
// after 10 s.
func TestWaitForADialEndsWithTheDrain(t *testing.T) {
	t.Parallel()
	for _, scheme := range []string{"http", "https", "h2c"} {
		for _, dedupe := range []string{"on", "off"} {
			t.Run(scheme+" "+dedupe, func(t *testing.T) {
				t.Parallel()
				r := startReplica(t, "--register", "hook="+scheme+"://"+blackHole(t), "--dedupe", dedupe, "--rate", "off",
					"--drain-timeout", "1s", "--admin", "127.0.0.1:0")
				answers := inBackground(func() answer { return post(t, r.url+"/hook", "hello") })
				eventually(t, "the request is under way", func() bool { return r.metric(t, "in_flight") == 1 })
				asked := time.Now()
				r.signal(t, syscall.SIGTERM)
				if status := r.wait(t); status != 0 {
					t.Errorf("exit status %d", status)
				}
				if took := time.Since(asked); took > 7*time.Second {
					t.Errorf("the drain took %s", took)
				}
				expect(t, "the request", <-answers, "503 draining")
			})
		}
	}
}

// Fails if a log that nobody reads stops the proxy.
func TestWaitForALogThatNobodyReadsIsNone(t *testing.T) {
	t.Parallel()
	path, err := build()
	if err != nil {
		t.Fatal(err)
	}
	u := newUpstream(t)
	reads, writes, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer reads.Close()
	addr := net.JoinHostPort("127.0.0.1", redistest.FreePort(t))
	cmd := exec.Command(path, "--listen", addr, "--register", "hook="+u.URL, "--rate", "off", "--hold", "0s,unknown=0s")
	cmd.Stderr = writes
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = writes.Close()
	eventually(t, "the replica listens", func() bool { return listens(addr) })
	const requests = 2000 // some 300 KB of lines, and a pipe holds 64
	each(requests, 8, func(i int) {
		if !t.Failed() { // each that fails takes its time
			expect(t, "a request", post(t, "http://"+addr+"/hook", fmt.Sprint(i)), "200")
		}
	})
	_ = cmd.Process.Signal(syscall.SIGTERM)
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	select {
	case err := <-exited:
		if err != nil {
			t.Errorf("the replica: %v", err)
		}
	case <-time.After(patience):
		t.Error("the replica still runs")
		_ = cmd.Process.Kill()
		<-exited
	}
	log, _ := io.ReadAll(reads)
	if n := strings.Count(string(log), "msg=request"); n == 0 || n > requests {
		t.Errorf("%d lines of requests were kept", n)
	}
}
