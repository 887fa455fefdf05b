package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/redis/go-redis/v9"
	"golang.org/x/net/http/httpguts"

	"throttle-proxy/cluster"
	"throttle-proxy/limiter"
	"throttle-proxy/proxy"
	"throttle-proxy/proxy/upstream"
)

// config is what the flags mean.
type config struct {
	network, address string // to listen on
	listenFlag       string // that said so
	routes           []proxy.Route
	pools            []string
	tlsCert, tlsKey  string
	shared           map[string][]proxy.Limit // of each pool
	trust            proxy.Trust
	maxBody          int64
	bodyMemory       int64
	maxInFlight      int64
	headerTimeout    time.Duration
	bodyIdle         time.Duration
	writeIdle        time.Duration

	connect      func(timeout time.Duration) (redis.UniversalClient, error) // to the Redis; nil for a cluster of one
	redisAddress string                                                     // of the Redis, without credentials
	redisSource  string                                                     // what named it: a flag or a variable
	redisPrefix  string
	pipeline     bool
	storeTimeout time.Duration
	lockTTL      time.Duration
	replicas     int

	drainDelay   time.Duration
	drainTimeout time.Duration

	adminNetwork, adminAddress string // both empty for none

	replica   string
	logFormat string
	logLevel  slog.Level
}

// maxReplicas bounds what a share of a budget can be divided by.
const maxReplicas = 10_000

var (
	prefixPattern = regexp.MustCompile(`^[A-Za-z0-9_.:-]+$`)

	errSwitch = errors.New("write on or off")
)

// defaultDedupeHeaders are those by which clients and intents differ.
const defaultDedupeHeaders = "Authorization,Cookie,X-Api-Key,Api-Key,Idempotency-Key"

// parsing collects what is wrong while flags are read.
type parsing struct {
	environment environment
	problems    []error
	names       map[string]bool // of routes
}

// fail notes what is wrong with a flag's value.
func (p *parsing) fail(flag string, format string, args ...any) {
	p.problems = append(p.problems, fmt.Errorf("throttle-proxy: --%s: %w", flag, fmt.Errorf(format, args...)))
}

// parse returns what f means. The error names each flag that cannot be used,
// and is a usageError.
func (f *flags) parse(env environment) (*config, error) {
	p := &parsing{environment: env, names: map[string]bool{}}
	c := &config{replica: f.ReplicaName, logFormat: f.LogFormat, redisPrefix: f.RedisPrefix}
	f.parseListen(p, c)
	f.parseRegister(p, c)
	f.parseRates(p, c)
	f.parsePolicies(p, c)
	f.parseStore(p, c)

	if f.Admin != "off" {
		c.adminNetwork, c.adminAddress = p.parseAddress("admin", f.Admin)
		if c.adminAddress == c.address && !strings.HasSuffix(c.address, ":0") {
			p.fail("admin", "%s is where clients connect: write another address", f.Admin)
		}
	}
	f.parseBounds(p, c)
	for _, value := range f.TrustedProxy {
		p.parseTrust(c, value)
	}
	var err error
	if c.drainDelay, err = parseDelay(f.DrainDelay); err != nil {
		p.fail("drain-delay", "%w", err)
	}
	if c.drainTimeout, err = parseTime(f.DrainTimeout); err != nil {
		p.fail("drain-timeout", "%w", err)
	}
	if c.replica == "" {
		c.replica, _ = os.Hostname() // no name is as good as a wrong one
	}
	if f.LogFormat != "text" && f.LogFormat != "json" {
		p.fail("log-format", "unknown format %q: write text or json", f.LogFormat)
	}
	if err := c.logLevel.UnmarshalText([]byte(f.LogLevel)); err != nil {
		p.fail("log-level", "unknown level %q: write debug, info, warn or error", f.LogLevel)
	}
	if len(p.problems) > 0 {
		return nil, usageError{errors.Join(p.problems...)}
	}
	return c, nil
}

// parseBounds reads what one client, or all of them, may take.
func (f *flags) parseBounds(p *parsing, c *config) {
	size := func(flag, value string) int64 {
		n, err := humanize.ParseBytes(value)
		if err != nil || n == 0 || n > 1<<40 {
			p.fail(flag, "%q is not a size from 1 byte to 1TiB: write bytes, or a number with KiB, MiB or GiB, as in 10MiB", value)
		}
		return int64(n)
	}
	duration := func(flag, value string) time.Duration {
		d, err := parseTime(value)
		if err != nil {
			p.fail(flag, "%w", err)
		}
		return d
	}
	c.maxBody, c.bodyMemory = size("max-body", f.MaxBody), size("body-memory", f.BodyMemory)
	if c.bodyMemory < c.maxBody {
		p.fail("body-memory", "%s is less than --max-body, %s: write at least that", f.BodyMemory, f.MaxBody)
	}
	c.headerTimeout, c.bodyIdle, c.writeIdle = duration("header-timeout", f.HeaderTimeout), duration("body-idle", f.BodyIdle), duration("write-idle", f.WriteIdle)
	var err error
	if c.maxInFlight, err = strconv.ParseInt(f.MaxInFlight, 10, 32); err != nil || c.maxInFlight < 1 {
		p.fail("max-in-flight", "%q is not a number of exchanges: write a whole number of at least 1", f.MaxInFlight)
	}
}

func (f *flags) parseListen(p *parsing, c *config) {
	c.network, c.listenFlag = "tcp", "--listen"
	c.tlsCert, c.tlsKey = f.TLSCert, f.TLSKey
	if (f.TLSCert == "") != (f.TLSKey == "") {
		p.fail("tls-cert", "a certificate needs its key: write both --tls-cert and --tls-key")
	} else if f.TLSCert != "" {
		if _, err := tls.LoadX509KeyPair(f.TLSCert, f.TLSKey); err != nil {
			p.fail("tls-cert", "%w: write the PEM files of a certificate and its key", err)
		}
	}
	if f.Listen == "" {
		c.listenFlag = "--port"
		if _, err := strconv.ParseUint(f.Port, 10, 16); err != nil {
			p.fail("port", "%q is not a port: write a number from 0 to 65535 (0 takes a free one)", f.Port)
		}
		c.address = ":" + f.Port
		return
	}
	c.network, c.address = p.parseAddress("listen", f.Listen)
}

// parseAddress reads where to listen.
func (p *parsing) parseAddress(flag, value string) (network, address string) {
	if path, ok := strings.CutPrefix(value, "unix:"); ok {
		if path == "" {
			p.fail(flag, "no path in %q: write unix:/path/to/socket", value)
		}
		return "unix", path
	}
	_, port, err := net.SplitHostPort(value)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil {
		p.fail(flag, "%q is not an address: write host:port, :port or unix:/path", value)
	}
	return "tcp", value
}

func (f *flags) parseRegister(p *parsing, c *config) {
	if len(f.Register) == 0 {
		p.fail("register", "no route: write --register NAME=URL, as in --register slack=env:WEBHOOK_URL")
	}
	for _, value := range f.Register {
		name, reference, ok := strings.Cut(value, "=")
		switch {
		case !ok || strings.ContainsAny(name, ":/@?"):
			// The value may be a URL whose path is its password.
			p.fail("register", "a value without a name: write NAME=URL, as in slack=env:WEBHOOK_URL")
			continue
		case !proxy.ValidName(name):
			p.fail("register", "%q cannot name a route: write up to 63 of a-z, 0-9, dot, dash and underscore, beginning with a letter or digit", name)
			continue
		case p.names[name]:
			p.fail("register", "route %s is registered twice: write one URL for each name", name)
			continue
		}
		p.names[name] = true
		rawURL, err := p.environment.reference(reference)
		if err != nil {
			p.fail("register", "route %s: %w", name, err)
			continue
		}
		registered, err := upstream.Parse(name, rawURL)
		if err != nil {
			p.fail("register", "route %s: %w", name, err)
			continue
		}
		c.routes = append(c.routes, proxy.Route{Name: name, Upstream: registered})
	}
}

// reference returns what env:VARIABLE or file:PATH refers to, or value itself.
func (e environment) reference(value string) (string, error) {
	kind, name, _ := strings.Cut(value, ":")
	if kind != "env" && kind != "file" {
		return value, nil
	}
	// The shell puts the secret itself there for env:$WEBHOOK_URL.
	if name == "" || strings.Contains(name, "://") || kind == "env" && strings.Contains(name, "/") {
		return "", fmt.Errorf("%s: without a name: write env:VARIABLE, without a $, or file:PATH", kind)
	}
	secret := e[name]
	if kind == "file" {
		content, err := os.ReadFile(name)
		if err != nil {
			return "", fmt.Errorf("%w: write the path of a file that holds the URL", err)
		}
		secret = string(content)
	}
	if secret = strings.TrimSpace(secret); secret == "" {
		return "", fmt.Errorf("%s is empty or not set: put the value there", value)
	}
	return secret, nil
}

// rates are the values of --rate for one route or pool, or for all.
type rates struct {
	given  bool
	limits []proxy.Limit
}

func (f *flags) parseRates(p *parsing, c *config) {
	poolOf := map[string]string{}
	isPool := map[string]bool{}
	for _, value := range f.Pool {
		name, members, ok := strings.Cut(value, "=")
		switch {
		case !ok || !proxy.ValidName(name):
			p.fail("pool", "%q is not a pool: write NAME=ROUTE,ROUTE, the name in lower case", value)
			continue
		case isPool[name]:
			p.fail("pool", "pool %s is defined twice: write all its routes in one", name)
			continue
		case p.names[name]:
			p.fail("pool", "%s is a route: give the pool another name", name)
			continue
		}
		isPool[name] = true
		c.pools = append(c.pools, name)
		for member := range strings.SplitSeq(members, ",") {
			switch {
			case !p.names[member]:
				p.fail("pool", "pool %s: no route %q: register it, or take it out", name, member)
			case poolOf[member] == name:
				p.fail("pool", "pool %s: route %s stands there twice: write it once", name, member)
			case poolOf[member] != "":
				p.fail("pool", "route %s is in pool %s and pool %s: a route can be in one", member, poolOf[member], name)
			}
			poolOf[member] = name
		}
	}

	of := map[string]*rates{}
	for _, value := range f.Rate {
		name, text := p.splitRoute(value, isPool)
		limit, off, err := parseRate(text)
		if err != nil {
			p.fail("rate", "%w", p.explain(err, value, isPool))
			continue
		}
		r := of[name]
		if r == nil {
			r = &rates{}
			of[name] = r
		}
		if off && len(r.limits) > 0 || r.given && len(r.limits) == 0 {
			p.fail("rate", "%s: off and a rate at once: write one of them", value)
		}
		r.given = true
		if !off {
			r.limits = append(r.limits, limit)
		}
	}
	for _, pool := range c.pools {
		if of[pool] == nil || len(of[pool].limits) == 0 {
			p.fail("pool", "pool %s has no budget: add --rate %s=N/PERIOD", pool, pool)
			of[pool] = &rates{}
		}
	}
	taken := map[string]bool{} // names of limits, each after what shares them
	claim := func(tag string, limits []proxy.Limit) []proxy.Limit {
		for _, l := range limits {
			if taken[tag+" "+l.Name] {
				p.fail("rate", "two budgets of %s are called %s: give one of them another name=", tag, l.Name)
			}
			taken[tag+" "+l.Name] = true
		}
		return limits
	}
	c.shared = map[string][]proxy.Limit{}
	for _, pool := range c.pools {
		c.shared[pool] = claim(pool, named(of[pool].limits, pool))
	}
	for i := range c.routes {
		route := &c.routes[i]
		route.Pool = poolOf[route.Name]
		own := of[route.Name]
		switch {
		case own != nil:
		case of[""] != nil:
			own = of[""]
		default:
			own = &rates{limits: []proxy.Limit{builtinRate(route.Upstream)}}
		}
		tag := route.Name
		if route.Pool != "" {
			tag = route.Pool
		}
		route.Limits = append(claim(tag, named(own.limits, route.Name)), c.shared[route.Pool]...)
	}
}

// builtinRate is the budget of a route for which none is given.
func builtinRate(u *upstream.URL) proxy.Limit {
	if u.Slack() {
		return proxy.Limit{Limit: limiter.Limit{Rate: 1, Period: time.Second, Burst: 5}}
	}
	return proxy.Limit{Limit: limiter.Limit{Rate: 10, Period: time.Second, Burst: 20}}
}

// named returns limits with a name for each that has none.
func named(limits []proxy.Limit, name string) []proxy.Limit {
	out := make([]proxy.Limit, len(limits))
	for i, l := range limits {
		if l.Name == "" {
			if l.Name = name; i > 0 {
				l.Name = name + "-" + strconv.Itoa(i+1)
			}
		}
		out[i] = l
	}
	return out
}

// parseRate reads N/PERIOD[,burst=B][,by=client|header:NAME][,name=X] or off.
func parseRate(text string) (l proxy.Limit, off bool, err error) {
	if text == "off" {
		return l, true, nil
	}
	rate := ""
	given := map[string]bool{}
	for i, option := range strings.Split(text, ",") {
		key, value, _ := strings.Cut(option, "=")
		if given[key] {
			return l, false, fmt.Errorf("%s= is given twice: write one", key)
		}
		given[key] = true
		switch {
		case i == 0:
			rate = option
		case key == "by" && value == "client":
			l.By = proxy.By{Client: true}
		case key == "by":
			header, ok := strings.CutPrefix(value, "header:")
			if !ok || !httpguts.ValidHeaderFieldName(header) {
				return l, false, fmt.Errorf("unknown by=%s: write by=client or by=header:NAME", value)
			}
			l.By = proxy.By{Header: header}
		case key == "name":
			if !proxy.ValidName(value) {
				return l, false, fmt.Errorf("%q cannot name a budget: write up to 63 of a-z, 0-9, dot, dash and underscore", value)
			}
			l.Name = value
		case key == "burst":
			rate += "," + option
		default:
			return l, false, fmt.Errorf("unknown option %q: write burst=B, by=client, by=header:NAME or name=X", option)
		}
	}
	l.Limit, err = limiter.Parse(rate)
	return l, false, err
}

// splitRoute splits [R=]VALUE. What stands before = is a route only if it is a
// route's name, or the name of one of others.
func (p *parsing) splitRoute(value string, others map[string]bool) (route, rest string) {
	if name, rest, ok := strings.Cut(value, "="); ok && (p.names[name] || others[name]) {
		return name, rest
	}
	return "", value
}

// explain adds to err that what looks like a route in value is none.
func (p *parsing) explain(err error, value string, others map[string]bool) error {
	name, _, ok := strings.Cut(value, "=")
	if ok && proxy.ValidName(name) && !p.names[name] && !others[name] {
		return fmt.Errorf("%s: no route %q is registered: write --register %s=URL, or correct the name", value, name, name)
	}
	return fmt.Errorf("%s: %w", value, err)
}

// policy reads the values of a flag [R=]VALUE, of which each route has one,
// and returns the one of a route.
func policy[T any](p *parsing, flag string, values []string, fallback T, parse func(string) (T, error)) func(route string) T {
	of := map[string]T{}
	for _, value := range values {
		name, text := p.splitRoute(value, nil)
		parsed, err := parse(text)
		if err != nil {
			p.fail(flag, "%w", p.explain(err, value, nil))
			continue
		}
		if _, twice := of[name]; twice {
			p.fail(flag, "%s: given twice for %s: write one value", value, orAll(name))
		}
		of[name] = parsed
	}
	return func(route string) T {
		for _, name := range []string{route, ""} {
			if v, ok := of[name]; ok {
				return v
			}
		}
		return fallback
	}
}

func orAll(route string) string {
	if route == "" {
		return "all routes"
	}
	return route
}

func (f *flags) parsePolicies(p *parsing, c *config) {
	dedupe := policy(p, "dedupe", f.Dedupe, proxy.DedupeOn, oneOf(proxy.DedupeOn, proxy.DedupeOff, proxy.DedupeAll, proxy.DedupeKey))
	headers := policy(p, "dedupe-header", f.DedupeHeader, strings.Split(defaultDedupeHeaders, ","), parseHeaders)
	hold := policy(p, "hold", f.Hold, time.Second, parseDelay)
	duplicateStatus := policy(p, "duplicate-status", f.DuplicateStatus, 409, parseStatus)
	timeout := policy(p, "timeout", f.Timeout, time.Minute, parseTime)
	clientGone := policy(p, "client-gone", f.ClientGone, proxy.Finish, oneOf(proxy.Finish, proxy.Cancel))
	closedStatus := policy(p, "upstream-closed-status", f.UpstreamClosedStatus, proxy.StatusClientGone, parseStatus)
	answerIdle := policy(p, "answer-idle", f.AnswerIdle, 5*time.Minute, parseTime)
	forwarded := policy(p, "forwarded", f.Forwarded, true, parseSwitch)
	setHeaders := f.parseSetHeaders(p)
	shadow := policy(p, "shadow", f.Shadow, false, parseSwitch)
	whenUndecided := policy(p, "when-undecided", f.WhenUndecided, cluster.Local, oneOf(cluster.Local, cluster.Open, cluster.Closed))
	coolDown := policy(p, "cool-down", f.CoolDown, true, parseSwitch)
	maxCoolDown, err := parseTime(f.MaxCoolDown)
	if err != nil {
		p.fail("max-cool-down", "%w", err)
	}
	for i := range c.routes {
		r := &c.routes[i]
		r.Dedupe, r.DedupeHeaders, r.Hold, r.DuplicateStatus = dedupe(r.Name), headers(r.Name), hold(r.Name), duplicateStatus(r.Name)
		r.AnswerIdle, r.Forwarded, r.SetHeaders = answerIdle(r.Name), forwarded(r.Name), setHeaders(r.Name)
		r.WhenUndecided = whenUndecided(r.Name)
		if coolDown(r.Name) {
			r.MaxCoolDown = maxCoolDown
		}
		r.Timeout, r.ClientGone, r.ClosedStatus, r.Shadow = timeout(r.Name), clientGone(r.Name), closedStatus(r.Name), shadow(r.Name)
	}
}

// parseSetHeaders returns the fields that are set on each route's requests.
func (f *flags) parseSetHeaders(p *parsing) func(route string) []proxy.Field {
	of := map[string][]proxy.Field{}
	for _, value := range f.SetHeader {
		route, field := p.splitRoute(value, nil)
		name, reference, ok := strings.Cut(field, "=")
		if !ok || !httpguts.ValidHeaderFieldName(name) {
			// What stands behind = may be a secret.
			p.fail("set-header", "%q is not a header field: write NAME=VALUE or ROUTE=NAME=VALUE", name)
			continue
		}
		text, err := p.environment.reference(reference)
		switch {
		case err != nil:
			p.fail("set-header", "%s: %w", name, err)
		case !httpguts.ValidHeaderFieldValue(text):
			p.fail("set-header", "the value of %s has characters that no header field can have: take out line ends and the like", name)
		case slices.Contains([]string{"Connection", "Content-Length", "Te", "Trailer", "Transfer-Encoding", "Upgrade"}, http.CanonicalHeaderKey(name)):
			p.fail("set-header", "%s frames the message and cannot be set: take it out", name)
		default:
			of[route] = append(of[route], proxy.Field{Name: http.CanonicalHeaderKey(name), Value: text})
		}
	}
	return func(route string) []proxy.Field {
		if fields, ok := of[route]; ok {
			return fields
		}
		return of[""]
	}
}

func (f *flags) parseStore(p *parsing, c *config) {
	var err error
	if c.storeTimeout, err = parseTime(f.StoreTimeout); err != nil {
		p.fail("store-timeout", "%w", err)
	} else if c.storeTimeout < time.Millisecond {
		p.fail("store-timeout", "%s is too short for any store: write at least 1ms", f.StoreTimeout)
	}
	if c.lockTTL, err = parseTime(f.LockTTL); err != nil {
		p.fail("lock-ttl", "%w", err)
	} else if least := 10 * c.storeTimeout; c.lockTTL < least {
		p.fail("lock-ttl", "%s is below 10 store timeouts, too short to be renewed in time: write at least %s, or a lower --store-timeout", f.LockTTL, least)
	}
	if c.pipeline, err = parseSwitch(f.RedisPipeline); err != nil {
		p.fail("redis-pipeline", "%q: %w", f.RedisPipeline, err)
	}
	if c.replicas, err = strconv.Atoi(f.Replicas); err != nil || c.replicas < 1 || c.replicas > maxReplicas {
		p.fail("replicas", "%q is not a number of replicas: write a whole number from 1 to %d", f.Replicas, maxReplicas)
	}
	if !prefixPattern.MatchString(f.RedisPrefix) {
		p.fail("redis-prefix", "%q cannot begin a key: write letters, digits and _ . : -", f.RedisPrefix)
	}
	files := cluster.TLSFiles{CA: f.RedisCA, Cert: f.RedisCert, Key: f.RedisKey}
	if f.Redis == "none" {
		if files != (cluster.TLSFiles{}) {
			p.fail("redis", "certificates for a Redis, but no Redis: write --redis rediss://host:port")
		}
		return
	}
	rawURL, err := p.environment.reference(f.Redis)
	if err != nil {
		p.fail("redis", "%w", err)
		return
	}
	if (files.Cert == "") != (files.Key == "") {
		p.fail("redis-cert", "a client certificate and its key go together: write --redis-cert and --redis-key, or neither")
		return
	}
	c.connect = func(timeout time.Duration) (redis.UniversalClient, error) {
		return cluster.NewClient(rawURL, files, timeout)
	}
	client, err := c.connect(time.Second)
	if err != nil {
		if errors.As(err, new(*fs.PathError)) {
			err = fmt.Errorf("%w: write paths of PEM files for --redis-ca, --redis-cert and --redis-key", err)
		}
		p.fail("redis", "%w", err)
		return
	}
	_ = client.Close() // the flags can be used; there was no connection yet
	c.redisAddress = cluster.Address(rawURL)
	if name := p.environment.source("redis"); p.environment[name] == f.Redis {
		c.redisSource = name
	}
}

func (p *parsing) parseTrust(c *config, value string) {
	if value == "unix" {
		c.trust.Unix = true
		return
	}
	prefix, err := netip.ParsePrefix(value)
	if addr, addrErr := netip.ParseAddr(value); addrErr == nil {
		prefix, err = addr.Prefix(addr.BitLen())
	}
	if err != nil || prefix.Addr().Is4In6() { // peers are never 4in6
		p.fail("trusted-proxy", "%q is not a network: write CIDR as in 10.0.0.0/8, an address, or unix", value)
		return
	}
	c.trust.Prefixes = append(c.trust.Prefixes, prefix.Masked())
}

// oneOf returns a parser of the given words.
func oneOf[T ~string](words ...T) func(string) (T, error) {
	return func(s string) (T, error) {
		list := ""
		for i, word := range words {
			if s == string(word) {
				return word, nil
			}
			switch {
			case i == 0:
			case i == len(words)-1:
				list += " or "
			default:
				list += ", "
			}
			list += string(word)
		}
		return "", fmt.Errorf("unknown value %q: write %s", s, list)
	}
}

func parseSwitch(s string) (bool, error) {
	if s != "on" && s != "off" {
		return false, errSwitch
	}
	return s == "on", nil
}

func parseTime(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err != nil || d <= 0 {
		return 0, fmt.Errorf("%q is not a time: write a duration longer than 0, as in 5s or 200ms", s)
	}
	return d, nil
}

// parseDelay is parseTime for a time that may be 0.
func parseDelay(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 {
		return 0, fmt.Errorf("%q is not a time: write a duration of at least 0s, as in 1s or 200ms", s)
	}
	return d, nil
}

func parseStatus(s string) (int, error) {
	status, err := strconv.Atoi(s)
	if err != nil || status < 400 || status > 599 {
		return 0, fmt.Errorf("%q is not an error status: write a number from 400 to 599", s)
	}
	return status, nil
}

func parseHeaders(s string) ([]string, error) {
	if s == "none" {
		return nil, nil
	}
	names := strings.Split(s, ",")
	for _, name := range names {
		if !httpguts.ValidHeaderFieldName(name) {
			return nil, fmt.Errorf("%q is not a header field: write names separated by commas, or none", name)
		}
	}
	return names, nil
}
