package cluster

import (
	"crypto/tls"
	"errors"
	"fmt"
	"math"
	"net"
	"net/url"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"
)

// parseURL reads a URL, of which [NewEndpoint] says what it can be.
func parseURL(rawURL string) (*redis.UniversalOptions, error) {
	scheme, rest, ok := strings.Cut(rawURL, "://")
	if !ok {
		return nil, errors.New("not a URL: write redis://host:port")
	}
	// net/url reads no list of hosts, so they are taken out first.
	authority, tail := rest, ""
	if i := strings.IndexAny(rest, "/?#"); i >= 0 {
		authority, tail = rest[:i], rest[i:]
	}
	credentials, hosts := "", authority
	if i := strings.LastIndexByte(authority, '@'); i >= 0 {
		credentials, hosts = authority[:i+1], authority[i+1:]
	}
	u, err := url.Parse("redis://" + credentials + "host" + tail)
	var query url.Values
	if err == nil {
		query, err = url.ParseQuery(u.RawQuery)
	}
	// What looks like a path, parameter or fragment is the rest of a password.
	if err != nil || strings.Contains(tail, "@") || strings.Contains(tail, "#") {
		return nil, errors.New("not a valid URL: escape special characters of the password, as in %40 for @")
	}
	o := &redis.UniversalOptions{Username: u.User.Username()}
	if o.Password, _ = u.User.Password(); o.Username != "" && o.Password == "" {
		o.Password = "none" // a user without a password is logged in by any, and without one not at all
	}

	base, kind, _ := strings.Cut(scheme, "+")
	db, defaultPort := strings.Trim(u.Path, "/"), "6379"
	take := func(name string) string {
		defer query.Del(name)
		return query.Get(name)
	}
	switch kind {
	case "":
	case "sentinel":
		defaultPort = "26379"
		o.MasterName, o.SentinelUsername, o.SentinelPassword = take("master_name"), take("sentinel_username"), take("sentinel_password")
		if o.MasterName == "" {
			return nil, errors.New("the URL does not name the master: add ?master_name=NAME")
		}
	case "cluster":
		o.IsClusterMode = true
	default:
		return nil, errUnknownScheme
	}
	switch {
	case base == "unix" && kind == "":
		if hosts != "" || u.Path == "" {
			return nil, errors.New("not a path: write unix:///path/to/socket")
		}
		o.Addrs, db = []string{u.Path}, take("db")
	case base == "redis", base == "rediss":
		if o.Addrs, err = splitHosts(hosts, defaultPort); err != nil {
			return nil, err
		}
		if len(o.Addrs) > 1 && kind == "" {
			return nil, fmt.Errorf("several hosts: write %s+sentinel or %s+cluster for what they are", base, base)
		}
	default:
		return nil, errUnknownScheme
	}
	if base == "rediss" {
		o.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	if db != "" {
		// More than any Redis is set up with may be a password.
		if o.DB, err = strconv.Atoi(db); err != nil || o.DB < 0 || o.DB > math.MaxUint16 || o.IsClusterMode {
			return nil, errors.New("not a database: write its number, or nothing for a cluster")
		}
	}
	if len(query) > 0 {
		return nil, errors.New("a parameter in the URL is unknown: take it out")
	}
	return o, nil
}

// errUnknownScheme does not repeat the scheme: of a URL that is none, it may be
// the password.
var errUnknownScheme = errors.New("unknown scheme: write redis, rediss, unix, redis+sentinel or redis+cluster")

// splitHosts reads host[:port],… and adds the port where it is missing.
func splitHosts(hosts, defaultPort string) (addrs []string, err error) {
	for addr := range strings.SplitSeq(hosts, ",") {
		host, port, err := net.SplitHostPort(addr)
		if err != nil {
			host, port = strings.Trim(addr, "[]"), defaultPort
		}
		if host == "" || strings.ContainsAny(host, " []") {
			return nil, errors.New("the URL has no host, or an empty one: write redis://host:port")
		}
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return nil, errors.New("not a port: write a number from 1 to 65535, and the password before an @")
		}
		addrs = append(addrs, net.JoinHostPort(host, port))
	}
	return addrs, nil
}

// Address returns rawURL without user, password and parameters, for people to
// read. rawURL is one that [NewEndpoint] takes.
func Address(rawURL string) string {
	scheme, rest, _ := strings.Cut(rawURL, "://")
	rest, _, _ = strings.Cut(rest, "?")
	end := strings.IndexByte(rest, '/')
	if end < 0 {
		end = len(rest)
	}
	if i := strings.LastIndexByte(rest[:end], '@'); i >= 0 {
		rest = rest[i+1:]
	}
	return scheme + "://" + rest
}
