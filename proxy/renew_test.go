package proxy

import (
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
)

// A route that is renewed sends what comes from then on elsewhere, with other
// fields; what is under way ends where it began.
func TestRenew(t *testing.T) {
	arrived, goOn := make(chan string), make(chan struct{})
	serve := func(name string) *httptest.Server {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/slow" {
				arrived <- name
				<-goOn
			}
			_, _ = io.WriteString(w, name+" "+r.Header.Get("Token"))
		}))
		t.Cleanup(s.Close)
		return s
	}
	old, next := serve("old"), serve("next")
	r := newRig(t, nil, func(rt *Route) {
		rt.Upstream = mustParse(t, old.URL)
		rt.SetHeaders = []Field{{"Token", "1"}}
	})
	slow := r.start(request(http.MethodGet, "/hook/slow", ""))
	if got := <-arrived; got != "old" {
		t.Fatalf("got %s", got)
	}
	route := r.routes["hook"].Route
	renew := func(want ...string) {
		t.Helper()
		changed, err := r.Renew([]Route{route})
		if err != nil || !slices.Equal(changed, want) {
			t.Errorf("got %v, %v changed, want %v", changed, err, want)
		}
	}
	say := func(want string) {
		t.Helper()
		if got := text(t, r.do(request(http.MethodGet, "/hook", ""))); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	renew() // by what it is already
	say("old 1")
	route.Upstream = mustParse(t, next.URL)
	renew("hook")
	say("next 1")
	route.SetHeaders = []Field{{"Token", "2"}}
	renew("hook")
	renew()
	say("next 2")
	close(goOn)
	if got := text(t, <-slow); got != "old 1" {
		t.Errorf("the exchange under way got %q", got)
	}
	// A policy stays, and a route that is not there is an error that changes none.
	route.Upstream, route.Dedupe, route.SetHeaders = mustParse(t, old.URL), DedupeAll, nil
	if _, err := r.Renew([]Route{route, {Name: "other"}}); err == nil {
		t.Error("no error for a route that is not registered")
	}
	say("next 2")
	wild := route
	wild.Upstream = mustParse(t, "https://*.example.com")
	if _, err := r.Renew([]Route{wild}); err == nil {
		t.Error("no error for a URL with a *, by which requests find their route")
	}
	renew("hook")
	say("old ")
	if got := r.routes["hook"].now().Dedupe; got != DedupeOn {
		t.Errorf("got dedupe %s, want it as it was", got)
	}
}
