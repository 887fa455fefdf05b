package limiter

import (
	"strings"
	"testing"
	"time"
)

// parse is Parse for limits that a test knows to be right.
func parse(t testing.TB, s string) Limit {
	t.Helper()
	l, err := Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

var goodLimits = []struct {
	in   string
	want Limit
	text string // as String writes it; empty where that is in
}{
	{"10/s", Limit{10, time.Second, 10, false}, ""},
	{"1/m", Limit{1, time.Minute, 1, false}, ""},
	{"3/h", Limit{3, time.Hour, 3, false}, ""},
	{"1/d", Limit{1, 24 * time.Hour, 1, false}, ""},
	{"1/s,burst=5", Limit{1, time.Second, 5, false}, ""},
	{"5/s,burst=5", Limit{5, time.Second, 5, false}, "5/s"},
	{"100/10m", Limit{100, 10 * time.Minute, 100, false}, ""},
	{"100/10m,burst=20", Limit{100, 10 * time.Minute, 20, false}, ""},
	{"1/10h", Limit{1, 10 * time.Hour, 1, false}, ""},
	{"1/1h10m", Limit{1, 70 * time.Minute, 1, false}, ""},
	{"1/1h0m30s", Limit{1, time.Hour + 30*time.Second, 1, false}, ""},
	{"1/90m", Limit{1, 90 * time.Minute, 1, false}, "1/1h30m"},
	{"1/1s", Limit{1, time.Second, 1, false}, "1/s"},
	{"60/60s", Limit{60, time.Minute, 60, false}, "60/m"},
	{"1/24h", Limit{1, 24 * time.Hour, 1, false}, "1/d"},
	{"2/1.5s", Limit{2, 1500 * time.Millisecond, 2, false}, ""},
	{"007/s", Limit{7, time.Second, 7, false}, "7/s"},
	{"1000000/s", Limit{1_000_000, time.Second, 1_000_000, false}, ""},
	{"1/1us", Limit{1, time.Microsecond, 1, false}, "1/1µs"},
	{"1/s,burst=3153600000", Limit{1, time.Second, 3_153_600_000, false}, ""},
	{"1000000/s,burst=1000000000000", Limit{1_000_000, time.Second, 1_000_000_000_000, false}, ""},
}

func TestParse(t *testing.T) {
	for _, test := range goodLimits {
		got, err := Parse(test.in)
		if err != nil || got != test.want {
			t.Errorf("Parse(%q): got %v, %v, want %v", test.in, got, err, test.want)
			continue
		}
		text := test.text
		if text == "" {
			text = test.in
		}
		if got.String() != text {
			t.Errorf("%q as text: got %s, want %s", test.in, got, text)
		}
		if again, err := Parse(got.String()); err != nil || again != got {
			t.Errorf("%q does not round trip: got %v, %v, want %v", test.in, again, err, got)
		}
	}
}

var badLimits = []struct{ in, advice string }{
	{"", "write requests/period"},
	{"10", "write requests/period"},
	{"10,burst=5", "write requests/period"},
	{"/s", "write a whole number"},
	{"0/s", "write a whole number"},
	{"-1/s", "write a whole number"},
	{"+1/s", "write a whole number"},
	{" 1/s", "write a whole number"},
	{"1.5/s", "write a whole number"},
	{"1e3/s", "write a whole number"},
	{"1_000/s", "write a whole number"},
	{"99999999999999999999/s", "write a whole number"},
	{"10/", "write s, m, h or d"},
	{"10/w", "write s, m, h or d"},
	{"10/10", "write s, m, h or d"},
	{"10/0s", "write s, m, h or d"},
	{"10/-1m", "write s, m, h or d"},
	{"10/s/s", "write s, m, h or d"},
	{"10/300000000h", "write s, m, h or d"},
	{"10/s,", "write burst=B"},
	{"10/s,20", "write burst=B"},
	{"10/s, burst=20", "write burst=B"},
	{"10/s,burst=", "write a whole number"},
	{"10/s,burst=0", "write a whole number"},
	{"10/s,burst=5,burst=6", "write a whole number"},
	{"1000001/s", "write a lower rate"},
	{"1/1ns", "write a lower rate"},
	{"4611686018427387903/s", "write a lower rate"},
	{"1/d,burst=36501", "write a smaller burst"},
	{"1/s,burst=4611686018427387903", "write a smaller burst"},
	{"1/900000h", "write a smaller burst"},
	{"1000000/s,burst=2000000000000000", "write a smaller burst"},
	{"1000000/s,burst=1000000000001", "is above 1000000000000"},
}

func TestParse_SaysWhatToWriteInstead(t *testing.T) {
	for _, test := range badLimits {
		l, err := Parse(test.in)
		if err == nil || !strings.Contains(err.Error(), test.advice) {
			t.Errorf("Parse(%q): got %v, %v, want an error with %q", test.in, l, err, test.advice)
		}
	}
}

func TestValidate_RefusesWhatParseCannotMake(t *testing.T) {
	for _, l := range []Limit{{}, {Period: time.Second, Burst: 1}, {Rate: 1, Burst: 1}, {Rate: 1, Period: time.Second}, {Rate: -1, Period: time.Second, Burst: 1}, {Rate: 1, Period: -time.Second, Burst: 1}} {
		if l.Validate() == nil {
			t.Errorf("%#v is valid", l)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, test := range goodLimits {
		f.Add(test.in)
	}
	for _, test := range badLimits {
		f.Add(test.in)
	}
	f.Add("9000000000000000/2562047h,burst=1") // period + rate is more than 63 bits
	f.Fuzz(func(t *testing.T, s string) {
		l, err := Parse(s)
		if err != nil {
			if !strings.Contains(err.Error(), "write") {
				t.Errorf("Parse(%q) does not say what to write instead: %v", s, err)
			}
			return
		}
		if again, err := Parse(l.String()); err != nil || again != l {
			t.Errorf("Parse(%q): got %v, want %v", l, again, l)
		}
		if l.interval() < time.Microsecond || l.offset() < l.interval() || l.offset() > maxOffset {
			t.Errorf("Parse(%q): %v has interval %v and offset %v", s, l, l.interval(), l.offset())
		}
	})
}

func TestShare(t *testing.T) {
	for _, test := range []struct {
		limit string
		n     int
		want  Limit
	}{
		{"10/s,burst=20", 1, Limit{10, time.Second, 20, false}},
		{"10/s,burst=20", 3, Limit{10, 3 * time.Second, 6, false}},
		{"10/s,burst=20", 20, Limit{10, 20 * time.Second, 1, false}},
		{"10/s,burst=20", 21, Limit{10, 21 * time.Second, 1, false}},
		{"1/d", 7, Limit{1, 7 * 24 * time.Hour, 1, false}},
		{"1000000/s,burst=9", 1000, Limit{1_000_000, 1000 * time.Second, 1, false}},
		{"100000/d", 2, Limit{100_000, 48 * time.Hour, 50_000, false}},
		{"1000000/720h", 3, Limit{1_000_000, 2160 * time.Hour, 333_333, false}},
		// No longer than a Limit may take to fill.
		{"1/d", 1 << 40, Limit{1, maxOffset, 1, false}},
		{"1/s,burst=3153600000", 2, Limit{1, 2 * time.Second, 1_576_800_000, false}},
	} {
		if got := parse(t, test.limit).Share(test.n); got != test.want {
			t.Errorf("%s by %d: got %#v, want %#v", test.limit, test.n, got, test.want)
		}
	}
}

func FuzzShare(f *testing.F) {
	for _, test := range goodLimits {
		for _, n := range []int{1, 2, 3, 7, 1000, 1 << 31, 1<<63 - 1} {
			f.Add(test.want.Rate, int64(test.want.Period), test.want.Burst, n)
		}
	}
	f.Fuzz(func(t *testing.T, rate int, period int64, burst, n int) {
		l := Limit{rate, time.Duration(period), burst, false}
		if l.Validate() != nil || n < 1 {
			t.Skip()
		}
		share := l.Share(n)
		if share.Rate < 1 || share.Period < l.Period || share.Burst < 1 || share.Burst > l.Burst || share.Burst > 1 && share.Burst > l.Burst/n {
			t.Fatalf("%v by %d: got %#v", l, n, share)
		}
		// Rounding is of a nanosecond a request, or of the last bit of a float.
		if share.offset() < share.interval() || share.offset() > maxOffset+maxOffset/1000 {
			t.Fatalf("%v by %d: got %#v, with offset %v", l, n, share, share.offset())
		}
		exact := float64(l.Period) / float64(l.Rate) * float64(n)
		tooLong := share.offset() > maxOffset-maxOffset/1000 || share.Period == 1<<62
		if got := float64(share.interval()); got < exact*(1-1e-9) && !tooLong {
			t.Fatalf("%v by %d: got one request in %v, want at least %v ns", l, n, share.interval(), exact)
		}
	})
}

func TestRemaining(t *testing.T) {
	for _, test := range []struct {
		limit      string
		resetAfter time.Duration
		want       int
	}{
		{"10/s,burst=5", 0, 5},
		{"10/s,burst=5", 100 * time.Millisecond, 4},
		{"10/s,burst=5", 101 * time.Millisecond, 3},
		{"10/s,burst=5", 500 * time.Millisecond, 0},
		{"10/s,burst=5", time.Hour, 0},
		{"1/d", 1, 1},
		{"1/d", time.Second, 0},
		{"3/s", 666667 * time.Microsecond, 1},
	} {
		if got := parse(t, test.limit).Remaining(test.resetAfter); got != test.want {
			t.Errorf("%s, full in %v: got %d, want %d", test.limit, test.resetAfter, got, test.want)
		}
	}
}
