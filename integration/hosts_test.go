package integration

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
)

// echoes is an upstream that answers by the Host and target that it got, and
// counts its connections.
func echoes(t *testing.T) (u *httptest.Server, made *atomic.Int64) {
	t.Helper()
	made = &atomic.Int64{}
	u = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = fmt.Fprintf(w, "%s %s %s", r.Host, r.RequestURI, r.Header.Get("X-Forwarded-Prefix"))
	}))
	u.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			made.Add(1)
		}
	}
	u.Start()
	t.Cleanup(u.Close)
	return u, made
}

// ask sends a request to a host, whatever is connected to.
func ask(t *testing.T, c *http.Client, method, url, body, host string) answer {
	t.Helper()
	a, err := try(t.Context(), c, method, url, body, "Host: "+host)
	if err != nil {
		t.Errorf("%s %s: no answer: %v", method, url, err)
	}
	return a
}

// TestHosts: which route a request is of, by HTTP/1 and HTTP/2, in clear and in
// TLS, small and large.
func TestHosts(t *testing.T) {
	t.Parallel()
	a, _ := echoes(t)
	b, _ := echoes(t)
	rest, _ := echoes(t)
	name := map[string]string{a.Listener.Addr().String(): "a", b.Listener.Addr().String(): "b", rest.Listener.Addr().String(): "rest"}
	pair, cert, key := newKeyPair(t, "replica.test")
	flags := []string{
		"--register", "a=" + a.URL, "--register", "b=" + b.URL + "/base?k=v", "--register", "rest=" + rest.URL,
		"--host", "a=a.example.com", "--host", "b=*.b.example.com", "--host", "rest=*", "--rate", "off", "--dedupe", "off",
	}
	clear := startReplica(t, flags...)
	secure := startReplica(t, append(flags, "--tls-cert", writeFile(t, "cert.pem", cert), "--tls-key", writeFile(t, "key.pem", key))...)
	for protocol, by := range map[string]struct {
		base   string
		client *http.Client
	}{
		"http/1.1": {clear.url, protoClient(t, &http.Transport{}, func(p *http.Protocols) { p.SetHTTP1(true) })},
		"h2c":      {clear.url, protoClient(t, &http.Transport{}, func(p *http.Protocols) { p.SetUnencryptedHTTP2(true) })},
		"https":    {"https://" + secure.addr, protoClient(t, &http.Transport{TLSClientConfig: trusting(pair)}, func(p *http.Protocols) { p.SetHTTP1(true) })},
		"h2":       {"https://" + secure.addr, protoClient(t, &http.Transport{TLSClientConfig: trusting(pair)}, func(p *http.Protocols) { p.SetHTTP2(true) })},
	} {
		for _, test := range []struct{ host, target, want string }{
			{"a.example.com", "/x?y", "a /x?y "},
			{"A.Example.COM.:80", "/a/x", "a /a/x "},
			{"w.b.example.com", "/x?y", "b /base/x?k=v&y "},
			{"v.w.b.example.com", "/", "b /base?k=v "},
			{"b.example.com", "/x", "rest /x "},
			{"other.example", "/a/x", "a /x /a"},
			{"other.example", "/nothing?x", "rest /nothing?x "},
			{"a.example.com", "/-/metrics", "a /-/metrics "},
			{"other.example", "/-/", "rest /-/ "},
			{"a.example.com", "/-/healthy", "ok\n"},
			{"other.example", "/-/ready", "ok\n"},
		} {
			for _, body := range []string{"", strings.Repeat("b", 20<<10)} {
				got := ask(t, by.client, http.MethodPost, by.base+test.target, body, test.host)
				upstream, said, _ := strings.Cut(got.body, " ")
				if name[upstream] != "" {
					got.body = name[upstream] + " " + said
				}
				if got.status != 200 || got.body != test.want {
					t.Errorf("%s, %s%s, %d bytes: got %d %q, want %q", protocol, test.host, test.target, len(body), got.status, got.body, test.want)
				}
			}
		}
	}
	if got, want := clear.stderr.String(), "a     no limit; repeats are forwarded; hosts a.example.com\n"; !strings.Contains(got, want) {
		t.Errorf("start lines: got %q, want %q in them", got, want)
	}
}

// TestCombinations of a host route with what else a route can have.
func TestCombinations(t *testing.T) {
	t.Parallel()
	u, _ := echoes(t)
	base := []string{"--register", "a=" + u.URL, "--register", "b=" + u.URL, "--host", "a=a.example", "--host", "b=*.b.example"}
	for name, test := range map[string]struct {
		flags []string
		asks  string // hosts, each with the body and what comes of it
	}{
		"a budget":                      {[]string{"--rate", "1/h"}, "a.example 1 200, a.example 2 429 limited, x.b.example 3 200, y.b.example 4 429 limited"},
		"one budget for path and host":  {[]string{"--rate", "1/h"}, "a.example 1 200, /a 2 429 limited"},
		"a pool":                        {[]string{"--rate", "off", "--pool", "p=a,b", "--rate", "p=1/h"}, "a.example 1 200, x.b.example 2 429 limited"},
		"a budget for each host":        {[]string{"--rate", "1/h,by=header:Host"}, "x.b.example 1 200, x.b.example 2 429 limited, y.b.example 3 200, X.B.Example.:1 4 429 limited"},
		"shadow":                        {[]string{"--rate", "1/h", "--shadow", "on"}, "a.example 1 200, a.example 1 200"},
		"duplicates":                    {[]string{"--rate", "off"}, "a.example 1 200, a.example 1 409 held, a.example 2 200"},
		"duplicates by path and host":   {[]string{"--rate", "off"}, "a.example 1 200, /a 1 409 held"},
		"duplicates of two hosts":       {[]string{"--rate", "off"}, "x.b.example 1 200, y.b.example 1 409 held"},
		"of two hosts that are told":    {[]string{"--rate", "off", "--pass-host", "on"}, "x.b.example 1 200, y.b.example 1 200, Y.b.example. 1 409 held"},
		"dedupe by Host":                {[]string{"--rate", "off", "--dedupe-header", "Host"}, "x.b.example 1 200, y.b.example 1 200, y.b.example 1 409 held"},
		"no duplicates":                 {[]string{"--rate", "off", "--dedupe", "off"}, "a.example 1 200, a.example 1 200"},
		"other status for a duplicate":  {[]string{"--rate", "off", "--duplicate-status", "425"}, "a.example 1 200, a.example 1 425 held"},
		"a connection for each request": {[]string{"--rate", "off", "--upstream-keepalive", "off"}, "a.example 1 200, a.example 2 200, x.b.example 3 200"},
	} {
		t.Run(name, func(t *testing.T) {
			r := startReplica(t, append(base[:len(base):len(base)], test.flags...)...)
			for step := range strings.SplitSeq(test.asks, ", ") {
				words := strings.SplitN(step, " ", 3)
				host, path := words[0], "/"
				if strings.HasPrefix(host, "/") {
					host, path = "x", host
				}
				expect(t, step, ask(t, client, http.MethodPost, r.url+path, words[1], host), words[2])
			}
		})
	}
}

// TestPassHost: the upstream gets the client's Host, but where a field is set.
func TestPassHost(t *testing.T) {
	t.Parallel()
	u, _ := echoes(t)
	r := startReplica(t, "--register", "a="+u.URL, "--register", "b="+u.URL, "--register", "c="+u.URL, "--host", "a=*", "--rate", "off", "--dedupe", "off",
		"--pass-host", "on", "--pass-host", "c=off", "--set-header", "b=Host=set.example")
	for _, body := range []string{"", strings.Repeat("b", 20<<10)} {
		for target, want := range map[string]string{
			"/x": "Asked.example:80 /x ", "/a/x": "Asked.example:80 /x /a", "/b": "set.example / /b", "/c": u.Listener.Addr().String() + " / /c",
		} {
			if got := ask(t, client, http.MethodPost, r.url+target, body, "Asked.example:80"); got.body != want {
				t.Errorf("%s: got %q, want %q", target, got.body, want)
			}
		}
	}
}
