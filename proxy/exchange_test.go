package proxy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"throttle-proxy/cluster"
)

func TestEqualRequestIsRefusedWhileTheFirstIsInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate(t)
		r := newRig(t, g)
		first := r.start(post("same"))
		synctest.Wait()
		for range 3 {
			duplicate := r.do(post("same"))
			wantOutcome(t, duplicate, "duplicate")
			// The upstream got the id that the duplicate is told of.
			id := g.last.Load().Header.Get("X-Request-Id")
			if body := text(t, duplicate); !strings.Contains(body, `"holder":{"request_id":"`+id+`"`) {
				t.Errorf("got %s, want the holder %s", body, id)
			}
		}
		other := r.start(post("other"))
		synctest.Wait()
		if got := g.arrived.Load(); got != 2 {
			t.Errorf("%d requests reached the upstream, want 2", got)
		}
		g.answers <- answer(created, "done")
		g.answers <- answer(created, "done")
		for _, answer := range []<-chan *http.Response{first, other} {
			if res := <-answer; res.StatusCode != created || text(t, res) != "done" {
				t.Errorf("got %d %s, want 201 done", res.StatusCode, text(t, res))
			}
		}
	})
}

func TestLockEnds(t *testing.T) {
	afterSuccess := func(h Hold) time.Duration { return h.Success }
	afterUnknown := func(h Hold) time.Duration { return h.Unknown }
	notAtAll := func(Hold) time.Duration { return 0 }
	cut := answer(ok, "")
	cut.ContentLength, cut.Body = 10, io.NopCloser(broken)
	cutFailure := answer(http.StatusInternalServerError, "")
	cutFailure.ContentLength, cutFailure.Body = 10, io.NopCloser(broken)
	respond := func(res *http.Response) roundTrip {
		return func(req *http.Request) (*http.Response, error) {
			connected(req)
			return res, nil
		}
	}
	streamed := answer(ok, "done")
	streamed.ContentLength = -1

	for name, tt := range map[string]struct {
		upstream roundTrip
		held     func(Hold) time.Duration
	}{
		"200":                       {answers(ok, "done"), afterSuccess},
		"201 without a body":        {answers(created, ""), afterSuccess},
		"204":                       {answers(http.StatusNoContent, ""), afterSuccess},
		"200 of unknown length":     {respond(streamed), afterSuccess},
		"200 that breaks off":       {respond(cut), afterUnknown},
		"303":                       {answers(http.StatusSeeOther, "look there"), afterSuccess},
		"302":                       {answers(http.StatusFound, "elsewhere"), notAtAll},
		"307":                       {answers(http.StatusTemporaryRedirect, "elsewhere"), notAtAll},
		"400":                       {answers(http.StatusBadRequest, "no"), notAtAll},
		"429":                       {answers(http.StatusTooManyRequests, "later"), notAtAll},
		"500":                       {answers(http.StatusInternalServerError, "oh"), notAtAll},
		"500 that breaks off":       {respond(cutFailure), notAtAll},
		"no connection":             {fails(false, syscall.ECONNREFUSED), notAtAll},
		"no answer":                 {fails(true, io.EOF), afterUnknown},
		"no answer in time":         {fails(true, timeoutError{errors.New("")}), afterUnknown},
		"no connection in time":     {fails(false, timeoutError{errors.New("")}), notAtAll},
		"a transport that gives up": {func(*http.Request) (*http.Response, error) { panic(http.ErrAbortHandler) }, afterUnknown}, // nobody knows what it has done
	} {
		for _, h := range []Hold{{0, 0}, {3 * time.Second, time.Minute}, {time.Minute, 3 * time.Second}, {0, time.Minute}, {3 * time.Second, 0}} {
			bubble(t, fmt.Sprintf("%s, hold %s, unknown %s", name, h.Success, h.Unknown), func(t *testing.T) {
				for _, c := range []ClientGone{Finish, Cancel} {
					r := newRig(t, tt.upstream, func(r *Route) { r.ClientGone, r.Hold = c, h })
					r.do(post("same"))
					r.over(answers(created, ""))
					if d := tt.held(h); d > 0 {
						wantOutcome(t, r.do(post("same")), "held")
						time.Sleep(d - 1)
						wantOutcome(t, r.do(post("same")), "held")
						time.Sleep(time.Nanosecond)
					}
					wantOutcome(t, r.do(post("same")), "201")
				}
			})
		}
	}
}

// TestBrokenAnswerIsCut also shows that a cut is what ErrAbortHandler is for:
// the lock does not survive it.
func TestBrokenAnswerIsCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broke := answer(ok, "")
		broke.ContentLength = 10
		broke.Body = io.NopCloser(io.MultiReader(strings.NewReader("half"), broken))
		g := newGate(t)
		r := newRig(t, g, hold(0))
		first := r.start(post("same"))
		synctest.Wait()
		wantOutcome(t, r.do(post("same")), "duplicate")
		g.answers <- broke
		if res := <-first; res != nil {
			t.Errorf("got %q, and no cut", text(t, res))
		}
		r.over(answers(created, ""))
		wantOutcome(t, r.do(post("same")), "201")
	})
}

// reader is a client that acts as soon as it has read a whole answer.
type reader struct {
	*httptest.ResponseRecorder
	length int // of the body that it waits for
	acts   func()
}

func (c *reader) Write(p []byte) (int, error) {
	n, err := c.ResponseRecorder.Write(p)
	if c.length -= n; n > 0 && c.length == 0 {
		c.acts()
	}
	return n, err
}

func (c *reader) FlushError() error {
	if c.length == 0 {
		c.acts()
	}
	return nil
}

func TestWithoutHoldTheLockIsGoneWithTheLastByte(t *testing.T) {
	pause := make(chan struct{})
	// A header is sent by itself where the body's length is not known.
	slow := readerFunc(func([]byte) (int, error) { <-pause; return 0, io.EOF })
	for name, tt := range map[string]struct {
		method string
		answer func() *http.Response
		length int
	}{
		"body": {http.MethodPost, func() *http.Response {
			res := answer(ok, "")
			res.Body = io.NopCloser(io.MultiReader(strings.NewReader("one "), strings.NewReader("two "), strings.NewReader("three")))
			res.ContentLength = int64(len("one two three"))
			return res
		}, len("one two three")},
		"header alone, for HEAD": {http.MethodHead, func() *http.Response {
			res := answer(ok, "")
			res.ContentLength, res.Body = -1, io.NopCloser(slow)
			return res
		}, 0},
	} {
		bubble(t, name, func(t *testing.T) {
			pause = make(chan struct{})
			r := newRig(t, roundTrip(func(req *http.Request) (*http.Response, error) {
				connected(req)
				return tt.answer(), nil
			}), hold(0), dedupe(DedupeAll))
			acted := false
			client := &reader{ResponseRecorder: httptest.NewRecorder(), length: tt.length, acts: func() {
				if acted {
					return
				}
				acted = true
				res := httptest.NewRecorder()
				r.over(answers(created, ""))
				r.ServeHTTP(res, request(tt.method, "/hook", "same"))
				wantOutcome(t, res.Result(), "201")
			}}
			go r.serveTo(client, request(tt.method, "/hook", "same"))
			synctest.Wait()
			close(pause)
			synctest.Wait()
			if !acted {
				t.Error("the answer never ended")
			}
		})
	}
}

// TestWithoutHoldAClientMayRepeatAtOnce is the same over real connections, for
// answers of known and of unknown length.
func TestWithoutHoldAClientMayRepeatAtOnce(t *testing.T) {
	up := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "done")
		if r.URL.RawQuery == "chunked" {
			_ = http.NewResponseController(w).Flush()
		}
	}))
	gateway := serve(t, newRig(t, nil, hold(0), upstreamURL(t, up.URL)))
	for _, query := range []string{"", "?chunked"} {
		for range 50 {
			res, err := gateway.Client().Post(gateway.URL+"/hook"+query, "text/plain", strings.NewReader("same"))
			if err != nil {
				t.Fatal(err)
			}
			wantOutcome(t, res, "200")
		}
	}
}

func TestDuplicateSpendsNoBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate(t)
		r := newRig(t, g, limits(limit(t, "hook", "3/h")))
		r.start(post("same"))
		synctest.Wait()
		for range 10 {
			wantOutcome(t, r.do(post("same")), "duplicate")
		}
		r.start(post("second"))
		r.start(post("third"))
		synctest.Wait()
		if got := g.arrived.Load(); got != 3 {
			t.Errorf("%d requests reached the upstream, want 3", got)
		}
		wantOutcome(t, r.do(post("fourth")), "limited")
	})
}

func TestLimitedRequestLeavesNoLock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, answers(ok, ""), limits(limit(t, "hook", "1/s")))
		wantOutcome(t, r.do(post("first")), "200")
		wantOutcome(t, r.do(post("second")), "limited")
		time.Sleep(time.Second)
		wantOutcome(t, r.do(post("second")), "200")
	})
}

func TestRefusedRequestReachesNoUpstream(t *testing.T) {
	for _, reason := range []Reason{ReasonCoolingDown, ReasonLimited, ReasonUndecided, ReasonHeld, ReasonBadPath, ReasonBodyTooLarge, ReasonUnknownRoute} {
		bubble(t, string(reason), func(t *testing.T) {
			reached := 0
			x := refusals[reason]
			before := x.before
			x.before = func(t *testing.T, r *rig) {
				if before != nil {
					before(t, r)
				}
				r.over(roundTrip(func(*http.Request) (*http.Response, error) {
					reached++
					return answer(ok, ""), nil
				}))
			}
			res, _ := x.provoke(t)
			wantOutcome(t, res, string(reason))
			if reached > 0 {
				t.Error("the request reached the upstream")
			}
		})
	}
}

func TestKnownRefusalIsAnsweredBeforeABodyThatIsNotComparedIsRead(t *testing.T) {
	r := newRig(t, answers(ok, ""), limits(limit(t, "hook", "1/h")), dedupe(DedupeOff))
	wantOutcome(t, r.do(post("first")), "200")
	wantOutcome(t, r.do(post("second")), "limited") // and from here on it is known to be
	r.wantFirst(t, http.MethodPost, "limited")
}

func TestShadowRefusesNothing(t *testing.T) {
	for _, reason := range []Reason{ReasonCoolingDown, ReasonDuplicate, ReasonHeld, ReasonLimited, ReasonUndecided, ReasonBodyTooLarge, ReasonNoMemory} {
		bubble(t, string(reason), func(t *testing.T) {
			r := newRig(t, answers(ok, ""), shadow, hold(time.Minute), limits(limit(t, "hook", "2/m")))
			refusals[reason].before(t, r)
			for len(r.events) > 0 {
				<-r.events
			}
			r.over(roundTrip(func(req *http.Request) (*http.Response, error) {
				if body, err := io.ReadAll(req.Body); err != nil || string(body) != "same" {
					t.Errorf("the upstream got %q, %v", body, err)
				}
				return answers(created, "done").RoundTrip(req)
			}))
			wantOutcome(t, r.do(post("same")), "201")
			e := <-r.events
			if e.Shadowed != reason || e.Reason != "" || e.Status != created {
				t.Errorf("got %d, reason %q, shadowed %q, want 201, shadowed %q", e.Status, e.Reason, e.Shadowed, reason)
			}
			if got, want := len(e.Limits) == 1, reason == ReasonLimited; got != want {
				t.Errorf("limits named: got %v, want %v", got, want)
			}
			if got, want := e.Holder.RequestID != "", reason == ReasonDuplicate || reason == ReasonHeld; got != want {
				t.Errorf("holder named: got %v, want %v", got, want)
			}
		})
	}
}

func TestWhatIsCompared(t *testing.T) {
	all := []string{"GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE", "PROPFIND"}
	upgrade := []string{"Connection", "keep-alive, upgrade", "Upgrade", "websocket"}
	for _, tt := range []struct {
		dedupe Dedupe
		header []string
		want   string // methods of which a repetition is refused
	}{
		{DedupeOn, nil, "POST PUT PATCH DELETE PROPFIND"},
		{DedupeOff, nil, ""},
		{DedupeAll, nil, strings.Join(all, " ")},
		{DedupeKey, nil, ""},
		{DedupeKey, []string{"Idempotency-Key", "1"}, strings.Join(all, " ")},
		{DedupeKey, []string{"Idempotency-Key", ""}, ""},
		{DedupeOff, []string{"Idempotency-Key", "1"}, ""},
		{DedupeAll, upgrade, ""},
		{DedupeKey, append([]string{"Idempotency-Key", "1"}, upgrade...), ""},
		{DedupeAll, []string{"Content-Type", "application/grpc"}, ""},
		{DedupeAll, []string{"Content-Type", "application/grpc-web+proto"}, ""},
		{DedupeOn, []string{"Upgrade", "websocket"}, "POST PUT PATCH DELETE PROPFIND"}, // no upgrade: Connection does not name it
		{DedupeOn, []string{"Content-Type", "application/json"}, "POST PUT PATCH DELETE PROPFIND"},
		// HTTP/2 without TLS is not asked of the upstream: such a request is as any other.
		{DedupeOn, []string{"Connection", "Upgrade, HTTP2-Settings", "Upgrade", "h2c", "Http2-Settings", "AAMAAABk"}, "POST PUT PATCH DELETE PROPFIND"},
	} {
		t.Run(fmt.Sprint(tt.dedupe, tt.header), func(t *testing.T) {
			var got []string
			for _, method := range all {
				r := newRig(t, answers(ok, ""), dedupe(tt.dedupe), hold(time.Hour))
				r.do(request(method, "/hook", "same", tt.header...))
				res := r.do(request(method, "/hook", "same", tt.header...))
				if res.StatusCode == http.StatusConflict {
					got = append(got, method)
				}
			}
			if got := strings.Join(got, " "); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

func TestBodyLimit(t *testing.T) {
	for _, most := range []int64{10, 100 << 10, 1 << 20} {
		for _, tt := range []struct {
			name     string
			size     int64
			declared bool
			want     string
		}{
			{"as much, declared", most, true, "200"},
			{"as much, chunked", most, false, "200"},
			{"one more, declared", most + 1, true, "body-too-large"},
			{"one more, chunked", most + 1, false, "body-too-large"},
			{"far more, declared", most * 100, true, "body-too-large"},
			{"far more, chunked", most * 100, false, "body-too-large"},
		} {
			t.Run(fmt.Sprintf("%d, %s", most, tt.name), func(t *testing.T) {
				var arrived int64
				r := newRig(t, roundTrip(func(req *http.Request) (*http.Response, error) {
					arrived, _ = io.Copy(io.Discard, req.Body)
					return answer(ok, ""), nil
				}))
				r.options.MaxBody = most
				var read, unanswered int64
				client := httptest.NewRecorder()
				body := readerFunc(func(p []byte) (int, error) {
					n := min(int64(len(p)), tt.size-read)
					if read += n; n == 0 {
						return 0, io.EOF
					}
					if client.Body.Len() == 0 { // or it lingers, and what is read is forgotten
						unanswered = read
					}
					return int(n), nil
				})
				req := httptest.NewRequest(http.MethodPost, "/hook", body)
				if tt.declared {
					req.ContentLength = tt.size
				}
				r.serveTo(client, req)
				wantOutcome(t, client.Result(), tt.want)
				switch {
				case tt.want == "200" && arrived != tt.size:
					t.Errorf("%d bytes arrived, want %d", arrived, tt.size)
				case unanswered > most+1:
					t.Errorf("%d bytes were read, want at most %d", unanswered, most+1)
				}
			})
		}
	}
}

func TestBodyThatBreaksOff(t *testing.T) {
	for name, length := range map[string]int64{"declared": 100, "declared, long": 100 << 10, "chunked": -1} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, roundTrip(func(*http.Request) (*http.Response, error) {
				t.Error("it was sent")
				return answer(ok, ""), nil
			}), limits(limit(t, "hook", "1/h")))
			req := httptest.NewRequest(http.MethodPost, "/hook", io.MultiReader(strings.NewReader("half"), broken))
			req.ContentLength = length
			res := r.do(req)
			if wantOutcome(t, res, "client-gone"); res.Header.Get("Connection") != "close" {
				t.Errorf("got Connection: %s, want close", res.Header.Get("Connection"))
			}
			if e := <-r.events; e.Reason != ReasonClientGone || e.Status != StatusClientGone || !e.ClientGone || e.UpstreamWentOn {
				t.Errorf("got %+v, want a client that is gone", e)
			}
			r.over(answers(ok, ""))
			wantOutcome(t, r.do(post("half")), "200") // its budget is still there
		})
	}
}

func TestUndecidedLeavesNoLock(t *testing.T) {
	r := newRig(t, answers(ok, ""))
	agreed := r.options.Cluster
	r.options.Cluster = away{agreed}
	wantOutcome(t, r.do(post("same")), "undecided")
	r.options.Cluster = agreed
	wantOutcome(t, r.do(post("same")), "200")
}

// asked keeps what was asked.
type asked struct {
	Cluster
	last *cluster.Ask
}

func (a asked) Admit(ctx context.Context, ask cluster.Ask) (cluster.Verdict, error) {
	*a.last = ask
	return a.Cluster.Admit(ctx, ask)
}

func TestAsk(t *testing.T) {
	perClient, perKey := limit(t, "per-client", "9/s"), limit(t, "per-key", "9/s")
	perClient.By, perKey.By = By{Client: true}, By{Header: "X-KEY"}
	r := newRig(t, answers(ok, ""), limits(limit(t, "all", "9/s"), perClient, perKey), func(r *Route) { r.Pool = "pool" })
	ask := func(key, addr string) (a cluster.Ask) {
		r.options.Cluster = asked{r.options.Cluster, &a}
		req := post(key+addr, "X-Key", key)
		req.RemoteAddr = addr
		wantOutcome(t, r.do(req), "200")
		return a
	}
	a, b := ask("secret-1", "192.0.2.1:1"), ask("secret-2", "192.0.2.2:1")
	if a.Tag != "pool" || a.Fingerprint == nil || len(a.Charges) != 3 {
		t.Fatalf("got %+v, want a lock and three charges of the pool", a)
	}
	for i, name := range []string{"all", "per-client", "per-key"} {
		if a.Charges[i].Name != name {
			t.Errorf("got charge %s, want %s", a.Charges[i].Name, name)
		}
		if got, want := a.Charges[i].Caller != b.Charges[i].Caller, name != "all"; got != want {
			t.Errorf("%s: callers differ: got %v, want %v", name, got, want)
		}
	}
	if dump := fmt.Sprintf("%+v", a); strings.Contains(dump, "secret") || strings.Contains(dump, "192.0.2") {
		t.Errorf("the ask tells who calls: %s", dump)
	}
	if c := ask("secret-1", "192.0.2.1:2").Charges; c[1] != a.Charges[1] || c[2] != a.Charges[2] {
		t.Error("one caller has two budgets")
	}
}

func TestNothingToAsk(t *testing.T) {
	r := newRig(t, answers(ok, ""), dedupe(DedupeOff))
	res := r.do(post("same"))
	wantOutcome(t, res, "200")
	if got := items(t, res, "RateLimit"); got != "" {
		t.Errorf("got RateLimit %q without a limit", got)
	}
}

// BenchmarkAdmitted has an upstream that allocates nothing.
func BenchmarkAdmitted(b *testing.B) {
	up := listen(b, func(conn net.Conn, _ *bufio.Reader, _ *http.Request) {
		answer, next := []byte("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 4\r\n\r\ndone"), make([]byte, 4<<10)
		for err := error(nil); err == nil; _, err = conn.Read(next) {
			_, _ = conn.Write(answer)
		}
	})
	benchmark(b, newRig(b, nil, upstreamURL(b, up), hold(0), limits(limit(b, "hook", "1000000/s"))), ok)
}

func BenchmarkDuplicate(b *testing.B) {
	r := newRig(b, answers(ok, "done"), hold(time.Hour))
	r.do(post("same"))
	benchmark(b, r, http.StatusConflict)
}

func BenchmarkLimited(b *testing.B) {
	r := newRig(b, answers(ok, "done"), limits(limit(b, "hook", "1/d")))
	r.do(post("first"))
	benchmark(b, r, http.StatusTooManyRequests)
}

// nobody is a client that keeps nothing.
type nobody struct {
	header http.Header
	status int
}

func (c *nobody) Header() http.Header         { return c.header }
func (c *nobody) WriteHeader(status int)      { c.status = status }
func (c *nobody) Write(p []byte) (int, error) { return len(p), nil }

func benchmark(b *testing.B, r *rig, want int) {
	req := post("")
	body := strings.NewReader("")
	req.Body, req.ContentLength = io.NopCloser(body), int64(len("same"))
	client := &nobody{header: http.Header{}}
	b.ReportAllocs()
	for b.Loop() {
		body.Reset("same")
		clear(client.header)
		r.ServeHTTP(client, req)
		if client.status != want {
			b.Fatalf("got %d, want %d", client.status, want)
		}
	}
}
