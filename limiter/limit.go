// Package limiter answers one question: may this key spend one more now?
//
// A [Limit] is a budget under GCRA, the generic cell rate algorithm of ITU-T
// I.371 in its virtual-scheduling form. The state of one key is an instant, the
// theoretical arrival time (TAT), at which the budget is full again, and the
// emission interval by which it was counted. A request moves the TAT on by one
// emission interval, and is refused where that would put it more than the burst
// offset ahead of now. Under another limit than before, what was spent stays
// spent, in requests.
//
// The same decision is made in two places: here, for budgets held in memory
// ([Budgets]), and in Redis, by the script of redis_rate ([Prelude]). Both count
// in whole nanoseconds, to the same result, and end in one [Decision], computed
// by one function.
package limiter

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

const (
	// MaxPerSecond is the highest rate of a Limit: one request a microsecond,
	// the resolution of the store's clock.
	MaxPerSecond = 1_000_000

	// MaxBurst is the largest burst of a Limit. It and all that is derived from
	// it are whole numbers that a double holds exactly, as scripts of Redis count,
	// and have no more than the 15 digits of an integer in a header field (RFC
	// 9651).
	MaxBurst = 1_000_000_000_000

	// maxOffset bounds burst × emission interval, so that no sum of instants
	// overflows.
	maxOffset = 100 * 365 * 24 * time.Hour
)

// Limit is a budget of Rate requests a Period, of which Burst may come at
// once. The zero Limit is not valid: use [Parse], or call [Limit.Validate].
type Limit struct {
	Rate   int           // requests a Period, at least 1
	Period time.Duration // longer than 0
	Burst  int           // at least 1

	// Strict is for never more than Rate requests in any Period, wherever it
	// begins. GCRA admits the burst and what is earned meanwhile, which is up to
	// twice as many where the burst is the rate; so a strict limit earns slower,
	// and its burst is a part of its rate.
	Strict bool
}

// Parse reads a limit of the form N/PERIOD[,burst=B][,strict], where PERIOD is s,
// m, h or d, or a Go duration ("100/10m"). Without burst it is N, or 1 where the
// limit is strict. The error says what to write instead.
func Parse(s string) (Limit, error) {
	head, options, hasOptions := strings.Cut(s, ",")
	count, period, ok := strings.Cut(head, "/")
	if !ok {
		return Limit{}, fmt.Errorf("%q is not a rate: write requests/period, as in 10/s or 100/10m,burst=20", s)
	}
	var l Limit
	var err error
	if l.Rate, err = parseCount(count); err != nil {
		return Limit{}, fmt.Errorf("%q is not a number of requests: write a whole number of at least 1, as in 10/s", count)
	}
	if l.Period, err = parsePeriod(period); err != nil {
		return Limit{}, err
	}
	if hasOptions {
		err = l.parseOptions(options, head)
	}
	switch {
	case err != nil:
		return Limit{}, err
	case l.Burst == 0 && l.Strict:
		l.Burst = 1
	case l.Burst == 0:
		l.Burst = l.Rate
	}
	return l, l.Validate()
}

// parseOptions reads what stands after head, which is an example's beginning.
func (l *Limit) parseOptions(options, head string) (err error) {
	for option := range strings.SplitSeq(options, ",") {
		value, isBurst := strings.CutPrefix(option, "burst=")
		switch {
		case option == "strict":
			l.Strict = true
		case isBurst && l.Burst > 0:
			return errors.New("burst= is given twice: write a whole number once")
		case !isBurst:
			return fmt.Errorf("unknown option %q: write burst=B or strict after the rate, as in %s,burst=20", option, head)
		default:
			if l.Burst, err = parseCount(value); err != nil {
				return fmt.Errorf("burst=%s: write a whole number of at least 1, as in %s,burst=20", value, head)
			}
		}
	}
	return nil
}

// parseCount reads a whole number of at least 1 in plain digits.
func parseCount(s string) (int, error) {
	n, err := strconv.ParseUint(s, 10, 62)
	if err == nil && n == 0 {
		err = errors.New("zero")
	}
	return int(n), err
}

// periods are those with a name.
var periods = []struct {
	name   string
	length time.Duration
}{
	{"s", time.Second}, {"m", time.Minute}, {"h", time.Hour}, {"d", 24 * time.Hour},
}

func parsePeriod(s string) (time.Duration, error) {
	for _, period := range periods {
		if s == period.name {
			return period.length, nil
		}
	}
	d, err := time.ParseDuration(s)
	if err != nil || d <= 0 {
		return 0, fmt.Errorf("%q is not a period: write s, m, h or d, or a duration longer than 0 such as 10m", s)
	}
	return d, nil
}

// shortPeriod is how a person writes d.
func shortPeriod(d time.Duration) string {
	for _, period := range periods {
		if d == period.length {
			return period.name
		}
	}
	s := d.String()
	for _, zero := range []string{"m0s", "h0m"} { // 10m0s is 10m
		if strings.HasSuffix(s, zero) {
			s = s[:len(s)-2]
		}
	}
	return s
}

// Validate reports why l cannot be enforced exactly, or nil.
func (l Limit) Validate() error {
	switch {
	case l.Rate < 1 || l.Period <= 0 || l.Burst < 1:
		return errors.New("rate, period and burst must be at least 1")
	case float64(l.Rate)/l.Period.Seconds() > MaxPerSecond:
		return fmt.Errorf("%s is above %d requests a second, the most that can be counted exactly: write a lower rate, or off", l, MaxPerSecond)
	case int64(l.Burst) > MaxBurst:
		return fmt.Errorf("burst=%d is above %d, the most that can be counted exactly: write a smaller burst", l.Burst, int64(MaxBurst))
	case l.Strict && l.Burst > l.Rate:
		return fmt.Errorf("burst=%d is more than a strict limit of %d ever admits: write at most burst=%d", l.Burst, l.Rate, l.Rate)
	case float64(l.Burst)*float64(l.interval()) > float64(maxOffset):
		return fmt.Errorf("%s takes longer than 100 years to fill: write a smaller burst or a higher rate", l)
	}
	return nil
}

// String returns l as [Parse] reads it, with the shortest period and the
// burst only where it is not the rate.
func (l Limit) String() string {
	s := strconv.Itoa(l.Rate) + "/" + shortPeriod(l.Period)
	unsaid := l.Rate
	if l.Strict {
		unsaid = 1
	}
	if l.Burst != unsaid {
		s += ",burst=" + strconv.Itoa(l.Burst)
	}
	if l.Strict {
		s += ",strict"
	}
	return s
}

// Share returns one n-th of l, for n replicas that cannot ask each other: the
// rate is divided exactly, the burst down to at least one request. Of a strict
// limit it is the pace, so that all of them together keep it where n is at most
// its burst.
func (l Limit) Share(n int) Limit {
	if l.Strict && n > 1 {
		l = Limit{Rate: 1, Period: l.interval(), Burst: l.Burst}
	}
	share := Limit{Rate: l.Rate, Period: l.Period, Burst: max(1, l.Burst/n), Strict: l.Strict}
	if n > 1 {
		longest := min(float64(maxOffset)/float64(share.Burst)*float64(share.Rate), 1<<62)
		share.Period = time.Duration(min(float64(l.Period)*float64(n), longest))
	}
	return share
}

// Remaining returns how many requests l would admit at an instant from which
// its budget takes resetAfter to be full again.
func (l Limit) Remaining(resetAfter time.Duration) int {
	return l.decision(true, resetAfter, l.interval()).Remaining
}

// interval is the emission interval: the time in which one request is earned.
// It is rounded up to whole nanoseconds, so that rounding never admits more
// than the rate. Of a strict limit it is a little more than the time in which the
// rest of the rate, and one more, would be earned: a period that begins with the
// burst sees no more than that rest.
func (l Limit) interval() time.Duration {
	if l.Strict {
		return l.Period/time.Duration(l.Rate-l.Burst+1) + 1
	}
	return (l.Period-1)/time.Duration(l.Rate) + 1
}

// offset is the burst offset: how far ahead of now the TAT may lie.
func (l Limit) offset() time.Duration { return l.interval() * time.Duration(l.Burst) }
