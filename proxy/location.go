package proxy

import (
	"net/http"
	"net/url"
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
	registered := x.route.Upstream.url
	place, err := x.target.Parse(ref)
	if err != nil || place.User != nil || place.Scheme != registered.Scheme || !strings.EqualFold(hostPort(place), hostPort(registered)) {
		return ref
	}
	rest, under := strings.CutPrefix(place.EscapedPath(), strings.TrimSuffix(registered.EscapedPath(), "/"))
	if !under || rest != "" && rest[0] != '/' || climbs(rest) {
		return ref
	}
	mapped := "/" + x.route.Name + rest
	// The registered query is added to every request by itself.
	query := place.RawQuery
	if registered.RawQuery != "" {
		if query == registered.RawQuery {
			query = ""
		}
		query = strings.TrimPrefix(query, registered.RawQuery+"&")
	}
	if query != "" {
		mapped += "?" + query
	}
	if fragment := place.EscapedFragment(); fragment != "" {
		mapped += "#" + fragment
	}
	return mapped
}

// hostPort returns u's host with the port that it has by default.
func hostPort(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = defaultPorts[u.Scheme]
	}
	return u.Hostname() + ":" + port
}

var defaultPorts = map[string]string{"http": "80", "https": "443"}
