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
	route string
	url   *url.URL
	h2c   bool
}

// Parse reads the URL that route forwards to: http, https, or h2c for HTTP/2
// without TLS. The error says what to write instead, and nothing of rawURL.
func Parse(route, rawURL string) (*URL, error) {
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
	if u.RawPath != "" {
		u.RawPath = escapeOdd(u.RawPath)
	}
	registered := &URL{route: route, url: u}
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
	sum := sha256.Sum256(fmt.Append(nil, public.String(), " ", u.h2c))
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

// Below returns what ref, which an answer to target refers to, has behind the
// registered URL: a path that is empty or begins with a slash, a query with its
// question mark, and a fragment. ok is false for any other place.
func (u *URL) Below(target, ref string) (rest string, ok bool) {
	registered := u.url
	base, err := (&url.URL{Scheme: registered.Scheme, Host: registered.Host}).Parse(target)
	if err != nil {
		base = registered
	}
	place, err := base.Parse(ref)
	if err != nil || place.User != nil || place.Scheme != registered.Scheme || !strings.EqualFold(hostPort(place), hostPort(registered)) {
		return "", false
	}
	rest, under := strings.CutPrefix(place.EscapedPath(), strings.TrimSuffix(u.path(), "/"))
	if !under || rest != "" && rest[0] != '/' || Climbs(rest) {
		return "", false
	}
	// The registered query is added to every request by itself.
	query := place.RawQuery
	if registered.RawQuery != "" {
		if query == registered.RawQuery {
			query = ""
		}
		query = strings.TrimPrefix(query, registered.RawQuery+"&")
	}
	if query != "" {
		rest += "?" + query
	}
	if fragment := place.EscapedFragment(); fragment != "" {
		rest += "#" + fragment
	}
	return rest, true
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
