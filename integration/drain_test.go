package integration

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"throttle-proxy/integration/redistest"
)

// Law 4: no admitted request is lost by a drain or a rolling restart.

const longDrain = "1h" // for what must not be cut

// drain tells a replica to, and returns once nobody can connect.
func (r *replica) drain(t *testing.T) {
	t.Helper()
	r.signal(t, syscall.SIGTERM)
	eventually(t, "connections are refused", func() bool { return !listens(r.addr) })
}

// expectExit fails the test unless the replica ends with the status.
func (r *replica) expectExit(t *testing.T, want int) {
	t.Helper()
	if got := r.wait(t); got != want {
		t.Errorf("exit status %d, want %d", got, want)
	}
}

func TestReadinessFailsFirst(t *testing.T) {
	t.Parallel()
	u := newUpstream(t)
	r := startReplica(t, "--register", "hook="+u.URL, "--rate", "off", "--drain-delay", longDrain)
	if got := r.ready(t); got != "ok\n" {
		t.Errorf("ready: got %q", got)
	}
	r.signal(t, syscall.SIGTERM)
	eventually(t, "readiness fails", func() bool {
		a := do(t, http.MethodGet, r.url+"/-/ready", "")
		return a.status == http.StatusServiceUnavailable && a.body == "draining\n"
	})
	for i := range 20 {
		a, err := try(t.Context(), newClient(nil), http.MethodPost, r.url+"/hook", fmt.Sprint(i)) // on a connection of its own
		if err != nil {
			t.Fatal(err)
		}
		expect(t, "in the delay", a, "200")
	}
	r.signal(t, syscall.SIGINT)
	r.expectExit(t, 1)
}

func TestSecondSignalEndsTheProcess(t *testing.T) {
	t.Parallel()
	for _, second := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		t.Run(second.String(), func(t *testing.T) {
			u := newUpstream(t)
			r := startReplica(t, "--register", "hook="+u.URL, "--rate", "off", "--drain-timeout", longDrain)
			u.await(t, func() answer {
				a, _ := try(t.Context(), client, http.MethodPost, r.url+"/hook", "hello", blocks)
				return a
			})
			r.drain(t)
			if !r.running() {
				t.Fatal("ended with a request in flight")
			}
			r.signal(t, second)
			r.expectExit(t, 1)
		})
	}
}

func TestRequestsInFlightEndInADrain(t *testing.T) {
	t.Parallel()
	u := newUpstream(t)
	defer u.open()
	f := startFleet(t, 1, "--register", "hook="+u.URL, "--rate", "off", "--hold", "0s,unknown=0s", "--drain-timeout", longDrain)
	r := f.replicas[0]
	waits := u.occupy(t, r.url+"/hook", "hello")
	hangUp := enter(t, u, r.url+"/hook")
	hangUp() // that exchange goes on
	r.drain(t)
	if n := len(f.locks(t)); n != 2 || !r.running() {
		t.Errorf("%d locks, running %v, want 2 of a replica that runs", n, r.running())
	}
	u.open()
	expect(t, "the one in flight", <-waits, "200")
	r.expectExit(t, 0)
	if locks := f.locks(t); len(locks) != 0 {
		t.Errorf("locks: %v", locks)
	}
}

// Fails if an exchange that goes on without its client ends with the process.
func TestDrainWaitsForAnExchangeWithoutItsClient(t *testing.T) {
	t.Parallel()
	for name, set := range map[string]func(*http.Protocols){
		"HTTP/1.1": func(p *http.Protocols) { p.SetHTTP1(true) },
		"HTTP/2":   func(p *http.Protocols) { p.SetUnencryptedHTTP2(true) }, // whose handler net/http does not wait for
	} {
		t.Run(name, func(t *testing.T) {
			u := newUpstream(t)
			defer u.open()
			// The other has nothing to wait for: when it has ended, so would this one.
			f := startFleet(t, 2, "--register", "hook="+u.URL, "--rate", "off", "--hold", "0s,unknown=0s", "--drain-timeout", longDrain)
			r, other := f.replicas[0], f.replicas[1]
			transport := &http.Transport{}
			leaver := protoClient(t, transport, set)
			ctx, leave := context.WithCancel(t.Context())
			left := u.await(t, func() answer {
				a, _ := try(ctx, leaver, http.MethodPost, r.url+"/hook", "hello", blocks)
				return a
			})
			leave()
			<-left
			transport.CloseIdleConnections()
			r.drain(t)
			other.drain(t)
			other.expectExit(t, 0)
			if n := len(f.locks(t)); n != 1 || !r.running() {
				t.Errorf("%d locks, running %v, want 1 of a replica that runs", n, r.running())
			}
			u.open()
			r.expectExit(t, 0)
			if locks := f.locks(t); len(locks) != 0 {
				t.Errorf("locks: %v", locks)
			}
		})
	}
}

func TestTunnelsAndStreamsAreCutAtTheDrainTimeout(t *testing.T) {
	t.Parallel()
	const timeout = 10 * time.Second
	u := newUpstream(t)
	streamEnded := make(chan struct{})
	u.does["stream"] = func(w http.ResponseWriter, r *http.Request) {
		defer close(streamEnded)
		w.Header().Set("Content-Type", "text/event-stream")
		for r.Context().Err() == nil {
			_, _ = io.WriteString(w, "data: tick\n\n")
			_ = http.NewResponseController(w).Flush()
			time.Sleep(10 * time.Millisecond)
		}
	}
	f := startFleet(t, 1, "--register", "hook="+startWebSocket(t, echo), "--register", "stream="+u.URL, "--rate", "off", "--hold", "stream=0s,unknown=0s", "--drain-timeout", timeout.String())
	r := f.replicas[0]
	tunnel := dialWebSocket(t, r)
	expectEcho(t, tunnel, 1, []byte("before"))
	hangs := u.await(t, func() answer { return post(t, r.url+"/stream", "hello", blocks) })
	streamed := make(chan error, 1)
	u.await(t, func() answer {
		_, err := try(t.Context(), patientClient(), http.MethodPost, r.url+"/stream", "events", doesField+": stream")
		streamed <- err
		return answer{}
	})

	began := time.Now()
	r.drain(t)
	expectEcho(t, tunnel, 1, []byte("in the drain"))
	ended := func(what string) {
		t.Helper()
		if took := time.Since(began); took < timeout {
			t.Errorf("%s ended after %s, want %s", what, took, timeout)
		}
	}
	if _, message, err := tunnel.Read(t.Context()); err == nil {
		t.Errorf("the tunnel has a message: %q", message)
	}
	ended("the tunnel")
	if err := <-streamed; err == nil {
		t.Error("the cut stream arrived as a whole one")
	}
	ended("the stream")
	<-streamEnded // the upstream knows
	expect(t, "a request without an answer", <-hangs, "503 draining")
	r.expectExit(t, 0)
	if locks := f.locks(t); len(locks) != 0 {
		t.Errorf("locks: %v", locks)
	}
}

// Fails if idle HTTP/2 connections just end: a request on its way might have
// been read, for all that its client knows.
func TestHTTP2ClientsAreToldToGoAway(t *testing.T) {
	t.Parallel()
	u := newUpstream(t)
	r := startReplica(t, "--register", "hook="+u.URL, "--rate", "off")
	conn, in := sendRaw(t, r.addr, http2.ClientPreface)
	frames := http2.NewFramer(conn, in)
	_ = frames.WriteSettings()
	var block bytes.Buffer
	fields := hpack.NewEncoder(&block)
	for _, field := range []string{":method GET", ":scheme http", ":authority x", ":path /hook"} {
		name, value, _ := strings.Cut(field, " ")
		_ = fields.WriteField(hpack.HeaderField{Name: name, Value: value})
	}
	_ = frames.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: true})
	answered, away := false, false
	for !away {
		frame, err := frames.ReadFrame()
		if err != nil {
			t.Fatalf("answered %v, no GOAWAY: %v", answered, err)
		}
		switch frame := frame.(type) {
		case *http2.DataFrame:
			if !answered && frame.StreamEnded() {
				answered = true
				r.signal(t, syscall.SIGTERM)
			}
		case *http2.HeadersFrame:
			if !answered && frame.StreamEnded() {
				answered = true
				r.signal(t, syscall.SIGTERM)
			}
		case *http2.GoAwayFrame:
			if away = true; frame.ErrCode != http2.ErrCodeNo {
				t.Errorf("got %v", frame)
			}
		}
	}
	if !answered {
		t.Error("GOAWAY came before the answer")
	}
	r.expectExit(t, 0)
}

func TestTakenPortIsTriedAgain(t *testing.T) {
	t.Parallel()
	addr := net.JoinHostPort("127.0.0.1", redistest.FreePort(t))
	taken, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	p := run(t, "--register", "hook="+newUpstream(t).URL, "--listen", addr)
	eventually(t, "the replica tries", func() bool { return strings.Contains(p.stderr.String(), "is taken") })
	_ = taken.Close()
	r := &replica{process: p, addr: addr, url: "http://" + addr}
	eventually(t, "the replica listens", func() bool { return listens(addr) })
	expect(t, "request", post(t, r.url+"/hook", "hello"), "200")
}

func TestTakenPortIsAnError(t *testing.T) {
	t.Parallel()
	port := redistest.FreePort(t)
	taken, err := net.Listen("tcp", ":"+port)
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	p := run(t, "--register", "hook=http://host", "--port", port)
	if status := p.wait(t); status != 1 {
		t.Errorf("exit status %d, want 1", status)
	}
	lines := strings.Split(strings.TrimSpace(p.stderr.String()), "\n")
	last := lines[len(lines)-1]
	for _, want := range []string{"throttle-proxy: --port: cannot listen", ":" + port, "choose another port", "ip_local_reserved_ports=" + port} {
		if !strings.Contains(last, want) {
			t.Errorf("got %q, want %q in it", last, want)
		}
	}
}

// Three replicas behind nginx are restarted in turn, over and over, until as
// many requests were admitted as law 4 is tested with.
func TestRollingRestartLosesNothing(t *testing.T) {
	for name, changes := range map[string][]string{
		"connections are kept":           nil,
		"each request on one of its own": {`proxy_set_header Connection "";`, "proxy_set_header Connection close;"},
	} {
		t.Run(name, func(t *testing.T) {
			const want, clients = 10_000, 16
			u := newUpstream(t)
			words := []string{
				"THROTTLE_PROXY_REDIS=" + redistest.Start(t).URL(), "THROTTLE_PROXY_STORE_TIMEOUT=5s", "THROTTLE_PROXY_LOCK_TTL=10m",
				"--register", "hook=" + u.URL, "--rate", "off",
			}
			var replicas []*replica
			for range 3 {
				replicas = append(replicas, startReplicaOn(t, net.JoinHostPort("127.0.0.1", redistest.FreePort(t)), words...))
			}
			url := startBalancer(t, replicas, append(changes, "proxy_next_upstream off; # it would send a POST twice", "proxy_next_upstream error timeout;")...)

			var (
				mu      sync.Mutex
				answers []answer
				lost    int
				sent    atomic.Int64
				over    = make(chan struct{})
				load    sync.WaitGroup
			)
			stop := sync.OnceFunc(func() { close(over) })
			defer stop()
			for range clients {
				load.Go(func() {
					for {
						select {
						case <-over:
							return
						default:
						}
						a, err := try(t.Context(), client, http.MethodPost, url+"/hook", fmt.Sprint(sent.Add(1)))
						mu.Lock()
						if answers = append(answers, a); err != nil {
							lost++
						}
						mu.Unlock()
					}
				})
			}
			answered := func() int {
				mu.Lock()
				defer mu.Unlock()
				return len(answers)
			}
			restarts := 0
			for answered() < want || restarts < len(replicas) {
				before := answered()
				eventually(t, "requests are answered", func() bool { return answered() > before+want/15 })
				r := replicas[restarts%len(replicas)]
				r.signal(t, syscall.SIGTERM)
				r.expectExit(t, 0)
				replicas[restarts%len(replicas)] = startReplicaOn(t, r.addr, words...)
				restarts++
			}
			stop()
			load.Wait()
			t.Logf("%d requests, %d restarts", len(answers), restarts)
			if lost > 0 {
				t.Errorf("%d requests got no answer", lost)
			}
			expectCounts(t, answers, fmt.Sprintf("%d × 200", len(answers)))
			u.expectAgreement(t, answers)
		})
	}
}
