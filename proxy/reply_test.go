package proxy

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dunglas/httpsfv"

	"throttle-proxy/limiter"
)

// proxyErrors are the error types of RFC 9209, section 2.3.
var proxyErrors = strings.Fields(`
	dns_timeout dns_error destination_not_found destination_unavailable
	destination_ip_prohibited destination_ip_unroutable connection_refused
	connection_terminated connection_timeout connection_read_timeout
	connection_write_timeout connection_limit_reached tls_protocol_error
	tls_certificate_error tls_alert_received http_request_error
	http_request_denied http_response_incomplete
	http_response_header_section_size http_response_header_size
	http_response_body_size http_response_trailer_section_size
	http_response_trailer_size http_response_transfer_coding
	http_response_content_coding http_response_timeout http_upgrade_failed
	http_protocol_error proxy_internal_response proxy_internal_error
	proxy_configuration_error proxy_loop_detected`)

type timeoutError struct{ error }

func (timeoutError) Timeout() bool   { return true }
func (timeoutError) Temporary() bool { return true }

// refusal is a reason, how it comes about, and what the client is told.
type refusal struct {
	status     int
	kind       string // type of the problem
	title      string
	more       string // members beside those that all have
	detail     string // where it is not the reason's own
	retryAfter string
	grpc       string
	admitted   bool // the budget was spent all the same

	upstream http.RoundTripper
	before   func(*testing.T, *rig)
	change   func(*http.Request) *http.Request // of the request; nil for none
	method   string                            // POST if empty
	target   string                            // /hook if empty
}

const (
	quotaExceeded   = "https://iana.org/assignments/http-problem-types#quota-exceeded"
	reducedCapacity = "https://iana.org/assignments/http-problem-types#temporary-reduced-capacity"
)

var refusals = map[Reason]refusal{
	ReasonDuplicate: {
		status: 409, kind: "urn:throttle-proxy:problem:duplicate", title: "Duplicate request", grpc: "10",
		more: `,"holder":{"request_id":"FIRST","replica":"replica-1","age":0.25}`,
		before: func(t *testing.T, r *rig) {
			r.over(newGate(t))
			r.start(post("same", "X-Request-Id", "first-of-client"))
			synctest.Wait()
			time.Sleep(250 * time.Millisecond)
		},
	},
	ReasonHeld: {
		status: 409, kind: "urn:throttle-proxy:problem:held", title: "Duplicate request", grpc: "10",
		more: `,"holder":{"request_id":"FIRST","replica":"replica-1","age":0.25}`,
		before: func(t *testing.T, r *rig) {
			wantOutcome(t, r.do(post("same", "X-Request-Id", "first-of-client")), "200")
			time.Sleep(250 * time.Millisecond)
		},
	},
	ReasonLimited: {
		status: 429, kind: quotaExceeded, title: "Too many requests", grpc: "8", retryAfter: "30",
		more: `,"violated-policies":["hook"]`,
		before: func(t *testing.T, r *rig) {
			wantOutcome(t, r.do(post("1")), "200")
			wantOutcome(t, r.do(post("2")), "200")
		},
	},
	ReasonCoolingDown: {
		status: 429, kind: quotaExceeded, title: "Too many requests", grpc: "8", retryAfter: "7",
		before: func(_ *testing.T, r *rig) { r.options.Cluster.Pause("hook", "", 7*time.Second) },
	},
	ReasonUndecided: {
		status: 503, kind: reducedCapacity, title: "Undecided", grpc: "14", retryAfter: "1",
		before: func(_ *testing.T, r *rig) { r.options.Cluster = away{r.options.Cluster} },
	},
	ReasonUnknownRoute: {
		status: 404, kind: "urn:throttle-proxy:problem:unknown-route", title: "Unknown route", grpc: "12",
		detail: `Use /NAME: no route \"huck\"`, target: "/huck/path?query",
	},
	ReasonBadRequest: {
		status: 400, kind: "urn:throttle-proxy:problem:bad-request", title: "Bad Request", grpc: "3",
		detail: "The method is no token. The request was not sent.",
		change: func(r *http.Request) *http.Request { r.Method = "GET /other"; return r }, method: "GET /other",
	},
	ReasonInternal: {
		status: 500, kind: "urn:throttle-proxy:problem:internal", title: "Internal error", grpc: "13", admitted: true,
		upstream: roundTrip(func(*http.Request) (*http.Response, error) { panic("a mistake") }),
	},
	ReasonClientGone: {
		status: 499, kind: "urn:throttle-proxy:problem:client-gone", title: "Client gone", grpc: "1", admitted: true, method: http.MethodGet,
		upstream: roundTrip(func(req *http.Request) (*http.Response, error) {
			connected(req)
			<-req.Context().Done()
			return nil, req.Context().Err()
		}),
		change: func(r *http.Request) *http.Request {
			ctx, leave := context.WithCancel(r.Context())
			leave()
			return r.WithContext(ctx)
		},
	},
	ReasonBadPath: {
		status: 400, kind: "urn:throttle-proxy:problem:bad-path", title: "Bad path", grpc: "3",
		target: "/hook/../admin",
	},
	ReasonLoop: {
		status: 508, kind: "urn:throttle-proxy:problem:loop", title: "Loop", grpc: "9",
		change: func(r *http.Request) *http.Request {
			r.Header["Via"] = []string{"1.1 edge", strings.Repeat("1.1 throttle-proxy, 2 THROTTLE-PROXY (x),", 4)}
			return r
		},
	},
	ReasonBodyTooLarge: {
		status: 413, kind: "urn:throttle-proxy:problem:body-too-large", title: "Body too large", grpc: "8",
		before: func(_ *testing.T, r *rig) { r.options.MaxBody = 1 },
	},
	ReasonBadMethod: {
		status: 405, kind: "urn:throttle-proxy:problem:bad-method", title: "Bad method", grpc: "12",
		method: http.MethodTrace,
	},
	ReasonNoMemory: {
		status: 503, kind: reducedCapacity, title: "No memory", grpc: "14", retryAfter: "1",
		before: func(_ *testing.T, r *rig) { r.bodies.limit = 1 },
	},
	ReasonTooManyInFlight: {
		status: 503, kind: reducedCapacity, title: "Too many in flight", grpc: "14", retryAfter: "1",
		before: func(_ *testing.T, r *rig) { r.options.MaxInFlight = 0 },
	},
	ReasonUpstreamRefused: {
		status: 502, kind: "urn:throttle-proxy:problem:upstream-refused", title: "Upstream refused", grpc: "14", admitted: true,
		upstream: fails(false, syscall.ECONNREFUSED),
	},
	ReasonUpstreamTimeout: {
		status: 504, kind: "urn:throttle-proxy:problem:upstream-timeout", title: "Upstream timeout", grpc: "4", admitted: true,
		upstream: fails(true, timeoutError{errors.New("no answer in time")}),
	},
	ReasonDraining: {
		status: 503, kind: reducedCapacity, title: "Draining", grpc: "14", retryAfter: "1", admitted: true,
		before: func(t *testing.T, r *rig) {
			r.over(newGate(t))
			time.AfterFunc(time.Second, r.Cut)
		},
	},
	ReasonUpstreamClosed: {
		status: 499, kind: "urn:throttle-proxy:problem:upstream-closed", title: "Upstream closed", grpc: "14", admitted: true,
		upstream: fails(true, io.EOF),
	},
}

// provoke returns the answer that reason makes to a request, and the holder's
// id if it repeats one.
func (x refusal) provoke(t *testing.T, header ...string) (res *http.Response, first string) {
	l := limit(t, "hook", "2/m")
	l.By = By{Header: "Tenant"} // which adds nothing to what clients are told
	r := newRig(t, answers(ok, "done"), hold(time.Minute), limits(l))
	if x.upstream != nil {
		r.over(x.upstream)
	}
	if x.before != nil {
		x.before(t, r)
	}
	target := "/hook"
	if x.target != "" {
		target = x.target
	}
	req := request(http.MethodPost, target, "same", header...)
	req.Method = cmp.Or(x.method, http.MethodPost)
	if x.change != nil {
		req = x.change(req)
	}
	res = r.do(req)
	for len(r.events) > 0 {
		if e := <-r.events; e.Holder.RequestID != "" {
			first = e.Holder.RequestID
		}
	}
	return res, first
}

func TestReplies(t *testing.T) {
	for reason := range reasons {
		want, tested := refusals[reason]
		if !tested {
			t.Errorf("no case for %s", reason)
			continue
		}
		bubble(t, string(reason), func(t *testing.T) {
			res, first := want.provoke(t, "X-Request-Id", "client-2")
			body := text(t, res)
			detail, route := want.detail, `"route":"hook",`
			if detail == "" {
				detail = reasons[reason].detail
			}
			if reason == ReasonUnknownRoute || reason == ReasonBadRequest {
				route = ""
			}
			if first == "first-of-client" {
				t.Error("the holder's id is not ours")
			}
			wantBody := fmt.Sprintf(`{"type":%q,"title":%q,"status":%d,"detail":"%s",%s"reason":%q,"request_id":"client-2"%s}`+"\n",
				want.kind, want.title, want.status, detail, route, reason, strings.Replace(want.more, "FIRST", first, 1))
			if body != wantBody {
				t.Errorf("got body\n%s, want\n%s", body, wantBody)
			}
			if res.StatusCode != want.status {
				t.Errorf("got status %d, want %d", res.StatusCode, want.status)
			}
			dontRetry := ""
			if want.status == http.StatusConflict {
				dontRetry = "false"
			}
			for name, want := range map[string]string{
				"Content-Type":        "application/problem+json",
				"Content-Length":      strconv.Itoa(len(wantBody)),
				"Cache-Control":       "no-store",
				"Retry-After":         want.retryAfter,
				"X-Should-Retry":      dontRetry,
				"Stripe-Should-Retry": dontRetry,
			} {
				if got := res.Header.Get(name); got != want {
					t.Errorf("got %s: %s, want %s", name, got, want)
				}
			}
			wantProxyStatus(t, res)
			if got, want := items(t, res, "RateLimit") != "", want.admitted || reason == ReasonLimited; got != want {
				t.Errorf("RateLimit sent: got %v, want %v", got, want)
			}
		})
	}
}

// wantProxyStatus checks that an answer is marked as ours.
func wantProxyStatus(t *testing.T, res *http.Response) {
	t.Helper()
	item, err := httpsfv.UnmarshalItem(res.Header["Proxy-Status"])
	if err != nil {
		t.Fatalf("Proxy-Status: %v", err)
	}
	if got, want := item.Value, httpsfv.Token("throttle-proxy"); got != want {
		t.Errorf("Proxy-Status: got %v, want %v", got, want)
	}
	cause, _ := item.Params.Get("error")
	if token, ok := cause.(httpsfv.Token); !ok || !slices.Contains(proxyErrors, string(token)) {
		t.Errorf("Proxy-Status: got error=%v, want an error type of RFC 9209", cause)
	}
}

func TestGRPCReplies(t *testing.T) {
	for reason, want := range refusals {
		if got := strconv.Itoa(reasons[reason].grpc); got != want.grpc {
			t.Errorf("%s: got status %s, want %s", reason, got, want.grpc)
		}
		switch reason {
		case ReasonDuplicate, ReasonHeld, ReasonBodyTooLarge, ReasonNoMemory:
			continue // gRPC is never compared
		}
		bubble(t, string(reason), func(t *testing.T) {
			res, _ := want.provoke(t, "Content-Type", "application/grpc+proto")
			if got := text(t, res); got != "" || res.StatusCode != ok {
				t.Errorf("got %d with %q, want 200 without a body", res.StatusCode, got)
			}
			for name, want := range map[string]string{
				"Content-Type": "application/grpc+proto",
				"Grpc-Status":  want.grpc,
				"Grpc-Message": string(reason),
				"Retry-After":  want.retryAfter,
			} {
				if got := res.Header.Get(name); got != want {
					t.Errorf("got %s: %s, want %s", name, got, want)
				}
			}
			wantProxyStatus(t, res)
		})
	}
}

func TestUnknownRouteListsNothing(t *testing.T) {
	r := newRig(t, answers(ok, ""))
	for target, want := range map[string]string{
		"/":                            `Use /NAME: no route ""`,
		"/huck":                        `Use /NAME: no route "huck"`,
		"/HOOK":                        `Use /NAME: no route "HOOK"`,
		"/%68ook":                      `Use /NAME: no route "%68ook"`,
		"//hook":                       `Use /NAME: no route ""`,
		"/hook%2Fx":                    `Use /NAME: no route "hook%2Fx"`,
		"/" + strings.Repeat("x", 100): `Use /NAME: no route "` + strings.Repeat("x", 63) + `…"`,
	} {
		res := r.do(request(http.MethodGet, target, ""))
		var p problem
		if err := json.Unmarshal([]byte(text(t, res)), &p); err != nil {
			t.Fatal(err)
		}
		if p.Detail != want || res.StatusCode != http.StatusNotFound {
			t.Errorf("%s: got %d %s, want 404 %s", target, res.StatusCode, p.Detail, want)
		}
	}
}

func TestStatusesOfTheRoute(t *testing.T) {
	for _, status := range []int{400, 409, 422, 429, 499, 502, 503} {
		t.Run(strconv.Itoa(status), func(t *testing.T) {
			r := newRig(t, answers(ok, ""), func(r *Route) { r.DuplicateStatus, r.ClosedStatus = status, status })
			r.do(post("same"))
			duplicate := r.do(post("same"))
			r.over(fails(true, io.EOF))
			closed := r.do(post("other"))
			for want, res := range map[Reason]*http.Response{ReasonHeld: duplicate, ReasonUpstreamClosed: closed} {
				wantOutcome(t, res, string(want))
				if res.StatusCode != status {
					t.Errorf("%s: got status %d, want %d", want, res.StatusCode, status)
				}
				retryAfter, err := strconv.Atoi(res.Header.Get("Retry-After"))
				if got, want := err == nil && retryAfter >= 1, status == 429 || status == 503; got != want {
					t.Errorf("%d: got Retry-After %q, want one: %v", status, res.Header.Get("Retry-After"), want)
				}
			}
			if got := duplicate.Header.Get("X-Should-Retry"); got != "false" {
				t.Errorf("got X-Should-Retry %q, want false", got)
			}
		})
	}
}

// items reads a field of draft-ietf-httpapi-ratelimit-headers: its items as
// `name a=1 b=2`. It is sent in the spelling of the draft.
func items(t *testing.T, res *http.Response, field string) string {
	t.Helper()
	list, err := httpsfv.UnmarshalList(res.Header[field])
	if err != nil {
		t.Fatalf("%s: %v in %q", field, err, res.Header[field])
	}
	var all []string
	for _, member := range list {
		item := member.(httpsfv.Item)
		s := item.Value.(string)
		for _, name := range item.Params.Names() {
			n, _ := item.Params.Get(name)
			s += fmt.Sprintf(" %s=%d", name, n.(int64))
		}
		all = append(all, s)
	}
	return strings.Join(all, ", ")
}

func TestRateLimitFields(t *testing.T) {
	for _, tt := range []struct {
		rates      string // limits are called hook, hook-2, …
		policy     string
		first      string // after one request
		last       string // of the refusal after as many as may come at once
		retryAfter string
		violated   string
	}{
		{"1/s,burst=5", "hook q=5 w=5", "hook r=4 t=1", "hook r=0 t=1", "1", `["hook"]`},
		{"10/s,burst=20", "hook q=20 w=2", "hook r=19 t=1", "hook r=0 t=1", "1", `["hook"]`},
		{"100/10m", "hook q=100 w=600", "hook r=99 t=6", "hook r=0 t=6", "6", `["hook"]`},
		{"3/s", "hook q=3 w=1", "hook r=2 t=1", "hook r=0 t=1", "1", `["hook"]`},
		{"7/s,burst=3", "hook q=7 w=1", "hook r=2 t=1", "hook r=0 t=1", "1", `["hook"]`},
		{"1/d,burst=2", "hook q=2 w=172800", "hook r=1 t=86400", "hook r=0 t=86400", "86400", `["hook"]`},
		{"1/1500ms,burst=1", "hook q=1 w=2", "hook r=0 t=2", "hook r=0 t=2", "2", `["hook"]`},
		{
			"10/s,burst=20 2/m", "hook q=20 w=2, hook-2 q=2 w=60",
			"hook r=19 t=1, hook-2 r=1 t=30", "hook r=18 t=1, hook-2 r=0 t=30", "30", `["hook-2"]`,
		},
		{
			"1/s 1/m", "hook q=1 w=1, hook-2 q=1 w=60",
			"hook r=0 t=1, hook-2 r=0 t=60", "hook r=0 t=1, hook-2 r=0 t=60", "60", `["hook","hook-2"]`,
		},
		{
			"1/m 1/s", "hook q=1 w=60, hook-2 q=1 w=1",
			"hook r=0 t=60, hook-2 r=0 t=1", "hook r=0 t=60, hook-2 r=0 t=1", "60", `["hook","hook-2"]`,
		},
	} {
		bubble(t, tt.rates, func(t *testing.T) {
			var ls []Limit
			burst := 1 << 30
			for i, rate := range strings.Fields(tt.rates) {
				ls = append(ls, limit(t, []string{"hook", "hook-2"}[i], rate))
				burst = min(burst, ls[i].Burst)
			}
			r := newRig(t, answers(ok, ""), limits(ls...), dedupe(DedupeOff))
			var res *http.Response
			for i := range burst {
				res = r.do(post(""))
				wantOutcome(t, res, "200")
				if i > 0 {
					continue
				}
				if got := items(t, res, "RateLimit-Policy"); got != tt.policy {
					t.Errorf("got policy %s, want %s", got, tt.policy)
				}
				if got := items(t, res, "RateLimit"); got != tt.first {
					t.Errorf("got %s, want %s", got, tt.first)
				}
			}
			res = r.do(post(""))
			wantOutcome(t, res, "limited")
			if got := items(t, res, "RateLimit-Policy"); got != tt.policy {
				t.Errorf("got policy %s, want %s", got, tt.policy)
			}
			if got := items(t, res, "RateLimit"); got != tt.last {
				t.Errorf("got %s, want %s", got, tt.last)
			}
			if got := res.Header.Get("Retry-After"); got != tt.retryAfter {
				t.Errorf("got Retry-After: %s, want %s", got, tt.retryAfter)
			}
			if got := text(t, res); !strings.Contains(got, `"violated-policies":`+tt.violated) {
				t.Errorf("got %s, want violated policies %s", got, tt.violated)
			}
			again := r.do(post("")) // which is refused by what is remembered
			wantOutcome(t, again, "limited")
			if got := again.Header.Get("Retry-After"); got != tt.retryAfter {
				t.Errorf("got Retry-After: %s the second time, want %s", got, tt.retryAfter)
			}
			retryAfter, _ := strconv.Atoi(tt.retryAfter)
			time.Sleep(time.Duration(retryAfter) * time.Second)
			wantOutcome(t, r.do(post("")), "200")
		})
	}
}

func TestRateLimitOfAFullBudgetHasNoTime(t *testing.T) {
	perTenant := limit(t, "tenant", "1/m,burst=5")
	perTenant.By = By{Header: "Tenant"}
	r := newRig(t, answers(ok, ""), limits(perTenant, limit(t, "all", "1/m")), dedupe(DedupeOff))
	wantOutcome(t, r.do(post("", "Tenant", "a")), "200")
	res := r.do(post("", "Tenant", "b"))
	wantOutcome(t, res, "limited")
	if got, want := items(t, res, "RateLimit"), "tenant r=5, all r=0 t=60"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestRateLimitFollowsTheUpstreamsOwn(t *testing.T) {
	r := newRig(t, roundTrip(func(req *http.Request) (*http.Response, error) {
		res := answer(ok, "")
		res.Header.Add("RateLimit", `"theirs";r=1;t=9`)
		res.Header.Add("RateLimit", `"more";r=2`)
		res.Header.Add("RateLimit-Policy", `"theirs";q=1;w=9`)
		return res, nil
	}), limits(limit(t, "hook", "5/s")))
	res := r.do(post(""))
	if got, want := items(t, res, "RateLimit"), "theirs r=1 t=9, more r=2, hook r=4 t=1"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got, want := items(t, res, "RateLimit-Policy"), "theirs q=1 w=9, hook q=5 w=1"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// TestPolicyIsExact compares the policy with its formula in whole numbers.
func TestPolicyIsExact(t *testing.T) {
	numbers := []int64{1, 2, 3, 5, 7, 9, 10, 29, 60, 97, 100, 333, 1000, 4999, 100_000, 999_983}
	periods := []time.Duration{
		time.Second, time.Minute, time.Hour, 24 * time.Hour, 10 * time.Minute,
		100 * time.Millisecond, 300 * time.Millisecond, 700 * time.Millisecond, 1100 * time.Millisecond, 90 * time.Second,
	}
	second := big.NewInt(int64(time.Second))
	product := func(a, b *big.Int) *big.Int { return new(big.Int).Mul(a, b) }
	for _, rate := range numbers {
		for _, burst := range numbers {
			for _, period := range periods {
				l := Limit{Name: "hook", Limit: limiter.Limit{Rate: int(rate), Period: period, Burst: int(burst)}}
				if l.Validate() != nil {
					continue
				}
				n, b, p := big.NewInt(rate), big.NewInt(burst), big.NewInt(int64(period))
				w, rest := new(big.Int).DivMod(product(b, p), product(n, second), new(big.Int))
				if rest.Sign() > 0 || w.Sign() == 0 {
					w.Add(w, big.NewInt(1))
				}
				q := new(big.Int).Div(product(n, product(w, second)), p)
				if q.Cmp(b) < 0 {
					q = b
				}
				got, err := httpsfv.Marshal(l.policy())
				if err != nil {
					t.Fatal(err)
				}
				if want := fmt.Sprintf(`"hook";q=%d;w=%d`, q, w); got != want {
					t.Errorf("%s: got %s, want %s", l, got, want)
				}
			}
		}
	}
}
