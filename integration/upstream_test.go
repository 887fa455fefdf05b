package integration

import (
	"cmp"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	nonceField = "X-Nonce"
	// doesField tells the upstream what to do, beside the fingerprint.
	doesField = "X-Upstream"
)

// Values of doesField, as fields of a request.
const (
	plain       = doesField + ": "
	blocks      = doesField + ": block"  // until open is called
	answersOwn  = doesField + ": answer" // with a status, fields and body of its own
	dawdles     = doesField + ": dawdle"
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
}

// upstream records what reaches it. It is the whole instrument: laws are read
// from its calls.
type upstream struct {
	*httptest.Server
	open   func() // lets requests that are blocked go on, now and later
	during func() // called within each call, if set before the first
	does   map[string]http.HandlerFunc

	mu    sync.Mutex
	calls []*call
	live  map[string]int // calls in progress by what makes requests equal
	most  int            // that were ever in progress for equal requests
}

func newUpstream(t *testing.T) *upstream {
	gate := make(chan struct{})
	u := &upstream{live: map[string]int{}, open: sync.OnceFunc(func() { close(gate) })}
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
	u.Server = httptest.NewServer(http.HandlerFunc(u.serve))
	t.Cleanup(func() {
		u.open()
		u.Close()
	})
	return u
}

func (u *upstream) serve(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	body, _ := io.ReadAll(r.Body)
	c := &call{nonce: r.Header.Get(nonceField), target: r.RequestURI, header: r.Header, body: string(body), start: start}
	key := r.Method + " " + c.target + " " + c.body
	u.mu.Lock()
	u.calls = append(u.calls, c)
	u.live[key]++
	u.most = max(u.most, u.live[key])
	u.mu.Unlock()
	// A short answer leaves after this.
	defer func() {
		u.mu.Lock()
		u.live[key]--
		u.mu.Unlock()
	}()
	if u.during != nil {
		u.during()
	}
	u.does[r.Header.Get(doesField)](w, r)
}

// all returns the calls so far.
func (u *upstream) all() []*call {
	u.mu.Lock()
	defer u.mu.Unlock()
	return slices.Clone(u.calls)
}

// last returns the latest call.
func (u *upstream) last() *call {
	calls := u.all()
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
// moments than burst + rate × t. What was sent after the one and had arrived
// before the other was admitted between them, however slow the machine is.
// One more is for the store's clock, which is not the test's.
func (u *upstream) expectLimit(t *testing.T, answers []answer, burst int, perSecond float64) {
	t.Helper()
	type admission struct{ sent, arrived time.Time }
	sent := map[string]time.Time{}
	for _, a := range answers {
		sent[a.nonce] = a.sent
	}
	var admissions []admission
	for _, c := range u.all() {
		admissions = append(admissions, admission{sent[c.nonce], c.start})
	}
	slices.SortFunc(admissions, func(a, b admission) int { return a.arrived.Compare(b.arrived) })
	for _, from := range admissions {
		n := 0
		for _, a := range admissions {
			if a.sent.Before(from.sent) {
				continue
			}
			n++
			window := a.arrived.Sub(from.sent)
			if most := float64(burst) + perSecond*window.Seconds() + 1; float64(n) > most {
				t.Fatalf("%d requests were admitted in %s, at most %.2f may be", n, window, most)
			}
		}
	}
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
