package proxy

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"strconv"
	"strings"
)

// Upstream is a registered URL. It is a secret, since the path of a webhook is
// its password: whatever prints an Upstream prints the route's name.
type Upstream struct {
	route string
	url   *url.URL
	h2c   bool
}

// ParseUpstream reads the URL that route forwards to: http, https, or h2c for
// HTTP/2 without TLS. The error says what to write instead, and nothing of
// rawURL.
func ParseUpstream(route, rawURL string) (*Upstream, error) {
	u, err := url.Parse(rawURL)
	switch {
	case err != nil:
		return nil, errors.New("not a valid URL: write https://host/path, special characters escaped as in %20")
	case u.Scheme == "" || u.Opaque != "" && u.Host == "":
		return nil, errors.New("not a URL with a scheme: write https://host/path, env:VARIABLE or file:PATH")
	case u.Scheme != "http" && u.Scheme != "https" && u.Scheme != "h2c":
		return nil, errors.New("unknown scheme: write http, https or h2c")
	case u.Hostname() == "":
		return nil, errors.New("the URL has no host: write https://host/path")
	case !validPort(u.Port()):
		return nil, errors.New("not a port: write a number from 1 to 65535") // it may be a password, before an @ that is missing
	case u.Fragment != "":
		return nil, errors.New("the URL has a fragment, which is never sent: take out what follows #")
	}
	u.RawPath = escapedPath(u)
	upstream := &Upstream{route: route, url: u}
	if u.Scheme == "h2c" {
		u.Scheme, upstream.h2c = "http", true
	}
	return upstream, nil
}

// validPort reports whether port can be connected to; none is the scheme's.
func validPort(port string) bool {
	n, err := strconv.ParseUint(port, 10, 16)
	return port == "" || err == nil && n > 0
}

// Slack reports whether the URL is an incoming webhook of Slack, which
// publishes a limit for them.
func (u *Upstream) Slack() bool { return u.url.Hostname() == "hooks.slack.com" }

// Address returns the scheme, host and port of the URL, without its secret
// parts.
func (u *Upstream) Address() (scheme, host, port string) {
	port = u.url.Port()
	if port == "" {
		port = defaultPorts[u.url.Scheme]
	}
	return u.url.Scheme, u.url.Hostname(), port
}

// Format prints the route's name, for every verb.
func (u Upstream) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, u.route) }

// MarshalText returns the route's name.
func (u Upstream) MarshalText() ([]byte, error) { return []byte(u.route), nil }

// LogValue returns the route's name.
func (u Upstream) LogValue() slog.Value { return slog.StringValue(u.route) }

// target is the registered URL with what the client asked for behind the
// route's name: rest is empty or begins with a slash. Both are taken over to
// the byte.
func (u *Upstream) target(rest, query string) *url.URL {
	t := *u.url
	t.User = nil
	if rest != "" {
		raw := strings.TrimSuffix(u.url.EscapedPath(), "/") + rest
		// The server has parsed rest and the start has parsed the rest of it.
		t.Path, _ = url.PathUnescape(raw)
		t.RawPath = raw
	}
	switch {
	case t.RawQuery == "":
		t.RawQuery = query
	case query != "":
		t.RawQuery += "&" + query
	}
	return &t
}

// escapedPath is u.EscapedPath, but that other escapes in a path stay what
// they are where it has characters that may not stand in one.
func escapedPath(u *url.URL) string {
	if u.RawPath == "" {
		return u.EscapedPath()
	}
	var b strings.Builder
	for _, c := range []byte(u.RawPath) {
		switch {
		case '0' <= c && c <= '9', 'A' <= c && c <= 'Z', 'a' <= c && c <= 'z',
			strings.IndexByte("-._~!$&'()*+,;=:@[]/%", c) >= 0:
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

// climbs reports whether path has dot segments that lead above its start, also
// where dots and separators are escaped, are backslashes, or carry parameters
// as in "..;x", which some servers take off first.
func climbs(path string) bool {
	if !strings.Contains(path, ".") && !strings.Contains(path, "%") {
		return false
	}
	depth := 0
	for segment := range strings.SplitSeq(path, "/") {
		// An escaped separator divides for some servers and is a character for
		// others, and some take slashes together: a segment counts once, an empty
		// one not at all.
		grown := false
		for part := range strings.SplitSeq(unescapeDots.Replace(segment), "/") {
			switch name, _, _ := strings.Cut(part, ";"); name {
			case "", ".":
			case "..":
				if depth--; depth < 0 {
					return true
				}
			default:
				if !grown {
					depth, grown = depth+1, true
				}
			}
		}
	}
	return false
}

var unescapeDots = strings.NewReplacer("%2e", ".", "%2E", ".", "%2f", "/", "%2F", "/", "%5c", "/", "%5C", "/", `\`, "/")
