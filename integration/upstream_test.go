package integration

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const (
	nonceField = "X-Nonce"
	// servedField says, in a signed answer, for which request it was made.
	servedField = "X-Served"
	// doesField tells the upstream what to do, beside the fingerprint.
	doesField = "X-Upstream"
	// lingerField tells it for how long.
	lingerField = "X-Linger"
	// tenantField makes requests differ that are otherwise equal.
	tenantField = "X-Tenant"
)

// Values of doesField, as fields of a request.
const (
	plain       = doesField + ": "
	blocks      = doesField + ": block"  // until open is called
	answersOwn  = doesField + ": answer" // with a status, fields and body of its own
	dawdles     = doesField + ": dawdle"
	lingers     = doesField + ": linger" // for as long as lingerField says, or until the proxy leaves
	empties     = doesField + ": empty"
	chunks      = doesField + ": chunked"
	writes40KiB = doesField + ": 40 KiB"
	fails       = doesField + ": fail"
	cuts        = doesField + ": cut"
	cutsBody    = doesField + ": cut body"
	babbles     = doesField + ": babble"
)

// call is a request as it arrived.
type call struct {
	nonce  string
	target string // path and query
	header http.Header
	body   string
	start  time.Time
	end    time.Time // of the exchange, zero until then; guarded by the upstream
	cut    bool      // it ended with its connection, which may have been seen late
	conn   net.Conn
}

// upstream records what reaches it. It is the whole instrument: laws are read
// from its calls.
type upstream struct {
	*httptest.Server
	open   func() // lets requests that are blocked go on, now and later
	during func() // called within each call, if set before the first
	signs  bool   // answers say of which request they are, if set before the first
	does   map[string]http.HandlerFunc

	mu    sync.Mutex
	calls []*call
	live  map[string][]*call // calls in progress by what makes requests equal
	most  int                // that were ever in progress for equal requests
}

// connOf is where a request's connection is, in its context.
type connOf struct{}

func newUpstream(t *testing.T) *upstream {
	gate := make(chan struct{})
	u := &upstream{live: map[string][]*call{}, open: sync.OnceFunc(func() { close(gate) })}
	u.does = map[string]http.HandlerFunc{
		"":      func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") },
		"block": func(http.ResponseWriter, *http.Request) { <-gate },
		"answer": func(w http.ResponseWriter, _ *http.Request) {
			w.Header()["X-Own"] = []string{"a", "b"}
			w.Header().Set("Content-Type", "text/x-own")
			w.WriteHeader(http.StatusAccepted)
			_, _ = io.WriteString(w, "its own words")
		},
		"dawdle": func(http.ResponseWriter, *http.Request) {
			time.Sleep(rand.N(4 * time.Millisecond))
		},
		"linger": func(w http.ResponseWriter, r *http.Request) {
			d, _ := time.ParseDuration(r.Header.Get(lingerField))
			select {
			case <-time.After(d):
			case <-r.Context().Done():
			}
		},
		"empty": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) },
		"chunked": func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, "one")
			_ = http.NewResponseController(w).Flush()
			_, _ = io.WriteString(w, "two")
		},
		"40 KiB": func(w http.ResponseWriter, _ *http.Request) {
			const size = 40 << 10 // more than the proxy copies at once
			w.Header().Set("Content-Length", fmt.Sprint(size))
			_, _ = w.Write(make([]byte, size))
		},
		"fail": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) },
		"cut":  func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"cut body": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			_, _ = io.WriteString(w, "half of it")
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		},
		"babble": func(w http.ResponseWriter, _ *http.Request) {
			conn, _, err := http.NewResponseController(w).Hijack()
			if err == nil {
				_, _ = io.WriteString(conn, "what was the question?\r\n\r\n")
				_ = conn.Close()
			}
		},
	}
	u.Server = httptest.NewUnstartedServer(http.HandlerFunc(u.serve))
	u.Config.ConnContext = func(ctx context.Context, conn net.Conn) context.Context {
		return context.WithValue(ctx, connOf{}, conn)
	}
	u.Start()
	t.Cleanup(func() {
		u.open()
		u.Close()
	})
	return u
}

func (u *upstream) serve(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	c := &call{nonce: r.Header.Get(nonceField), target: r.RequestURI, header: r.Header, body: string(body)}
	c.conn, _ = r.Context().Value(connOf{}).(net.Conn)
	key := r.Method + " " + c.target + " " + c.body + " " + r.Header.Get(tenantField)
	u.begin(c, key)
	defer u.finish(c, key) // a short answer leaves after this
	if u.during != nil {
		u.during()
	}
	if u.signs {
		w.Header().Set(servedField, c.nonce)
		w.Header().Set("X-Secret", mark)
	}
	u.does[r.Header.Get(doesField)](w, r)
}

// begin records the start of c. An exchange is over once the proxy has closed
// its connection, which may be before anybody here could notice: so those that
// this one could overlap are looked at, and its own.
func (u *upstream) begin(c *call, key string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	c.start = time.Now()
	u.live[key] = append(u.live[key], c)
	u.live[key] = slices.DeleteFunc(u.live[key], func(other *call) bool {
		if closed(other.conn) {
			other.end, other.cut = c.start, true
		}
		return !other.end.IsZero()
	})
	u.calls = append(u.calls, c)
	u.most = max(u.most, len(u.live[key]))
}

func (u *upstream) finish(c *call, key string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if c.end.IsZero() {
		c.end, c.cut = time.Now(), closed(c.conn)
		u.live[key] = slices.DeleteFunc(u.live[key], func(other *call) bool { return other == c })
	}
}

// closed reports whether the other side has closed a TCP connection, as far as
// that has arrived, whatever has been read of it so far.
func closed(conn net.Conn) bool {
	const established = 1 // the first byte of TCP_INFO
	tcp, ok := conn.(syscall.Conn)
	if !ok {
		return false // of HTTP/2, where nobody is told
	}
	raw, err := tcp.SyscallConn()
	state := established
	if err == nil {
		err = raw.Control(func(fd uintptr) {
			if info, err := syscall.GetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_INFO); err == nil {
				state = info & 0xff
			}
		})
	}
	return err != nil || state != established
}

// all returns the calls so far.
func (u *upstream) all() []*call {
	u.mu.Lock()
	defer u.mu.Unlock()
	return slices.Clone(u.calls)
}

// last returns the latest call, an empty one if there was none.
func (u *upstream) last() *call {
	calls := u.all()
	if len(calls) == 0 {
		return new(call)
	}
	return calls[len(calls)-1]
}

// arrivals returns how often the request of a nonce has arrived.
func (u *upstream) arrivals(nonce string) (n int) {
	for _, c := range u.all() {
		if c.nonce == nonce {
			n++
		}
	}
	return n
}

// occupy posts a request that the upstream keeps until open is called, and
// returns once it is there.
func (u *upstream) occupy(t *testing.T, url, body string, fields ...string) <-chan answer {
	t.Helper()
	return u.await(t, func() answer {
		return decided(func() answer { return post(t, url, body, append(fields, blocks)...) })
	})
}

// await sends a request in the background, and returns once it has arrived.
func (u *upstream) await(t *testing.T, request func() answer) <-chan answer {
	t.Helper()
	before := len(u.all())
	answers := inBackground(request)
	eventually(t, "the request is in flight", func() bool { return len(u.all()) > before })
	return answers
}

// expectAgreement fails the test unless the requests that were admitted have
// reached the upstream once each, and nothing else has.
func (u *upstream) expectAgreement(t *testing.T, answers []answer) {
	t.Helper()
	arrivals := map[string]int{}
	for _, c := range u.all() {
		arrivals[c.nonce]++
	}
	for _, a := range answers {
		want := 0
		if a.status == http.StatusOK {
			want = 1
		}
		if got := arrivals[a.nonce]; got != want {
			t.Errorf("a request answered %v reached the upstream %d times, want %d", a, got, want)
		}
		delete(arrivals, a.nonce)
	}
	if len(arrivals) > 0 {
		t.Errorf("%d requests that nobody has an answer to reached the upstream", len(arrivals))
	}
}

// expectLimit fails the test if more requests were admitted between any two
// moments than burst + rate × t.
func (u *upstream) expectLimit(t *testing.T, answers []answer, burst int, perSecond float64) {
	t.Helper()
	sent := map[string]time.Time{}
	for _, a := range answers {
		sent[a.nonce] = a.sent
	}
	var admissions []admission
	for _, c := range u.all() {
		admissions = append(admissions, admission{sent[c.nonce], c.start})
	}
	if excess := excessOf(admissions, burst, perSecond, nil); excess != "" {
		t.Fatal(excess)
	}
}

// admission is when an admitted request was sent, and when it had arrived.
type admission struct{ sent, arrived time.Time }

// excessOf tells of two moments between which more requests were admitted than
// burst + rate × t and what besides may be; it is empty if there are none. What
// was sent after the one and had arrived before the other was admitted between
// them, however slow the machine is. One more is for the store's clock, which
// is not the test's.
func excessOf(admissions []admission, burst int, perSecond float64, besides func(from, to time.Time) float64) string {
	admissions = slices.SortedFunc(slices.Values(admissions), func(a, b admission) int { return a.arrived.Compare(b.arrived) })
	for _, from := range admissions {
		n := 0
		for _, a := range admissions {
			if a.sent.Before(from.sent) {
				continue
			}
			n++
			window := a.arrived.Sub(from.sent)
			most := float64(burst) + perSecond*window.Seconds() + 1
			if float64(n) > most && besides != nil {
				most += besides(from.sent, a.arrived)
			}
			if float64(n) > most {
				return fmt.Sprintf("%d requests were admitted in %s, at most %.2f may be", n, window, most)
			}
		}
	}
	return ""
}

// count returns how many answers there are of each kind.
func count(answers []answer) map[string]int {
	kinds := map[string]int{}
	for _, a := range answers {
		kinds[a.String()]++
	}
	return kinds
}

// expectCounts fails the test unless the answers are of these kinds.
func expectCounts(t *testing.T, answers []answer, want ...string) {
	t.Helper()
	var got []string
	for kind, n := range count(answers) {
		got = append(got, fmt.Sprintf("%d × %s", n, kind))
	}
	slices.SortFunc(got, cmp.Compare)
	slices.SortFunc(want, cmp.Compare)
	if !slices.Equal(got, want) {
		t.Errorf("answers: got %s, want %s", strings.Join(got, ", "), strings.Join(want, ", "))
	}
}
