package integration

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// The example of the README, in one process: what a first user sees.

func TestAdmittedRequestGetsTheUpstreamsOwnAnswer(t *testing.T) {
	t.Parallel()
	u := newUpstream(t)
	const secret = "/services/T0/B0/XYZ"
	for name, words := range map[string][]string{
		"URL in a variable": {"WEBHOOK_URL=" + u.URL + secret, "--register", "slack=env:WEBHOOK_URL"},
		"plain URL":         {"--register", "slack=" + u.URL + secret},
	} {
		t.Run(name, func(t *testing.T) {
			r := startReplica(t, words...)
			a := post(t, r.url+"/slack", `{"text":"hello"}`, answersOwn, "Content-Type: application/json")
			if a.status != http.StatusAccepted || a.body != "its own words" ||
				!slices.Equal(a.header["X-Own"], []string{"a", "b"}) || a.header.Get("Content-Type") != "text/x-own" {
				t.Errorf("got %d %v %q", a.status, a.header, a.body)
			}
			c := u.last()
			if c.target != secret || c.body != `{"text":"hello"}` || c.header.Get("Content-Type") != "application/json" {
				t.Errorf("the upstream got %s %q %v", c.target, c.body, c.header)
			}
		})
	}
}

func TestPathAndQueryGoBehindTheRegisteredURL(t *testing.T) {
	t.Parallel()
	u := newUpstream(t)
	r := startReplica(t, "--register", "slack="+u.URL+"/base/?first=1", "--rate", "off")
	for path, want := range map[string]string{
		"/slack":                "/base/?first=1",
		"/slack/more/path?x=y":  "/base/more/path?first=1&x=y",
		"/slack/a%2Fb//c?;d=%z": "/base/a%2Fb//c?first=1&;d=%z",
		"/slack/a/../b":         "/base/a/../b?first=1",
	} {
		a := do(t, http.MethodGet, r.url+path, "")
		if c := u.last(); c.nonce != a.nonce || c.target != want {
			t.Errorf("%s: answered %v, the upstream got %s, want %s", path, a, c.target, want)
		}
	}
}

func TestRequestWithoutARouteIsRefused(t *testing.T) {
	t.Parallel()
	u := newUpstream(t)
	r := startReplica(t, "--register", "slack="+u.URL+"/base")
	for path, want := range map[string]string{
		"/":                       "404 unknown-route",
		"/slak":                   "404 unknown-route",
		"/Slack":                  "404 unknown-route",
		"/%73lack":                "404 unknown-route",
		"/other/slack":            "404 unknown-route",
		"/slack/../secret":        "400 bad-path",
		"/slack/x/%2e%2e/../etc/": "400 bad-path",
	} {
		a := post(t, r.url+path, "")
		expect(t, path, a, want)
		if strings.Contains(a.Detail, "slack") && !strings.Contains(path, "slack") {
			t.Errorf("%s: the answer names a route: %s", path, a.Detail)
		}
	}
	if a := post(t, r.url+"/slak", ""); !strings.HasPrefix(a.Detail, `Use /NAME: no route "slak". `) {
		t.Errorf("got detail %q", a.Detail)
	}
	if calls := u.all(); len(calls) != 0 {
		t.Errorf("%d requests reached the upstream", len(calls))
	}
}

func TestEqualRequestIsRefusedWhileInFlightAndOnHold(t *testing.T) {
	t.Parallel()
	u := newUpstream(t)
	defer u.open()
	r := startReplica(t, "--register", "slack="+u.URL, "--register", "short="+u.URL+"/short", "--rate", "off",
		"--hold", "1h", "--hold", "short=300ms")
	first := u.occupy(t, r.url+"/slack", "hello")
	duplicate := post(t, r.url+"/slack", "hello")
	expect(t, "while in flight", duplicate, "409 duplicate")
	if got, want := duplicate.Holder.RequestID, u.last().header.Get("X-Request-Id"); got == "" || got != want {
		t.Errorf("the duplicate is told of %q as its holder, want %q", got, want)
	}
	for name, want := range map[string]string{"Retry-After": "", "X-Should-Retry": "false", "Stripe-Should-Retry": "false"} {
		if got := duplicate.header.Get(name); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
	u.open()
	expect(t, "the first", <-first, "200")
	expect(t, "after its success", post(t, r.url+"/slack", "hello"), "409 held")
	expect(t, "another request", post(t, r.url+"/slack", "bye"), "200")

	// A hold ends by itself, and not before its time.
	expect(t, "the first", post(t, r.url+"/short", "hello"), "200")
	var again answer
	eventually(t, "the hold ends", func() bool {
		again = post(t, r.url+"/short", "hello")
		return again.String() != "409 held"
	})
	expect(t, "after the hold", again, "200")
	calls := u.all()
	if len(calls) != 4 {
		t.Fatalf("%d requests reached the upstream, want 4", len(calls))
	}
	if between := calls[3].start.Sub(calls[2].start); between < 300*time.Millisecond {
		t.Errorf("admitted again after %s", between)
	}
}

func TestWaitingRetryAfterOutAdmits(t *testing.T) {
	t.Parallel()
	u := newUpstream(t)
	r := startReplica(t, "--register", "slack="+u.URL, "--rate", "1/s", "--hold", "0s,unknown=0s")
	body, limited := spend(t, r.url+"/slack")
	if !slices.Equal(limited.Violated, []string{"slack"}) {
		t.Errorf("violated-policies: got %v", limited.Violated)
	}
	seconds, err := strconv.Atoi(limited.header.Get("Retry-After"))
	if err != nil || seconds != 1 {
		t.Fatalf("Retry-After: got %q, want a whole second", limited.header.Get("Retry-After"))
	}
	time.Sleep(time.Duration(seconds) * time.Second) // as the client is told to
	expect(t, "after Retry-After", post(t, r.url+"/slack", body), "200")
	if n := u.arrivals(limited.nonce); n != 0 {
		t.Errorf("the limited request reached the upstream %d times", n)
	}
}

// spend posts different requests until one is limited. It returns that one's
// body and answer.
func spend(t *testing.T, url string) (body string, limited answer) {
	t.Helper()
	eventually(t, "a request is limited", func() bool {
		body = time.Now().String()
		limited = post(t, url, body)
		return limited.status != http.StatusOK
	})
	expect(t, "beyond the budget", limited, "429 limited")
	return body, limited
}
