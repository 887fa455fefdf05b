package main

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

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
		lines = append(lines, fmt.Sprintf("%-*s  %s; %s%s%s", width, r.Name, c.describeLimits(r), describeDedupe(r)+describeIdempotency(r), describeCoolDown(r), describeHosts(r)))
	}
	if c.collector.address != "" {
		lines = append(lines, fmt.Sprintf("traces: to %s (from %s)", c.collector.address, c.collector.source))
	}
	if c.endpoint == nil {
		return append(lines, "store: this process alone; with --redis replicas would decide together")
	}
	source := "--redis"
	if c.redisSource != "" {
		source = c.redisSource
	}
	return append(lines, fmt.Sprintf("store: %s (from %s), keys under %s:, this replica is %s", c.redisAddress, source, c.redisPrefix, c.replica))
}

func (c *config) describeLimits(r proxy.Route) string {
	var parts []string
	for _, l := range r.Limits {
		part := describeLimit(l)
		if preset := proxy.PresetOf(r.Upstream); slices.Contains(preset.Limits, l.Limit) {
			part += " (" + preset.Source + ")"
		}
		if slices.Contains(c.shared[r.Pool], l) {
			part += " (shared by pool " + r.Pool + ")"
		}
		parts = append(parts, part)
	}
	for _, l := range r.Concurrency {
		part := fmt.Sprintf("%d at once%s", l.Most, describeBy(l.By))
		if slices.Contains(c.atOnce[r.Pool], l) {
			part += " (shared by pool " + r.Pool + ")"
		}
		parts = append(parts, part)
	}
	text := strings.Join(parts, " and ")
	if text == "" {
		text = "no limit"
	}
	if r.Wait > 0 && len(parts) > 0 && !r.Shadow {
		text += fmt.Sprintf("; what would be too many waits up to %s", brief(r.Wait))
	}
	for _, l := range r.Candidates {
		text += "; only reported: " + describeLimit(l)
		if slices.Contains(c.tried[r.Pool], l) {
			text += " (shared by pool " + r.Pool + ")"
		}
	}
	return text
}

func describeLimit(l proxy.Limit) string {
	rate, _, _ := strings.Cut(l.String(), ",")
	if l.Strict {
		return fmt.Sprintf("%s in any period, burst %d%s", rate, l.Burst, describeBy(l.By))
	}
	return fmt.Sprintf("%s, burst %d%s", rate, l.Burst, describeBy(l.By))
}

func describeBy(by proxy.By) string {
	if by == (proxy.By{}) {
		return ""
	}
	return " by " + by.String()
}

func describeDedupe(r proxy.Route) string {
	what := map[proxy.Dedupe]string{
		proxy.DedupeOn:  "repeats",
		proxy.DedupeAll: "repeats, of any method,",
		proxy.DedupeKey: "repeats with an Idempotency-Key",
	}[r.Dedupe]
	text := "repeats are forwarded"
	if r.Dedupe != proxy.DedupeOff {
		text = what + describeRefusals(r)
		if r.DedupeJSON != nil {
			text += ", JSON compared by " + strings.Join(r.DedupeJSON, " ")
		}
	}
	if r.Shadow {
		text += "; shadow: nothing is refused, only reported"
	}
	return text
}

// describeCoolDown says when a route rests, where that is not as usual.
func describeCoolDown(r proxy.Route) string {
	switch {
	case r.CoolDown.Learn:
		return "; rests also when its upstream says that nothing is left"
	case r.CoolDown.Longest == 0:
		return "; never rests"
	}
	return ""
}

// sharedWhile says what repeats get where they are not refused.
var sharedWhile = map[proxy.OnDuplicate]string{
	proxy.Join:  " get the same answer while ",
	proxy.Fresh: " get one fresh answer while ",
}

// describeRefusals says when repeats are refused, and how.
func describeRefusals(r proxy.Route) string {
	when := []string{"in flight"}
	if d := r.Hold.Success; d > 0 {
		when = append(when, brief(d)+" after success")
	}
	text, refused := " refused while ", ""
	shared := sharedWhile[r.OnDuplicate]
	if d := r.Hold.Unknown; d > 0 && shared != "" {
		refused = ", and are refused " + brief(d) + " after an unknown outcome"
	} else if d > 0 {
		when = append(when, brief(d)+" after an unknown outcome")
	}
	if shared != "" {
		text = shared
	} else if r.DuplicateStatus != http.StatusConflict {
		text = fmt.Sprintf(" refused with %d while ", r.DuplicateStatus)
	}
	last := len(when) - 1
	if last > 0 {
		text += strings.Join(when[:last], ", ") + " and "
	}
	return text + when[last] + refused
}

// brief is how a person writes d: 1m0s is 1m.
func brief(d time.Duration) string {
	s := d.String()
	for _, zero := range [...]string{"m0s", "h0m"} {
		if strings.HasSuffix(s, zero) {
			s = s[:len(s)-2]
		}
	}
	return s
}
