package main

import (
	"fmt"
	"slices"
	"strings"

	"throttle-proxy/proxy"
)

// describe says in plain words what the replica will do.
func (c *config) describe() []string {
	width := 0
	for _, r := range c.routes {
		width = max(width, len(r.Name))
	}
	var lines []string
	for _, r := range c.routes {
		lines = append(lines, fmt.Sprintf("%-*s  %s; %s%s", width, r.Name, c.describeLimits(r), describeDedupe(r), describeHosts(r)))
	}
	if c.connect == nil {
		return append(lines, "store: this process alone; with --redis replicas would decide together")
	}
	source := "--redis"
	if c.redisSource != "" {
		source = c.redisSource
	}
	return append(lines, fmt.Sprintf("store: %s (from %s), keys under %s:", c.redisAddress, source, c.redisPrefix))
}

func (c *config) describeLimits(r proxy.Route) string {
	if len(r.Limits) == 0 {
		return "no limit"
	}
	var parts []string
	for _, l := range r.Limits {
		rate, _, _ := strings.Cut(l.String(), ",")
		part := fmt.Sprintf("%s, burst %d", rate, l.Burst)
		if l.By != (proxy.By{}) {
			part += " by " + l.By.String()
		}
		if r.Upstream.Slack() && l.Limit == builtinRate(r.Upstream).Limit {
			part += " (Slack's published limit)"
		}
		if slices.Contains(c.shared[r.Pool], l) {
			part += " (shared by pool " + r.Pool + ")"
		}
		parts = append(parts, part)
	}
	return strings.Join(parts, " and ")
}

func describeDedupe(r proxy.Route) string {
	what := map[proxy.Dedupe]string{
		proxy.DedupeOn:  "repeats",
		proxy.DedupeAll: "repeats, of any method,",
		proxy.DedupeKey: "repeats with an Idempotency-Key",
	}[r.Dedupe]
	text := "repeats are forwarded"
	if r.Dedupe != proxy.DedupeOff {
		text = what + " refused while in flight"
		if r.Hold > 0 {
			text += fmt.Sprintf(" and %s after success", r.Hold)
		}
	}
	if r.Shadow {
		text += "; shadow: nothing is refused, only reported"
	}
	return text
}
