package upstream

import (
	"net/url"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// Tells reports whether a reference to a place under u tells more than its
// scheme, host and port: a path or a query that may be secret.
func (u *URL) Tells() bool { return strings.Trim(u.path(), "/") != "" || u.url.RawQuery != "" }

// Seen returns ref, which an answer to target has, as clients are to see it: a
// place under the registered URL is one under prefix, and no other place on its
// host tells the URL. Places on other hosts, and references of other kinds, are
// returned as they are, to the byte.
//
// References are read as browsers do, which take more for a place than RFC 3986.
func (u *URL) Seen(target, prefix, ref string) string { return u.seen(target, prefix, ref, true) }

func (u *URL) seen(target, prefix, ref string, values bool) string {
	place, ok := u.place(target, ref)
	if !ok {
		return ref
	}
	query := u.queryOf(place, target, prefix, values)
	resolved := removeDots(place.path)
	rest, under := u.behind(resolved)
	if !under && u.Tells() {
		rest, under = u.behind(mergeSlashes.Replace(resolved))
	}
	switch told, tells := u.behind(place.path); {
	case under && Climbs(rest):
		return root(prefix)
	case under:
		seen := prefix + rest + query + place.fragment
		if prefix == "" && rest == "" {
			seen = "/" + seen
		}
		return seen
	case tells && told != place.path, query != place.query:
		return resolved + query + place.fragment
	case u.Tells():
		// Escaped slashes are no slashes, and can be read.
		plain, err := url.PathUnescape(resolved)
		if _, tells := u.behind(mergeSlashes.Replace(plain)); err == nil && tells {
			return root(prefix)
		}
	}
	return ref
}

func root(prefix string) string {
	if prefix == "" {
		return "/"
	}
	return prefix
}

// A place is where a reference leads on the host of an upstream.
type place struct {
	path            string // begins with a slash
	query, fragment string // each with the character in front of it, or empty
}

// place returns where ref leads, if that is on u's host.
func (u *URL) place(target, ref string) (p place, ok bool) {
	ref = strings.Trim(unseen.Replace(ref), " ")
	ref, p.fragment = cutBefore(ref, "#")
	ref, p.query = cutBefore(ref, "?")
	ref = strings.ReplaceAll(ref, `\`, "/")
	scheme, rest, absolute := strings.Cut(ref, ":")
	absolute = absolute && scheme != "" && !strings.ContainsAny(scheme, "/%")
	if !absolute {
		scheme, rest = u.url.Scheme, ref
	}
	if scheme = strings.ToLower(scheme); defaultPorts[scheme] == "" {
		return p, false
	}
	if path := strings.TrimLeft(rest, "/"); len(rest)-len(path) >= 2 || absolute && scheme != u.url.Scheme {
		authority, path := cutBefore(path, "/")
		if !u.isHost(scheme, authority) {
			return p, false
		}
		rest = path
		if rest == "" {
			rest = "/"
		}
	}
	base, query, _ := strings.Cut(target, "?")
	switch {
	case rest == "" && p.query == "" && query != "":
		rest, p.query = base, "?"+query
	case rest == "":
		rest = base
	case rest[0] != '/':
		rest = base[:strings.LastIndexByte(base, '/')+1] + rest
	}
	p.path = rest
	return p, true
}

// isHost reports whether authority is u's own host. Where the URL tells more than
// that, another scheme or port of it is the same.
func (u *URL) isHost(scheme, authority string) bool {
	authority = authority[strings.LastIndexByte(authority, '@')+1:]
	if unescaped, err := url.PathUnescape(authority); err == nil {
		authority = unescaped
	}
	there := hostPort(&url.URL{Scheme: scheme, Host: authority})
	here := hostPort(u.url)
	if u.Tells() {
		there, here = there[:strings.LastIndexByte(there, ':')], here[:strings.LastIndexByte(here, ':')]
		return there == here
	}
	return scheme == u.url.Scheme && there == here
}

// hostPort returns u's host, in the spelling that has no other, with the port
// that it has by default.
func hostPort(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = defaultPorts[u.Scheme]
	}
	host := strings.TrimSuffix(strings.ToLower(u.Hostname()), ".")
	if ascii, err := httpguts.PunycodeHostPort(host); err == nil {
		host = ascii
	}
	return host + ":" + port
}

// behind returns what path has behind the registered one, however either is
// escaped.
func (u *URL) behind(path string) (rest string, ok bool) {
	for registered := strings.TrimSuffix(u.path(), "/"); registered != ""; {
		if path == "" {
			return "", false
		}
		want, wide := character(registered)
		got, long := character(path)
		if got != want {
			return "", false
		}
		registered, path = registered[wide:], path[long:]
	}
	return path, path == "" || path[0] == '/'
}

// character returns the first one of path without its escape, and how many bytes
// stand for it. An escaped slash is another character than a slash.
func character(path string) (c string, bytes int) {
	if len(path) >= 3 && path[0] == '%' {
		if plain, err := url.PathUnescape(path[:3]); err == nil && plain != "/" {
			return plain, 3
		} else if err == nil {
			return "%2F", 3
		}
	}
	return path[:1], 1
}

// queryOf returns a place's query without what is added to every request by
// itself. Of the values that are places, each is seen as one.
func (u *URL) queryOf(p place, target, prefix string, values bool) string {
	if p.query == "" || p.query == "?" {
		return p.query
	}
	added := strings.Split(u.url.RawQuery, "&")
	var kept []string
	for parameter := range strings.SplitSeq(p.query[1:], "&") {
		if u.url.RawQuery != "" && contains(added, parameter) {
			continue
		}
		name, escaped, _ := strings.Cut(parameter, "=")
		value, err := url.QueryUnescape(escaped)
		if values && err == nil && (strings.HasPrefix(value, "/") || strings.HasPrefix(strings.ToLower(value), "http")) && u.Tells() {
			if seen := u.seen(target, prefix, value, false); seen != value {
				parameter = name + "=" + url.QueryEscape(seen)
			}
		}
		kept = append(kept, parameter)
	}
	if len(kept) == 0 {
		return ""
	}
	return "?" + strings.Join(kept, "&")
}

func contains(parameters []string, one string) bool {
	for _, p := range parameters {
		plain, err := url.QueryUnescape(p)
		other, otherErr := url.QueryUnescape(one)
		if p == one || err == nil && otherErr == nil && plain == other {
			return true
		}
	}
	return false
}

// removeDots resolves dot segments (RFC 3986 5.2.4), also escaped ones.
func removeDots(path string) string {
	var kept []string
	segments := strings.Split(path, "/")[1:]
	for i, segment := range segments {
		switch plain := strings.NewReplacer("%2e", ".", "%2E", ".").Replace(segment); {
		case plain != "." && plain != "..":
			kept = append(kept, segment)
			continue
		case plain == "..":
			kept = kept[:max(0, len(kept)-1)]
		}
		if i == len(segments)-1 {
			kept = append(kept, "")
		}
	}
	return "/" + strings.Join(kept, "/")
}

// cutBefore divides s where sep begins, if it is in s.
func cutBefore(s, sep string) (before, from string) {
	if i := strings.Index(s, sep); i >= 0 {
		return s[:i], s[i:]
	}
	return s, ""
}

var (
	unseen       = strings.NewReplacer("\t", "", "\r", "", "\n", "")
	mergeSlashes = strings.NewReplacer("////", "/", "///", "/", "//", "/")
)

// SeenPath is [URL.Seen] of the path for which an answer sets a cookie: also one
// above the registered path, so that it comes back to it, but for / alone.
func (u *URL) SeenPath(prefix, path string) string {
	if !strings.HasPrefix(path, "/") {
		return path
	}
	registered := strings.TrimSuffix(u.path(), "/")
	resolved := removeDots(path)
	rest, under := u.behind(resolved)
	if !under {
		rest, under = u.behind(mergeSlashes.Replace(resolved))
	}
	above := strings.TrimSuffix(resolved, "/")
	switch {
	case under && (prefix+rest == "" || registered == "" && rest == "/"), above != "" && strings.HasPrefix(registered, above+"/"):
		return root(prefix)
	case under:
		return prefix + rest
	}
	return path
}
