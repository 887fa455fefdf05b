package proxy

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

func shares(d OnDuplicate) func(*Route) {
	return func(r *Route) {
		r.OnDuplicate, r.DedupeHeaders, r.Timeout = d, CredentialFields, 5*time.Second
	}
}

// same is what the answers of one flight have in common.
func same(t *testing.T, res *http.Response) string {
	t.Helper()
	body := text(t, res)
	for _, name := range []string{"Cache-Status", "RateLimit", "RateLimit-Policy", "Ratelimit", "Ratelimit-Policy", "Set-Cookie", "Date", "Age"} {
		delete(res.Header, name)
	}
	return res.Status + fields(res.Header) + body
}

func TestFollowersGetTheAnswer(t *testing.T) {
	for _, status := range []int{200, 201, 204, 302, 404, 500} {
		bubble(t, http.StatusText(status), func(t *testing.T) {
			g := newGate(t)
			r := newRig(t, g, shares(Join))
			leader := r.start(post("a"))
			synctest.Wait()
			sent := g.answers
			var followers []<-chan *http.Response
			for range 59 {
				followers = append(followers, r.start(post("a")))
			}
			synctest.Wait()
			body := "an answer"
			if status == 204 {
				body = ""
			}
			a := answer(status, body)
			a.Header.Set("Set-Cookie", "a=b")
			a.Header.Set("X-Own", "c")
			sent <- a
			first := next(t, leader)
			if got := first.Header.Get("Set-Cookie"); got != "a=b" {
				t.Errorf("the leader got Set-Cookie %q", got)
			}
			want := same(t, first)
			for _, f := range followers {
				res := next(t, f)
				if got, want := res.Header.Get("Cache-Status"), "throttle-proxy; fwd=miss; collapsed"; got != want {
					t.Errorf("got Cache-Status %q, want %q", got, want)
				}
				if got := res.Header.Get("Set-Cookie"); got != "" {
					t.Errorf("a follower got Set-Cookie %q", got)
				}
				if got := same(t, res); got != want {
					t.Errorf("got %q, want %q", got, want)
				}
			}
		})
	}
}

func TestWhatMayBeShared(t *testing.T) {
	for name, row := range map[string]struct {
		method, request, answer string
		want                    bool
	}{
		"plain":                          {"GET", "", "", true},
		"event stream":                   {"POST", "", "Content-Type: text/event-stream; charset=utf-8", false},
		"no-store":                       {"GET", "", "Cache-Control: max-age=1, No-Store", false},
		"no-store, to what changes":      {"POST", "", "Cache-Control: no-store", true},
		"private":                        {"GET", "", "Cache-Control: private", false},
		"private by field":               {"GET", "", `Cache-Control: private="x"`, false},
		"private, with a credential":     {"GET", "Authorization: a", "Cache-Control: private", true},
		"private, with a cookie":         {"GET", "Cookie: a=b", "Cache-Control: private", true},
		"private, to what changes":       {"POST", "", "Cache-Control: private", true},
		"Vary: *":                        {"GET", "", "Vary: *", false},
		"Vary on what is compared":       {"GET", "", "Vary: accept, Origin", true},
		"Vary on what is not":            {"GET", "", "Vary: accept, User-Agent", false},
		"Vary, to what changes":          {"POST", "", "Vary: *", true},
		"no-store behind another":        {"GET", "", "Cache-Control: no-cache,no-store=\"a\"", false},
		"of a range, which is compared":  {"GET", "Range: bytes=0-1", "Content-Range: bytes 0-1/3", true},
		"what only begins like no-store": {"GET", "", "Cache-Control: no-stored", true},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, answers(200, ""), shares(Join))
			header := func(line string) http.Header {
				h := http.Header{}
				if name, value, ok := strings.Cut(line, ": "); ok {
					h.Set(name, value)
				}
				return h
			}
			req := request(row.method, "/hook", "")
			req.Header = header(row.request)
			if got := r.routes["hook"].maySee(req, header(row.answer)); got != row.want {
				t.Errorf("got %v, want %v", got, row.want)
			}
		})
	}
}

func TestFollowersOfWhatIsNotShared(t *testing.T) {
	for name, change := range map[string]func(*http.Response){
		"too large by its length": func(a *http.Response) { a.ContentLength = maxKept + 1 },
		"too large as it comes": func(a *http.Response) {
			a.ContentLength = -1
			a.Body = http.NoBody
			a.Body = readCloser{strings.NewReader(strings.Repeat("a", maxKept+1))}
		},
		"event stream": func(a *http.Response) { a.Header.Set("Content-Type", "text/event-stream") },
		"trailers":     func(a *http.Response) { a.ContentLength, a.Trailer = -1, http.Header{"X-Sum": {"1"}} },
	} {
		bubble(t, name, func(t *testing.T) {
			g := newGate(t)
			r := newRig(t, g, shares(Join))
			leader := r.start(post("a"))
			synctest.Wait()
			sent := g.answers
			follower := r.start(post("a"))
			synctest.Wait()
			a := answer(200, "b")
			change(a)
			sent <- a
			wantOutcome(t, next(t, follower), "not-shareable")
			next(t, leader)
			// For a minute nobody waits for nothing.
			other := r.start(post("b"))
			synctest.Wait()
			wantOutcome(t, next(t, r.start(post("b"))), "duplicate")
			sent <- answer(200, "c")
			next(t, other)
		})
	}
}

type readCloser struct{ *strings.Reader }

func (readCloser) Close() error { return nil }

func TestFollowerWaitsNoLongerThanItWantsTo(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		g := newGate(t)
		r := newRig(t, g, shares(Join))
		leader := r.start(post("a"))
		synctest.Wait()
		sent := g.answers
		began := time.Now()
		wantOutcome(t, next(t, r.start(post("a", "Prefer", "wait=3"))), "duplicate")
		if got, want := time.Since(began), 3*time.Second; got != want {
			t.Errorf("it waited %v, want %v", got, want)
		}
		sent <- answer(200, "b")
		next(t, leader)
	})
}

func TestFollowersGetTheFailure(t *testing.T) {
	for want, how := range map[string]http.RoundTripper{
		"upstream-timeout": slowly(fails(true, timeoutError{io.ErrNoProgress})),
		"upstream-closed":  slowly(fails(true, io.EOF)),
		"upstream-refused": slowly(fails(false, syscall.ECONNREFUSED)),
	} {
		bubble(t, want, func(t *testing.T) {
			r := newRig(t, how, shares(Join))
			leader := r.start(post("a"))
			synctest.Wait()
			follower := r.start(post("a"))
			first, second := next(t, leader), next(t, follower)
			for _, name := range []string{"Proxy-Status", "Retry-After", "X-Should-Retry"} {
				if got, want := second.Header.Get(name), first.Header.Get(name); got != want {
					t.Errorf("got %s %q, want %q", name, got, want)
				}
			}
			wantOutcome(t, first, want)
			wantOutcome(t, second, want)
		})
	}
}

// slowly is an upstream that takes a second.
func slowly(of http.RoundTripper) http.RoundTripper {
	return roundTrip(func(req *http.Request) (*http.Response, error) {
		time.Sleep(time.Second)
		return of.RoundTrip(req)
	})
}

// The answer is its followers' as soon as it has come, however slowly the leader's
// client reads it, and also when that has left.
func TestLeadersClientHoldsNobodyUp(t *testing.T) {
	for name, leads := range map[string]func(context.CancelFunc) http.ResponseWriter{
		"reads nothing": func(context.CancelFunc) http.ResponseWriter {
			return stuck{httptest.NewRecorder(), make(chan struct{})}
		},
		"has left": func(leave context.CancelFunc) http.ResponseWriter { leave(); return gone{httptest.NewRecorder()} },
	} {
		bubble(t, name, func(t *testing.T) {
			body, write := io.Pipe()
			g := newGate(t)
			r := newRig(t, g, shares(Join))
			ctx, leave := context.WithCancel(t.Context())
			defer leave()
			client := leads(leave)
			over := make(chan bool)
			go func() { over <- r.serveTo(client, post("a").WithContext(ctx)) }()
			synctest.Wait()
			follower := r.start(post("a"))
			synctest.Wait()
			a := answer(200, "")
			a.ContentLength, a.Body = -1, body
			g.answers <- a
			go func() {
				for range 4 {
					_, _ = write.Write(bytes.Repeat([]byte("a"), 50_000))
					time.Sleep(time.Second)
				}
				_ = write.Close()
			}()
			if got, want := len(text(t, next(t, follower))), 200_000; got != want {
				t.Errorf("the follower got %d bytes, want %d", got, want)
			}
			if s, ok := client.(stuck); ok {
				close(s.reads)
			}
			<-over
			if got := r.BodyMemory(); got != 0 {
				t.Errorf("%d bytes are held yet", got)
			}
		})
	}
}

// stuck is a client that reads nothing until reads is closed.
type stuck struct {
	*httptest.ResponseRecorder
	reads chan struct{}
}

func (s stuck) Write(p []byte) (int, error) {
	<-s.reads
	return s.ResponseRecorder.Write(p)
}

// gone is a client that cannot be written to.
type gone struct{ *httptest.ResponseRecorder }

func (gone) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

func TestJoinWhileItIsHeld(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		var calls atomic.Int32
		r := newRig(t, roundTrip(func(*http.Request) (*http.Response, error) {
			calls.Add(1)
			return answer(200, "ok"), nil
		}), shares(Join), hold(time.Minute), dedupe(DedupeAll))
		r.do(post("a"))
		time.Sleep(2 * time.Second)
		res := r.do(post("a"))
		if got, want := text(t, res)+res.Header.Get("Cache-Status")+res.Header.Get("Age"), "okthrottle-proxy; hit2"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		if got := calls.Load(); got != 1 {
			t.Errorf("%d calls, want 1", got)
		}
		for range 2 { // a safe one begins a new flight
			r.do(request("GET", "/hook", ""))
		}
		if got := calls.Load(); got != 3 {
			t.Errorf("%d calls, want 3", got)
		}
	})
}

func TestCallersWithOtherCredentialsNeverShare(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		g := newGate(t)
		r := newRig(t, g, shares(Join))
		for _, name := range append([]string{"Accept", "Origin", "If-Match"}, CredentialFields...) {
			a, b := r.start(post("a", name, "1")), r.start(post("a", name, "2"))
			g.answers <- answer(200, "x")
			g.answers <- answer(200, "y")
			if text(t, next(t, a)) == text(t, next(t, b)) {
				t.Errorf("%s: both got one answer", name)
			}
		}
	})
}

func TestFreshCostsOneMore(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		g := newGate(t)
		r := newRig(t, g, shares(Fresh), hold(0), dedupe(DedupeAll))
		leader := r.start(request("GET", "/hook", ""))
		synctest.Wait()
		sent := g.answers
		time.Sleep(time.Millisecond)
		var late []<-chan *http.Response
		for range 100 {
			late = append(late, r.start(request("GET", "/hook", "")))
		}
		synctest.Wait()
		time.Sleep(time.Millisecond)
		sent <- answer(200, "old")
		if got := text(t, next(t, leader)); got != "old" {
			t.Errorf("the leader got %q", got)
		}
		g.answers <- answer(200, "new")
		for _, f := range late {
			if got := text(t, next(t, f)); got != "new" {
				t.Errorf("got %q, want the answer of what began later", got)
			}
		}
	})
}

// A panic while an answer is read for others too is the exchange's own: it is
// answered, or cuts what has begun, and ends nothing else.
func TestPanicWhileAnAnswerIsShared(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		g := newGate(t)
		r := newRig(t, g, shares(Join))
		leader := r.start(post("a"))
		synctest.Wait()
		follower := r.start(post("a"))
		synctest.Wait()
		a := answer(200, "")
		a.ContentLength, a.Body = -1, panics{}
		g.answers <- a
		<-leader
		wantOutcome(t, next(t, follower), "held")
		if got := r.BodyMemory(); got != 0 {
			t.Errorf("%d bytes are held yet", got)
		}
	})
}

// panics is a body with a mistake.
type panics struct{}

func (panics) Read([]byte) (int, error) { panic("a mistake") }
func (panics) Close() error             { return nil }

// A follower waits no longer than its client, or its replica.
func TestFollowersLeave(t *testing.T) {
	for want, end := range map[string]func(*rig, context.CancelFunc){
		"client-gone": func(_ *rig, leave context.CancelFunc) { leave() },
		"draining":    func(r *rig, _ context.CancelFunc) { r.Cut() },
	} {
		bubble(t, want, func(t *testing.T) {
			g := newGate(t)
			r := newRig(t, g, shares(Join))
			leader := r.start(post("a"))
			synctest.Wait()
			ctx, leave := context.WithCancel(t.Context())
			defer leave()
			follower := r.start(post("a").WithContext(ctx))
			synctest.Wait()
			began := time.Now()
			end(r, leave)
			wantOutcome(t, next(t, follower), want)
			if waited := time.Since(began); waited > 0 {
				t.Errorf("it waited for %v more", waited)
			}
			if want == "client-gone" { // and nobody else does
				g.answers <- answer(200, "b")
				wantOutcome(t, next(t, leader), "200")
			} else {
				next(t, leader)
			}
			if got := r.BodyMemory(); got != 0 {
				t.Errorf("%d bytes are held yet", got)
			}
		})
	}
}

// Of the followers of what cannot be had one goes, and the others have its answer, or
// are told that there is none.
func TestSafeFollowersCostOneMore(t *testing.T) {
	for name, row := range map[string]struct {
		change func(*http.Response)
		others string
	}{
		"cut":      {func(a *http.Response) { a.ContentLength, a.Body = -1, io.NopCloser(brokenOff{}) }, "held"},
		"no-store": {func(a *http.Response) { a.Header.Set("Cache-Control", "no-store") }, "not-shareable"},
	} {
		bubble(t, name, func(t *testing.T) {
			g := newGate(t)
			r := newRig(t, g, shares(Join), hold(0), dedupe(DedupeAll))
			leader := r.start(request("GET", "/hook", ""))
			synctest.Wait()
			time.Sleep(time.Millisecond)
			var followers []<-chan *http.Response
			for range 50 {
				followers = append(followers, r.start(request("GET", "/hook", "")))
			}
			synctest.Wait()
			broken := func() {
				a := answer(200, "b")
				row.change(a)
				select {
				case g.answers <- a:
				case <-time.After(time.Second): // nobody went
				}
			}
			broken()
			<-leader
			synctest.Wait() // all have asked again
			broken()
			refused := 0
			for _, f := range followers {
				if res := <-f; res != nil && res.StatusCode == 409 {
					wantOutcome(t, res, row.others)
					refused++
				}
			}
			if calls := int(g.arrived.Load()); calls > 2 || refused < 49 {
				t.Errorf("got %d calls and %d refused, want 2 and 49 at most", calls, refused)
			}
		})
	}
}

// brokenOff is a body that breaks off.
type brokenOff struct{}

func (brokenOff) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }
