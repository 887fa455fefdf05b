package proxy

import (
	"math"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/dunglas/httpsfv"
)

// retryAfter reads Retry-After (RFC 9110 10.2.3) as upstreams write it: seconds,
// also with decimals, which are rounded up; or a date, also in UTC or +0000. Of
// several, in one line or more, the longest counts. It is 0 if there is none that
// can be read.
func retryAfter(h http.Header) (longest time.Duration) {
	for _, line := range h.Values("Retry-After") {
		if until, ok := parseDate(line); ok {
			longest = max(longest, until.Sub(dateOf(h)))
			continue
		}
		longest = max(longest, seconds(line))
	}
	return longest
}

// nothingLeft reads of an answer for how long nothing is left of what its upstream
// allows; it is 0 where something is, or that is not said. Recognised are
//
//   - RateLimit, a list of items (draft-ietf-httpapi-ratelimit-headers-08 and
//     later): t of each with r=0, in seconds;
//   - X-RateLimit-Remaining: 0 or RateLimit-Remaining: 0 (drafts before), with
//     X-RateLimit-Reset-After in seconds or else with X-RateLimit-Reset or
//     RateLimit-Reset: seconds, or an instant, as [instant] tells them apart.
//
// Of several the longest counts.
func nothingLeft(h http.Header) (longest time.Duration) {
	if list, err := httpsfv.UnmarshalList(h.Values("RateLimit")); err == nil {
		for _, member := range list {
			if item, ok := member.(httpsfv.Item); ok && item.Params != nil {
				if left, ok := item.Params.Get("r"); ok && left == int64(0) {
					t, _ := item.Params.Get("t")
					whole, _ := t.(int64)
					longest = max(longest, time.Duration(min(whole, math.MaxInt32))*time.Second)
				}
			}
		}
	}
	for _, prefix := range []string{"X-Ratelimit-", "Ratelimit-"} {
		if left, ok := parseNumber(h.Get(prefix + "Remaining")); !ok || left > 0 {
			continue
		}
		wait := seconds(h.Get(prefix + "Reset-After"))
		if wait == 0 {
			wait = instant(h.Get(prefix+"Reset"), dateOf(h))
		}
		longest = max(longest, wait)
	}
	return longest
}

// instant reads how long after now a budget is full: a number up to 10^8, three
// years, is seconds from now; a larger one is seconds since 1970, or from 10^11,
// the year 5138, milliseconds. It may be a date too. It is 0 for anything else.
func instant(text string, now time.Time) time.Duration {
	const relative, milliseconds = 1e8, 1e11
	if until, ok := parseDate(text); ok {
		return max(0, until.Sub(now))
	}
	n, _ := parseNumber(text)
	switch {
	case n <= relative:
		return seconds(text)
	case n >= milliseconds:
		n /= 1000
	}
	return max(0, time.Unix(int64(math.Ceil(min(n, milliseconds))), 0).Sub(now))
}

// seconds reads numbers of seconds with commas between them, and returns the
// largest, rounded up; 0 if there is none.
func seconds(text string) (longest time.Duration) {
	for element := range strings.SplitSeq(text, ",") {
		n, _ := parseNumber(element)
		longest = max(longest, time.Duration(min(math.Ceil(n), math.MaxInt32))*time.Second)
	}
	return longest
}

// number has no sign, exponent or other base: those mean something else.
var number = regexp.MustCompile(`^([0-9]+\.?[0-9]*|\.[0-9]+)$`)

func parseNumber(text string) (n float64, ok bool) {
	text = strings.TrimSpace(text)
	if !number.MatchString(text) {
		return 0, false
	}
	n, err := strconv.ParseFloat(text, 64)
	return n, err == nil || math.IsInf(n, 1)
}

// parseDate reads a date of HTTP, and one that names its zone by another word of
// the same meaning.
func parseDate(text string) (date time.Time, ok bool) {
	text = strings.TrimSpace(text)
	for _, zone := range []string{" UTC", " +0000", " -0000", " Z"} {
		if rest, ok := strings.CutSuffix(text, zone); ok {
			text = rest + " GMT"
		}
	}
	date, err := http.ParseTime(text)
	return date, err == nil
}

// dateOf returns when an answer was made, by the clock that made it: what it says
// of time is read against that, so that neither clock has to be right. Without a
// Date it is now.
func dateOf(h http.Header) time.Time {
	if date, ok := parseDate(h.Get("Date")); ok {
		return date
	}
	return time.Now()
}
