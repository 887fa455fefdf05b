package proxy

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"testing"
)

const secretURL = "https://canary-user:canary-password@canary-host.example:8443/canary-path/T0?canary-query=1"

func TestUpstreamIsNeverPrinted(t *testing.T) {
	u := mustParseUpstream(t, secretURL)
	type holder struct {
		Upstream *Upstream
		Route    Route
		inner    *Upstream
	}
	for name, v := range map[string]any{
		"pointer": u, "value": *u, "route": Route{Upstream: u}, "map": map[string]*Upstream{"a": u},
		"slice": []*Upstream{u}, "struct": holder{u, Route{Upstream: u}, u}, "pointer to struct": &holder{u, Route{Upstream: u}, u},
	} {
		for _, verb := range strings.Fields("%v %+v %#v %s %q %d %x %X %t %p %10.3v") {
			wantNoCanary(t, name+" by "+verb, fmt.Sprintf(verb, v))
		}
		wantNoCanary(t, name+" by Print", fmt.Sprint(v))
		wantNoCanary(t, name+" in an error", fmt.Errorf("route: %v", v).Error())
		encoded, err := json.Marshal(v)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		wantNoCanary(t, name+" as JSON", string(encoded))
		var log bytes.Buffer
		for _, handler := range []slog.Handler{slog.NewTextHandler(&log, nil), slog.NewJSONHandler(&log, nil)} {
			slog.New(handler).Info("message", "upstream", v, slog.Group("group", "upstream", v))
		}
		wantNoCanary(t, name+" in a log", log.String())
	}
	if got := fmt.Sprint(u); got != "hook" {
		t.Errorf("got %q, want the route's name", got)
	}
}

// wantNoCanary checks that text has no part of secretURL.
func wantNoCanary(t *testing.T, what, text string) {
	t.Helper()
	lower := strings.ToLower(text)
	if strings.Contains(lower, "canary") || strings.Contains(lower, hex.EncodeToString([]byte("canary"))) {
		t.Errorf("%s: a secret is in %q", what, text)
	}
}

func TestParseUpstream(t *testing.T) {
	type address struct{ scheme, host, port string }
	for raw, want := range map[string]address{
		"https://hooks.slack.com/services/T0/B0/x": {"https", "hooks.slack.com", "443"},
		"http://localhost:8080":                    {"http", "localhost", "8080"},
		"HTTP://localhost":                         {"http", "localhost", "80"},
		"h2c://localhost/":                         {"http", "localhost", "80"},
		"https://[::1]:8443/x?y=z":                 {"https", "::1", "8443"},
		secretURL:                                  {"https", "canary-host.example", "8443"},
		"https://host/a%2Fb//c;d?e=%zz;f":          {"https", "host", "443"},
	} {
		u, err := ParseUpstream("hook", raw)
		if err != nil {
			t.Errorf("%s: %v", raw, err)
			continue
		}
		var got address
		if got.scheme, got.host, got.port = u.Address(); got != want {
			t.Errorf("%s: got %v, want %v", raw, got, want)
		}
		if got, want := u.Slack(), strings.Contains(raw, "slack"); got != want {
			t.Errorf("%s: Slack: got %v, want %v", raw, got, want)
		}
		if got, want := u.h2c, strings.HasPrefix(raw, "h2c"); got != want {
			t.Errorf("%s: h2c: got %v, want %v", raw, got, want)
		}
	}
}

func TestParseUpstreamErrors(t *testing.T) {
	for _, raw := range []string{
		"",
		"canary-host.example/canary-path",
		"canary-host.example:8443/canary-path",
		"canary-user:canary-password@canary-host.example/canary-path",
		"//canary-host.example/canary-path",
		"/canary-path",
		"https:canary-host.example/canary-path",
		"https:/canary-path",
		"https:///canary-path",
		"https://canary-user:canary-password@/canary-path",
		"https://:8443/canary-path",
		"ftp://canary-user:canary-password@canary-host.example/canary-path",
		"ws://canary-host.example/canary-path",
		"unix:///canary-path",
		"https://canary-host.example/canary-path#canary-fragment",
		"https://canary-host.example/canary-path%zz",
		"https://canary-host.example/canary-path\n",
		" https://canary-host.example/canary-path",
		"https://canary host.example/canary-path",
		"https://canary-host.example:canary/canary-path",
		"https://canary-host.example:65536/canary-path",
		"https://canary-host.example:0/canary-path",
		"https://canary%zz:canary-password@canary-host.example/",
		"https://[canary-host/canary-path",
		"env:canary-variable",
	} {
		u, err := ParseUpstream("hook", raw)
		if err == nil {
			t.Errorf("%q was taken as %v", raw, u.url)
			continue
		}
		wantNoCanary(t, raw, err.Error())
	}
}

func TestTarget(t *testing.T) {
	for _, tt := range []struct {
		registered string // path and query
		client     string
		want       string
	}{
		{"/services/T0", "/hook", "/services/T0"},
		{"/services/T0", "/hook/", "/services/T0/"},
		{"/services/T0/", "/hook", "/services/T0/"},
		{"/services/T0/", "/hook/", "/services/T0/"},
		{"/services/T0/", "/hook/x", "/services/T0/x"},
		{"/services/T0", "/hook/x/y/", "/services/T0/x/y/"},
		{"/services//", "/hook/x", "/services//x"},
		{"", "/hook", "/"},
		{"", "/hook/", "/"},
		{"", "/hook/x", "/x"},
		{"/", "/hook/x", "/x"},
		{"", "/hook//x", "//x"},
		{"/p", "/hook//x//", "/p//x//"},
		{"/p?a=1", "/hook", "/p?a=1"},
		{"/p?a=1", "/hook?b=2&a=3", "/p?a=1&b=2&a=3"},
		{"/p", "/hook?b=2", "/p?b=2"},
		{"/p?a=1", "/hook/x?", "/p/x?a=1"},
		{"/p?a;b", "/hook?c;d=%zz&%", "/p?a;b&c;d=%zz&%"},
		{"/p", "/hook?x=/../y", "/p?x=/../y"},
		{"/p", "/hook/a%2Fb%2fc", "/p/a%2Fb%2fc"},
		{"/a%2Fb", "/hook/c%2Fd", "/a%2Fb/c%2Fd"},
		{"/a%2Fb|", "/hook", "/a%2Fb%7C"},
		{"/p", "/hook/a;b=c;d/e", "/p/a;b=c;d/e"},
		{"/p", "/hook/%41%7e%7E~%20%c3%A4", "/p/%41%7e%7E~%20%c3%A4"},
		{"/p", "/hook/%25%3F%23?%3f", "/p/%25%3F%23?%3f"},
		{"/p", "/hook/a+b@c:d!$&'()*,=", "/p/a+b@c:d!$&'()*,="},
		// What may not stand in a URL is escaped, and nothing else changes.
		{"/p", "/hook/a|b", "/p/a%7Cb"},
		{"/p", "/hook/a%2Fb|c", "/p/a%2Fb%7Cc"},
		{"/p", `/hook/%41"{}`, "/p/%41%22%7B%7D"},
		// Dots that stay below the registered path pass.
		{"/p", "/hook/.", "/p/."},
		{"/p", "/hook/a/../b", "/p/a/../b"},
		{"/p", "/hook/a/b/../../c", "/p/a/b/../../c"},
		{"/p", "/hook/a/%2e%2E/b", "/p/a/%2e%2E/b"},
		{"/p", "/hook/...", "/p/..."},
		{"/p", "/hook/..a/a..", "/p/..a/a.."},
		{"/p", "/hook/%252e%252e", "/p/%252e%252e"},
		{"/p", "/hook/a.b%2Fc..d", "/p/a.b%2Fc..d"},
		// Dots that climb are refused.
		{"/p", "/hook/..", "400"},
		{"/p", "/hook/../", "400"},
		{"/p", "/hook/a/../..", "400"},
		{"/p", "/hook/./..", "400"},
		{"/p", "/hook/../p/x", "400"},
		{"/p", "/hook/%2e%2e", "400"},
		{"/p", "/hook/.%2E/x", "400"},
		{"/p", "/hook/..%2f", "400"},
		{"/p", "/hook/..%2Fx", "400"},
		{"/p", "/hook/x%2F..%2F..", "400"},
		{"/p", "/hook/..%5cx", "400"},
		{"/p", "/hook/%5C..", "400"},
		{"/p", `/hook/..\x`, "400"},
		{"/p", "/hook/..;x", "400"},
		{"/p", "/hook/..;/x", "400"},
		{"/p", "/hook/%2e%2e;x=y/z", "400"},
		// Some servers take slashes together before they look at dots.
		{"/p", "/hook//..", "400"},
		{"/p", "/hook/a//../..", "400"},
		{"/p", "/hook/;x/..", "400"},
		// Others, as RFC 3986, take an escaped separator for a character.
		{"/p", "/hook/a%2Fb/../..", "400"},
		{"/p", "/hook/a%5Cb/../..", "400"},
		{"/p", "/hook/%2F/%2F/../../..", "400"},
	} {
		t.Run(tt.registered+" "+tt.client, func(t *testing.T) {
			got := "nothing sent"
			r := newRig(t, upstream(func(req *http.Request) (*http.Response, error) {
				got = req.URL.RequestURI()
				return answer(ok, ""), nil
			}), upstreamURL(t, "https://upstream.example"+tt.registered))
			if res := r.do(request(http.MethodGet, tt.client, "")); res.StatusCode == http.StatusBadRequest {
				wantOutcome(t, res, "bad-path")
				got = "400"
			}
			if got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

// climbsAs is how servers resolve dot segments, one way for each combination
// of what they do before. It reports whether path ever leaves its start.
func climbsAs(path string, slashes, backslashes, parameters, merge bool) bool {
	for escape, is := range map[string]string{"%2e": ".", "%2f": "/", "%5c": `\`} {
		if escape == "%2f" && !slashes || escape == "%5c" && !backslashes {
			continue
		}
		path = strings.ReplaceAll(path, escape, is)
		path = strings.ReplaceAll(path, strings.ToUpper(escape), is)
	}
	if backslashes {
		path = strings.ReplaceAll(path, `\`, "/")
	}
	var stack []string
	for _, segment := range strings.Split(path, "/")[1:] {
		if i := strings.Index(segment, ";"); i >= 0 && parameters {
			segment = segment[:i]
		}
		switch {
		case segment == "." || segment == "" && merge:
		case segment != "..":
			stack = append(stack, segment)
		case len(stack) == 0:
			return true
		default:
			stack = stack[:len(stack)-1]
		}
	}
	return false
}

// legal escapes what may not stand in a path, and nothing else.
func legal(path string) string {
	var b strings.Builder
	for _, c := range []byte(path) {
		if c == '%' || c == '/' || c < 0x80 && strings.ContainsRune("-._~!$&'()*+,;=:@[]", rune(c)) ||
			'0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

func FuzzTarget(f *testing.F) {
	for _, rest := range []string{
		"", "/", "//", "/a/../b", "/..", "/%2e%2E/", "/..%2f", "/..%5c", "/..;x", "/;x/..", "//..", "/a%2Fb/../..", "/a%2Fb|c",
		"/%41%zz", "/\xff", "/é%2F", "?a;b=%zz", "/x?y#z", "#", "/%", `/"`, "/a%5Cb/../..",
	} {
		f.Add("/services/T0", rest)
		f.Add("/a%2Fb/?q=1", rest)
	}
	f.Fuzz(func(t *testing.T, registered, rest string) {
		u, err := ParseUpstream("hook", "https://user:password@upstream.example"+registered)
		if err != nil || u.url.Host != "upstream.example" || strings.ContainsAny(rest, " ") {
			t.Skip()
		}
		// As the server reads a request line.
		in, err := url.ParseRequestURI("/hook" + rest)
		if err != nil {
			t.Skip()
		}
		r := newRig(t, answers(ok, ""), func(r *Route) { r.Upstream = u })
		rt, _, got := r.route(&http.Request{URL: in})
		if rt == nil {
			t.Skip()
		}
		path, query, _ := strings.Cut(rest, "?")
		if want := legal(path); got != want {
			t.Fatalf("%q: got path %q, want %q", rest, got, want)
		}
		if climbs(got) {
			return
		}
		for i := range 16 {
			if climbsAs(got, i&1 > 0, i&2 > 0, i&4 > 0, i&8 > 0) {
				t.Fatalf("%q climbs for servers of kind %04b", got, i)
			}
		}
		target := u.target(got, in.RawQuery)
		if got == "" {
			if target.EscapedPath() != u.url.EscapedPath() {
				t.Errorf("got %q, want the registered path %q", target.EscapedPath(), u.url.EscapedPath())
			}
		} else if want := strings.TrimSuffix(u.url.EscapedPath(), "/") + got; target.EscapedPath() != want {
			t.Errorf("got %q, want %q", target.EscapedPath(), want)
		}
		switch want := u.url.RawQuery; {
		case want != "" && query != "":
			want += "&" + query
			fallthrough
		case want != "" || query == "":
			if target.RawQuery != want {
				t.Errorf("got query %q, want %q", target.RawQuery, want)
			}
		case target.RawQuery != query:
			t.Errorf("got query %q, want %q", target.RawQuery, query)
		}
		if target.Host != "upstream.example" || target.User != nil || target.Fragment != "" {
			t.Errorf("got %v, want nothing but path and query", target)
		}
	})
}
