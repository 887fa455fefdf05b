package upstream

import (
	"net/url"
	"strings"
	"testing"
)

// TestSeen: ORIGIN is that of the registered URL, / what is told of a place
// elsewhere.
func TestSeen(t *testing.T) {
	const secret, plain, queried = "https://upstream.example/canary/T0", "http://upstream.example:8080", "https://upstream.example/canary/?key=canary&x=1"
	for _, tt := range []struct{ registered, ref, want string }{
		// Below the registered URL.
		{secret, "https://upstream.example/canary/T0", "/hook"},
		{secret, "https://upstream.example/canary/T0/", "/hook/"},
		{secret, "https://upstream.example/canary/T0/a%2Fb//c;d?e=%zz;f#g", "/hook/a%2Fb//c;d?e=%zz;f#g"},
		{secret, "https://upstream.example/canary/T0?x", "/hook?x"},
		{secret, "https://upstream.example/canary/T0#x", "/hook#x"},
		{secret, "/canary/T0/x", "/hook/x"},
		{secret, "//upstream.example/canary/T0/x", "/hook/x"},
		{secret, "x", "/hook/asked/x"},
		{secret, "../x", "/hook/x"},
		{secret, "?x", "/hook/asked/for?x"},
		{secret, "", "/hook/asked/for?q"},
		{plain, "http://upstream.example:8080/x", "/hook/x"},
		{plain, "http://upstream.example:8080", "/hook/"},
		{plain, "/x", "/hook/x"},
		{queried, "https://upstream.example/canary/x?key=canary&x=1&y=2", "/hook/x?y=2"},
		{queried, "https://upstream.example/canary/x?y=2&x=1&key=canary", "/hook/x?y=2"},
		{queried, "https://upstream.example/canary/x?k%65y=c%61nary", "/hook/x"},
		{queried, "/other?key=canary&y", "/other?y"},
		// However odd.
		{secret, "HTTPS://UPSTREAM.EXAMPLE:443/canary/T0/x", "/hook/x"},
		{secret, "https://upstream.example./canary/T0/x", "/hook/x"},
		{secret, "https://upstream.exampl%65/canary/T0/x", "/hook/x"},
		{secret, "https://user:canary@upstream.example/canary/T0/x", "/hook/x"},
		{plain, "http://user:canary@upstream.example:8080/x", "/hook/x"},
		{secret, "http://upstream.example/canary/T0/x", "/hook/x"},
		{secret, "https://upstream.example:8443/canary/T0/x", "/hook/x"},
		{secret, "https:/canary/T0/x", "/hook/x"},
		{secret, "https:///upstream.example/canary/T0/x", "/hook/x"},
		{secret, `https:\\upstream.example\canary\T0\x`, "/hook/x"},
		{secret, `\\upstream.example\canary/T0/x`, "/hook/x"},
		{secret, `/canary\T0/x`, "/hook/x"},
		{secret, " /canary/T0/x ", "/hook/x"},
		{secret, "/can\tary/T0/x", "/hook/x"},
		{secret, "/%63anary/%540/x", "/hook/x"},
		{secret, "/./canary/x/../T0/%2E/x", "/hook/x"},
		{secret, "//upstream.example//canary//T0/x", "/hook/x"},
		{secret, "/canary/T0/%zz", "/hook/%zz"},
		{secret, "/canary/T0/a b|c", "/hook/a b|c"},
		{secret, "/canary/T0/..;x", "/hook"},
		{secret, "/canary/T0/..%5c", "/hook"},
		{secret, "/canary/T0/../../x", "/x"},
		{secret, "/canary/T0/../x", "/canary/x"},
		{secret, "/canary%2fT0/x", "/hook"},
		{secret, "/canary/T0/login?next=/canary/T0/x%26y&z=1", "/hook/login?next=%2Fhook%2Fx%26y&z=1"},
		{secret, "/login?next=https%3A%2F%2Fupstream.example%2Fcanary%2FT0", "/login?next=%2Fhook"},
		// Elsewhere, to the byte.
		{secret, "https://upstream.example/canary/T0S", "https://upstream.example/canary/T0S"},
		{secret, "https://upstream.example/Canary/T0", "https://upstream.example/Canary/T0"},
		{secret, "https://other.example/canary/T0", "https://other.example/canary/T0"},
		{secret, "https://upstream.example.evil/canary/T0", "https://upstream.example.evil/canary/T0"},
		{secret, "https://a/../b?c=%zz", "https://a/../b?c=%zz"},
		{secret, "/x/./y?a=b&&c", "/x/./y?a=b&&c"},
		{plain, "https://upstream.example:8080/x", "https://upstream.example:8080/x"},
		{plain, "http://upstream.example/x", "http://upstream.example/x"},
		{secret, "mailto:canary/T0", "mailto:canary/T0"},
		{secret, "data:,/canary", "data:,/canary"},
	} {
		u := mustParse(t, tt.registered)
		if got := u.Seen(u.Target("/asked/for", "?q"), "/hook", tt.ref); got != tt.want {
			t.Errorf("%s, %q: got %q, want %q", tt.registered, tt.ref, got, tt.want)
		}
	}
}

func TestSeenByAHostRoute(t *testing.T) {
	u := mustParse(t, "https://upstream.example/canary/")
	for ref, want := range map[string]string{
		"https://upstream.example/canary/x": "/x", "/canary": "/", "/canary/": "/", "/x": "/x", "https://other.example/": "https://other.example/",
	} {
		if got := u.Seen("/canary/y", "", ref); got != want {
			t.Errorf("%q: got %q, want %q", ref, got, want)
		}
	}
	if u := mustParse(t, "https://upstream.example/"); u.Tells() {
		t.Error("a URL without a path tells one")
	}
}

func TestSeenPath(t *testing.T) {
	for _, tt := range []struct{ registered, path, want string }{
		{"https://upstream.example/canary/T0", "/canary/T0", "/hook"},
		{"https://upstream.example/canary/T0", "/canary/T0/", "/hook/"},
		{"https://upstream.example/canary/T0/", "/canary/T0/x", "/hook/x"},
		{"https://upstream.example/canary/T0", "/%63anary/./T0//x", "/hook//x"},
		{"https://upstream.example/canary/T0", "/canary", "/hook"},
		{"https://upstream.example/canary/T0", "/canary/", "/hook"},
		{"https://upstream.example/canary/T0", "/", "/"},
		{"https://upstream.example/canary/T0", "/x", "/x"},
		{"https://upstream.example/canary/T0", "/canary/T0S", "/canary/T0S"},
		{"https://upstream.example/canary/T0", "x", "x"},
		{"https://upstream.example/canary/T0", "", ""},
		{"https://upstream.example", "/", "/hook"},
		{"https://upstream.example/", "/x/", "/hook/x/"},
	} {
		if got := mustParse(t, tt.registered).SeenPath("/hook", tt.path); got != tt.want {
			t.Errorf("%s, %q: got %q, want %q", tt.registered, tt.path, got, tt.want)
		}
	}
}

// FuzzSeen: no reference that a browser would follow to the upstream tells the
// registered path, and what is not mapped is not changed.
func FuzzSeen(f *testing.F) {
	for _, ref := range []string{"/canary/T0/x", "https://upstream.example/canary/T0?x", "/canary/T0/../..", "//upstream.example\\canary/T0", "x", "/login?next=/canary/T0", "%", "https:canary", "/%63anary%2fT0", ":", "//"} {
		f.Add(ref)
	}
	u, err := Parse("hook", "https://upstream.example/canary/T0")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, ref string) {
		got := u.Seen("/canary/T0/asked", "/hook", ref)
		base := &url.URL{Scheme: "https", Host: "upstream.example", Path: "/canary/T0/asked"}
		place, err := base.Parse(got)
		if err != nil || place.Host != base.Host || got == "" {
			return
		}
		if strings.HasPrefix(place.Path+"/", "/canary/T0/") && strings.Contains(got, "T0") {
			t.Errorf("%q: the client gets %q, which tells the path", ref, got)
		}
	})
}
