package proxy

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"throttle-proxy/cluster"
)

// pausing is an upstream that answers the first request by a status and names
// and values of fields, all others well.
type pausing struct {
	status int
	header []string
	calls  int
}

func (p *pausing) RoundTrip(req *http.Request) (*http.Response, error) {
	if p.calls++; p.calls > 1 {
		return answers(ok, "").RoundTrip(req)
	}
	connected(req)
	res := answer(p.status, "its own words")
	for i := 0; i < len(p.header); i += 2 {
		res.Header.Add(p.header[i], p.header[i+1])
	}
	return res, nil
}

// wantCooling checks that a request is refused for so long, by 429.
func wantCooling(t *testing.T, r *rig, req *http.Request, retryAfter string) {
	t.Helper()
	wantPaused(t, r, req, http.StatusTooManyRequests, retryAfter)
}

// wantPaused is wantCooling for what began with a status.
func wantPaused(t *testing.T, r *rig, req *http.Request, status int, retryAfter string) {
	t.Helper()
	res := r.do(req)
	wantOutcome(t, res, "cooling-down")
	if got := res.Header.Get("Retry-After"); got != retryAfter || res.StatusCode != status {
		t.Errorf("got %d, Retry-After: %s, want %d and %s", res.StatusCode, got, status, retryAfter)
	}
}

// date is a moment of the bubble's clock, which begins with the year 2000, or of
// another that is off by some time.
func date(d time.Duration) string { return time.Now().Add(d).UTC().Format(http.TimeFormat) }

func TestCoolDownIsOnlyEverExtended(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate(t)
		r := newRig(t, g)
		// All were sent before the first was answered.
		var inFlight []<-chan *http.Response
		for i := range 4 {
			inFlight = append(inFlight, r.start(post(fmt.Sprint(i))))
		}
		synctest.Wait()
		// It is answered by the status of what lets it last as long as it does.
		for _, step := range []struct {
			status           int
			retryAfter, want string
			paused           int
		}{{503, "10", "10", 503}, {429, "5", "10", 503}, {503, "", "10", 503}, {429, "20", "20", 429}} {
			res := answer(step.status, "")
			res.Header.Set("Retry-After", step.retryAfter)
			g.answers <- res
			synctest.Wait()
			wantPaused(t, r, post("next"), step.paused, step.want)
		}
		for _, answer := range inFlight {
			<-answer
		}
		time.Sleep(20 * time.Second)
		r.over(answers(ok, ""))
		wantOutcome(t, r.do(post("next")), "200")
	})
}

func TestCoolDownOff(t *testing.T) {
	up := &pausing{status: 429, header: []string{"Retry-After", "7"}}
	r := newRig(t, up, func(r *Route) { r.CoolDown = CoolDown{} })
	wantOutcome(t, r.do(post("first")), "429")
	wantOutcome(t, r.do(post("second")), "200")
	if e := <-r.events; e.CoolDown != 0 {
		t.Errorf("got a cool-down of %s, want none", e.CoolDown)
	}
	// Nor is it under one that another replica's flags let it know of.
	r.options.Cluster.Pause("hook", "", time.Minute, 429)
	wantOutcome(t, r.do(post("third")), "200")
}

func TestWhoIsPaused(t *testing.T) {
	alice, bob := []string{"Authorization", "Bearer alice"}, []string{"Authorization", "Bearer bob"}
	key := []string{"X-Api-Key", "alice"}
	both := append(append([]string(nil), alice...), key...)
	callers := map[string][]string{
		"nobody": nil, "alice": alice, "bob": bob, "key": key, "both": both,
		"cookie": {"Cookie", "alice"}, "lower case": {"authorization", "bearer alice"}, "empty": {"Authorization", "", "X-Api-Key", ""},
		"two+lines": {"Authorization", "Bearer", "Authorization", "alice"},
	}
	everybody := strings.Fields("nobody alice bob key both cookie empty")
	withCredentials := strings.Fields("alice bob key both two+lines")
	without := strings.Fields("nobody cookie empty")
	setAuthorization := func(r *Route) { r.SetHeaders = []Field{{"Authorization", "Bearer ours"}} }
	for _, tt := range []struct {
		name   string
		change func(*Route)
		caller string
		paused []string
		free   []string
	}{
		{"by Authorization", nil, "alice", []string{"alice", "lower case"}, []string{"nobody", "bob", "key", "both", "cookie", "empty", "two+lines"}},
		{"by X-Api-Key", nil, "key", []string{"key"}, []string{"nobody", "alice", "bob", "both", "empty"}},
		{"by both", nil, "both", []string{"both"}, []string{"nobody", "alice", "key"}},
		{"without", nil, "nobody", without, withCredentials},
		{"a cookie is not one", nil, "cookie", without, withCredentials},
		{"an empty field is not one", nil, "empty", without, withCredentials},
		{"Authorization set by the route", setAuthorization, "alice", everybody, nil},
		{"Authorization set by the route, X-Api-Key not", setAuthorization, "both", everybody, nil},
		{"Cookie set by the route", func(r *Route) { r.SetHeaders = []Field{{"Cookie", "ours"}} }, "alice", everybody, nil},
		{"a key of another name set by the route", func(r *Route) { r.SetHeaders = []Field{{"X-Goog-Api-Key", "ours"}} }, "alice", everybody, nil},
		{"a token set by the route", func(r *Route) { r.SetHeaders = []Field{{"Private-Token", "ours"}} }, "alice", everybody, nil},
		{"Idempotency-Key set by the route", func(r *Route) { r.SetHeaders = []Field{{"Idempotency-Key", "ours"}} }, "alice", []string{"alice"}, []string{"nobody", "bob"}},
		{"a secret URL", func(r *Route) { r.SecretURL = true }, "alice", everybody, nil},
		{"a known webhook", upstreamURL(t, "https://hooks.slack.com/services/T0"), "alice", everybody, nil},
		{"a known API", upstreamURL(t, "https://api.github.com"), "alice", []string{"alice"}, []string{"nobody", "bob", "key"}},
		{"X-Api-Key set by the route", func(r *Route) { r.SetHeaders = []Field{{"X-Api-Key", "ours"}} }, "key", everybody, nil},
		{"another field set by the route", func(r *Route) { r.SetHeaders = []Field{{"X-Team", "ours"}} }, "alice", []string{"alice"}, []string{"nobody", "bob"}},
		{"Authorization of userinfo", upstreamURL(t, "https://user:password@upstream.example"), "alice", everybody, nil},
		{"in a pool", func(r *Route) { r.Pool = "team" }, "alice", []string{"alice"}, []string{"nobody", "bob", "key"}},
		{"in a pool, without", func(r *Route) { r.Pool = "team" }, "nobody", without, withCredentials},
	} {
		bubble(t, tt.name, func(t *testing.T) {
			if tt.change == nil {
				tt.change = func(*Route) {}
			}
			r := newRig(t, &pausing{status: 429, header: []string{"Retry-After", "60"}}, tt.change)
			wantOutcome(t, r.do(post("first", callers[tt.caller]...)), "429")
			for _, caller := range tt.paused {
				wantCooling(t, r, post("for "+caller, callers[caller]...), "60")
			}
			for _, caller := range tt.free {
				if got := result(t, r.do(post("for "+caller, callers[caller]...))); got != "200" {
					t.Errorf("%s: got %s, want 200", caller, got)
				}
			}
		})
	}
}

// Each route of a pool has an upstream of its own.
func TestRoutesOfAPoolCoolDownByThemselves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, &pausing{status: 429, header: []string{"Retry-After", "60"}}, func(r *Route) { r.Pool = "team" })
		other := r.routes["hook"].Route
		other.Name = "other"
		rt, err := newRoute(other)
		if err != nil {
			t.Fatal(err)
		}
		rt.over(answers(ok, ""))
		r.routes["other"] = rt
		for _, caller := range [][]string{nil, {"Authorization", "alice"}} {
			r.over(&pausing{status: 429, header: []string{"Retry-After", "60"}})
			wantOutcome(t, r.do(post("first", caller...)), "429")
			wantCooling(t, r, post("second", caller...), "60")
			wantOutcome(t, r.do(request(http.MethodPost, "/other", fmt.Sprint(caller), caller...)), "200")
			time.Sleep(time.Minute)
		}
	})
}

// TestEveryRequestCoolsDown is about requests that ask for nothing else, and
// about the order: cooling down, then duplicate, then limited.
func TestEveryRequestCoolsDown(t *testing.T) {
	upgrade := []string{"Connection", "Upgrade", "Upgrade", "websocket"}
	for name, tt := range map[string]struct {
		change func(*Route)
		req    func() *http.Request
	}{
		"post":             {nil, func() *http.Request { return post("new") }},
		"get":              {nil, func() *http.Request { return request(http.MethodGet, "/hook/path", "") }},
		"head":             {nil, func() *http.Request { return request(http.MethodHead, "/hook", "") }},
		"another path":     {nil, func() *http.Request { return request(http.MethodPut, "/hook/elsewhere?query", "") }},
		"upgrade":          {nil, func() *http.Request { return request(http.MethodGet, "/hook", "", upgrade...) }},
		"nothing compared": {dedupe(DedupeOff), func() *http.Request { return post("same") }},
		"limited":          {limits(limit(t, "hook", "3/h")), func() *http.Request { return post("new") }},
		"limited before":   {limits(limit(t, "hook", "2/h")), func() *http.Request { return post("new") }},
	} {
		bubble(t, name, func(t *testing.T) {
			if tt.change == nil {
				tt.change = func(*Route) {}
			}
			g := newGate(t)
			r := newRig(t, g, tt.change, hold(time.Hour))
			held := r.start(post("held"))
			synctest.Wait()
			g.answers <- answer(ok, "")
			wantOutcome(t, <-held, "200")
			// Two are there before any is answered; the first of them is.
			inFlight := []<-chan *http.Response{r.start(post("asks for a pause"))}
			synctest.Wait()
			inFlight = append(inFlight, r.start(post("in flight")))
			synctest.Wait()
			if name == "limited before" {
				inFlight = inFlight[:1]
				wantOutcome(t, r.do(post("the first beyond")), "limited")
			}
			res := answer(http.StatusTooManyRequests, "")
			res.Header.Set("Retry-After", "60")
			g.answers <- res
			synctest.Wait()
			arrived := g.arrived.Load()
			if name != "nothing compared" { // a duplicate is one first
				wantOutcome(t, r.do(post("held")), "held")
			}
			if name == "post" {
				wantOutcome(t, r.do(post("in flight")), "duplicate")
			}
			if tt.req().Method == http.MethodHead { // which has no body to read the reason from
				if res := r.do(tt.req()); res.Header.Get("Retry-After") != "60" || res.StatusCode != http.StatusTooManyRequests {
					t.Errorf("got %d, Retry-After: %s, want 429 and 60", res.StatusCode, res.Header.Get("Retry-After"))
				}
			} else {
				wantCooling(t, r, tt.req(), "60")
			}
			if g.arrived.Load() != arrived {
				t.Error("it reached the upstream")
			}
			for range len(inFlight) - 1 {
				g.answers <- answer(ok, "")
			}
			for _, answer := range inFlight {
				<-answer
			}
			// What was refused has spent nothing, and left no lock.
			time.Sleep(time.Hour)
			r.over(answers(created, ""))
			if tt.req().Method != http.MethodHead {
				wantOutcome(t, r.do(tt.req()), "201")
			}
		})
	}
}

func TestCoolingDownIsAnsweredBeforeABodyThatIsNotComparedIsRead(t *testing.T) {
	r := newRig(t, answers(ok, ""), dedupe(DedupeOff))
	r.options.Cluster.Pause("hook", "", time.Minute, 429)
	r.wantFirst(t, http.MethodPost, "cooling-down")
}

// In shadow mode an upstream's wish is noted, and what it would refuse reported.
func TestShadowCoolsNothingDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		up := &pausing{status: 503, header: []string{"Retry-After", "60"}}
		r := newRig(t, up, shadow)
		wantOutcome(t, r.do(post("first")), "503")
		if e := <-r.events; e.CoolDown != time.Minute || e.Shadowed != "" {
			t.Errorf("got a cool-down of %s and shadowed %q, want a minute alone", e.CoolDown, e.Shadowed)
		}
		wantOutcome(t, r.do(post("second")), "200")
		if e := <-r.events; e.Shadowed != ReasonCoolingDown || e.Reason != "" || e.CoolDown != 0 {
			t.Errorf("got reason %q, shadowed %q, want shadowed cooling-down", e.Reason, e.Shadowed)
		}
		time.Sleep(time.Minute)
		wantOutcome(t, r.do(post("third")), "200")
		if e := <-r.events; e.Shadowed != "" {
			t.Errorf("shadowed %q after the end", e.Shadowed)
		}
	})
}

// A streamed answer is as any other.
func TestStreamedAnswerAsksForAPause(t *testing.T) {
	up := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Retry-After", "60")
		w.WriteHeader(http.StatusTooManyRequests)
		for range 3 {
			_, _ = io.WriteString(w, "part ")
			_ = http.NewResponseController(w).Flush()
		}
	}))
	r := newRig(t, nil, upstreamURL(t, up.URL), dedupe(DedupeOff))
	res := r.do(post("first"))
	if got := text(t, res); got != "part part part " || res.StatusCode != http.StatusTooManyRequests || res.Header.Get("Retry-After") != "60" {
		t.Errorf("got %d %q, want 429 and the upstream's parts", res.StatusCode, got)
	}
	wantOutcome(t, r.do(post("second")), "cooling-down")
}

// TestPausesOfAnAsk shows that no part of a credential is in what the store is
// asked.
func TestPausesOfAnAsk(t *testing.T) {
	for pool, own := range map[string]string{"": "", "team": "hook"} {
		r := newRig(t, answers(ok, ""), func(r *Route) { r.Pool = pool })
		var last cluster.Ask
		r.options.Cluster = asked{r.options.Cluster, &last}
		seen := map[string]bool{}
		for _, header := range [][]string{
			nil, {"Authorization", "canary"}, {"X-Api-Key", "canary"}, {"Authorization", "canary", "X-Api-Key", "canary"},
			{"Authorization", "X-Api-Key", "Authorization", "canary"}, {"Authorization", "canary2"},
		} {
			wantOutcome(t, r.do(request(http.MethodGet, "/hook", "", header...)), "200")
			got := last.Pauses
			if len(got) != 2 || got[0] != own || seen[got[1]] {
				t.Fatalf("pool %q: got %q for %q, want %q and another one's", pool, got, header, own)
			}
			seen[got[1]] = true
			wantNoCanary(t, "ask", fmt.Sprintf("%+v", last))
			if want := pool != ""; strings.HasPrefix(got[1], "hook:") != want {
				t.Errorf("pool %q: got %q, want the route's name in it: %v", pool, got, want)
			}
			if last.LongestPause != 5*time.Minute {
				t.Errorf("got %s as the longest, want 5m", last.LongestPause)
			}
		}
	}
	// Equal requests are of one caller where both credentials are compared.
	for want, headers := range map[bool][]string{true: {"authorization", "X-API-Key"}, false: {"Authorization"}} {
		r := newRig(t, answers(ok, ""), func(r *Route) { r.DedupeHeaders = headers })
		var last cluster.Ask
		r.options.Cluster = asked{r.options.Cluster, &last}
		wantOutcome(t, r.do(post("")), "200")
		if last.OneCaller != want {
			t.Errorf("%q: got %t, want %t", headers, last.OneCaller, want)
		}
	}
}
