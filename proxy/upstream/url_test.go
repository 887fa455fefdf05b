package upstream

import (
	"encoding/hex"
	"net/url"
	"regexp"
	"strings"
	"testing"
)

const secretURL = "https://canary-user:canary-password@canary-host.example:8443/canary-path/T0?canary-query=1"

func mustParse(tb testing.TB, rawURL string) *URL {
	tb.Helper()
	u, err := Parse("hook", rawURL)
	if err != nil {
		tb.Fatal(err)
	}
	return u
}

func TestParse(t *testing.T) {
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
		u, err := Parse("hook", raw)
		if err != nil {
			t.Errorf("%s: %v", raw, err)
			continue
		}
		var got address
		if got.scheme, got.host, got.port = u.Address(); got != want {
			t.Errorf("%s: got %v, want %v", raw, got, want)
		}
		if got, want := u.Matches(regexp.MustCompile(`^hooks\.slack\.com/`)), strings.Contains(raw, "slack"); got != want {
			t.Errorf("%s: is Slack's: got %v, want %v", raw, got, want)
		}
		if got, want := u.h2c, strings.HasPrefix(raw, "h2c"); got != want {
			t.Errorf("%s: h2c: got %v, want %v", raw, got, want)
		}
	}
}

func TestParseErrors(t *testing.T) {
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
		u, err := Parse("hook", raw)
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
		// What should have been escaped passes as it came.
		{"/p", "/hook/a|b", "/p/a|b"},
		{"/p", "/hook/a%2Fb|c?d|e", "/p/a%2Fb|c?d|e"},
		{"/p", `/hook/%41"{}^<>é?é`, `/p/%41"{}^<>é?é`},
		{"/p", "/hook?", "/p?"},
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
			path, query := tt.client, ""
			if i := strings.IndexByte(path, '?'); i >= 0 {
				path, query = path[:i], path[i:]
			}
			rest := strings.TrimPrefix(path, "/hook")
			got := "400"
			if !Climbs(rest) {
				got = mustParse(t, "https://upstream.example"+tt.registered).Target(rest, query)
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

// FuzzTarget: whatever a client asks for is below the registered URL, and sent to
// the byte.
func FuzzTarget(f *testing.F) {
	for _, rest := range []string{
		"", "/", "//", "/a/../b", "/..", "/%2e%2E/", "/..%2f", "/..%5c", "/..;x", "/;x/..", "//..", "/a%2Fb/../..", "/a%2Fb|c",
		"/%41%zz", "/\xff", "/é%2F", "?a;b=%zz", "/x?y?z", "?", "/%", `/"`, "/a%5Cb/../..", "//a|b", "//a%7Cb",
	} {
		f.Add("/services/T0", rest)
		f.Add("/a%2Fb/?q=1", rest)
		f.Add("", rest)
	}
	f.Fuzz(func(t *testing.T, registered, rest string) {
		u, err := Parse("hook", "https://user:password@upstream.example"+registered)
		if err != nil || u.url.Host != "upstream.example" {
			return
		}
		// As a server reads a request line.
		_, err = url.ParseRequestURI("/hook" + rest)
		if err != nil || strings.ContainsAny(rest, " #") || rest != "" && rest[0] != '/' && rest[0] != '?' {
			return
		}
		path, query := rest, ""
		if i := strings.IndexByte(rest, '?'); i >= 0 {
			path, query = rest[:i], rest[i:]
		}
		if Climbs(path) {
			return
		}
		for i := range 16 {
			if climbsAs(path, i&1 > 0, i&2 > 0, i&4 > 0, i&8 > 0) {
				t.Fatalf("%q climbs for servers of kind %04b", path, i)
			}
		}
		target := u.Target(path, query)
		want := u.url.EscapedPath()
		switch {
		case path != "":
			want = strings.TrimSuffix(want, "/") + path
		case want == "":
			want = "/"
		}
		switch fixed := u.url.RawQuery; {
		case fixed == "":
			want += query
		case len(query) > 1:
			want += "?" + fixed + "&" + query[1:]
		default:
			want += "?" + fixed
		}
		if target != want {
			t.Fatalf("got %q, want %q", target, want)
		}
		sent := u.verbatim(target, false)
		if got := sent.RequestURI(); got != target && !(strings.HasPrefix(target, "//") && got == escaped(target)) {
			t.Errorf("net/http sends %q, want %q", got, target)
		}
		if sent.Host != "upstream.example" || sent.User != nil || sent.Fragment != "" {
			t.Errorf("got %v, want nothing but path and query", sent)
		}
		if got, want := u.verbatim(target, true).RequestURI(), "https://upstream.example"+target; got != want {
			t.Errorf("another proxy gets %q, want %q", got, want)
		}
	})
}

// escaped is a target in whose path all is escaped that should have been.
func escaped(target string) string {
	path, query, asked := strings.Cut(target, "?")
	if path = escapeOdd(path); asked {
		path += "?" + query
	}
	return path
}

func wantNoCanary(t *testing.T, what, text string) {
	t.Helper()
	lower := strings.ToLower(text)
	if strings.Contains(lower, "canary") || strings.Contains(lower, hex.EncodeToString([]byte("canary"))) {
		t.Errorf("%s: a secret is in %q", what, text)
	}
}
