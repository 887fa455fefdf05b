package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"
	"slices"
	"strings"
	"time"

	"throttle-proxy/cluster"
	"throttle-proxy/proxy"
)

// config is what the flags mean.
type config struct {
	network, address string // to listen on
	listenFlag       string // that said so
	inherited        bool   // the listener is systemd's, once it is there
	routes           []proxy.Route
	pools            []string
	tlsCert, tlsKey  string
	shared           map[string][]proxy.Limit // of each pool
	tried            map[string][]proxy.Limit // its candidates
	atOnce           map[string][]proxy.Concurrency
	trust            proxy.Trust
	maxBody          int64
	bodyMemory       int64
	maxInFlight      int64
	headerTimeout    time.Duration
	bodyIdle         time.Duration
	writeIdle        time.Duration

	endpoint     func(timeout time.Duration) (*cluster.Endpoint, error) // of the Redis; nil for a cluster of one
	redisAddress string                                                 // without credentials
	redisSource  string                                                 // what named it: a flag or a variable
	redisPrefix  string
	pipeline     bool
	storeTimeout time.Duration
	lockTTL      time.Duration
	replicas     int

	drainDelay   time.Duration
	drainTimeout time.Duration

	admins []adminAddress

	collector collector // of traces

	replica   string
	logFormat string // empty for text, or what suits a terminal
	logLevel  slog.Level

	warnings []string // of what can be used, and may not be meant
}

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
	c := &config{replica: f.ReplicaName, redisPrefix: f.RedisPrefix}
	f.parseListen(p, c)
	f.parseRegister(p, c)
	f.parseHosts(p, c)
	f.parseRates(p, c)
	f.parseConcurrency(p, c)
	for _, set := range f.policies(p) {
		for i := range c.routes {
			set(&c.routes[i])
		}
	}
	c.warnOfWaits(f.Wait)
	f.parseStore(p, c)

	f.parseAdmin(p, c)
	f.parseBounds(p, c)
	f.parseTrust(p, c)
	p.parseTraces(c)
	if c.replica == "" {
		c.replica, _ = os.Hostname() // no name is as good as a wrong one
	}
	if f.LogFormat != "" {
		c.logFormat = read(p, "log-format", f.LogFormat, oneOf("text", "json"))
	}
	if err := c.logLevel.UnmarshalText([]byte(f.LogLevel)); err != nil {
		p.fail("log-level", "%s is unknown: write debug, info, warn or error", quote(f.LogLevel))
	}
	if len(p.problems) == 0 {
		// What only the proxy can tell, it tells before anything listens.
		if _, err := proxy.New(c.routes, proxy.Options{}); err != nil {
			p.fail("rate", "%w: write a smaller burst or a lower rate", err)
		}
	}
	if len(p.problems) > 0 {
		return nil, usageError{errors.Join(p.problems...)}
	}
	return c, nil
}

// parseBounds reads what one client, or all of them, may take, and what a
// drain may.
func (f *flags) parseBounds(p *parsing, c *config) {
	if 0 < len(f.MaxBody) && len(f.MaxBody) < 4 && !strings.ContainsFunc(f.MaxBody, notDigit) {
		c.warnings = append(c.warnings, fmt.Sprintf("--max-body: %s is a number of bytes: write %[1]sMiB if that is meant", f.MaxBody))
	}
	c.maxBody, c.bodyMemory = read(p, "max-body", f.MaxBody, parseSize), read(p, "body-memory", f.BodyMemory, parseSize)
	if 0 < c.bodyMemory && c.bodyMemory < c.maxBody {
		p.fail("body-memory", "%s is less than --max-body, %s: write at least that", f.BodyMemory, f.MaxBody)
	}
	c.headerTimeout = read(p, "header-timeout", f.HeaderTimeout, parseTime)
	c.bodyIdle = read(p, "body-idle", f.BodyIdle, parseTime)
	c.writeIdle = read(p, "write-idle", f.WriteIdle, parseTime)
	c.maxInFlight = int64(read(p, "max-in-flight", f.MaxInFlight, number("exchanges", math.MaxInt32)))
	c.drainDelay = read(p, "drain-delay", f.DrainDelay, parseDelay)
	c.drainTimeout = read(p, "drain-timeout", f.DrainTimeout, parseTime)
}

// warnOfWaits tells of routes that --wait names, and that have nothing to wait
// for.
func (c *config) warnOfWaits(values []string) {
	for _, r := range c.routes {
		named := slices.ContainsFunc(values, func(v string) bool { return strings.HasPrefix(v, r.Name+"=") })
		if named && r.Wait > 0 && len(r.Limits)+len(r.Concurrency) == 0 {
			c.warnings = append(c.warnings, fmt.Sprintf("--wait: %s has no limit that it could wait for: write --rate %[1]s=N/PERIOD or --concurrency %[1]s=N", r.Name))
		}
	}
}

func notDigit(r rune) bool { return r < '0' || r > '9' }

// warn tells of what can be used, and may not be meant.
func (c *config) warn(w io.Writer) {
	for _, warning := range c.warnings {
		_, _ = fmt.Fprintf(w, "throttle-proxy: warning: %s\n", warning)
	}
}
