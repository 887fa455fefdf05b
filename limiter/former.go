package limiter

import (
	"fmt"
	"strconv"
	"time"
)

// Former is a limit as far as a budget that it wrote remembers it. The zero
// Former is none.
type Former struct {
	Interval time.Duration // emission interval
	Furthest int           // requests: the burst, and what may wait besides
}

// Before returns what limit f was, where l has found it, without what may wait: as
// long as under l, which is wait. ok is false where there was none, or where that
// may be all in which they differ.
func (f Former) Before(l Limit, wait time.Duration) (was Former, ok bool) {
	if f == (Former{}) || wait > 0 && f.Interval == l.interval() {
		return Former{}, false
	}
	if waits := waiting(wait, f.Interval); waits < f.Furthest {
		f.Furthest -= waits
	}
	return f, true
}

// waiting returns how many requests wait for a budget at most.
func waiting(wait, interval time.Duration) int { return int((wait + interval - 1) / interval) }

// String names f for people, as in "10/m burst 5": by the shortest of s, m, h
// and d of which one whole number of requests makes this interval, and the
// roundest if there are several; otherwise as one request in an interval.
func (f Former) String() string {
	rate := "1/" + shortPeriod(f.Interval)
	for _, period := range periods {
		if n := roundest(f.Interval, period.length); n > 0 {
			rate = strconv.Itoa(n) + "/" + period.name
			break
		}
	}
	return fmt.Sprintf("%s burst %d", rate, f.Furthest)
}

// roundest returns the number with the most zeros at its end among those of
// which one period makes an emission interval, or 0.
func roundest(interval, period time.Duration) int {
	if interval < 1 || interval > period {
		return 0
	}
	// Emission intervals are rounded up to nanoseconds.
	least := (period + interval - 1) / interval
	most := period
	if interval > 1 {
		most = (period - 1) / (interval - 1)
	}
	if least > most {
		return 0
	}
	n := least
	for ten := time.Duration(10); ten <= most; ten *= 10 {
		if round := (least + ten - 1) / ten * ten; round <= most {
			n = round
		}
	}
	return int(n)
}
