package limiter

import (
	"crypto/sha256"
	"fmt"
	"math"
	"slices"
	"testing"
	"time"
)

// TestScript_IsTheOneThatIsRunInsideTheGuard fails when redis_rate is upgraded
// to another script: check that guard.lua still stands for all that the script
// sees of Redis, and that ReadReply still reads its answer, then pin it here.
func TestScript_IsTheOneThatIsRunInsideTheGuard(t *testing.T) {
	const want = "eae9c9e4348a5e9d72358dc89e0c77c7a0f252e5a35869eaf5ebd2421659ea72"
	script, err := Script()
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprintf("%x", sha256.Sum256([]byte(script))); got != want {
		t.Errorf("redis_rate's script has changed: got SHA-256 %s, want %s:\n%s", got, want, script)
	}
}

func TestScriptArgs(t *testing.T) {
	for s, want := range map[string][]string{
		"10/s":             {"10", "10", "1", "1"},
		"1/d":              {"1", "1", "86400", "1"},
		"100/10m,burst=20": {"20", "100", "600", "1"},
		"3/1500ms,burst=1": {"1", "3", "1.5", "1"},
	} {
		got, err := parse(t, s).ScriptArgs()
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: got %v, %v, want %v", s, got, err, want)
		}
	}
}

func TestReadReply(t *testing.T) {
	l := parse(t, "10/s,burst=5")
	const ms = time.Millisecond
	for _, test := range []struct {
		reply   []any
		charged bool
		want    Decision
	}{
		// redis_rate's own figures of what remains may be one low: 3, not 4.
		{[]any{int64(1), int64(3), "-1", "0.1"}, true, Decision{true, 4, 100 * ms, 100 * ms}},
		// Floating point: a little more or less is the same.
		{[]any{int64(1), int64(4), "-1", "0.10000002384186"}, true, Decision{true, 4, 100 * ms, 100 * ms}},
		{[]any{int64(1), int64(4), "-1", "0.09999997615814"}, true, Decision{true, 4, 100 * ms, 100 * ms}},
		{[]any{int64(1), int64(4), "-1", "0.1"}, false, Decision{true, 5, 0, 0}},
		{[]any{int64(1), int64(0), "-1", "0.5"}, false, Decision{true, 1, 100 * ms, 400 * ms}},
		{[]any{int64(0), int64(0), "0.1", "0.5"}, false, Decision{false, 0, 100 * ms, 500 * ms}},
		{[]any{int64(0), int64(0), "5.9604644775391e-08", "0.40000005960464"}, false, Decision{false, 0, time.Microsecond, 400 * ms}},
		{[]any{int64(1), int64(4), "-1", "5.9604644775391e-08"}, true, Decision{true, 5, 0, 0}},
	} {
		if got, err := l.ReadReply(test.reply, test.charged); err != nil || got != test.want {
			t.Errorf("%v, charged %t: got %+v, %v, want %+v", test.reply, test.charged, got, err, test.want)
		}
	}
}

// TestReadReply_CountsAsRedisDoes spends a budget whose emission interval is
// exact in Redis, and rounded up to nanoseconds here.
func TestReadReply_CountsAsRedisDoes(t *testing.T) {
	for _, s := range []string{"10/s", "3/s", "7/m", "70000/s", "300000/s", "999999/s"} {
		l := parse(t, s)
		for _, spent := range []int{1, l.Burst / 2, l.Burst} {
			resetAfter := l.Period.Seconds() / float64(l.Rate) * float64(spent)
			d, err := l.ReadReply([]any{int64(1), int64(0), "-1", fmt.Sprintf("%.14g", resetAfter)}, true)
			if err != nil || d.Remaining != l.Burst-spent {
				t.Errorf("%s, %d spent: got %+v, %v, want %d remaining", s, spent, d, err, l.Burst-spent)
			}
		}
	}
}

func TestReadReply_RefusesWhatIsMalformed(t *testing.T) {
	for _, reply := range []any{
		nil, "", int64(1), []any{}, []any{int64(1)},
		[]any{int64(1), int64(4), "-1"},
		[]any{int64(1), int64(4), "-1", "0.1", "0.1"},
		[]any{nil, nil, nil, nil},
		[]any{"1", int64(4), "-1", "0.1"},
		[]any{int64(1), int64(4), "-1", int64(1)},
		[]any{int64(1), int64(4), "-1", ""},
		[]any{int64(1), int64(4), "-1", "soon"},
		[]any{int64(1), int64(4), "-1", "1e999"},
	} {
		for _, charged := range []bool{true, false} {
			if d, err := parse(t, "10/s").ReadReply(reply, charged); err == nil || d.Known() {
				t.Errorf("%v: got %+v, %v, want an error", reply, d, err)
			}
		}
	}
}

// FuzzReadReply checks that no number, however odd, makes figures that cannot be.
func FuzzReadReply(f *testing.F) {
	for _, seconds := range []string{"0.5", "-0", "nan", "inf", "-inf", "1e300", "-1e300", "0x1p-2", fmt.Sprint(math.MaxInt64)} {
		f.Add(int64(1), seconds, true)
		f.Add(int64(1), seconds, false)
		f.Add(int64(0), seconds, false)
	}
	f.Fuzz(func(t *testing.T, allowed int64, seconds string, charged bool) {
		l := Limit{Rate: 10, Period: time.Second, Burst: 5}
		d, err := l.ReadReply([]any{allowed, int64(0), "-1", seconds}, charged)
		if err == nil && (d.Remaining < 0 || d.Remaining > l.Burst || d.NextAfter < 0 || d.ResetAfter < 0) {
			t.Errorf("%d %q, charged %t: got %+v", allowed, seconds, charged, d)
		}
	})
}
