package proxy

import (
	"net/http"
	"regexp"
	"strings"
)

// mapPlaces turns what an answer says of places under the registered URL into
// places under the route, where the client can go, and which do not tell the URL.
// Other places pass as they are. By a host route a client has the upstream's own
// paths, and nothing is mapped, unless the URL has a path that it would tell.
func (x *exchange) mapPlaces(h http.Header) {
	if x.prefix == "" && !x.route.Upstream.Tells() {
		return
	}
	for _, name := range [...]string{"Location", "Content-Location"} {
		mapEach(h[name], x.seen)
	}
	mapEach(h["Refresh"], x.seenRefresh)
	mapEach(h["Link"], x.seenLinks)
	mapEach(h["Set-Cookie"], x.seenCookie)
}

func mapEach(values []string, seen func(string) string) {
	for i, value := range values {
		values[i] = seen(value)
	}
}

// seen returns a reference as the client is to see it.
func (x *exchange) seen(ref string) string { return x.to.Seen(x.target, x.prefix, ref) }

// seenRefresh maps where a Refresh leads, read as HTML says: 5; url='https://…'.
func (x *exchange) seenRefresh(refresh string) string {
	rest := strings.TrimLeft(strings.TrimLeft(refresh, " "), "0123456789.")
	rest = strings.TrimLeft(strings.TrimLeft(rest, " \t"), ";,")
	rest = strings.TrimLeft(rest, " \t")
	if len(rest) >= 3 && strings.EqualFold(rest[:3], "url") {
		if value, ok := strings.CutPrefix(strings.TrimLeft(rest[3:], " \t"), "="); ok {
			rest = strings.TrimLeft(value, " \t")
		}
	}
	if rest == "" {
		return refresh // of the same place
	}
	before, after := refresh[:len(refresh)-len(rest)], ""
	if rest[0] == '"' || rest[0] == '\'' {
		quote := rest[:1]
		if end := strings.Index(rest[1:], quote); end >= 0 {
			rest, after = rest[:end+1], rest[end+1:]
		}
		before, rest = before+quote, rest[1:]
	}
	return before + x.seen(rest) + after
}

// seenLinks maps the targets of a Link field (RFC 8288), <https://…>; rel=next,
// and their anchors. An angle bracket within a quoted parameter begins none.
func (x *exchange) seenLinks(links string) string {
	var b strings.Builder
	for links != "" {
		i := strings.IndexAny(links, `<"`)
		if i < 0 {
			break
		}
		before, begin := links[:i], links[i]
		b.WriteString(links[:i+1])
		links = links[i+1:]
		if begin == '<' {
			ref, _, _ := strings.Cut(links, ">")
			b.WriteString(x.seenSpaced(ref))
			links = links[len(ref):]
			continue
		}
		end := endOfQuoted(links)
		if isAnchor.MatchString(before) {
			b.WriteString(x.seenSpaced(links[:end]))
		} else {
			b.WriteString(links[:end])
		}
		if links = links[end:]; links != "" {
			b.WriteByte('"')
			links = links[1:]
		}
	}
	b.WriteString(links)
	return b.String()
}

var isAnchor = regexp.MustCompile(`(?i);\s*anchor\s*=\s*$`)

// seenSpaced maps a reference with white space around it.
func (x *exchange) seenSpaced(ref string) string {
	trimmed := strings.TrimSpace(ref)
	if seen := x.seen(trimmed); seen != trimmed {
		return seen
	}
	return ref
}

// endOfQuoted returns where the quotation mark stands that ends s, or its end.
func endOfQuoted(s string) int {
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case '"':
			return i
		}
	}
	return len(s)
}

// seenCookie maps the path of a cookie, but of one that is bound to its host.
func (x *exchange) seenCookie(cookie string) string {
	parts := strings.Split(cookie, ";")
	if name := strings.TrimSpace(parts[0]); len(name) >= len(hostBound) && strings.EqualFold(name[:len(hostBound)], hostBound) {
		return cookie
	}
	for i, part := range parts[1:] {
		name, value, _ := strings.Cut(part, "=")
		path := strings.Trim(value, " \t\"")
		if !strings.EqualFold(strings.TrimSpace(name), "Path") {
			continue
		}
		if seen := x.to.SeenPath(x.prefix, path); seen != path {
			parts[i+1] = name + "=" + seen
		}
	}
	return strings.Join(parts, ";")
}

// hostBound begins the names of cookies whose path is / (RFC 6265bis 4.1.3.2).
const hostBound = "__Host-"
