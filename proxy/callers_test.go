package proxy

import (
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
)

func TestWhoIsOneClient(t *testing.T) {
	for _, tt := range []struct {
		bits       int
		addr, want string
	}{
		{0, "192.0.2.1", "192.0.2.1"},
		{0, "2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"},
		{0, "2001:db8:1:2:ffff::1", "2001:db8:1:2::/64"},
		{0, "2001:db8:1:3::1", "2001:db8:1:3::/64"},
		{56, "192.0.2.1", "192.0.2.1"},
		{56, "2001:db8:1:2ff::1", "2001:db8:1:200::/56"},
		{128, "2001:db8::1", "2001:db8::1/128"},
		{1, "2001:db8::1", "::/1"},
	} {
		if got := (By{Client: true, Prefix: tt.bits}).Network(netip.MustParseAddr(tt.addr)); got != tt.want {
			t.Errorf("%s by /%d: got %s, want %s", tt.addr, tt.bits, got, tt.want)
		}
	}
	if got := (By{Client: true}).Network(netip.Addr{}); got != "unix" {
		t.Errorf("a unix socket: got %s", got)
	}
}

// Each row is two requests of a route with a budget of one.
func TestWhoSharesABudget(t *testing.T) {
	from := func(addr string, header ...string) *http.Request {
		r := request(http.MethodGet, "/hook", "", header...)
		r.RemoteAddr = addr
		return r
	}
	to := func(host string) *http.Request {
		r := request(http.MethodGet, "/hook", "")
		r.Host = host
		return r
	}
	for name, tt := range map[string]struct {
		by     By
		a, b   *http.Request
		shared bool
	}{
		"one address":                 {By{Client: true}, from("192.0.2.1:1"), from("192.0.2.1:2"), true},
		"two addresses":               {By{Client: true}, from("192.0.2.1:1"), from("192.0.2.2:1"), false},
		"one network":                 {By{Client: true, Prefix: 56}, from("[2001:db8:0:100::1]:1"), from("[2001:db8:0:1ff::1]:1"), true},
		"two networks":                {By{Client: true, Prefix: 56}, from("[2001:db8:0:100::1]:1"), from("[2001:db8:0:200::1]:1"), false},
		"a gateway that writes ports": {By{Client: true}, from("10.0.0.1:1", "X-Forwarded-For", "203.0.113.1:1111"), from("10.0.0.1:1", "X-Forwarded-For", "203.0.113.2:1111"), false},
		"and others":                  {By{Client: true}, from("10.0.0.1:1", "X-Forwarded-For", "203.0.113.1:1111"), from("10.0.0.2:1", "X-Forwarded-For", "203.0.113.1:2222"), true},
		"one key":                     {By{Header: "x-key"}, from("192.0.2.1:1", "X-Key", "a"), from("192.0.2.2:1", "X-KEY", "a"), true},
		"two keys":                    {By{Header: "X-Key"}, from("192.0.2.1:1", "X-Key", "a"), from("192.0.2.1:1", "X-Key", "b"), false},
		"a key, and none":             {By{Header: "X-Key"}, from("192.0.2.1:1", "X-Key", "a"), from("192.0.2.1:1"), false},
		"an empty key, and none":      {By{Header: "X-Key"}, from("192.0.2.1:1", "X-Key", ""), from("192.0.2.1:1"), false},
		"a scheme in another case":    {By{Header: "Authorization"}, from("192.0.2.1:1", "Authorization", "Bearer aB"), from("192.0.2.1:1", "Authorization", "bearer aB"), true},
		"a token in another case":     {By{Header: "Authorization"}, from("192.0.2.1:1", "Authorization", "Bearer aB"), from("192.0.2.1:1", "Authorization", "Bearer ab"), false},
		"another scheme":              {By{Header: "Authorization"}, from("192.0.2.1:1", "Authorization", "Bearer a"), from("192.0.2.1:1", "Authorization", "Basic a"), false},
		"cookies in two lines":        {By{Header: "Cookie"}, from("192.0.2.1:1", "Cookie", "a=1; b=2"), from("192.0.2.1:1", "Cookie", "a=1", "Cookie", "b=2"), true},
		"other cookies":               {By{Header: "Cookie"}, from("192.0.2.1:1", "Cookie", "a=1; b=2"), from("192.0.2.1:1", "Cookie", "a=1", "Cookie", "b=3"), false},
		"one host":                    {By{Header: "Host"}, to("A.example."), to("a.example:81"), true},
		"two hosts":                   {By{Header: "host"}, to("a.example"), to("b.example"), false},
		"one host of IPv6":            {By{Header: "Host"}, to("[::1]:80"), to("[::1]"), true},
		"two hosts of IPv6":           {By{Header: "Host"}, to("[::1]"), to("[::2]"), false},
	} {
		bubble(t, name, func(t *testing.T) {
			l := limit(t, "each", "1/d")
			l.By = tt.by
			r := newRig(t, answers(ok, ""), limits(l))
			r.options.Trust = trust("10.0.0.0/8")
			wantOutcome(t, r.do(tt.a), "200")
			want := "200"
			if tt.shared {
				want = "limited"
			}
			wantOutcome(t, r.do(tt.b), want)
		})
	}
}

// Which line the upstream believes is not known.
func TestAmbiguousField(t *testing.T) {
	for name, tt := range map[string]struct {
		by      string
		headers []string
		change  func(*Route)
		want    string
		slots   bool // of a concurrency limit, and not a budget
	}{
		"two lines":         {"X-Key", []string{"X-Key", "a", "x-key", "b"}, nil, "ambiguous-field", false},
		"two that agree":    {"X-Key", []string{"X-Key", "a", "X-Key", "a"}, nil, "ambiguous-field", false},
		"an empty one more": {"authorization", []string{"Authorization", "Bearer a", "Authorization", ""}, nil, "ambiguous-field", false},
		"a list in one":     {"X-Key", []string{"X-Key", "a, b"}, nil, "200", false},
		"another field":     {"X-Key", []string{"X-Other", "a", "X-Other", "b"}, nil, "200", false},
		"cookies":           {"Cookie", []string{"Cookie", "a=1", "Cookie", "b=2"}, nil, "200", false},
		"in shadow":         {"X-Key", []string{"X-Key", "a", "X-Key", "b"}, shadow, "200", false},
		"whose slots":       {"X-Key", []string{"X-Key", "a", "X-Key", "b"}, nil, "ambiguous-field", true},
	} {
		bubble(t, name, func(t *testing.T) {
			l := limit(t, "each", "9/d")
			l.By = By{Header: tt.by}
			changes := []func(*Route){limits(limit(t, "all", "9/d"), l)}
			if tt.slots {
				changes = []func(*Route){func(r *Route) { r.Concurrency = []Concurrency{{9, "each", l.By}} }}
			}
			if tt.change != nil {
				changes = append(changes, tt.change)
			}
			r := newRig(t, answers(ok, ""), changes...)
			res := r.do(request(http.MethodGet, "/hook", "", tt.headers...))
			e := <-r.events
			refused := tt.want != "200"
			if shadowed := e.Shadowed == ReasonAmbiguousField; shadowed != (tt.change != nil) {
				t.Errorf("got shadowed %q", e.Shadowed)
			}
			if refused != (e.Reason == ReasonAmbiguousField) || refused && e.Status != http.StatusBadRequest {
				t.Errorf("got reason %q, status %d", e.Reason, e.Status)
			}
			if refused {
				body := text(t, res)
				if field := http.CanonicalHeaderKey(tt.by); !strings.Contains(body, field+" says") || strings.Contains(body, "Bearer") {
					t.Errorf("got %s, want %s named in it and no value", body, field)
				}
				return
			}
			wantOutcome(t, res, tt.want)
		})
	}
}

// overheard collects what operators are warned of.
type overheard struct {
	mu    sync.Mutex
	texts []string
}

func (w *overheard) warn(text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.texts = append(w.texts, text)
}

func TestOperatorsAreWarnedOnce(t *testing.T) {
	const missing = "route hook: budgets go by client, and each of its first 100 requests came from "
	for name, tt := range map[string]struct {
		by    By
		trust Trust
		peer  func(i int) string
		said  string
		want  []string
	}{
		"one private address": {By{Client: true}, nil, func(int) string { return "10.0.0.9:1" }, "",
			[]string{missing + "10.0.0.9: is --trusted-proxy missing?"}},
		"loopback": {By{Client: true, Prefix: 56}, nil, func(int) string { return "[::1]:1" }, "",
			[]string{missing + "::1: is --trusted-proxy missing?"}},
		"a unix socket": {By{Client: true}, nil, func(int) string { return "@" }, "",
			[]string{missing + "a unix socket: is --trusted-proxy missing?"}},
		"of a cloud": {By{Client: true}, nil, func(int) string { return "100.64.1.1:1" }, "",
			[]string{missing + "100.64.1.1: is --trusted-proxy missing?"}},
		"two private addresses": {By{Client: true}, nil, func(i int) string { return fmt.Sprintf("10.0.0.%d:1", i/99) }, "", nil},
		"one public address":    {By{Client: true}, nil, func(int) string { return "192.0.2.1:1" }, "", nil},
		"budgets of all":        {By{}, nil, func(int) string { return "10.0.0.9:1" }, "", nil},
		"by a header":           {By{Header: "X-Key"}, nil, func(int) string { return "10.0.0.9:1" }, "", nil},
		"proxies that are not understood": {By{Client: true}, trust("10.0.0.0/8"), func(i int) string { return fmt.Sprintf("10.0.0.%d:1", i%2) }, "unknown",
			[]string{
				`the proxy 10.0.0.0 is trusted, and its X-Forwarded-For has no address but "unknown": it is taken for the client itself`,
				`the proxy 10.0.0.1 is trusted, and its X-Forwarded-For has no address but "unknown": it is taken for the client itself`,
			}},
	} {
		bubble(t, name, func(t *testing.T) {
			l := limit(t, "each", "1000000/d")
			l.By = tt.by
			r := newRig(t, answers(ok, ""), limits(l))
			var told overheard
			r.options.Trust, r.warnings.tell = tt.trust, told.warn
			for i := range 300 {
				req := request(http.MethodGet, "/hook", "", "X-Forwarded-For", tt.said)
				req.RemoteAddr = tt.peer(i)
				r.do(req)
			}
			if !slices.Equal(told.texts, tt.want) {
				t.Errorf("got %q, want %q", told.texts, tt.want)
			}
		})
	}
}

// However many proxies are trusted, and at once.
func TestWarningsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told overheard
		w := warnings{tell: told.warn}
		var running sync.WaitGroup
		for range 4 {
			running.Go(func() {
				for i := range 2 * maxWarnings {
					w.once(i, func() string { return "" })
				}
			})
		}
		running.Wait()
		known := 0
		w.told.Range(func(any, any) bool { known++; return true })
		if got := len(told.texts); got != maxWarnings || known > maxWarnings+4 {
			t.Errorf("told %d times and remembers %d, want %d", got, known, maxWarnings)
		}
	})
}
