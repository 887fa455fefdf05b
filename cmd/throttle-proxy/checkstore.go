package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"throttle-proxy/cluster"
	"throttle-proxy/proxy"
)

// storeAdvice is what to look at where a Redis cannot be used, by the fault.
var storeAdvice = map[string]string{
	"refused":        advice["connection_refused"],
	"auth":           "write user and password into the URL, as in redis://user:password@host:6379, and the URL into a variable: --redis env:REDIS_URL",
	"readonly":       "it is a replica, which takes no writes: write the address of the master, or redis+sentinel://",
	"no-replicas":    "it takes no writes while it has too few replicas (min-replicas-to-write): start them, or lower it",
	"no-persistence": "it takes no writes since it cannot save: look at its disk",
	"out-of-memory":  "it has no memory left: raise its maxmemory",
	"loading":        "it is loading what it has saved: try again later",
	"cluster-down":   "the cluster has slots without a master: look at its nodes",
}

// examineRedis does once what a replica does all the time. The error is why that
// cannot be.
func (c *config) examineRedis() (cluster.Report, error) {
	endpoint, err := c.endpoint(checkTimeout / 2) // so that why there is no connection is known in time
	if err != nil {
		return cluster.Report{}, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), checkTimeout)
	defer cancel()
	found, err := cluster.Examine(ctx, cluster.Options{Connect: endpoint.Connect, Prefix: c.redisPrefix}, c.tags(everyRoute), c.tags(sharesAnswers))
	todo := storeAdvice[cluster.FaultOf(err)]
	if _, unknown := errors.AsType[*net.DNSError](err); unknown {
		todo = advice["dns_error"]
	}
	switch {
	case err == nil && found.Trip >= c.storeTimeout:
		return found, fmt.Errorf("%s", tooFar(found.Trip, c.storeTimeout))
	case err != nil && todo != "":
		return found, fmt.Errorf("%s: %w", todo, err)
	}
	return found, err
}

func everyRoute(proxy.Route) bool      { return true }
func sharesAnswers(r proxy.Route) bool { return r.OnDuplicate != proxy.Refuse }

// tags are what leads to the parts of a Redis Cluster: those routes, and their pools.
func (c *config) tags(of func(proxy.Route) bool) (tags []string) {
	for _, r := range c.routes {
		if !of(r) {
			continue
		}
		tags = append(tags, r.Name)
		if r.Pool != "" {
			tags = append(tags, r.Pool)
		}
	}
	slices.Sort(tags)
	return slices.Compact(tags)
}

// warnOfRedis says what a Redis that can be used may do to guarantees.
func (c *config) warnOfRedis(found cluster.Report) (warnings []string) {
	if 3*found.Trip > 2*c.storeTimeout {
		warnings = append(warnings, tooFar(found.Trip, c.storeTimeout))
	}
	if found.Evicts != "" {
		warning := fmt.Sprintf("maxmemory-policy %s may evict locks and budgets before they expire: set noeviction", found.Evicts)
		if !found.Bound {
			warning += " (it has no maxmemory yet)"
		}
		warnings = append(warnings, warning)
	}
	if strings.Contains(c.redisAddress, "+") && found.Followed && !found.Guarded {
		warnings = append(warnings, "a master that is cut off from its replicas goes on to take writes, which are lost: set min-replicas-to-write 1 and min-replicas-max-lag 2")
	}
	if !found.Followed && !found.Persistent {
		warnings = append(warnings, "it keeps nothing when it restarts (no replicas, no appendonly): locks and budgets begin anew then")
	}
	return append(warnings, c.warnOfKeys(found.Evicts, found.Followed || found.Persistent, found.MaxMemory)...)
}

// tooFar says what to write where a round trip takes too much of the time that a
// request waits for it.
func tooFar(trip, timeout time.Duration) string {
	return fmt.Sprintf("a round trip to the store takes %s of the %s of --store-timeout: write --store-timeout %s, or run both nearer to each other",
		trip.Round(time.Millisecond), timeout, (3 * trip).Round(10*time.Millisecond))
}
