package proxy

import (
	"context"
	"net/http"
	"net/textproto"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"throttle-proxy/cluster"
)

// safelisted are the fields that any page may read (Fetch, section 2.2.2), and
// those of the protocol.
var safelisted = []string{"Cache-Control", "Content-Type", "Content-Length", "Date", "Connection", "X-Content-Type-Options", "Access-Control-Allow-Origin", "Access-Control-Expose-Headers"}

func TestPagesCanReadOurAnswers(t *testing.T) {
	everyRefusal(t, func(t *testing.T, x refusal) {
		for _, of := range [][]string{nil, {"Content-Type", "application/grpc-web"}} {
			if of != nil && x.compared {
				continue
			}
			res, _ := x.provoke(t, append([]string{"Origin", "https://page.example"}, of...)...)
			if got := res.Header["Access-Control-Allow-Origin"]; !slices.Equal(got, []string{"*"}) {
				t.Errorf("got Access-Control-Allow-Origin: %q", got)
			}
			if got := res.Header["Access-Control-Allow-Credentials"]; got != nil {
				t.Errorf("got Access-Control-Allow-Credentials: %q", got)
			}
			var readable []string
			for name := range strings.SplitSeq(res.Header.Get("Access-Control-Expose-Headers"), ", ") {
				readable = append(readable, textproto.CanonicalMIMEHeaderKey(name))
			}
			for name := range res.Header {
				if canonical := textproto.CanonicalMIMEHeaderKey(name); !slices.Contains(readable, canonical) && !slices.Contains(safelisted, canonical) {
					t.Errorf("a page cannot read %s", name)
				}
			}
		}
	})
}

func TestUpstreamsOwnWordsToPagesPass(t *testing.T) {
	theirs := map[string]string{"Access-Control-Allow-Origin": "https://page.example", "Access-Control-Expose-Headers": "", "Vary": "Origin"}
	for _, status := range []int{200, 429, 503} {
		r := newRig(t, roundTrip(func(req *http.Request) (*http.Response, error) {
			connected(req)
			res := answer(status, "")
			res.Header.Set("Access-Control-Allow-Origin", "https://page.example")
			res.Header.Set("Vary", "Origin")
			return res, nil
		}), limits(limit(t, "hook", "9/s")))
		wantFields(t, r.do(post("", "Origin", "https://page.example")), theirs)
	}
}

// asks notes what is asked.
type asks struct {
	Cluster
	all *[]cluster.Ask
}

func (a asks) Admit(ctx context.Context, ask cluster.Ask) (cluster.Verdict, error) {
	*a.all = append(*a.all, ask)
	return a.Cluster.Admit(ctx, ask)
}

func TestPreflightCostsNothing(t *testing.T) {
	preflight := []string{"Origin", "https://page.example", "Access-Control-Request-Method", "POST"}
	for name, tt := range map[string]struct {
		method string
		header []string
		free   bool
	}{
		"preflight":                             {http.MethodOptions, preflight, true},
		"preflight of a field":                  {http.MethodOptions, append([]string{"Access-Control-Request-Headers", "x-key"}, preflight...), true},
		"OPTIONS":                               {http.MethodOptions, nil, false},
		"OPTIONS of a page":                     {http.MethodOptions, preflight[:2], false},
		"OPTIONS with a method and no page":     {http.MethodOptions, preflight[2:], false},
		"another method with a preflight's own": {http.MethodPost, preflight, false},
		"another method within":                 {http.MethodOptions, append([]string{"X-HTTP-Method-Override", "POST"}, preflight...), false},
		"another method within, of old":         {http.MethodOptions, append([]string{"X-HTTP-Method", "POST"}, preflight...), false},
		"another method within, elsewhere":      {http.MethodOptions, append([]string{"X-Method-Override", "POST"}, preflight...), false},
		"a body":                                {http.MethodOptions, append([]string{"Content-Type", "text/plain"}, preflight...), false},
	} {
		bubble(t, name, func(t *testing.T) {
			perPage := limit(t, "page", "1/h")
			perPage.By = By{Header: "Origin"}
			var all []cluster.Ask
			reached := 0
			r := newRig(t, roundTrip(func(req *http.Request) (*http.Response, error) {
				reached++
				return answers(http.StatusNoContent, "").RoundTrip(req)
			}), dedupe(DedupeAll), limits(limit(t, "hook", "1/h"), perPage))
			r.options.Cluster = asks{r.options.Cluster, &all}
			for i := range 3 {
				want := "204"
				if i > 0 && !tt.free {
					want = "held"
				}
				body := ""
				if name == "a body" {
					body = "message"
				}
				wantOutcome(t, r.do(request(tt.method, "/hook", body, tt.header...)), want)
			}
			if want := map[bool]int{true: 3, false: 1}[tt.free]; reached != want {
				t.Errorf("%d reached the upstream, want %d", reached, want)
			}
			for _, ask := range all {
				if got := len(ask.Charges) == 0 && ask.Fingerprint == nil; got != tt.free {
					t.Errorf("asked %+v, want nothing of a budget or lock: %v", ask, tt.free)
				}
			}
			// What follows a preflight has the whole budget.
			res := r.do(post("next", "Origin", "https://page.example"))
			if want := map[bool]string{true: "204", false: "limited"}[tt.free]; result(t, res) != want {
				t.Errorf("afterwards: got %s, want %s", result(t, res), want)
			}
		})
	}
}

// Free is not without bounds: what limits how many are at once counts preflights.
func TestPreflightsAtOnceAreLimited(t *testing.T) {
	for want, most := range map[string]int64{"busy": 1000, "too-many-in-flight": 1} {
		bubble(t, want, func(t *testing.T) {
			preflight := func() *http.Request {
				return request(http.MethodOptions, "/hook", "", "Origin", "https://page.example", "Access-Control-Request-Method", "POST")
			}
			upstream := newGate(t)
			r := newRig(t, upstream, func(r *Route) {
				if want == "busy" {
					r.Concurrency = []Concurrency{{Most: 1, Name: "few"}}
				}
			})
			r.options.MaxInFlight = most
			first := r.start(preflight())
			synctest.Wait()
			wantOutcome(t, r.do(preflight()), want)
			upstream.answers <- answer(http.StatusNoContent, "")
			wantOutcome(t, <-first, "204")
		})
	}
}

// A pause is the upstream's own wish, also for preflights.
func TestPreflightWaitsForACoolDown(t *testing.T) {
	r := newRig(t, answers(ok, ""))
	r.options.Cluster.Pause("hook", "", 7*time.Second, 429)
	wantOutcome(t, r.do(request(http.MethodOptions, "/hook", "", "Origin", "https://page.example", "Access-Control-Request-Method", "POST")), "cooling-down")
}
