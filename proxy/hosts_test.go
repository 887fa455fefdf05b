package proxy

import (
	"bufio"
	"cmp"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"throttle-proxy/cluster"
)

func TestParseHost(t *testing.T) {
	for s, want := range map[string]string{
		"*": "*", "a.example.com": "a.example.com", "A.Example.COM.": "a.example.com", "localhost": "localhost", "my_service-1": "my_service-1",
		"*.example.com": "*.example.com", "*.b.Example.com.": "*.b.example.com", "*.local": "*.local",
		"127.0.0.1": "127.0.0.1", "[::1]": "::1", "::1": "::1", "FE80::1": "fe80::1",
		"bücher.example": "xn--bcher-kva.example", "*.BÜCHER.example": "*.xn--bcher-kva.example",
	} {
		if got, err := ParseHost(s); got != want || err != nil {
			t.Errorf("%s: got %q, %v, want %q", s, got, err, want)
		}
	}
	for _, s := range []string{
		"", ".", "*.", "**", "a.*", "*a.example", "a.*.example", "*.*.example", "a..b", ".a", "a b", "a/b", "http://a", "a:80", "127.0.0.1:80", "[::1]:80", "user@a", "a?b", "a#b",
		strings.Repeat("a", 64) + ".example", strings.Repeat("a.", 127) + "a", "a\n",
	} {
		if got, err := ParseHost(s); err == nil {
			t.Errorf("%q was taken as %q", s, got)
		}
	}
}

// hosted returns a Proxy of routes whose names say what they have: their hosts
// come after a space, and a * in front is one in the URL.
func hosted(tb testing.TB, routes ...string) *Proxy {
	tb.Helper()
	var all []Route
	for _, text := range routes {
		name, hosts, _ := strings.Cut(text, " ")
		url := "http://upstream.example/" + name
		if bare, ok := strings.CutPrefix(name, "*"); ok {
			name, url = bare, map[string]string{"aws": "https://*.amazonaws.com/"}[bare]
			url = cmp.Or(url, "https://*.upstream.example/"+bare)
		}
		all = append(all, Route{Name: name, Upstream: mustParse(tb, url), Hosts: strings.Fields(hosts), Forwarded: true, DuplicateStatus: 409})
	}
	p, err := New(all, Options{Cluster: cluster.NewMemory("replica-1"), MaxBody: 1 << 20, BodyMemory: 1 << 30, MaxInFlight: 1000})
	if err != nil {
		tb.Fatal(err)
	}
	return p
}

// parsed returns a request as a server reads it.
func parsed(tb testing.TB, target, host string) *http.Request {
	tb.Helper()
	r, err := http.ReadRequest(bufio.NewReader(strings.NewReader("GET " + target + " HTTP/1.1\r\nHost: " + host + "\r\n\r\n")))
	if err != nil {
		tb.Fatal(err)
	}
	return r
}

func TestWhichRouteARequestIsOf(t *testing.T) {
	all := []string{
		"path", "exact a.example.com 127.0.0.1 ::1 xn--bcher-kva.example", "wide *.b.example.com", "deep *.c.b.example.com x.b.example.com",
		"*partner *.example.com.proxy", "*aws *.amazonaws.proxy", "rest *",
	}
	some := all[:len(all)-1]
	for _, test := range []struct {
		routes       []string
		host, target string
		want         string // route, prefix or -, labels or -, rest and query
	}{
		{all, "a.example.com", "/x/y?z", "exact - - /x/y?z"},
		{all, "A.Example.COM", "/x", "exact - - /x"},
		{all, "a.example.com.", "/x", "exact - - /x"},
		{all, "a.example.com:8080", "/x", "exact - - /x"},
		{all, "A.example.com.:8080", "/x", "exact - - /x"},
		{all, "a.example.com:", "/x", "exact - - /x"},
		{all, "127.0.0.1:80", "/x", "exact - - /x"},
		{all, "[::1]:80", "/x", "exact - - /x"},
		{all, "[::1]", "/x", "exact - - /x"},
		{all, "xn--bcher-kva.example", "/x", "exact - - /x"},
		{all, "a.example.com", "/", "exact - - "},
		{all, "a.example.com", "/?q", "exact - - ?q"},
		{all, "a.example.com", "//x", "exact - - //x"},
		// The host comes before the path, but for *.
		{all, "a.example.com", "/path/x", "exact - - /path/x"},
		{all, "other.example", "/path/x", "path /path - /x"},
		{all, "other.example", "/nothing/x", "rest - - /nothing/x"},
		{all, "", "/path", "path /path - "},
		{all, "", "/x", "rest - - /x"},
		// Hosts are one way to a route, and its name another.
		{all, "other.example", "/exact/x", "exact /exact - /x"},
		// A * is one label or several, and the longest suffix counts.
		{all, "w.b.example.com", "/x", "wide - - /x"},
		{all, "v.w.b.example.com", "/x", "wide - - /x"},
		{all, "w.c.b.example.com", "/x", "deep - - /x"},
		{all, "c.b.example.com", "/x", "wide - - /x"},
		{all, "x.b.example.com", "/x", "deep - - /x"},
		{some, "b.example.com", "/x", ""},
		{some, ".b.example.com", "/x", ""},
		{some, "..b.example.com", "/x", ""},
		{some, "a..b.example.com", "/x", ""},
		{some, "w.b.example.com.evil.example", "/x", ""},
		{some, "wb.example.com", "/x", ""},
		{some, "w.b.example.com..", "/x", ""},
		{some, "w.b.example.com:80:90", "/x", ""},
		{some, "w%2eb.example.com", "/x", ""},
		{some, strings.Repeat("a", 64) + ".b.example.com", "/x", ""},
		{some, strings.Repeat("a.", 125) + "b.example.com", "/x", ""},
		{some, "other.example", "/", ""},
		// By name.
		{all, "w.example.com.proxy", "/x?y", "partner - w /x?y"},
		{all, "V.W.Example.com.Proxy.:80", "/x", "partner - v.w /x"},
		{some, "example.com.proxy", "/x", ""},
		{some, "w.s3.amazonaws.proxy", "/x", ""}, // s3.amazonaws.com has others below it
		{some, "sqs.amazonaws.proxy", "/x", "aws - sqs /x"},
		{some, "127.0.0.1/.example.com.proxy", "/x", ""},
		{some, "a@b.example.com.proxy", "/x", ""},
		{some, "other.example", "/partner/x", ""}, // its URL alone leads nowhere
		// Whole targets, of clients that use us as a proxy.
		{all, "ignored.example", "http://a.example.com/x?y", "exact - - /x?y"},
		{all, "ignored.example", "http://w.example.com.proxy:99/x", "partner - w /x"},
		{all, "ignored.example", "http://user:password@a.example.com", "exact - - "},
		{all, "ignored.example", "http://a.example.com?y", "exact - - ?y"},
		{all, "a.example.com", "http://other.example/path/x", "path /path - /x"},
		{all, "a.example.com", "*", ""},
	} {
		m := hosted(t, test.routes...).match(parsed(t, test.target, test.host))
		got := ""
		if m.route != nil {
			or := func(s string) string { return strings.Replace("-"+s, "-", map[bool]string{true: "-"}[s == ""], 1) }
			got = m.route.Name + " " + or(m.prefix) + " " + or(m.labels) + " " + m.rest + m.query
		}
		if got != test.want {
			t.Errorf("%s at %s: got %q, want %q", test.target, test.host, got, test.want)
		}
	}
}

func TestHostsOfTwoRoutesAreAnError(t *testing.T) {
	for _, routes := range [][2]string{{"a x.example", "b X.example."}, {"a *", "b *"}, {"a *.x", "b *.x"}, {"*a x.example", "b"}, {"*a *", "b"}, {"a x:80", "b"}} {
		var all []Route
		for _, text := range routes {
			name, hosts, _ := strings.Cut(text, " ")
			url := "http://upstream.example"
			if strings.HasPrefix(name, "*") {
				name, url = name[1:], "https://*.upstream.example"
			}
			all = append(all, Route{Name: name, Upstream: mustParse(t, url), Hosts: strings.Fields(hosts)})
		}
		if _, err := New(all, Options{}); err == nil {
			t.Errorf("%v: no error", routes)
		}
	}
}

// TestPlainPathsCostNothingMore: finding a route allocates nothing.
func TestPlainPathsCostNothingMore(t *testing.T) {
	for _, test := range []struct{ routes, host, target string }{
		{"hook", "gateway", "/hook/x?y"},
		{"hook a.example.com *.b.example.com *", "gateway.example:80", "/hook/x?y"},
		{"hook a.example.com *.b.example.com", "a.example.com:80", "/x"},
		{"hook a.example.com *.b.example.com", "w.b.example.com", "/x"},
	} {
		p, r := hosted(t, test.routes), parsed(t, test.target, test.host)
		if got := testing.AllocsPerRun(100, func() {
			if p.match(r).route == nil {
				t.Fatal("no route")
			}
		}); got != 0 {
			t.Errorf("%s at %s: got %v allocations, want none", test.target, test.host, got)
		}
	}
}

func BenchmarkMatch(b *testing.B) {
	p, r := hosted(b, "hook"), parsed(b, "/hook/x?y", "gateway")
	b.ReportAllocs()
	for b.Loop() {
		p.match(r)
	}
}

// TestEqualRequestsToOtherHosts are others where the upstream sees the host.
func TestEqualRequestsToOtherHosts(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*Route)
		want   string
	}{
		"one upstream":                {func(*Route) {}, "held"},
		"an upstream that sees Host":  {func(r *Route) { r.PassHost = true }, "200"},
		"Host is named":               {func(r *Route) { r.DedupeHeaders = []string{"host"} }, "200"},
		"a budget goes by Host":       {func(r *Route) { l := limit(t, "hook", "9/s"); l.By.Header = "HOST"; r.Limits = []Limit{l} }, "200"},
		"another spelling of one":     {func(r *Route) { r.PassHost, r.Hosts = true, []string{"*"} }, "200 held"},
		"by a field that is not host": {func(r *Route) { r.DedupeHeaders = []string{"X-Host"} }, "held"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, answers(ok, ""), func(r *Route) { r.Hosts = []string{"*.example"}; test.change(r) })
			ask := func(host string) *http.Response {
				req := post("same")
				req.Host, req.RequestURI = host, "/x"
				return r.do(req)
			}
			wantOutcome(t, ask("a.example"), "200")
			first, again, _ := strings.Cut(test.want, " ")
			wantOutcome(t, ask("b.example"), first)
			if again != "" {
				wantOutcome(t, ask("B.Example.:80"), again)
			}
		})
	}
}

func TestBudgetsByHost(t *testing.T) {
	l := limit(t, "hook", "1/h")
	l.By.Header = "Host"
	r := newRig(t, answers(ok, ""), limits(l), dedupe(DedupeOff))
	for _, test := range []struct{ host, want string }{
		{"a.example", "200"}, {"a.example", "limited"}, {"A.example.:80", "limited"}, {"b.example", "200"}, {"b.example", "limited"},
	} {
		req := httptest.NewRequest(http.MethodGet, "/hook", nil)
		req.Host = test.host
		req.Header.Set("Host", "forged.example") // as HTTP/2 lets clients
		wantOutcome(t, r.do(req), test.want)
	}
}

// TestHostsThatClientsNameAreApart: equal requests to two of them are two, and
// each has a cool-down of its own.
func TestHostsThatClientsNameAreApart(t *testing.T) {
	p := hosted(t, "*partner *.example.com.proxy")
	ask := func(labels string, header ...string) *exchange {
		return &exchange{proxy: p, route: p.routes["partner"], in: post("same", header...), labels: labels, target: "/x"}
	}
	a, b := ask("a"), ask("b")
	if a.compared() == b.compared() || a.compared() != ask("a").compared() {
		t.Errorf("got %q and %q", a.compared(), b.compared())
	}
	p.routes["partner"].CoolDown.Longest = time.Minute
	for _, header := range [][]string{nil, {"Authorization", "key"}} {
		a, b := ask("a", header...).pauses(), ask("b", header...).pauses()
		if slices.ContainsFunc(a, func(pause string) bool { return pause == "" || slices.Contains(b, pause) }) || len(a) != 2 {
			t.Errorf("got the cool-downs %q and %q", a, b)
		}
	}
}

func TestWhatHasComeRound(t *testing.T) {
	p := hosted(t, "hook", "*partner *.example.com.proxy")
	for _, test := range []struct {
		route, via string
		want       bool
	}{
		{"partner", "", false},
		{"partner", "1.1 throttle-proxy", true},
		{"partner", "2.0 edge, HTTP/1.1 Throttle-Proxy (x)", true},
		{"partner", "1.1 throttle-proxy-2, 1.1 edge (throttle-proxy)", false},
		{"hook", strings.Repeat("1.1 throttle-proxy, ", maxOurs-1), false},
		{"hook", strings.Repeat("1.1 throttle-proxy, ", maxOurs), true},
	} {
		x := &exchange{proxy: p, route: p.routes[test.route], in: post("", "Via", test.via)}
		if got := x.comesRound(); got != test.want {
			t.Errorf("%s, Via: %s: got %v, want %v", test.route, test.via, got, test.want)
		}
	}
}
