package main

import (
	"log/slog"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"throttle-proxy/cluster"
)

// maxReplicas bounds what a share of a budget can be divided by.
const maxReplicas = 10_000

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
	missing := false
	for _, file := range []struct{ flag, path string }{{"redis-ca", files.CA}, {"redis-cert", files.Cert}, {"redis-key", files.Key}} {
		if _, err := os.Stat(file.path); file.path != "" && err != nil {
			p.fail(file.flag, "%w: write the path of a PEM file", cause(err))
			missing = true
		}
	}
	if missing {
		return
	}
	c.connect = func(timeout time.Duration) (redis.UniversalClient, error) {
		return cluster.NewClient(rawURL, files, timeout)
	}
	client, err := c.connect(time.Second)
	if err != nil {
		p.fail("redis", "%w", cause(err))
		return
	}
	_ = client.Close() // the flags can be used; there was no connection yet
	c.redisAddress = cluster.Address(rawURL)
	if name := p.environment.source("redis"); p.environment[name] == f.Redis {
		c.redisSource = name
	}
}

// openStore chooses what the replicas decide by.
func (c *config) openStore(self cluster.Replica, logger *slog.Logger, h *health) (s store, closeStore func(), err error) {
	if c.connect == nil {
		return cluster.NewMemory(self.ID), func() {}, nil
	}
	r, err := cluster.NewRedis(cluster.Options{
		Connect:  func() (redis.UniversalClient, error) { return c.connect(c.storeTimeout) },
		Prefix:   c.redisPrefix,
		Self:     self,
		LockTTL:  c.lockTTL,
		Timeout:  c.storeTimeout,
		Replicas: c.replicas,
		Pipeline: c.pipeline,
		Observe:  storeObserver(logger, c.meanwhile),
	})
	if err != nil {
		return nil, nil, err
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
