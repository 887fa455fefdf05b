package upstream

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"regexp"
	"strconv"
	"strings"
)

// URL is a registered URL. It is a secret, since the path of a webhook is its
// password: whatever prints a URL prints the route's name.
type URL struct {
	route  string
	url    *url.URL
	h2c    bool
	domain string // that somebody has registered, of a host with a *; empty without
	socket string // path of the unix socket where it listens; empty for none
}

// Parse reads the URL that route forwards to: http, https, or h2c for HTTP/2
// without TLS, or http+unix:/path and h2c+unix:/path for a socket. One label of
// its host may be a *, for which [URL.At] puts what clients name. The error says
// what to write instead, and nothing of rawURL.
func Parse(route, rawURL string) (*URL, error) {
	if scheme, path, ok := strings.Cut(rawURL, "+unix:"); ok && (scheme == "http" || scheme == "h2c") {
		if !strings.HasPrefix(path, "/") || strings.HasPrefix(path, "//") || strings.ContainsAny(path, "?#\x00") {
			return nil, errors.New("not the path of a socket: write http+unix:/path")
		}
		return &URL{route: route, url: &url.URL{Scheme: "http", Host: "localhost"}, h2c: scheme == "h2c", socket: path}, nil
	}
	u, err := url.Parse(rawURL)
	switch {
	case err != nil:
		return nil, errors.New("not a valid URL: write https://host/path, special characters escaped as in %20")
	case u.Scheme == "" || u.Opaque != "" && u.Host == "":
		return nil, errors.New("not a URL with a scheme: write https://host/path, env:VARIABLE or file:PATH")
	case u.Scheme != "http" && u.Scheme != "https" && u.Scheme != "h2c":
		return nil, errors.New("unknown scheme: write http, https or h2c, or http+unix:/path")
	case u.Hostname() == "":
		return nil, errors.New("the URL has no host: write https://host/path")
	case !validPort(u.Port()):
		return nil, errors.New("not a port: write a number from 1 to 65535") // it may be a password, before an @ that is missing
	case u.Fragment != "":
		return nil, errors.New("the URL has a fragment, which is never sent: take out what follows #")
	}
	registered := &URL{route: route, url: u}
	if strings.Contains(u.Hostname(), "*") {
		if registered.domain, err = starDomain(u.Hostname()); err != nil {
			return nil, err
		}
	}
	if u.RawPath != "" {
		u.RawPath = escapeOdd(u.RawPath)
	}
	if u.Scheme == "h2c" {
		u.Scheme, registered.h2c = "http", true
	}
	return registered, nil
}

// validPort reports whether port can be connected to; none is the scheme's.
func validPort(port string) bool {
	n, err := strconv.ParseUint(port, 10, 16)
	return port == "" || err == nil && n > 0
}

// Matches reports whether place matches the URL's host, in lower case, and path.
func (u *URL) Matches(place *regexp.Regexp) bool {
	return place.MatchString(strings.ToLower(u.url.Hostname()) + "/" + strings.TrimPrefix(u.path(), "/"))
}

// Address returns the scheme, host and port of the URL, without its secret
// parts.
func (u *URL) Address() (scheme, host, port string) {
	port = u.url.Port()
	if port == "" {
		port = defaultPorts[u.url.Scheme]
	}
	return u.url.Scheme, u.url.Hostname(), port
}

// Format prints the route's name, for every verb.
func (u URL) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, u.route) }

// MarshalText returns the route's name.
func (u URL) MarshalText() ([]byte, error) { return []byte(u.route), nil }

// LogValue returns the route's name.
func (u URL) LogValue() slog.Value { return slog.StringValue(u.route) }

// Authorization returns the field that stands for the URL's user and password,
// or "".
func (u *URL) Authorization() string {
	if u.url.User == nil {
		return ""
	}
	password, _ := u.url.User.Password()
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(u.url.User.Username()+":"+password))
}

// Digest tells URLs apart, without telling what they are. User and password,
// which may be guessed, are no part of it.
func (u *URL) Digest() string {
	public := *u.url
	public.User = nil
	sum := sha256.Sum256(fmt.Append(nil, public.String(), " ", u.h2c, u.socket))
	return hex.EncodeToString(sum[:8])
}

// Target is what is sent for a request of the route: the registered path and
// query with what the client asked for behind the route's name. rest is empty or
// begins with a slash; query is empty or begins with a question mark. Both are
// taken over to the byte.
func (u *URL) Target(rest, query string) string {
	path := u.path()
	if rest != "" {
		path = strings.TrimSuffix(path, "/") + rest
	} else if path == "" {
		path = "/"
	}
	switch registered := u.url.RawQuery; {
	case registered == "":
		return path + query
	case len(query) > 1:
		return path + "?" + registered + "&" + query[1:]
	default:
		return path + "?" + registered
	}
}

func (u *URL) path() string { return u.url.EscapedPath() }

var defaultPorts = map[string]string{"http": "80", "https": "443"}

// escapeOdd escapes what may not stand in a path. Other escapes stay what they
// are.
func escapeOdd(path string) string {
	var b strings.Builder
	for _, c := range []byte(path) {
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

// Climbs reports whether path has dot segments that lead above its start, also
// where dots and separators are escaped, are backslashes, or carry parameters
// as in "..;x", which some servers take off first.
func Climbs(path string) bool {
	if !strings.ContainsAny(path, ".%") {
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
