package proxy

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestClientLeaves lets clients leave at each stage of an exchange.
func TestClientLeaves(t *testing.T) {
	for _, tt := range []struct {
		policy   ClientGone
		method   string // a GET has no lock
		answered bool   // the header had arrived before
		wentOn   bool
		want     string // of an equal request afterwards, at once
	}{
		{Finish, http.MethodPost, false, true, "held"},
		{Finish, http.MethodPost, true, false, "held"}, // in the middle of the body: nobody knows
		{Finish, http.MethodGet, false, false, "201"},
		{Finish, http.MethodGet, true, false, "201"},
		{Cancel, http.MethodPost, false, false, "held"},
		{Cancel, http.MethodPost, true, false, "held"},
		{Cancel, http.MethodGet, false, false, "201"},
	} {
		bubble(t, fmt.Sprintf("%s, %s, answered %v", tt.policy, tt.method, tt.answered), func(t *testing.T) {
			g := newGate(t)
			r := newRig(t, g, func(r *Route) { r.ClientGone = tt.policy })
			ctx, leave := context.WithCancel(t.Context())
			send := func() *http.Request { return request(tt.method, "/hook", "same") }
			left := r.start(send().WithContext(ctx))
			synctest.Wait()
			sent := g.last.Load().Context()
			if tt.answered {
				// It goes on until the upstream is told that nobody waits for it.
				body := readerFunc(func([]byte) (int, error) { <-sent.Done(); return 0, sent.Err() })
				res := answer(ok, "")
				res.ContentLength, res.Body = 10, io.NopCloser(body)
				g.answers <- res
				synctest.Wait()
			}
			leave()
			synctest.Wait()
			if got := sent.Err() == nil; got != tt.wentOn {
				t.Errorf("the exchange goes on: got %v, want %v", got, tt.wentOn)
			}
			if tt.wentOn {
				time.Sleep(30 * time.Second)
				wantOutcome(t, r.do(send()), "duplicate")
				<-r.events
				g.answers <- answer(ok, "too late")
			}
			<-left
			e := <-r.events
			if e.Status != StatusClientGone || !e.ClientGone {
				t.Errorf("got status %d, gone %v, want 499 and gone", e.Status, e.ClientGone)
			}
			if got, want := e.UpstreamWentOn, tt.wentOn || tt.answered; got != want {
				t.Errorf("the upstream went on to its header: got %v, want %v", got, want)
			}
			if got, want := e.Upstream, 30*time.Second; tt.wentOn && got != want {
				t.Errorf("got the upstream's header after %s, want %s", got, want)
			}
			r.over(answers(created, ""))
			wantOutcome(t, r.do(send()), tt.want)
		})
	}
}

// TestClientLeavesAndTheUpstreamFails shows that the lock ends by what the
// upstream did, whoever is there to see it.
func TestClientLeavesAndTheUpstreamFails(t *testing.T) {
	for want, end := range map[string]func(*gate){
		"201": func(g *gate) {
			time.Sleep(time.Minute - 1)
			g.answers <- answer(http.StatusInternalServerError, "")
		},
		"held": func(*gate) { time.Sleep(time.Minute) },
	} {
		bubble(t, want, func(t *testing.T) {
			g := newGate(t)
			inTime := roundTrip(func(req *http.Request) (*http.Response, error) {
				ctx, cancel := context.WithTimeout(req.Context(), time.Minute)
				defer cancel()
				return g.RoundTrip(req.WithContext(ctx))
			})
			r := newRig(t, inTime, hold(24*time.Hour))
			ctx, leave := context.WithCancel(t.Context())
			left := r.start(post("same").WithContext(ctx))
			synctest.Wait()
			leave()
			end(g)
			<-left
			e := <-r.events
			if e.Status != StatusClientGone || !e.ClientGone || e.UpstreamWentOn != (want == "201") {
				t.Errorf("got status %d, gone %v, went on %v", e.Status, e.ClientGone, e.UpstreamWentOn)
			}
			if got, want := e.Upstream.Round(time.Second), time.Minute; got != want {
				t.Errorf("got an upstream that took %s, want %s", got, want)
			}
			r.over(answers(created, ""))
			wantOutcome(t, r.do(post("same")), want)
		})
	}
}

// TestRealClientLeaves is the same with a server that finds out by itself.
func TestRealClientLeaves(t *testing.T) {
	for _, policy := range []ClientGone{Finish, Cancel} {
		t.Run(string(policy), func(t *testing.T) {
			arrived, cancelled, goOn := make(chan bool, 1), make(chan bool, 1), make(chan bool)
			up := serve(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				arrived <- true
				select {
				case <-goOn:
				case <-r.Context().Done():
					cancelled <- true
				}
			}))
			r := newRig(t, nil, upstreamURL(t, up.URL), hold(time.Hour), func(r *Route) { r.ClientGone = policy })
			gone := make(chan bool, 1)
			gateway := serve(t, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
				context.AfterFunc(req.Context(), func() { gone <- true })
				r.ServeHTTP(w, req)
			}))
			ctx, leave := context.WithCancel(t.Context())
			go func() {
				<-arrived
				leave()
			}()
			req, err := http.NewRequestWithContext(ctx, http.MethodPost, gateway.URL+"/hook", strings.NewReader("same"))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := gateway.Client().Do(req); !errors.Is(err, context.Canceled) {
				t.Fatalf("got %v, want %v", err, context.Canceled)
			}
			next(t, gone)
			if policy == Cancel {
				next(t, cancelled)
			} else {
				wantOutcome(t, r.do(post("same")), "duplicate")
				goOn <- true
			}
			e := next(t, r.events)
			for !e.ClientGone {
				e = next(t, r.events)
			}
			if e.Status != StatusClientGone || e.UpstreamWentOn != (policy == Finish) {
				t.Errorf("got status %d, went on %v", e.Status, e.UpstreamWentOn)
			}
		})
	}
}

func TestHalfClosedClientIsAnsweredWhereALockIsHeld(t *testing.T) {
	goOn := make(chan bool)
	up := serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		<-goOn
		w.WriteHeader(created)
	}))
	r := newRig(t, nil, upstreamURL(t, up.URL))
	gone := make(chan bool, 1)
	gateway := serve(t, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		context.AfterFunc(req.Context(), func() { gone <- true })
		r.ServeHTTP(w, req)
	}))
	conn := dial(t, gateway, "POST /hook HTTP/1.1\r\nHost: gateway\r\nContent-Length: 0\r\n\r\n")
	if err := conn.Conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	next(t, gone)
	goOn <- true
	if got := conn.response(t, http.MethodPost).StatusCode; got != created {
		t.Errorf("got %d, want 201", got)
	}
}

// TestEventTellsNoSecrets plants one in each part of a request.
func TestEventTellsNoSecrets(t *testing.T) {
	for reason, x := range refusals {
		bubble(t, string(reason), func(t *testing.T) {
			l := limit(t, "hook", "2/m")
			l.By = By{Header: "Authorization"}
			changes := []func(*Route){upstreamURL(t, secretURL), limits(l), hold(time.Minute)}
			if x.route != nil {
				changes = append(changes, x.route)
			}
			r := newRig(t, answers(ok, "canary"), changes...)
			send := func(body string) *http.Response {
				req := request(http.MethodPost, "/hook/canary-path?canary=query", body,
					"Authorization", "Bearer canary", "Cookie", "canary", "Idempotency-Key", "canary",
					"X-Request-Id", "canary not valid", "Content-Type", "text/canary", "X-Forwarded-For", "canary")
				req.Host, req.Method = "canary-host.example", cmp.Or(x.method, http.MethodPost)
				switch reason {
				case ReasonBadPath:
					req.RequestURI = "/hook/../canary"
				case ReasonBadRequest, ReasonClientGone, ReasonLoop:
					req = x.change(req)
				case ReasonBadKey:
					req.Header.Set("Idempotency-Key", `"canary`)
				case ReasonAmbiguousField:
					req.Header.Add("Authorization", "Bearer canary-2")
				case ReasonUnknownRoute:
					req.RequestURI = "/bot123:canary/canary" // a token where a name belongs
				}
				return r.do(req)
			}
			switch reason {
			case ReasonKeyReused:
				send("canary 1")
			case ReasonNotKept:
				r.over(answers(ok, strings.Repeat("x", maxKept+1)))
				send("canary")
			case ReasonOutcomeUnknown:
				r.over(fails(true, io.EOF))
				send("canary")
			case ReasonNotShareable:
				g := newGate(t)
				r.over(g)
				go send("canary")
				synctest.Wait()
				go func() {
					synctest.Wait()
					stream := answer(ok, "canary")
					stream.Header.Set("Content-Type", "text/event-stream")
					g.answers <- stream
				}()
			case ReasonDuplicate:
				r.over(newGate(t))
				go send("canary")
				synctest.Wait()
			case ReasonHeld:
				send("canary")
			case ReasonLimited:
				send("canary 1")
				send("canary 2")
			case ReasonBusy, ReasonCoolingDown, ReasonPaused, ReasonUndecided, ReasonBodyTooLarge, ReasonNoMemory, ReasonTooManyInFlight, ReasonDraining:
				x.before(t, r)
			case ReasonInternal, ReasonClientGone:
				r.over(x.upstream)
			case ReasonUpstreamRefused, ReasonUpstreamClosed, ReasonUpstreamTimeout:
				transport := x.upstream
				r.over(roundTrip(func(req *http.Request) (*http.Response, error) {
					_, err := transport.RoundTrip(req)
					return nil, fmt.Errorf("Post %q: canary: %w", req.URL, err)
				}))
			}
			res := send("canary")
			var last Event
			told := false
			for len(r.events) > 0 {
				e := <-r.events
				encoded, err := json.Marshal(e)
				if err != nil {
					t.Fatal(err)
				}
				wantNoCanary(t, "event", string(encoded)+fmt.Sprintf("%+v", e))
				last, told = e, told || e.Reason == reason && e.Status == res.StatusCode && e.Method == cmp.Or(x.method, http.MethodPost)
			}
			if !told { // who is followed may end before or after
				t.Errorf("got %s %d for a %s, want %s %d", last.Reason, last.Status, last.Method, reason, res.StatusCode)
			}
			if reason != ReasonUnknownRoute { // which repeats the name that it does not know
				wantNoCanary(t, "answer", fmt.Sprint(res.Header)+text(t, res))
			}
		})
	}
}

func TestEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate(t)
		r := newRig(t, g, limits(limit(t, "a", "1/h"), limit(t, "b", "1/h"), limit(t, "c", "9/h")))
		first := r.start(post("first", "X-Request-Id", "client-1"))
		time.Sleep(3 * time.Second)
		g.answers <- answer(created, "")
		<-first
		e := <-r.events
		got := fmt.Sprint(e.Route, e.Method, e.ClientRequestID, e.Status, e.Reason, e.Shadowed, e.Fault, e.Limits, e.Duration, e.Upstream, e.Verdict, e.ClientGone)
		if want := fmt.Sprint("hook", "POST", "client-1", created, "", "", "", []string{}, 3*time.Second, 3*time.Second, 0*time.Second, false); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		if e.ID == e.ClientRequestID || len(e.ID) != 16 {
			t.Errorf("got id %s, want one of ours", e.ID)
		}

		r.do(post("second"))
		if e := <-r.events; !slices.Equal(e.Limits, []string{"a", "b"}) || e.Reason != ReasonLimited || e.ClientRequestID != "" {
			t.Errorf("got %s by %v, want limited by a and b", e.Reason, e.Limits)
		}
		r.do(request(http.MethodGet, "/hok", ""))
		if e := <-r.events; e.Unknown != "hok" || e.Nearest != "hook" || e.Route != "" || e.Reason != ReasonUnknownRoute {
			t.Errorf("got route %q, unknown %q, nearest %q, want none, hok and hook", e.Route, e.Unknown, e.Nearest)
		}
	})
}

func TestRequestID(t *testing.T) {
	for id, valid := range map[string]bool{
		"1": true, "a.B_c:d+e/f=@-": true, strings.Repeat("x", 128): true,
		"": false, strings.Repeat("x", 129): false, "a b": false, "a\"b": false, "é": false, "a,b": false,
	} {
		var sent string
		r := newRig(t, roundTrip(func(req *http.Request) (*http.Response, error) {
			sent = req.Header.Get("X-Request-Id")
			return answer(ok, ""), nil
		}))
		r.do(post("", "X-Request-Id", id))
		e := <-r.events
		if want := cmp.Or(id, e.ID); sent != want {
			t.Errorf("%q: the upstream got %q, want %q", id, sent, want)
		}
		if got := e.ClientRequestID == id && id != ""; got != valid || !valid && e.ClientRequestID != "" {
			t.Errorf("%q: the event has %q: taken over %v, want %v", id, e.ClientRequestID, got, valid)
		}
	}
}
