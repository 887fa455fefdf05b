package proxy

import (
	"net/http"
	"testing"
)

// TestPlacesInAnswers are told of a route whose URL is secret; what is not mapped
// stays as it is, to the byte.
func TestPlacesInAnswers(t *testing.T) {
	for _, tt := range []struct{ field, value, want string }{
		{"Location", "https://upstream.example/canary/x", "/hook/x"},
		{"Content-Location", "/canary", "/hook"},
		{"X-Location", "/canary", "/canary"},

		{"Refresh", "5; url=https://upstream.example/canary/x", "5; url=/hook/x"},
		{"Refresh", "5;URL='/canary/x' ", "5;URL='/hook/x' "},
		{"Refresh", `0 , Url = "/canary/x" and more`, `0 , Url = "/hook/x" and more`},
		{"Refresh", `0;url='/canary/x`, `0;url='/hook/x`},
		{"Refresh", "5; /canary/x", "5; /hook/x"},
		{"Refresh", "1.5 /canary/x", "1.5 /hook/x"},
		{"Refresh", "5", "5"},
		{"Refresh", "5; url='https://other.example/canary'", "5; url='https://other.example/canary'"},
		{"Refresh", `5; url="//other.example" `, `5; url="//other.example" `},

		{"Link", "</canary/y>; rel=next", "</hook/y>; rel=next"},
		{"Link", `<https://other.example/a,b>; rel="x, </canary>", <https://upstream.example/canary>;rel=self`, `<https://other.example/a,b>; rel="x, </canary>", </hook>;rel=self`},
		{"Link", "< /canary/y >; rel=next", "</hook/y>; rel=next"},
		{"Link", "</canary/y", "</hook/y"},
		{"Link", `<x:y>; anchor="https://upstream.example/canary#z"; title="\"</canary>"`, `<x:y>; anchor="/hook#z"; title="\"</canary>"`},
		{"Link", `<x:y>; Anchor = "/canary`, `<x:y>; Anchor = "/hook`},
		{"Link", `<x:y>;  title="a\`, `<x:y>;  title="a\`},

		{"Set-Cookie", "a=1; Path=/canary; Secure", "a=1; Path=/hook; Secure"},
		{"Set-Cookie", "a=1;path =  \"/canary/x\" ;HttpOnly", "a=1;path =/hook/x;HttpOnly"},
		{"Set-Cookie", "a=/canary; Path=/; Domain=upstream.example", "a=/canary; Path=/; Domain=upstream.example"},
		{"Set-Cookie", "a=1; Path=/other ;; Path", "a=1; Path=/other ;; Path"},
		{"Set-Cookie", "a=1; Path=/x; Path=/canary", "a=1; Path=/x; Path=/hook"},
		{"Set-Cookie", "__Host-a=1; Path=/canary", "__Host-a=1; Path=/canary"},
		{"Set-Cookie", " __host-a=1; Path=/canary", " __host-a=1; Path=/canary"},
		{"Set-Cookie", "__Secure-a=1; Path=/canary", "__Secure-a=1; Path=/hook"},
		{"Set-Cookie", "Path=/canary", "Path=/canary"},
		{"Set-Cookie", "", ""},
	} {
		u := mustParse(t, "https://upstream.example/canary")
		x := &exchange{route: &route{Route: Route{Name: "hook", Upstream: u}}, to: u, target: "/canary", prefix: "/hook"}
		h := http.Header{tt.field: {tt.value}}
		x.mapPlaces(h)
		if got := h[tt.field][0]; got != tt.want {
			t.Errorf("%s: %q: got %q, want %q", tt.field, tt.value, got, tt.want)
		}
	}
}

// TestByAHostNothingIsMapped, unless it would tell a registered path.
func TestByAHostNothingIsMapped(t *testing.T) {
	for _, tt := range []struct{ url, field, value, want string }{
		{"https://upstream.example", "Location", "https://upstream.example/x", "https://upstream.example/x"},
		{"https://upstream.example/", "Set-Cookie", "a=1; Path=/x", "a=1; Path=/x"},
		{"https://upstream.example/", "Link", "</x>", "</x>"},
		{"https://upstream.example/canary", "Location", "https://upstream.example/canary/x", "/x"},
		{"https://upstream.example/canary", "Location", "https://upstream.example/x", "https://upstream.example/x"},
		{"https://upstream.example/canary", "Set-Cookie", "a=1; Path=/canary", "a=1; Path=/"},
	} {
		u := mustParse(t, tt.url)
		x := &exchange{route: &route{Route: Route{Name: "hook", Upstream: u}}, to: u, target: "/canary"}
		h := http.Header{tt.field: {tt.value}}
		x.mapPlaces(h)
		if got := h[tt.field][0]; got != tt.want {
			t.Errorf("%s, %s: %q: got %q, want %q", tt.url, tt.field, tt.value, got, tt.want)
		}
	}
}
