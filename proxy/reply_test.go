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
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dunglas/httpsfv"

	"throttle-proxy/cluster"
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
	reason     Reason
	status     int
	kind       string // type of the problem
	title      string
	more       string // members beside those that all have
	detail     string // where it is not the reason's own
	retryAfter string // empty where the client is told not to come back
	sent       bool   // something of the request may have been
	errorType  string
	grpc       string
	admitted   bool // the budget was spent all the same
	compared   bool // to meet requests that are, which calls of gRPC never are

	route    func(*Route) // nil for that of all
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
		compared: true, status: 409, kind: "urn:throttle-proxy:problem:duplicate", title: "Duplicate request", grpc: "10", errorType: "idempotency_error",
		more: `,"holder":{"request_id":"FIRST","replica":"replica-1","age":0.25}`,
		before: func(t *testing.T, r *rig) {
			r.over(newGate(t))
			r.start(post("same", "X-Request-Id", "first-of-client"))
			synctest.Wait()
			time.Sleep(250 * time.Millisecond)
		},
	},
	ReasonNotShareable: {
		compared: true, status: 409, kind: "urn:throttle-proxy:problem:not-shareable", title: "Not shareable", grpc: "10", errorType: "idempotency_error",
		more:  `,"holder":{"request_id":"FIRST","replica":"replica-1","age":0.25}`,
		route: shares(Join),
		before: func(t *testing.T, r *rig) {
			g := newGate(t)
			r.over(g)
			r.start(post("same", "X-Request-Id", "first-of-client"))
			synctest.Wait()
			time.Sleep(250 * time.Millisecond)
			go func() {
				synctest.Wait()
				stream := answer(ok, "event")
				stream.Header.Set("Content-Type", "text/event-stream")
				g.answers <- stream
			}()
		},
	},
	ReasonHeld: {
		compared: true, status: 409, kind: "urn:throttle-proxy:problem:held", title: "Duplicate request", grpc: "10", errorType: "idempotency_error",
		more: `,"holder":{"request_id":"FIRST","replica":"replica-1","age":0.25}`,
		before: func(t *testing.T, r *rig) {
			wantOutcome(t, r.do(post("same", "X-Request-Id", "first-of-client")), "200")
			time.Sleep(250 * time.Millisecond)
		},
	},
	ReasonLimited: {
		status: 429, kind: quotaExceeded, title: "Too many requests", grpc: "8", retryAfter: "30", errorType: "rate_limit_error",
		more: `,"violated-policies":["hook"]`,
		before: func(t *testing.T, r *rig) {
			wantOutcome(t, r.do(post("1")), "200")
			wantOutcome(t, r.do(post("2")), "200")
		},
	},
	ReasonBusy: {
		status: 429, kind: quotaExceeded, title: "Too many at once", grpc: "8", retryAfter: "1", errorType: "rate_limit_error",
		more:  `,"violated-policies":["few"]`,
		route: func(r *Route) { r.Concurrency = []Concurrency{{Name: "few", Most: 1}} },
		before: func(t *testing.T, r *rig) {
			r.over(newGate(t))
			r.start(post("other"))
			synctest.Wait()
		},
	},
	ReasonCoolingDown: {
		status: 429, kind: quotaExceeded, title: "Too many requests", grpc: "8", retryAfter: "7", errorType: "rate_limit_error",
		before: func(_ *testing.T, r *rig) { r.options.Cluster.Pause("hook", "", 7*time.Second, 429) },
	},
	ReasonPaused: {
		status: 503, kind: reducedCapacity, title: "Paused", grpc: "14", retryAfter: "60", errorType: "api_error",
		detail: "An operator has paused this route: back at \\u003cnoon\\u003e. This request was not sent.",
		before: func(t *testing.T, r *rig) {
			order(t, r, cluster.Order{Deed: cluster.SetPause, Route: "hook", For: time.Minute, Message: "back at <noon>."})
		},
	},
	ReasonUndecided: {
		status: 503, kind: reducedCapacity, title: "Undecided", grpc: "14", retryAfter: "1", errorType: "api_error",
		before: func(_ *testing.T, r *rig) { r.options.Cluster = away{r.options.Cluster} },
	},
	ReasonUnknownRoute: {
		status: 404, kind: "urn:throttle-proxy:problem:unknown-route", title: "Unknown route", grpc: "12", errorType: "invalid_request_error",
		detail: `Use /NAME: no route \"huck\". NAME is what the replica was started with, as in --register NAME=URL; its log says which is nearest.`, target: "/huck/path?query",
	},
	ReasonBadRequest: {
		status: 400, kind: "urn:throttle-proxy:problem:bad-request", title: "Bad Request", grpc: "3", errorType: "invalid_request_error",
		detail: "The method is no token. This request was not sent.",
		change: func(r *http.Request) *http.Request { r.Method = "GET /other"; return r }, method: "GET /other",
	},
	ReasonInternal: {
		status: 500, kind: "urn:throttle-proxy:problem:internal", title: "Internal error", grpc: "13", admitted: true, errorType: "api_error", sent: true,
		upstream: roundTrip(func(*http.Request) (*http.Response, error) { panic("a mistake") }),
	},
	ReasonClientGone: {
		status: 499, kind: "urn:throttle-proxy:problem:client-gone", title: "Client gone", grpc: "1", admitted: true, method: http.MethodGet, errorType: "api_error", sent: true,
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
		status: 400, kind: "urn:throttle-proxy:problem:bad-path", title: "Bad path", grpc: "3", errorType: "invalid_request_error",
		target: "/hook/../admin",
	},
	ReasonLoop: {
		status: 508, kind: "urn:throttle-proxy:problem:loop", title: "Loop", grpc: "9", errorType: "api_error",
		change: func(r *http.Request) *http.Request {
			r.Header["Via"] = []string{"1.1 edge", strings.Repeat("1.1 throttle-proxy, 2 THROTTLE-PROXY (x),", 4)}
			return r
		},
	},
	ReasonBodyTooLarge: {
		compared: true, status: 413, kind: "urn:throttle-proxy:problem:body-too-large", title: "Body too large", grpc: "8", errorType: "invalid_request_error",
		before: func(_ *testing.T, r *rig) { r.options.MaxBody = 1 },
	},
	ReasonBadMethod: {
		status: 405, kind: "urn:throttle-proxy:problem:bad-method", title: "Bad method", grpc: "12", errorType: "invalid_request_error",
		method: http.MethodTrace,
	},
	ReasonAmbiguousField: {
		status: 400, kind: "urn:throttle-proxy:problem:ambiguous-field", title: "Ambiguous field", grpc: "3", errorType: "invalid_request_error",
		detail: "Tenant says whose budget is spent, and comes in several lines: send one. This request was not sent.",
		change: func(r *http.Request) *http.Request {
			r.Header["Tenant"] = []string{"a", "b"}
			return r
		},
	},
	ReasonNoMemory: {
		compared: true, status: 503, kind: reducedCapacity, title: "No memory", grpc: "14", retryAfter: "1", errorType: "api_error",
		before: func(_ *testing.T, r *rig) { r.bodies.limit = 1 },
	},
	ReasonTooManyInFlight: {
		status: 503, kind: reducedCapacity, title: "Too many in flight", grpc: "14", retryAfter: "1", errorType: "api_error",
		before: func(_ *testing.T, r *rig) { r.options.MaxInFlight = 0 },
	},
	ReasonBadKey: {
		compared: true, status: 400, kind: "urn:throttle-proxy:problem:bad-key", title: "Bad idempotency key", grpc: "3", errorType: "invalid_request_error",
		detail: `This route wants an idempotency key: send Idempotency-Key: \"…\" or X-Idempotency-Key, once, with up to 255 printable ASCII characters. This request was not sent.`,
		route:  func(r *Route) { r.Idempotency = Idempotency{Keep: time.Hour, Required: true} },
	},
	ReasonKeyReused: {
		compared: true, status: 422, kind: "urn:throttle-proxy:problem:key-reused", title: "Idempotency key reused", grpc: "9", errorType: "idempotency_error",
		route:  keeps(time.Hour),
		change: keyed("k"),
		before: func(t *testing.T, r *rig) { wantOutcome(t, r.do(keyed("k")(post("other"))), "200") },
	},
	ReasonNotKept: {
		compared: true, status: 409, kind: "urn:throttle-proxy:problem:answer-not-kept", title: "Answer not kept", grpc: "9", errorType: "idempotency_error",
		route:  keeps(time.Hour),
		change: keyed("k"),
		before: func(t *testing.T, r *rig) {
			r.over(answers(ok, strings.Repeat("x", maxKept+1)))
			wantOutcome(t, r.do(keyed("k")(post("same"))), "200")
		},
	},
	ReasonOutcomeUnknown: {
		compared: true, status: 409, kind: "urn:throttle-proxy:problem:outcome-unknown", title: "Outcome unknown", grpc: "9", errorType: "idempotency_error",
		route:  keeps(time.Hour),
		change: keyed("k"),
		before: func(t *testing.T, r *rig) {
			r.over(fails(true, io.EOF))
			wantOutcome(t, r.do(keyed("k")(post("same"))), "upstream-closed")
		},
	},
	ReasonUpstreamRefused: {
		status: 502, kind: "urn:throttle-proxy:problem:upstream-refused", title: "Upstream refused", grpc: "14", retryAfter: "1", admitted: true, errorType: "api_error",
		upstream: fails(false, syscall.ECONNREFUSED),
	},
	ReasonUpstreamTimeout: {
		status: 504, kind: "urn:throttle-proxy:problem:upstream-timeout", title: "Upstream timeout", grpc: "4", admitted: true, errorType: "api_error", sent: true,
		upstream: fails(true, timeoutError{errors.New("no answer in time")}),
	},
	ReasonDraining: {
		status: 503, kind: reducedCapacity, title: "Draining", grpc: "14", admitted: true, errorType: "api_error", sent: true,
		before: func(t *testing.T, r *rig) {
			r.over(newGate(t))
			time.AfterFunc(time.Second, r.Cut)
		},
	},
	ReasonUpstreamClosed: {
		status: 499, kind: "urn:throttle-proxy:problem:upstream-closed", title: "Upstream closed", grpc: "14", admitted: true, errorType: "api_error", sent: true,
		upstream: fails(true, io.EOF),
	},
}

// rarer are reasons again, that come about otherwise.
var rarer = map[string]refusal{
	"no HTTP": {
		reason: ReasonUpstreamRefused, status: 502, kind: "urn:throttle-proxy:problem:upstream-refused", title: "Upstream refused",
		grpc: "14", admitted: true, errorType: "api_error", sent: true,
		upstream: fails(true, errors.New("malformed HTTP response")),
	},
	"no connection in time": {
		reason: ReasonUpstreamTimeout, status: 504, kind: "urn:throttle-proxy:problem:upstream-timeout", title: "Upstream timeout",
		grpc: "4", retryAfter: "1", admitted: true, errorType: "api_error",
		upstream: fails(false, timeoutError{errors.New("no connection in time")}),
	},
	"drained before it was sent": {
		reason: ReasonDraining, status: 503, kind: reducedCapacity, title: "Draining",
		grpc: "14", retryAfter: "1", admitted: true, errorType: "api_error",
		upstream: roundTrip(func(req *http.Request) (*http.Response, error) {
			<-req.Context().Done()
			return nil, req.Context().Err()
		}),
		before: func(_ *testing.T, r *rig) { time.AfterFunc(time.Second, r.Cut) },
	},
	"body that breaks off": {
		reason: ReasonClientGone, status: 499, kind: "urn:throttle-proxy:problem:client-gone", title: "Client gone",
		grpc: "1", retryAfter: "1", errorType: "api_error", compared: true,
		change: breaks(io.ErrUnexpectedEOF),
	},
	"body that comes late": {
		reason: ReasonBadRequest, status: 408, kind: "urn:throttle-proxy:problem:bad-request", title: "Bad request",
		grpc: "3", retryAfter: "1", errorType: "invalid_request_error", compared: true,
		change: breaks(os.ErrDeadlineExceeded),
	},
	"mistake before it was sent": {
		reason: ReasonInternal, status: 500, kind: "urn:throttle-proxy:problem:internal", title: "Internal error",
		grpc: "13", errorType: "api_error",
		before: func(_ *testing.T, r *rig) { r.options.Cluster = mistaken{r.options.Cluster} },
	},
}

// everyRefusal calls test with each way to an answer of our own, in a bubble.
func everyRefusal(t *testing.T, test func(*testing.T, refusal)) {
	for reason, x := range refusals {
		x.reason = reason
		bubble(t, string(reason), func(t *testing.T) { test(t, x) })
	}
	for name, x := range rarer {
		bubble(t, name, func(t *testing.T) { test(t, x) })
	}
}

// mistaken is a Cluster that does not know what it does.
type mistaken struct{ Cluster }

func (mistaken) Admit(context.Context, cluster.Ask) (cluster.Verdict, error) { panic("a mistake") }

// breaks returns a change of a request by which reading its body fails.
func breaks(err error) func(*http.Request) *http.Request {
	return func(r *http.Request) *http.Request {
		r.Body = io.NopCloser(readerFunc(func([]byte) (int, error) { return 0, err }))
		return r
	}
}

// provoke returns the answer that reason makes to a request, and its event.
func (x refusal) provoke(t *testing.T, header ...string) (res *http.Response, refused Event) {
	l := limit(t, "hook", "2/m")
	l.By = By{Header: "Tenant"} // which adds nothing to what clients are told
	r := newRig(t, answers(ok, "done"), hold(time.Minute), limits(l), func(r *Route) {
		if x.route != nil {
			x.route(r)
		}
	})
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
		refused = <-r.events
	}
	return res, refused
}

func TestReplies(t *testing.T) {
	for reason := range reasons {
		if _, tested := refusals[reason]; !tested {
			t.Errorf("no case for %s", reason)
		}
	}
	everyRefusal(t, func(t *testing.T, want refusal) {
		res, e := want.provoke(t, "X-Request-Id", "client-2")
		body := text(t, res)
		if e.Holder.RequestID == "first-of-client" {
			t.Error("the holder's id is not ours")
		}
		if wantBody := want.body(e.ID, e.Holder.RequestID); body != wantBody {
			t.Errorf("got body\n%s, want\n%s", body, wantBody)
		}
		if res.StatusCode != want.status {
			t.Errorf("got status %d, want %d", res.StatusCode, want.status)
		}
		wantFields(t, res, want.fields(), map[string]string{
			"Content-Type":   "application/problem+json",
			"Content-Length": strconv.Itoa(len(body)),
		})
		wantProxyStatus(t, res)
		if got, want := items(t, res, "RateLimit") != "", want.admitted || want.reason == ReasonLimited || want.reason == ReasonBusy; got != want {
			t.Errorf("RateLimit sent: got %v, want %v", got, want)
		}
	})
}

// body is what the client is to read whose request is known as id, of a duplicate
// of the one that is known as first.
func (x refusal) body(id, first string) string {
	detail, route, more, sent := x.detail, `"route":"hook",`, strings.Replace(x.more, "FIRST", first, 1), "no"
	if x.sent {
		sent = "maybe"
	}
	if detail == "" {
		detail = reasons[x.reason].detail + map[bool]string{false: " This request was not sent.", true: " The upstream may have acted on this request."}[x.sent]
	}
	if x.reason == ReasonUnknownRoute || x.detail != "" && x.reason != ReasonAmbiguousField && x.reason != ReasonPaused && x.reason != ReasonBadKey {
		route = ""
	}
	if x.retryAfter != "" {
		more = `,"retry_after":` + x.retryAfter + more
	}
	return fmt.Sprintf(`{"type":%q,"title":%q,"status":%d,"detail":"%s",%s"reason":%q,"request_id":%[10]q,"sent":%[7]q%[8]s,"message":"%[4]s","error":{"message":"%[4]s","type":%[9]q,"code":%[6]q}}`+"\n",
		x.kind, x.title, x.status, detail, route, x.reason, sent, more, x.errorType, id)
}

// fields are those that all clients get.
func (x refusal) fields() map[string]string {
	again, milliseconds := "false", ""
	if x.retryAfter != "" {
		again, milliseconds = "true", x.retryAfter+"000"
	}
	return map[string]string{
		"Cache-Control":               "no-store",
		"Via":                         "1.1 throttle-proxy",
		"Retry-After":                 x.retryAfter,
		"Retry-After-Ms":              milliseconds,
		"X-Amz-Retry-After":           milliseconds,
		"X-Should-Retry":              again,
		"Stripe-Should-Retry":         again,
		"Access-Control-Allow-Origin": "",
	}
}

func wantFields(t *testing.T, res *http.Response, wants ...map[string]string) {
	t.Helper()
	for _, fields := range wants {
		for name, want := range fields {
			if got := strings.Join(res.Header[name], ", "); got != want {
				t.Errorf("got %s: %s, want %s", name, got, want)
			}
		}
	}
}

// What may have been sent is never to come again, whatever its reason and the
// status that the route has for it.
func TestWhatMayHaveActedIsNotToComeAgain(t *testing.T) {
	for reason := range reasons {
		for _, status := range []int{0, 400, 408, 409, 429, 499, 500, 502, 503, 504} {
			p := problem{reason: reason, status: status, sent: true, wait: time.Minute}
			h := http.Header{}
			_, body := p.answer(h, post(""), new([3]string))
			var said told
			if err := json.Unmarshal(body, &said); err != nil {
				t.Fatalf("%s: %v in %s", reason, err, body)
			}
			if h["Retry-After"] != nil || h["Retry-After-Ms"] != nil || h["X-Amz-Retry-After"] != nil || h.Get("X-Should-Retry") != "false" ||
				h.Get("Stripe-Should-Retry") != "false" || said.RetryAfter != "" || said.Sent != "maybe" {
				t.Errorf("%s as %d: got %v and %s", reason, status, h, body)
			}
		}
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
	everyRefusal(t, func(t *testing.T, want refusal) {
		if got := strconv.Itoa(reasons[want.reason].grpc); got != want.grpc {
			t.Errorf("got status %s, want %s", got, want.grpc)
		}
		if want.compared {
			return
		}
		res, _ := want.provoke(t, "Content-Type", "application/grpc+proto")
		if got := text(t, res); got != "" || res.StatusCode != ok {
			t.Errorf("got %d with %q, want 200 without a body", res.StatusCode, got)
		}
		pushback := "-1"
		if want.retryAfter != "" {
			pushback = want.retryAfter + "000"
		}
		wantFields(t, res, want.fields(), map[string]string{
			"Content-Type":           "application/grpc+proto",
			"Grpc-Status":            want.grpc,
			"Grpc-Message":           string(want.reason),
			"Grpc-Retry-Pushback-Ms": pushback,
		})
		wantProxyStatus(t, res)
	})
}

func TestUnknownRouteListsNothing(t *testing.T) {
	r := newRig(t, answers(ok, ""))
	for target, want := range map[string]string{
		"/":                            `Use /NAME: this path names no route`,
		"/huck":                        `Use /NAME: no route "huck"`,
		"/HOOK":                        `Use /NAME: no route "HOOK"`,
		"/%68ook":                      `Use /NAME: no route "%68ook"`,
		"//hook":                       `Use /NAME: this path names no route`,
		"/hook%2Fx":                    `Use /NAME: no route "hook%2Fx"`,
		"/" + strings.Repeat("x", 100): `Use /NAME: no route "` + strings.Repeat("x", 63) + `…"`,
	} {
		res := r.do(request(http.MethodGet, target, ""))
		var p told
		if err := json.Unmarshal([]byte(text(t, res)), &p); err != nil {
			t.Fatal(err)
		}
		want += ". NAME is what the replica was started with, as in --register NAME=URL"
		if strings.Contains(want, `"`) {
			want += "; its log says which is nearest"
		}
		want += "."
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
				wantFields(t, res, map[string]string{"Retry-After": "", "X-Should-Retry": "false"})
			}
		})
	}
}

func TestDuplicateThatIsASuccess(t *testing.T) {
	for _, status := range []int{200, 201, 202, 204, 205, 299} {
		bubble(t, strconv.Itoa(status), func(t *testing.T) {
			r := newRig(t, answers(ok, ""), func(r *Route) { r.DuplicateStatus = status })
			r.do(post("same"))
			holder := (<-r.events).ID
			res := r.do(post("same", "X-Request-Id", "client-2"))
			id := (<-r.events).ID
			want := `{"status":"duplicate","message":"` + reasons[ReasonHeld].detail + ` This request was not sent.","route":"hook","reason":"held",` +
				`"request_id":"` + id + `","sent":"no","holder":{"request_id":"` + holder + `","replica":"replica-1","age":0}}` + "\n"
			fields := map[string]string{"Content-Type": "application/json", "Content-Length": strconv.Itoa(len(want)), "Retry-After": "", "X-Should-Retry": "", "Stripe-Should-Retry": ""}
			if status == http.StatusNoContent || status == http.StatusResetContent {
				want, fields["Content-Type"], fields["Content-Length"] = "", "", ""
			}
			if got := text(t, res); got != want || res.StatusCode != status {
				t.Errorf("got %d %s, want %s", res.StatusCode, got, want)
			}
			wantFields(t, res, fields)
			wantProxyStatus(t, res)
		})
	}
}

func TestWaitsAreToldToTheMillisecond(t *testing.T) {
	for _, tt := range []struct {
		wait                                 time.Duration
		seconds, milliseconds, number, grpcs string
	}{
		{0, "1", "1000", "1", "1000"}, // nobody knows
		{1, "1", "1", "0.001", "1"},
		{1500 * time.Millisecond, "2", "1500", "1.5", "1500"},
		{1500*time.Millisecond + 1, "2", "1501", "1.501", "1501"},
		{time.Minute, "60", "60000", "60", "60000"},
		{1000 * time.Hour, "3600000", "3600000000", "3600000", "2147483647"}, // more than gRPC can be told
	} {
		h, p := http.Header{}, problem{reason: ReasonLimited, wait: tt.wait}
		_, body := p.answer(h, post(""), new([3]string))
		p.answer(h, post("", "Content-Type", "application/grpc"), new([3]string))
		var said told
		if err := json.Unmarshal(body, &said); err != nil {
			t.Fatal(err)
		}
		got := []string{h.Get("Retry-After"), h.Get("Retry-After-Ms"), h.Get("X-Amz-Retry-After"), said.RetryAfter.String(), h.Get("Grpc-Retry-Pushback-Ms")}
		if want := []string{tt.seconds, tt.milliseconds, tt.milliseconds, tt.number, tt.grpcs}; !slices.Equal(got, want) {
			t.Errorf("%s: got %q, want %q", tt.wait, got, want)
		}
	}
}

// What others wrote is told as they wrote it, and cannot end a string.
func TestProblemsAreJSON(t *testing.T) {
	for _, text := range []string{"", "plain", `"},"x":{"`, `\`, "a\nb", "<&>", "é", "\xff", "\x7f"} {
		p := problem{reason: ReasonDuplicate, detail: text, requestID: text, violated: []string{text, "b"}, holder: cluster.Holder{RequestID: text, Replica: text, Age: 1234567 * time.Microsecond}}
		_, body := p.answer(http.Header{}, post(""), new([3]string))
		var got struct {
			told
			Holder struct {
				RequestID, Replica string
				Age                float64
			}
			Violated []string `json:"violated-policies"`
		}
		if err := json.Unmarshal(body, &got); err != nil {
			t.Errorf("%q: %v in %s", text, err, body)
			continue
		}
		want := strings.ToValidUTF8(text, "\uFFFD")
		if text == "" {
			want = reasons[ReasonDuplicate].detail + wasNotSent
		}
		if got.Detail != want || got.Message != want || got.Error.Message != want || got.Holder.Replica != strings.ToValidUTF8(text, "\uFFFD") || got.Holder.Age != 1.235 ||
			len(got.Violated) != 2 || got.Violated[1] != "b" {
			t.Errorf("%q: got %+v of %s", text, got, body)
		}
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
			if got := items(t, again, "RateLimit"); got != tt.last && !strings.Contains(tt.last, ", ") { // of two, it remembers what refused
				t.Errorf("got %s the second time, want %s", got, tt.last)
			}
			retryAfter, _ := strconv.Atoi(tt.retryAfter)
			if got, _ := strconv.Atoi(again.Header.Get("Retry-After")); got < retryAfter { // it is told to come after the first
				t.Errorf("got Retry-After: %d the second time, want at least %s", got, tt.retryAfter)
			}
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
