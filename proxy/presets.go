package proxy

import (
	"regexp"
	"time"

	"throttle-proxy/limiter"
	"throttle-proxy/proxy/upstream"
)

// Preset is what is known of a service by its address: the budgets of a route for
// which none is given, and how it says that it has had enough. docs/budgets.md
// says where each figure comes from.
type Preset struct {
	Source string // of the limits, in plain words
	Limits []limiter.Limit

	secret bool // the URL is a credential: who knows it may use it, and all callers are one

	// How it refuses, beside Retry-After.
	fields bool          // by fields that say that nothing is left, as those that are learned from
	member bool          // by a member of a JSON body: "retry_after", in seconds
	silent time.Duration // for how long, where a 429 says nothing; 0 if nobody knows
}

// presets is the table of known services, by host and path. The first that fits
// counts.
var presets = []struct {
	place *regexp.Regexp
	Preset
}{
	{regexp.MustCompile(`^hooks\.slack\.com/`), Preset{
		Source: "Slack's published limit", Limits: []limiter.Limit{{Rate: 1, Period: time.Second, Burst: 5}},
		secret: true,
	}},
	{regexp.MustCompile(`^((canary|ptb)\.)?discord(app)?\.com/api(/v[0-9]+)?/webhooks/`), Preset{
		Source: "Discord's limit, which is not published", Limits: []limiter.Limit{{Rate: 30, Period: time.Minute, Burst: 5}},
		secret: true, fields: true, member: true, silent: time.Minute,
	}},
	{regexp.MustCompile(`^((canary|ptb)\.)?discord(app)?\.com/`), Preset{
		Source: "Discord's published limit of a bot", Limits: []limiter.Limit{{Rate: 50, Period: time.Second, Burst: 50}},
		fields: true, member: true, silent: time.Minute,
	}},
	{regexp.MustCompile(`^([^/]+\.webhook\.office\.com/|outlook\.office\.com/webhook/)`), Preset{
		Source: "Microsoft's published limit", Limits: []limiter.Limit{{Rate: 60, Period: 30 * time.Second, Burst: 4}, {Rate: 100, Period: time.Hour, Burst: 100}},
		secret: true,
	}},
	{regexp.MustCompile(`^api\.github\.com/`), Preset{
		Source: "GitHub's published limit of a user", Limits: []limiter.Limit{{Rate: 5000, Period: time.Hour, Burst: 100}},
		fields: true, silent: time.Minute,
	}},
}

// PresetOf returns what is known of u's service. Of one that is unknown that is
// nothing: the zero Preset.
func PresetOf(u *upstream.URL) Preset {
	for _, p := range presets {
		if u.Matches(p.place) {
			return p.Preset
		}
	}
	return Preset{}
}
