package integration

import (
	"net/http"
	"strings"
	"testing"
)

// Fails if a status of success breaks an answer that tells of a duplicate, on
// either protocol and with either store.
func TestDuplicateThatIsASuccess(t *testing.T) {
	t.Parallel()
	u := newUpstream(t)
	words := []string{"--register", "done=" + u.URL, "--register", "empty=" + u.URL, "--rate", "off",
		"--duplicate-status", "done=200", "--duplicate-status", "empty=204"}
	for store, url := range map[string]string{"memory": startReplica(t, words...).url, "Redis": startFleet(t, 2, words...).replicas[0].url} {
		for name, c := range map[string]*http.Client{
			"HTTP/1.1": client,
			"h2c":      protoClient(t, &http.Transport{}, func(p *http.Protocols) { p.SetUnencryptedHTTP2(true) }),
		} {
			body := store + " " + name
			for route, want := range map[string]struct {
				status            int
				contentType, body string
			}{
				"done":  {200, "application/json", `{"status":"duplicate",`},
				"empty": {204, "", ""},
			} {
				expect(t, body, post(t, url+"/"+route, body), "200")
				a, err := try(t.Context(), c, http.MethodPost, url+"/"+route, body)
				if err != nil || a.status != want.status || a.header.Get("Content-Type") != want.contentType || !strings.HasPrefix(a.body, want.body) || a.body == "" != (want.body == "") ||
					a.header.Get("X-Should-Retry") != "" || a.header.Get("Proxy-Status") == "" {
					t.Errorf("%s, %s: got %d %q of %v and %v, want %d %s", body, route, a.status, a.body, a.header, err, want.status, want.body)
				}
			}
		}
	}
	if n := len(u.all()); n != 8 {
		t.Errorf("%d requests reached the upstream, want 8", n)
	}
}

// Fails if a browser's preflights spend what the requests that follow need, are
// kept from the upstream, or if its page cannot read a refusal.
func TestBrowsersAreServed(t *testing.T) {
	t.Parallel()
	u := newUpstream(t)
	words := []string{"--register", "hook=" + u.URL, "--rate", "3/d", "--dedupe", "all"}
	const page, asks = "Origin: https://page.example", "Access-Control-Request-Method: POST"
	for store, url := range map[string]string{"memory": startReplica(t, words...).url, "Redis": startFleet(t, 2, words...).url} {
		before := len(u.all())
		for range 5 {
			expect(t, store+": a preflight", do(t, http.MethodOptions, url+"/hook", "", page, asks), "200")
		}
		if n := len(u.all()) - before; n != 5 {
			t.Errorf("%s: %d preflights reached the upstream, want 5", store, n)
		}
		first := post(t, url+"/hook", "hello", page)
		expect(t, store+": the request that follows", first, "200")
		if got := first.remaining(t, "hook"); got != 2 {
			t.Errorf("%s: %d requests remain, want 2", store, got)
		}
		if got := first.header.Get("Access-Control-Allow-Origin"); got != "" {
			t.Errorf("%s: the upstream's answer has Access-Control-Allow-Origin: %s", store, got)
		}
		again := post(t, url+"/hook", "hello", page)
		if again.status != http.StatusConflict || again.header.Get("Access-Control-Allow-Origin") != "*" || !strings.Contains(again.header.Get("Access-Control-Expose-Headers"), "X-Should-Retry") {
			t.Errorf("%s: no page can read %v of %v", store, again, again.header)
		}
	}
}
