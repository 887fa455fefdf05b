package proxy

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"throttle-proxy/cluster"
)

// keeps has a route keep answers.
func keeps(d time.Duration) func(*Route) {
	return func(r *Route) { r.Idempotency.Keep = d }
}

// keyed gives a request a key.
func keyed(key string) func(*http.Request) *http.Request {
	return func(r *http.Request) *http.Request {
		r.Header.Set("Idempotency-Key", key)
		return r
	}
}

func TestParseKey(t *testing.T) {
	long := strings.Repeat("k", maxKey)
	for value, want := range map[string]string{
		"8e03978e-40d5-43dd-bc93-6894a57f9324":   "8e03978e-40d5-43dd-bc93-6894a57f9324",
		`"8e03978e-40d5-43dd-bc93-6894a57f9324"`: "8e03978e-40d5-43dd-bc93-6894a57f9324",
		` "with \"this\" and \\" `:               `with "this" and \`,
		`"k";a=1`:                                "k",
		"base64+/=":                              "base64+/=",
		" k\t":                                   "k",
		long:                                     long,
		`"` + long + `"`:                         long,
		long + "k":                               "",
		`"` + long + `k"`:                        "",
		"":                                       "",
		`""`:                                     "",
		`"k`:                                     "",
		`"a", "b"`:                               "",
		"a,b":                                    "",
		"a b":                                    "",
		`k"`:                                     "",
		"ключ":                                   "",
		`"ключ"`:                                 "",
	} {
		if got, ok := parseKey(value); ok && got != want || ok != (want != "") {
			t.Errorf("%s: got %q, %v, want %q", value, got, ok, want)
		}
	}
}

// Each row sends two requests, and says what becomes of the second, and how often the
// upstream was asked.
func TestIdempotency(t *testing.T) {
	k := []string{"Idempotency-Key", "k"}
	for name, test := range map[string]struct {
		change   func(*Route)
		upstream http.RoundTripper
		first    []string // its header
		says     string   // the first's answer
		method   string
		second   []string
		body     string // of the second; empty for the same
		want     string
		calls    int
	}{
		"quoted and bare are one key":       {first: k, second: []string{"X-Idempotency-Key", `"k"`}, want: "200 replayed", calls: 1},
		"twice the same is one":             {first: []string{"Idempotency-Key", "k", "X-Idempotency-Key", `"k"`}, second: k, want: "200 replayed", calls: 1},
		"two keys":                          {first: k, second: []string{"Idempotency-Key", "k", "X-Idempotency-Key", "l"}, want: "bad-key", calls: 1},
		"malformed":                         {first: k, second: []string{"Idempotency-Key", `"k`}, want: "bad-key", calls: 1},
		"missing":                           {first: k, second: nil, want: "200", calls: 2},
		"missing where required":            {change: func(r *Route) { r.Idempotency.Required = true }, first: k, want: "bad-key", calls: 1},
		"a GET needs none":                  {change: func(r *Route) { r.Idempotency.Required = true }, method: "GET", want: "200", calls: 2},
		"but it can have one":               {method: "GET", first: k, second: k, want: "200 replayed", calls: 1},
		"another method":                    {method: "PUT", first: k, second: append(k, "X-Test-Method", "PATCH"), want: "key-reused", calls: 1},
		"where nothing is deduped":          {change: func(r *Route) { r.Dedupe = DedupeOff }, first: k, second: k, want: "200 replayed", calls: 1},
		"another content":                   {first: k, second: k, body: "more", want: "key-reused", calls: 1},
		"other credentials":                 {first: append(k, "Authorization", "alice"), second: append(k, "Authorization", "bob"), want: "key-reused", calls: 1},
		"credentials that are not compared": {change: func(r *Route) { r.DedupeHeaders = nil }, first: append(k, "Cookie", "alice"), second: append(k, "Cookie", "bob"), want: "key-reused", calls: 1},
		"another key":                       {first: k, second: []string{"Idempotency-Key", "l"}, want: "200", calls: 2},
		"another tenant":                    {change: func(r *Route) { r.Idempotency.By = By{Header: "Tenant"} }, first: append(k, "Tenant", "a"), second: append(k, "Tenant", "b"), want: "200", calls: 2},
		"two tenants at once":               {change: func(r *Route) { r.Idempotency.By = By{Header: "Tenant"} }, first: append(k, "Tenant", "a"), second: append(k, "Tenant", "a", "Tenant", "b"), want: "ambiguous-field", calls: 1},
		"a budget that is spent":            {change: func(r *Route) { r.Limits = []Limit{limit(t, "hook", "1/h")} }, first: k, second: k, want: "200 replayed", calls: 1},
		"shadow keeps nothing":              {change: func(r *Route) { r.Shadow = true }, first: k, second: k, want: "200", calls: 2},
		"off":                               {change: keeps(0), first: k, second: k, want: "held", calls: 1},
		"gRPC has no keys":                  {first: append(k, "Content-Type", "application/grpc"), second: append(k, "Content-Type", "application/grpc"), want: "200", calls: 2},
		"a redirect is kept":                {upstream: answers(302, ""), says: "302", first: k, second: k, want: "302 replayed", calls: 1},
		"a 422 of the upstream is kept":     {upstream: answers(422, "no"), says: "422", first: k, second: k, want: "422 replayed", calls: 1},
		"nothing":                           {upstream: answers(204, ""), says: "204", first: k, second: k, want: "204 replayed", calls: 1},
		"too large":                         {upstream: answers(200, strings.Repeat("x", maxKept+1)), first: k, second: k, want: "answer-not-kept", calls: 1},
		"too large, and nobody said so":     {upstream: untold(strings.Repeat("x", maxKept+1), nil), first: k, second: k, want: "answer-not-kept", calls: 1},
		"as large as may be":                {upstream: untold(strings.Repeat("x", maxKept), nil), first: k, second: k, want: "200 replayed", calls: 1},
		"trailers":                          {upstream: untold("x", http.Header{"Digest": {"1"}}), first: k, second: k, want: "answer-not-kept", calls: 1},
		"never sent":                        {upstream: fails(false, io.EOF), says: "upstream-refused", first: k, second: k, want: "upstream-refused", calls: 2},
		"an unknown outcome":                {upstream: fails(true, io.EOF), says: "upstream-closed", first: k, second: k, want: "outcome-unknown", calls: 1},
	} {
		bubble(t, name, func(t *testing.T) {
			calls := 0
			over := test.upstream
			if over == nil {
				over = answers(ok, "done")
			}
			r := newRig(t, roundTrip(func(req *http.Request) (*http.Response, error) {
				calls++
				return over.RoundTrip(req)
			}), hold(time.Hour), keeps(time.Hour), func(r *Route) {
				if test.change != nil {
					test.change(r)
				}
			})
			if test.method == "" {
				test.method = http.MethodPost
			}
			if test.says == "" {
				test.says = "200"
			}
			first := request(test.method, "/hook/x", "pay")
			first.Header = headers(test.first)
			wantOutcome(t, r.do(first), test.says)
			time.Sleep(3 * time.Second)
			second := request(test.method, "/hook/x", "pay"+test.body)
			second.Header = headers(test.second)
			if m := second.Header.Get("X-Test-Method"); m != "" {
				second.Method = m
				second.Header.Del("X-Test-Method")
			}
			res := r.do(second)
			if replayed := res.Header.Get("Idempotent-Replayed") == "true"; replayed {
				if got := fmt.Sprint(res.StatusCode, " replayed"); got != test.want {
					t.Errorf("got %s, want %s", got, test.want)
				}
				if got, want := res.Header.Get("Cache-Status")+" "+res.Header.Get("Age"), "throttle-proxy; hit 3"; got != want {
					t.Errorf("got %s, want %s", got, want)
				}
				var e Event
				for len(r.events) > 0 {
					e = <-r.events
				}
				if !e.Replayed || e.Status != res.StatusCode || e.Reason != "" {
					t.Errorf("got event %+v, want replayed", e)
				}
			} else {
				wantOutcome(t, res, test.want)
			}
			if calls != test.calls {
				t.Errorf("got %d calls, want %d", calls, test.calls)
			}
		})
	}
}

// headers are names and values, of which there may be several.
func headers(pairs []string) http.Header {
	h := http.Header{}
	for i := 0; i < len(pairs); i += 2 {
		h.Add(pairs[i], pairs[i+1])
	}
	return h
}

// chunked answers without a length, with trailers.
func untold(body string, trailer http.Header) http.RoundTripper {
	return roundTrip(func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: ok, Header: http.Header{}, ContentLength: -1, Body: io.NopCloser(strings.NewReader(body)), Trailer: trailer}, nil
	})
}

func TestIdempotency_WhatFreesAKey(t *testing.T) {
	frees := map[int]bool{401: true, 403: true, 404: true, 407: true, 408: true, 409: true, 421: true, 425: true, 429: true}
	for status := 200; status < 600; status++ {
		bubble(t, fmt.Sprint(status), func(t *testing.T) {
			calls := 0
			r := newRig(t, roundTrip(func(req *http.Request) (*http.Response, error) {
				calls++
				return answers(status, "").RoundTrip(req)
			}), keeps(time.Hour))
			want := 1
			if frees[status] || status >= 500 {
				want = 2
			}
			for range 2 {
				if got := r.do(keyed("k")(post("pay"))).StatusCode; got != status {
					t.Errorf("got %d, want %d", got, status)
				}
			}
			if calls != want {
				t.Errorf("got %d calls, want %d", calls, want)
			}
		})
	}
}

// A replayed answer is the first one's, but for what is said of its being replayed.
func TestIdempotency_TheAnswerIsTheSame(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		r := newRig(t, roundTrip(func(*http.Request) (*http.Response, error) {
			header := http.Header{"Set-Cookie": {"a=1", "b=2"}, "Age": {"7"}, "Cache-Status": {"cdn; hit"}, "X-Raw": {"\xff\x80"}, "Connection": {"X-Hop"}, "X-Hop": {"1"}}
			return &http.Response{StatusCode: created, Header: header, ContentLength: 3, Body: io.NopCloser(strings.NewReader("\x00\xffx"))}, nil
		}), keeps(time.Hour), func(r *Route) { r.Limits = []Limit{limit(t, "hook", "5/h")} })
		first := r.do(keyed("k")(post("pay")))
		time.Sleep(time.Minute)
		again := r.do(keyed("k")(post("pay")))
		if got, want := text(t, again), text(t, first); got != want || again.StatusCode != created {
			t.Errorf("got %d %q, want %q", again.StatusCode, got, want)
		}
		want := first.Header.Clone()
		for _, ours := range []string{"RateLimit", "RateLimit-Policy", "Ratelimit", "Ratelimit-Policy"} {
			delete(want, ours)
		}
		want["Age"], want["Idempotent-Replayed"] = []string{"67"}, []string{"true"}
		want["Cache-Status"] = []string{"cdn; hit", "throttle-proxy; hit"}
		if !maps.EqualFunc(again.Header, want, func(a, b []string) bool { return strings.Join(a, "|") == strings.Join(b, "|") }) {
			t.Errorf("got %v, want %v", again.Header, want)
		}
	})
}

func TestIdempotency_InFlight(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		gate := newGate(t)
		r := newRig(t, gate, keeps(time.Hour))
		r.start(keyed("k")(post("pay")))
		synctest.Wait()
		wantOutcome(t, r.do(keyed("k")(post("pay"))), "duplicate")
		wantOutcome(t, r.do(keyed("k")(post("pay more"))), "key-reused")
	})
}

// leaving is a client that has gone after so many bytes of its answer.
type leaving struct {
	*httptest.ResponseRecorder
	left int
}

func (b *leaving) Write(p []byte) (int, error) {
	if b.left -= len(p); b.left < 0 {
		return 0, io.ErrClosedPipe
	}
	return b.ResponseRecorder.Write(p)
}

func TestIdempotency_AClientThatLeavesInTheMiddleGetsItAllByRepeating(t *testing.T) {
	body := strings.Repeat("x", 100<<10)
	for name, upstream := range map[string]struct {
		length int64
		body   io.Reader
	}{
		"of a length":                  {int64(len(body)), oneKiB{strings.NewReader(body)}},
		"of no length":                 {-1, oneKiB{strings.NewReader(body)}},
		"whose end comes with a part":  {-1, iotest.DataErrReader(oneKiB{strings.NewReader(body)})},
		"whose end comes with the cut": {-1, iotest.DataErrReader(strings.NewReader(body[:30<<10]))},
	} {
		bubble(t, name, func(t *testing.T) {
			calls := 0
			r := newRig(t, roundTrip(func(*http.Request) (*http.Response, error) {
				calls++
				return &http.Response{StatusCode: ok, Header: http.Header{}, ContentLength: upstream.length, Body: io.NopCloser(upstream.body)}, nil
			}), keeps(time.Hour))
			r.serveTo(&leaving{httptest.NewRecorder(), 20 << 10}, keyed("k")(post("pay")))
			res := r.do(keyed("k")(post("pay")))
			if got := text(t, res); !strings.HasPrefix(body, got) || len(got) < 30<<10 || res.Header.Get("Idempotent-Replayed") != "true" || calls != 1 {
				t.Errorf("got %d, %d bytes, %d calls, want the whole answer of one", res.StatusCode, len(got), calls)
			}
			if got := r.bodies.held.Load(); got != 0 {
				t.Errorf("got %d bytes held, want none", got)
			}
		})
	}
}

// oneKiB reads a kilobyte at a time.
type oneKiB struct{ io.Reader }

func (r oneKiB) Read(p []byte) (int, error) { return r.Reader.Read(p[:min(len(p), 1<<10)]) }

func TestIdempotency_WithoutRoomAnAnswerIsNotKept(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		r := newRig(t, answers(ok, strings.Repeat("x", 1000)), keeps(time.Hour))
		r.bodies.limit = 500
		wantOutcome(t, r.do(keyed("k")(post("pay"))), "200")
		wantOutcome(t, r.do(keyed("k")(post("pay"))), "answer-not-kept")
	})
}

func TestIdempotency_AnAnswerOfAnotherVersionIsNotKept(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		r := newRig(t, nil, keeps(time.Hour))
		r.options.Cluster = replaying{r.options.Cluster}
		wantOutcome(t, r.do(keyed("k")(post("pay"))), "answer-not-kept")
	})
}

type replaying struct{ Cluster }

func FuzzReadKept(f *testing.F) {
	r := record{status: 200, header: http.Header{"A": {"b", "\xff"}, "C": {}}, body: []byte("body")}
	f.Add(r.form(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		a, ok := readKept(b)
		if !ok {
			return
		}
		form := (&record{status: a.status, header: a.header, body: a.body}).form(nil)
		if again, ok := readKept(form); !ok || again.status != a.status || !bytes.Equal(again.body, a.body) || len(again.header) != len(a.header) {
			t.Errorf("got %+v, want %+v", again, a)
		}
	})
}

func (replaying) Admit(context.Context, cluster.Ask) (cluster.Verdict, error) {
	return cluster.Verdict{Outcome: cluster.Replayed, Answer: []byte{keptForm + 1}}, nil
}
