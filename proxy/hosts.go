package proxy

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"

	"golang.org/x/net/idna"
)

// A route has a name, perhaps hosts, and a URL that may have one *. Which route a
// request is of is found in this order: an exact host, the longest *.suffix, the
// first segment of the path, the host *. By a host the whole path goes behind the
// registered one; by the path, what follows the route's name.
//
// A * in a host is one or more whole labels in front of a suffix, or, alone, any
// host. What it matched stands for the * of the URL, if that has one; only such
// routes lead to hosts that clients name, and only *.suffix hosts lead to them.

// anyHost is the host of requests that are of no other route.
const anyHost = "*"

// maxHost is the longest name of a host, and maxLabel of one part of it, in bytes
// (RFC 1035 2.3.4).
const maxHost, maxLabel = 253, 63

// ParseHost reads a host as routes have it: a name, an address, *.suffix, or *.
// The error says what to write instead.
func ParseHost(s string) (string, error) {
	if s == anyHost {
		return s, nil
	}
	if address := strings.Trim(s, "[]"); net.ParseIP(address) != nil {
		return strings.ToLower(address), nil
	}
	suffix, wild := strings.CutPrefix(hostOf(s), "*.")
	if strings.ContainsFunc(suffix, func(r rune) bool { return r >= 0x80 }) {
		suffix, _ = idna.Lookup.ToASCII(suffix) // as clients send it; empty if it cannot be
	}
	switch {
	case strings.ContainsAny(s, ":/@?#"):
		return "", errors.New("a host has no scheme, port or path: write api.example.com, *.example.com or *")
	case !isLabels(suffix):
		return "", errors.New("not a host: write api.example.com, *.example.com or *")
	case wild:
		return "*." + suffix, nil
	}
	return suffix, nil
}

// isLabels reports whether s is one or more labels of a host's name, in small
// letters.
func isLabels(s string) bool {
	label := 0
	for i := range len(s) {
		switch c := s[i]; {
		case c == '.':
			if label == 0 {
				return false
			}
			label = 0
			continue
		case c != '-' && c != '_' && (c < '0' || c > '9') && (c < 'a' || c > 'z'):
			return false
		}
		if label++; label > maxLabel {
			return false
		}
	}
	return label > 0 && len(s) <= maxHost
}

// hosts finds routes by the host of requests.
type hosts struct {
	exact map[string]*route
	wild  map[string]*route // by what follows the *, with its dot
	any   *route            // nil for none
}

// add gives a host to a route.
func (h *hosts) add(host string, rt *route) error {
	host, err := ParseHost(host)
	if err != nil {
		return fmt.Errorf("route %s: %w", rt.Name, err)
	}
	suffix, wild := strings.CutPrefix(host, "*")
	to := h.exact
	if wild {
		to, host = h.wild, suffix
	}
	other, taken := to[host]
	switch {
	case taken && other != rt:
		return fmt.Errorf("route %s: its host is one of route %s too: give it to one of them", rt.Name, other.Name)
	case rt.Upstream.Wild() && (!wild || suffix == ""):
		return fmt.Errorf("route %s: its URL has a *, for which its hosts must have one: write *.SUFFIX", rt.Name)
	}
	to[host] = rt
	h.any = h.wild[""]
	return nil
}

// find returns the route of a host that is not the last resort, and what its *
// stands for.
func (h *hosts) find(host string) (rt *route, labels string) {
	host = hostOf(host)
	if rt := h.exact[host]; rt != nil {
		return rt, ""
	}
	if len(h.wild) == 0 || len(host) > maxHost {
		return nil, ""
	}
	for i := range len(host) {
		if host[i] != '.' {
			continue
		}
		if rt := h.wild[host[i:]]; rt != nil && isLabels(host[:i]) && (!rt.Upstream.Wild() || rt.Upstream.Owns(host[:i])) {
			return rt, host[:i]
		}
	}
	return nil, ""
}

// match is what a request's host and path say.
type match struct {
	route  *route
	name   string // the first segment of the path
	prefix string // what is in front of the upstream's path: /NAME, or nothing by a host
	labels string // what stands for the * of the route's URL
	rest   string // of the path, empty or from a slash on
	query  string // with its question mark
}

// match returns which route a request is of. The name in a path is compared as it
// was sent: another spelling of it is another name.
func (p *Proxy) match(r *http.Request) (m match) {
	path := r.RequestURI
	if !strings.HasPrefix(path, "/") {
		path = originForm(r)
	}
	if i := strings.IndexByte(path, '?'); i >= 0 {
		path, m.query = path[:i], path[i:]
	}
	m.name = strings.TrimPrefix(path, "/")
	if i := strings.IndexByte(m.name, '/'); i >= 0 {
		m.name, m.rest = m.name[:i], m.name[i:]
	}
	asterisk := r.RequestURI == "*" // which asks a server, and no path of it
	if len(p.hosts.exact)+len(p.hosts.wild) > 0 && !asterisk {
		if rt, labels := p.hosts.find(r.Host); rt != nil {
			return m.byHost(rt, labels, path)
		}
	}
	if rt := p.routes[m.name]; rt != nil && !rt.Upstream.Wild() {
		m.route, m.prefix = rt, rt.prefix[0]
	} else if p.hosts.any != nil && !asterisk {
		return m.byHost(p.hosts.any, "", path)
	}
	return m
}

// byHost is m where the host decides: path is the upstream's.
func (m match) byHost(rt *route, labels, path string) match {
	m.route, m.rest = rt, path
	if path == "/" {
		m.rest = "" // no client can ask for less
	}
	if rt.Upstream.Wild() {
		m.labels = labels
	}
	return m
}

// originForm returns the path and query of a target that has more, such as
// http://host/path, as they were sent.
func originForm(r *http.Request) string {
	_, after, ok := strings.Cut(r.RequestURI, "://")
	if !ok {
		return ""
	}
	if i := strings.IndexAny(after, "/?"); i >= 0 {
		return after[i:]
	}
	return ""
}
