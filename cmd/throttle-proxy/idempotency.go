package main

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"throttle-proxy/proxy"
)

// maxKeep bounds --idempotency: a key without an end would stay in the store for
// ever.
const maxKeep = 30 * 24 * time.Hour

// parseIdempotency reads TIME[,required][,by=header:NAME] or off.
func parseIdempotency(text string) (i proxy.Idempotency, err error) {
	if text == "off" {
		return i, nil
	}
	keep, options, more := strings.Cut(text, ",")
	if err := wrongTime(keep, "write off, or for how long answers are kept, as in 24h"); err != nil {
		return i, err
	}
	if i.Keep, err = parseDuration(keep); err != nil || i.Keep < time.Second || i.Keep > maxKeep {
		return i, fmt.Errorf("%s is no time to keep answers: write a duration of 1s to 30d, as in 24h, or off", quote(keep))
	}
	for more {
		var option string
		option, options, more = strings.Cut(options, ",")
		key, value, _ := strings.Cut(option, "=")
		switch {
		case option == "required" && !i.Required:
			i.Required = true
		case key == "by" && i.By == (proxy.By{}):
			if i.By, err = parseBy(value); err == nil && i.By.Client {
				err = errors.New("by=client would take a client that has moved for another: write by=header:NAME")
			}
			if err != nil {
				return i, err
			}
		case option == "required", key == "by":
			return i, fmt.Errorf("%s is given twice: write one", key)
		default:
			return i, errors.New("unknown option: write required or by=header:NAME, as in 24h,required")
		}
	}
	return i, nil
}

// describeIdempotency says what becomes of requests with a key, where a route looks
// at them.
func describeIdempotency(r proxy.Route) string {
	switch i := r.Idempotency; {
	case i.Keep == 0:
		return ""
	case r.Shadow:
		return "; shadow: no answer is kept"
	default:
		text := fmt.Sprintf("; answers kept %s by Idempotency-Key%s", brief(i.Keep), strings.Replace(describeBy(i.By), "by", "and", 1))
		if i.Required {
			text += ", which is required"
		}
		return text
	}
}

// warnOfKeys says what a Redis may do to kept answers: what it evicts or loses with a
// restart is sent again when it is repeated.
func (c *config) warnOfKeys(evicts string, persistent bool, maxMemory int64) (warnings []string) {
	const largest = 256 << 10
	var kept []string
	needed := 0.0
	for _, r := range c.routes {
		if r.Idempotency.Keep == 0 || r.Shadow {
			continue
		}
		kept = append(kept, r.Name)
		rate := 0.0
		for _, l := range r.Limits {
			if of := float64(l.Rate) / l.Period.Seconds(); l.By == (proxy.By{}) && (rate == 0 || of < rate) {
				rate = of
			}
		}
		needed += rate * r.Idempotency.Keep.Seconds()
	}
	if len(kept) == 0 {
		return nil
	}
	names := strings.Join(kept, ", ")
	if evicts != "" {
		warnings = append(warnings, fmt.Sprintf("idempotency keys of %s do not survive maxmemory-policy %s: an evicted key's request is sent again; set noeviction", names, evicts))
	}
	if !persistent {
		warnings = append(warnings, fmt.Sprintf("idempotency keys of %s do not survive its restart: a repeat is sent again then; set appendonly yes", names))
	}
	const least = 500 // bytes of a key and a small answer
	if maxMemory > 0 && needed*least > float64(maxMemory) {
		warnings = append(warnings, fmt.Sprintf("idempotency keys of %s are up to %.0f by rate and time, at least %.0f MiB and %.0f MiB with the largest answers, of a maxmemory of %d MiB: what does not fit is not kept; keep them for less long, or raise it",
			names, needed, needed*least/(1<<20), needed*largest/(1<<20), maxMemory>>20))
	}
	return warnings
}
