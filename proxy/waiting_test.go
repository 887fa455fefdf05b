package proxy

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"throttle-proxy/cluster"
)

// waits lets a route's requests wait for their budgets and slots.
func waits(d time.Duration) func(*Route) { return func(r *Route) { r.Wait = d } }

// waiting returns how many requests wait.
func (r *rig) waiting() int { return r.options.Cluster.(*cluster.Memory).Status().Waiting }

// Whose client leaves while it waits is never sent, also where its body is not
// compared, and would not be read.
func TestWhoLeavesWhileWaitingIsNotSent(t *testing.T) {
	for name, mode := range map[string]Dedupe{"compared": DedupeOn, "not compared": DedupeOff} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, answers(ok, ""), dedupe(mode), limits(limit(t, "hook", "1/h,burst=1")), waits(2*time.Hour))
			wantOutcome(t, r.do(post("first")), "200")
			<-r.events
			server := serve(t, r.Proxy)
			client := dial(t, server, "POST /hook HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody")
			for end := time.Now().Add(patience); r.waiting() == 0 && time.Now().Before(end); {
				time.Sleep(time.Millisecond)
			}
			_ = client.Close()
			if e := next(t, r.events); e.Reason != ReasonClientGone || !e.ClientGone || r.waiting() != 0 {
				t.Errorf("got %+v, and %d wait: want that the client has left", e, r.waiting())
			}
		})
	}
}

// What is too large to be read meanwhile passes when its time has come, and no
// pause of its client's counts while it is not asked to send.
func TestBodyOfARequestThatWaits(t *testing.T) {
	for name, body := range map[string]func() (io.Reader, int64){
		"short":             func() (io.Reader, int64) { return strings.NewReader("message"), 7 },
		"of unknown length": func() (io.Reader, int64) { return strings.NewReader("message"), -1 },
		"large":             func() (io.Reader, int64) { return strings.NewReader(strings.Repeat("x", reusable+1)), reusable + 1 },
	} {
		for _, memory := range []int64{1 << 20, 3} {
			bubble(t, fmt.Sprint(name, " ", memory), func(t *testing.T) {
				var got []byte
				r := newRig(t, roundTrip(func(req *http.Request) (*http.Response, error) {
					got = nil
					if req.Body != nil {
						got, _ = io.ReadAll(req.Body)
					}
					return answers(ok, "").RoundTrip(req)
				}), dedupe(DedupeOff), limits(limit(t, "hook", "1/h,burst=1")), waits(2*time.Hour))
				r.bodies.limit = memory
				wantOutcome(t, r.do(request(http.MethodGet, "/hook", "")), "200")
				req := post("")
				text, length := body()
				want, _ := io.ReadAll(text)
				text, _ = body()
				req.Body, req.ContentLength = io.NopCloser(text), length
				wantOutcome(t, r.do(req), "200")
				if string(got) != string(want) {
					t.Errorf("%d bytes arrived, want %d", len(got), len(want))
				}
				if held := r.BodyMemory(); held != 0 {
					t.Errorf("%d bytes are still counted", held)
				}
			})
		}
	}
}

// However a wait ends, its lock, slot and count are given back.
func TestWaitThatEnds(t *testing.T) {
	for name, tt := range map[string]struct {
		end  func(*rig, context.CancelFunc)
		want string
	}{
		"client leaves":         {func(_ *rig, leave context.CancelFunc) { leave() }, "client-gone"},
		"replica ends":          {func(r *rig, _ context.CancelFunc) { r.Cut() }, "draining"},
		"drain":                 {func(r *rig, _ context.CancelFunc) { r.options.Cluster.(*cluster.Memory).Drain(time.Second) }, "limited"},
		"cool-down":             {func(r *rig, _ context.CancelFunc) { r.options.Cluster.Pause("hook", "", 90*time.Minute, 503) }, "cooling-down"},
		"its time comes to end": {func(*rig, context.CancelFunc) { time.Sleep(2 * time.Hour) }, "200"},
	} {
		bubble(t, name, func(t *testing.T) {
			sent := 0
			r := newRig(t, roundTrip(func(req *http.Request) (*http.Response, error) {
				sent++
				return answers(ok, "").RoundTrip(req)
			}), hold(0), limits(limit(t, "hook", "1/h,burst=1")), waits(2*time.Hour))
			wantOutcome(t, r.do(post("first")), "200")
			ctx, leave := context.WithCancel(t.Context())
			defer leave()
			waits := r.start(post("second").WithContext(ctx))
			synctest.Wait()
			wantOutcome(t, r.do(post("second")), "duplicate")
			tt.end(r, leave)
			wantOutcome(t, <-waits, tt.want)
			if want := map[bool]int{true: 2, false: 1}[tt.want == "200"]; sent != want {
				t.Errorf("%d were sent, want %d", sent, want)
			}
			synctest.Wait()
			if s := r.options.Cluster.(*cluster.Memory).Status(); s.Waiting+len(s.Locks) != 0 || r.InFlight() != 0 {
				t.Errorf("%d wait, %v are locked, %d are in flight", s.Waiting, s.Locks, r.InFlight())
			}
		})
	}
}

// Shadow mode holds nobody up.
func TestShadowDoesNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, answers(ok, ""), shadow, limits(limit(t, "hook", "1/h,burst=1")), waits(time.Hour))
		began := time.Now()
		for i := range 3 {
			wantOutcome(t, r.do(post(fmt.Sprint(i))), "200")
			if e := next(t, r.events); (e.Shadowed == ReasonLimited) != (i > 0) {
				t.Errorf("number %d: got %q", i, e.Shadowed)
			}
		}
		if d := time.Since(began); d != 0 {
			t.Errorf("they waited %v", d)
		}
	})
}

// The routes of a pool wait for a budget that they share each for its own time, and
// say of it the longest.
func TestPoolsBudgetIsWaitedForAsLongAsAnyRouteDoes(t *testing.T) {
	pooled := func(name string, wait time.Duration) Route {
		own, shared := limit(t, name, "1/s"), limit(t, "team", "1/s")
		return Route{Name: name, Upstream: mustParse(t, "http://upstream.example"), Pool: "team", Limits: []Limit{own, shared}, Wait: wait}
	}
	p, err := New([]Route{pooled("patient", time.Minute), pooled("hasty", 0)}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string][]time.Duration{"patient": {time.Minute, time.Minute}, "hasty": {0, time.Minute}} {
		for i, c := range p.routes[name].charges {
			if c.Wait != want[i] {
				t.Errorf("%s: got %v for the budget %s, want %v", name, c.Wait, c.Name, want[i])
			}
		}
	}
}
