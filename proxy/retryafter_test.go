package proxy

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestRetryAfterOfTheUpstream(t *testing.T) {
	const year, minute = 365 * 24 * time.Hour, time.Minute
	at := func(retryAfter, now time.Duration) func() []string {
		return func() []string { return []string{"Retry-After", date(retryAfter), "Date", date(now)} }
	}
	with := func(header ...string) func() []string { return func() []string { return header } }
	for _, tt := range []struct {
		name   string
		status int
		header func() []string
		want   time.Duration // 0 for none
	}{
		{"seconds", 429, with("Retry-After", "7"), 7 * time.Second},
		{"seconds, 503", 503, with("Retry-After", "7"), 7 * time.Second},
		{"seconds beside a Date", 429, with("Retry-After", "7", "Date", "Thu, 01 Jan 1970 00:00:00 GMT"), 7 * time.Second},
		{"leading zeros", 429, with("Retry-After", "007"), 7 * time.Second},
		{"the longest", 429, with("Retry-After", "300"), 5 * minute},
		{"longer", 429, with("Retry-After", "301"), 5 * minute},
		{"beyond 32 bits", 429, with("Retry-After", "4294967296"), 5 * minute},
		{"beyond 64 bits", 429, with("Retry-After", strings.Repeat("9", 50)), 5 * minute},
		{"seconds, 403", 403, with("Retry-After", "7"), 7 * time.Second},
		{"decimals of nothing", 429, with("Retry-After", "2.0"), 2 * time.Second},
		{"decimals", 429, with("Retry-After", "1.939"), 2 * time.Second},
		{"decimals, up", 429, with("Retry-After", "7.0001"), 8 * time.Second},
		{"less than one", 429, with("Retry-After", ".3"), time.Second},
		{"a point at the end", 429, with("Retry-After", "7."), 7 * time.Second},
		{"white space", 429, with("Retry-After", " 7\t"), 7 * time.Second},
		{"a list", 429, with("Retry-After", "2, 5"), 5 * time.Second},
		{"a list, the longest first", 429, with("Retry-After", "5,2"), 5 * time.Second},
		{"a list with a word", 429, with("Retry-After", "soon, 5"), 5 * time.Second},
		{"two lines", 429, with("Retry-After", "7", "Retry-After", "60"), minute},
		{"two lines, the longest first", 429, with("Retry-After", "60", "Retry-After", "7"), minute},
		{"seconds and a date", 429, with("Retry-After", "7", "Retry-After", "Sat, 01 Jan 2000 00:01:00 GMT", "Date", "Sat, 01 Jan 2000 00:00:00 GMT"), minute},

		{"date", 429, at(minute, 0), minute},
		{"date, 503", 503, at(minute, 0), minute},
		{"date of a clock that is behind", 429, at(minute-year, -year), minute},
		{"date of a clock that is ahead", 429, at(minute+year, year), minute},
		{"date, far off", 429, at(100*year, 0), 5 * minute},
		{"date without a Date", 429, func() []string { return []string{"Retry-After", date(minute)} }, minute},
		{"date beside a Date that is none", 429, func() []string { return []string{"Retry-After", date(minute), "Date", "today"} }, minute},
		{"date of RFC 850", 429, with("Retry-After", "Saturday, 01-Jan-00 00:01:00 GMT", "Date", "Sat, 01 Jan 2000 00:00:00 GMT"), minute},
		{"date of asctime", 429, with("Retry-After", "Sat Jan  1 00:01:00 2000", "Date", "Sat, 01 Jan 2000 00:00:00 GMT"), minute},
		{"date in UTC", 429, with("Retry-After", "Sat, 01 Jan 2000 00:01:00 UTC", "Date", "Sat, 01 Jan 2000 00:00:00 UTC"), minute},
		{"date of +0000", 429, with("Retry-After", "Sat, 01 Jan 2000 00:01:00 +0000", "Date", "Sat, 01 Jan 2000 00:00:00 GMT"), minute},
		{"this moment", 429, at(0, 0), 0},
		{"past", 429, at(-minute, 0), 0},
		{"past by the upstream's clock, not by ours", 429, at(minute, 2*minute), 0},

		{"none", 429, with(), 0},
		{"none, 503", 503, with(), 0},
		{"empty", 429, with("Retry-After", ""), 0},
		{"zero", 429, with("Retry-After", "0"), 0},
		{"negative", 429, with("Retry-After", "-7"), 0},
		{"signed", 429, with("Retry-After", "+7"), 0},
		{"zero with decimals", 429, with("Retry-After", "0.0"), 0},
		{"two points", 429, with("Retry-After", "1.2.3"), 0},
		{"a point alone", 429, with("Retry-After", "."), 0},
		{"exponent", 429, with("Retry-After", "1e3"), 0},
		{"hexadecimal", 429, with("Retry-After", "0x10"), 0},
		{"a duration", 429, with("Retry-After", "7s"), 0},
		{"words", 429, with("Retry-After", "soon"), 0},
		{"date of another zone", 429, with("Retry-After", "Sat, 01 Jan 2000 00:01:00 +0100"), 0},
		{"day alone", 429, with("Retry-After", "2000-01-02"), 0},
		{"RateLimit alone", 429, with("RateLimit", `"a";r=0;t=7`, "X-RateLimit-Reset", "7"), 0},

		{"200", 200, with("Retry-After", "7"), 0},
		{"202", 202, with("Retry-After", "7"), 0},
		{"301", 301, with("Retry-After", "7"), 0},
		{"413", 413, with("Retry-After", "7"), 0},
		{"403 without", 403, with(), 0},
		{"401", 401, with("Retry-After", "7"), 0},
		{"500", 500, with("Retry-After", "7"), 0},
		{"502", 502, with("Retry-After", "7"), 0},
	} {
		bubble(t, tt.name, func(t *testing.T) {
			up := &pausing{status: tt.status, header: tt.header()}
			r := newRig(t, up)
			res := r.do(post("first"))
			if body := text(t, res); res.StatusCode != tt.status || body != "its own words" {
				t.Errorf("its caller got %d %q, want %d and the upstream's own words", res.StatusCode, body, tt.status)
			}
			want := http.Header{}
			for i := 0; i < len(up.header); i += 2 {
				want.Add(up.header[i], up.header[i+1])
			}
			res.Header.Del("Content-Length")
			if got := fields(res.Header); got != fields(want) {
				t.Errorf("its caller got\n%s, want\n%s", got, fields(want))
			}
			if e := <-r.events; e.CoolDown != tt.want || e.Reason != "" || e.Status != tt.status {
				t.Errorf("got status %d, reason %q and a cool-down of %s, want %s", e.Status, e.Reason, e.CoolDown, tt.want)
			}
			if tt.want > 0 {
				status := 429
				if tt.status == 503 {
					status = 503
				}
				wantPaused(t, r, post("second"), status, fmt.Sprint(int(tt.want.Seconds())))
				if tt.want > time.Second {
					time.Sleep(tt.want - time.Second - 1)
					wantPaused(t, r, post("second"), status, "2") // more than a second is left
					time.Sleep(time.Nanosecond)
				}
				wantPaused(t, r, post("second"), status, "1")
				time.Sleep(time.Second - 1)
				wantPaused(t, r, post("second"), status, "1")
				if up.calls != 1 {
					t.Errorf("the upstream was called %d times before the end", up.calls)
				}
				time.Sleep(time.Nanosecond)
			}
			wantOutcome(t, r.do(post("second")), "200")
		})
	}
}

// What an answer says is left counts where a route learns, whatever the status.
func TestLearn(t *testing.T) {
	for name, tt := range map[string]struct {
		status int
		header []string
		want   time.Duration
	}{
		"RateLimit":                          {200, []string{"RateLimit", `"a";r=0;t=7`}, 7 * time.Second},
		"RateLimit of several":               {200, []string{"RateLimit", `"a";r=5;t=70, "b";r=0;t=7`, "RateLimit", `"c";r=0;t=9`}, 9 * time.Second},
		"RateLimit with something left":      {200, []string{"RateLimit", `"a";r=1;t=7`}, 0},
		"RateLimit without an end":           {200, []string{"RateLimit", `"a";r=0`}, 0},
		"RateLimit of another draft":         {200, []string{"RateLimit", `limit=10, remaining=0, reset=7`}, 0},
		"RateLimit that is none":             {200, []string{"RateLimit", `"`}, 0},
		"seconds":                            {200, []string{"X-RateLimit-Remaining", "0", "X-RateLimit-Reset", "7"}, 7 * time.Second},
		"seconds with decimals":              {201, []string{"X-RateLimit-Remaining", "0", "X-RateLimit-Reset", "6.2"}, 7 * time.Second},
		"an instant":                         {200, []string{"X-RateLimit-Remaining", "0", "X-RateLimit-Reset", "946684830"}, 30 * time.Second},
		"an instant in milliseconds":         {200, []string{"X-RateLimit-Remaining", "0", "X-RateLimit-Reset", "946684829500"}, 30 * time.Second},
		"an instant by the upstream's clock": {200, []string{"X-RateLimit-Remaining", "0", "X-RateLimit-Reset", "946688430", "Date", "Sat, 01 Jan 2000 01:00:00 GMT"}, 30 * time.Second},
		"a date":                             {200, []string{"X-RateLimit-Remaining", "0", "X-RateLimit-Reset", "Sat, 01 Jan 2000 00:00:30 GMT"}, 30 * time.Second},
		"an instant that has passed":         {200, []string{"X-RateLimit-Remaining", "0", "X-RateLimit-Reset", "946684700"}, 0},
		"the end of time":                    {200, []string{"X-RateLimit-Remaining", "0", "X-RateLimit-Reset", strings.Repeat("9", 400)}, 5 * time.Minute},
		"Reset-After before Reset":           {200, []string{"X-RateLimit-Remaining", "0", "X-RateLimit-Reset-After", "1.5", "X-RateLimit-Reset", "60"}, 2 * time.Second},
		"drafts before":                      {200, []string{"RateLimit-Remaining", "0", "RateLimit-Reset", "7"}, 7 * time.Second},
		"zero, as people write it":           {200, []string{"X-RateLimit-Remaining", "0.0", "X-RateLimit-Reset", "7"}, 7 * time.Second},
		"something left":                     {200, []string{"X-RateLimit-Remaining", "1", "X-RateLimit-Reset", "7"}, 0},
		"nothing said of what is left":       {200, []string{"X-RateLimit-Reset", "7"}, 0},
		"no end":                             {200, []string{"X-RateLimit-Remaining", "0"}, 0},
		"a word":                             {200, []string{"X-RateLimit-Remaining", "none", "X-RateLimit-Reset", "7"}, 0},
		"beside Retry-After, the longest":    {429, []string{"Retry-After", "9", "X-RateLimit-Remaining", "0", "X-RateLimit-Reset", "7"}, 9 * time.Second},
		"a status that is no refusal":        {500, []string{"Retry-After", "9"}, 0},
		"404":                                {404, []string{"RateLimit", `"a";r=0;t=7`}, 7 * time.Second},
	} {
		bubble(t, name, func(t *testing.T) {
			for learns, want := range map[bool]time.Duration{true: tt.want, false: 0} {
				if tt.status == 429 && !learns {
					continue // pauses anyway
				}
				r := newRig(t, &pausing{status: tt.status, header: tt.header}, func(r *Route) { r.CoolDown.Learn = learns })
				wantOutcome(t, r.do(post("first")), fmt.Sprint(tt.status))
				if e := <-r.events; e.CoolDown != want {
					t.Errorf("learns %t: got a cool-down of %s, want %s", learns, e.CoolDown, want)
				}
				if want > 0 {
					wantCooling(t, r, post("second"), fmt.Sprint(int(want.Seconds())))
				}
			}
		})
	}
}
