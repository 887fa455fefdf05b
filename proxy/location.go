package proxy

import (
	"net/http"
	"strings"
)

// mapLocations turns what an answer says of places under the registered URL
// into places under the route, where the client can go, and which do not tell
// the URL. Other places pass as they are.
func (x *exchange) mapLocations(h http.Header) {
	for _, name := range [...]string{"Location", "Content-Location"} {
		for i, ref := range h[name] {
			h[name][i] = x.mapBack(ref)
		}
	}
	for i, refresh := range h["Refresh"] {
		// Refresh: 5; url=https://…
		delay, ref, ok := cutFold(refresh, "url=")
		if ok {
			h["Refresh"][i] = delay + x.mapBack(strings.Trim(ref, `"'`))
		}
	}
	for i, links := range h["Link"] {
		h["Link"][i] = x.mapLinks(links)
	}
}

// mapLinks maps the targets of a Link field (RFC 8288): <https://…>; rel=next.
// An angle bracket within a quoted parameter begins none.
func (x *exchange) mapLinks(links string) string {
	var b strings.Builder
	quoted := false
	for i := 0; i < len(links); i++ {
		c := links[i]
		b.WriteByte(c)
		switch {
		case quoted && c == '\\' && i+1 < len(links):
			i++
			b.WriteByte(links[i])
		case c == '"':
			quoted = !quoted
		case c == '<' && !quoted:
			ref, _, ok := strings.Cut(links[i+1:], ">")
			if ok {
				b.WriteString(x.mapBack(ref))
				i += len(ref)
			}
		}
	}
	return b.String()
}

// cutFold is strings.Cut without regard to case; before includes sep.
func cutFold(s, sep string) (before, after string, found bool) {
	i := strings.Index(strings.ToLower(s), sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i+len(sep)], s[i+len(sep):], true
}

// mapBack returns ref as the client is to see it.
func (x *exchange) mapBack(ref string) string {
	if rest, ok := x.route.Upstream.Below(x.target, ref); ok {
		return "/" + x.route.Name + rest
	}
	return ref
}
