package cluster

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// TLSFiles are PEM files for connections to a Redis: each may be empty.
type TLSFiles struct {
	CA        string // certificates to trust in place of the system's
	Cert, Key string // what to present to the server; both or neither
}

// NewClient returns a client of the Redis at rawURL, which is one of
//
//	redis://[user:password@]host[:port][/db]
//	unix://[user:password@]/path[?db=0]
//	redis+sentinel://[user:password@]host[:port],…[/db]?master_name=NAME
//	redis+cluster://[user:password@]host[:port],…
//
// with rediss in place of redis for TLS. User and password are those of the
// data nodes; sentinels have sentinel_username and sentinel_password in the
// query. No connection is made yet. timeout bounds each dial, read, write and
// wait for a connection, and no command is ever sent twice by itself. Errors
// never contain a part of rawURL: what looks like a port, a database or a
// parameter may be the password, where a character is missing or not escaped.
func NewClient(rawURL string, files TLSFiles, timeout time.Duration) (redis.UniversalClient, error) {
	o, err := parseURL(rawURL)
	if err != nil {
		return nil, err
	}
	if files != (TLSFiles{}) && o.TLSConfig == nil {
		return nil, errors.New("certificates were given, but the URL is without TLS: write rediss in place of redis")
	}
	if err := files.load(o.TLSConfig); err != nil {
		return nil, err
	}
	// A retried SET NX is refused by the lock that it took itself, and a
	// retried limit charges twice. A cluster client obeys once instead.
	o.MaxRetries, o.DialerRetries = -1, 1
	o.DialTimeout, o.ReadTimeout, o.WriteTimeout, o.PoolTimeout = timeout, timeout, timeout, timeout
	o.ContextTimeoutEnabled = true
	// Fewer round trips before the first command of a connection.
	o.DisableIdentity = true
	o.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	return redis.NewUniversalClient(o), nil
}

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
	o.Password, _ = u.User.Password()

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

// load completes c, which may be nil only where f is empty.
func (f TLSFiles) load(c *tls.Config) error {
	if f.CA != "" {
		pem, err := os.ReadFile(f.CA)
		if err != nil {
			return err
		}
		if c.RootCAs = x509.NewCertPool(); !c.RootCAs.AppendCertsFromPEM(pem) {
			return errors.New("the file of certificates to trust has no PEM certificate in it: write the path of one that has")
		}
	}
	switch {
	case f.Cert == "" && f.Key == "":
		return nil
	case f.Cert == "" || f.Key == "":
		return errors.New("a client certificate needs its key, and a key its certificate")
	}
	pair, err := tls.LoadX509KeyPair(f.Cert, f.Key)
	if err != nil {
		return err
	}
	c.Certificates = []tls.Certificate{pair}
	return nil
}

// Address returns rawURL without user, password and parameters, for people to
// read. rawURL is one that [NewClient] takes.
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
