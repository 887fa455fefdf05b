package redistest

import (
	"context"
	"errors"
	"io"
	"math"
	"net"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

const patience = time.Minute

// silence is how long a client waits for an answer that does not come.
const silence = 500 * time.Millisecond

func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !condition(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not in %s: %s", patience, what)
		}
	}
}

func newClient(t *testing.T, addr string) *redis.Client {
	t.Helper()
	client := redis.NewClient(&redis.Options{
		Addr: addr, MaxRetries: -1, DialerRetries: 1, DisableIdentity: true, ContextTimeoutEnabled: true,
		DialTimeout: patience, ReadTimeout: patience, WriteTimeout: patience,
	})
	t.Cleanup(func() { _ = client.Close() })
	return client
}

// increment asks a server to count, and returns what it answers within timeout.
func increment(t *testing.T, client *redis.Client, timeout time.Duration) (int64, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	return client.Incr(ctx, "n").Result()
}

func TestLink(t *testing.T) {
	if testing.Short() {
		t.Skip("needs a redis-server")
	}
	timedOut := func(err error) bool {
		var netErr net.Error
		return errors.Is(err, context.DeadlineExceeded) || errors.As(err, &netErr) && netErr.Timeout()
	}
	reset := func(err error) bool { // go-redis may look at the connection first, which takes the error away
		return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, io.EOF)
	}
	refused := func(err error) bool { return errors.Is(err, syscall.ECONNREFUSED) }
	for name, test := range map[string]struct {
		fault   func(*Link)
		is      func(error) bool // the error that it causes on an open connection; nil for none
		done    bool             // although the client does not know
		timeout time.Duration
	}{
		"refuse":             {func(l *Link) { l.Refuse(); l.Cut() }, nil, false, patience},
		"silence":            {(*Link).Silence, timedOut, false, silence},
		"lose answers":       {func(l *Link) { l.LoseAnswers(1, "incr") }, timedOut, true, silence},
		"lose others":        {func(l *Link) { l.LoseAnswers(-1, "evalsha") }, nil, true, patience},
		"cut in a request":   {func(l *Link) { l.CutRequests(10, "incr") }, reset, false, patience},
		"cut after requests": {func(l *Link) { l.CutRequests(math.MaxInt, "incr") }, reset, true, patience},
		"delay":              {func(l *Link) { l.Delay(10 * time.Millisecond) }, nil, true, patience},
	} {
		t.Run(name, func(t *testing.T) {
			server := Start(t)
			link := NewLink(t, server.Addr)
			client := newClient(t, link.Addr)
			if n, err := increment(t, client, patience); n != 1 || err != nil {
				t.Fatalf("without a fault: %d, %v", n, err)
			}
			test.fault(link)
			began := time.Now()
			_, err := increment(t, client, test.timeout)
			took := time.Since(began)
			switch {
			case name == "refuse":
				eventually(t, "connections are refused", func() bool { // after the pool's
					_, err = increment(t, client, test.timeout)
					return refused(err)
				})
			case test.is == nil && err != nil, test.is != nil && !test.is(err):
				t.Errorf("with the fault: got %v", err)
			case name == "delay" && took < 20*time.Millisecond:
				t.Errorf("answered after %s, want no less than 20ms", took)
			}
			want := 1
			if test.done {
				want = 2
			}
			direct := newClient(t, server.Addr)
			eventually(t, "the server has done what it was asked", func() bool {
				n, _ := direct.Get(t.Context(), "n").Int()
				return n == want
			})
			link.Heal()
			if n, err := increment(t, client, patience); n != int64(want)+1 || err != nil {
				t.Errorf("healed: got %d, %v, want %d", n, err, want+1)
			}
		})
	}
}

func TestLink_CutResets(t *testing.T) {
	if testing.Short() {
		t.Skip("needs a redis-server")
	}
	link := NewLink(t, Start(t).Addr)
	conn, err := net.Dial("tcp", link.Addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	buf := make([]byte, 100)
	for _, want := range []string{"+PONG\r\n", ""} {
		_, _ = conn.Write([]byte("PING\r\n"))
		n, err := conn.Read(buf)
		if got := string(buf[:n]); got != want || want == "" && !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("got %q, %v, want %q", got, err, want)
		}
		link.CutRequests(0, "PING")
	}
}

func TestLink_Counts(t *testing.T) {
	if testing.Short() {
		t.Skip("needs a redis-server")
	}
	link := NewLink(t, Start(t).Addr)
	for range 3 {
		a, b := newClient(t, link.Addr), newClient(t, link.Addr)
		for _, client := range []*redis.Client{a, b} {
			if _, err := increment(t, client, patience); err != nil {
				t.Fatal(err)
			}
		}
		_, _ = a.Close(), b.Close()
		eventually(t, "closed connections are closed", func() bool { return link.Count().Open == 0 })
	}
	if got, want := link.Count(), (Count{Accepted: 6, Open: 0, Most: 2}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestLink_LeavesNoGoroutine(t *testing.T) {
	if testing.Short() {
		t.Skip("needs a redis-server")
	}
	server := Start(t)
	before := runtime.NumGoroutine()
	t.Run("link", func(t *testing.T) {
		link := NewLink(t, server.Addr)
		for _, fault := range []func(){link.Silence, func() { link.Delay(patience) }, link.Heal} {
			fault()
			conn, err := net.Dial("tcp", link.Addr)
			if err != nil {
				t.Fatal(err)
			}
			_, _ = conn.Write([]byte("PING\r\n"))
			t.Cleanup(func() { _ = conn.Close() })
		}
	})
	eventually(t, "its goroutines have ended", func() bool { return runtime.NumGoroutine() <= before })
}
