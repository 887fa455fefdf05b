package main

import (
	"log/slog"
	"regexp"
	"slices"
	"strings"
	"time"

	"throttle-proxy/cluster"
)

// maxReplicas bounds what a share of a budget can be divided by.
const maxReplicas = 10_000

// startTime is how long a replica waits for its store before it listens.
const startTime = time.Second

var prefixPattern = regexp.MustCompile(`^[A-Za-z0-9_.:-]+$`)

func (f *flags) parseStore(p *parsing, c *config) {
	c.storeTimeout, c.lockTTL = read(p, "store-timeout", f.StoreTimeout, parseTime), read(p, "lock-ttl", f.LockTTL, parseTime)
	least := 10 * c.storeTimeout
	switch {
	case c.storeTimeout == 0 || c.lockTTL == 0: // was told
	case c.storeTimeout < time.Millisecond:
		p.fail("store-timeout", "%s is too short for any store: write at least 1ms", f.StoreTimeout)
	case c.lockTTL < least:
		p.fail("lock-ttl", "%s is below 10 store timeouts, too short to be renewed in time: write at least %s, or a lower --store-timeout", f.LockTTL, least)
	}
	c.pipeline = read(p, "redis-pipeline", f.RedisPipeline, parseSwitch)
	c.replicas = read(p, "replicas", f.Replicas, number("replicas", maxReplicas))
	if !prefixPattern.MatchString(f.RedisPrefix) {
		p.fail("redis-prefix", "this cannot begin a key: write letters, digits and _ . : -")
	}
	files := read(p, "redis-tls", f.RedisTLS, parseTLSFiles)
	if f.Redis == "none" {
		if files != (cluster.TLSFiles{}) {
			p.fail("redis-tls", "certificates for a Redis, but no Redis: write --redis rediss://host:port")
		}
		return
	}
	// What it refers to is read again for each new connection: a file may change.
	source := func() (rawURL string, err error) { return p.environment.reference(f.Redis) }
	c.endpoint = func(timeout time.Duration) (*cluster.Endpoint, error) {
		return cluster.NewEndpoint(source, files, timeout)
	}
	if _, err := c.endpoint(c.storeTimeout); err != nil {
		p.fail("redis", "%w", cause(err))
		return
	}
	rawURL, _ := source()
	c.redisAddress = cluster.Address(rawURL)
	if name := p.environment.source("redis"); p.environment[name] == f.Redis {
		c.redisSource = name
	}
}

// openStore chooses what the replicas decide by. report is what the others are told
// of this one.
func (c *config) openStore(self cluster.Replica, logger *slog.Logger, h *health, report func() []byte) (s store, closeStore func(), err error) {
	if c.endpoint == nil {
		return cluster.NewMemory(self.ID), func() {}, nil
	}
	endpoint, err := c.endpoint(c.storeTimeout)
	if err != nil {
		return nil, nil, err
	}
	r, err := cluster.NewRedis(cluster.Options{
		Connect:  endpoint.Connect,
		Watch:    endpoint.Watch,
		Dialled:  endpoint.Dialled,
		Prefix:   c.redisPrefix,
		Self:     self,
		Report:   report,
		LockTTL:  c.lockTTL,
		Timeout:  c.storeTimeout,
		Replicas: c.replicas,
		Pipeline: c.pipeline,
		Observe:  storeObserver(logger, c.storeTimeout, c.meanwhile),
	})
	if err != nil {
		return nil, nil, err
	}
	// The first requests find connections; where the store is silent they do not
	// wait for it any longer.
	select {
	case <-r.Started():
	case <-time.After(startTime):
	}
	h.store, h.policies = r, c.whenUndecided()
	return r, func() { _ = r.Close() }, nil
}

// self is this replica as the others are to know it.
func (c *config) self(id string) cluster.Replica {
	self := cluster.Replica{ID: id, Name: c.replica, Version: buildName(), Started: time.Now(), Routes: map[string]cluster.Digest{}}
	for _, r := range c.routes {
		self.Routes[r.Name] = r.Digest()
	}
	return self
}

// whenUndecided names what the routes do while the store is away.
func (c *config) whenUndecided() string {
	var names []string
	for _, r := range c.routes {
		names = append(names, string(r.WhenUndecided))
	}
	slices.Sort(names)
	return strings.Join(slices.Compact(names), " and ")
}
