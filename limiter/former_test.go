package limiter

import (
	"strings"
	"testing"
	"time"
)

func TestFormer(t *testing.T) {
	for _, test := range []struct {
		interval time.Duration
		furthest int
		want     string
	}{
		{6 * time.Second, 5, "10/m burst 5"},
		{time.Second, 5, "1/s burst 5"},
		{10 * time.Second, 1, "6/m burst 1"},
		{86400 * time.Millisecond, 1000, "1000/d burst 1000"},
		{24 * time.Hour, 1, "1/d burst 1"},
		{3600 * time.Millisecond, 1000, "1000/h burst 1000"},
		{48 * time.Hour, 2, "1/48h burst 2"},
		{7 * time.Second, 3, "1/7s burst 3"},
		{90 * time.Minute, 3, "16/d burst 3"},
		{1100 * time.Minute, 3, "1/18h20m burst 3"},
		{time.Microsecond, 9, "1000000/s burst 9"},
		// Rounded up to nanoseconds: of all that it may have been, the roundest.
		{333333334, 3, "3/s burst 3"},
		{14286, 50, "70000/s burst 50"},
		{3334, 3, "300000/s burst 3"},
		{8571428572, 7, "7/m burst 7"},
	} {
		if got := (Former{test.interval, test.furthest}).String(); got != test.want {
			t.Errorf("%v, %d: got %s, want %s", test.interval, test.furthest, got, test.want)
		}
	}
}

// What a limit's budget remembers of it names a limit that is as fast.
func TestFormer_NamesALimitOfThatInterval(t *testing.T) {
	for _, test := range goodLimits {
		name := Former{test.want.interval(), 1}.String()
		rate, _, _ := strings.Cut(name, " ")
		if named, err := Parse(rate + ",burst=1"); err != nil || named.interval() != test.want.interval() {
			t.Errorf("%s: got %s, by %v, want every %v", test.in, name, err, test.want.interval())
		}
	}
}
