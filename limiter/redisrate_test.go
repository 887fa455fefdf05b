package limiter

import (
	"crypto/sha256"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestPrelude_RunsThisScriptInside fails when redis_rate is upgraded to another
// script: check that budget.lua still stands for all that the script sees of
// Redis, and that spend still reads its answer, then pin it here.
func TestPrelude_RunsThisScriptInside(t *testing.T) {
	const want = "eae9c9e4348a5e9d72358dc89e0c77c7a0f252e5a35869eaf5ebd2421659ea72"
	script, err := learn()
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprintf("%x", sha256.Sum256([]byte(script))); got != want {
		t.Errorf("redis_rate's script has changed: got SHA-256 %s, want %s:\n%s", got, want, script)
	}
	if prelude, err := Prelude("spend"); err != nil || !strings.Contains(prelude, "redis, tostring)\n"+script+"\nend") {
		t.Errorf("it is not in the prelude: %v", err)
	}
}

func TestScriptArgs(t *testing.T) {
	for _, test := range []struct {
		limit string
		wait  time.Duration
		want  []string
	}{
		{"10/s", 0, []string{"10", "0.1", "10"}},
		{"1/d", 0, []string{"1", "86400", "1"}},
		{"100/10m,burst=20", 0, []string{"20", "6", "20"}},
		{"3/s,burst=1", 0, []string{"1", "0.333333334", "1"}},
		{"1000000/s,burst=1", 0, []string{"1", "0.000001", "1"}},
		{"10/s,burst=5", 2 * time.Second, []string{"5", "0.1", "25"}},
		{"10/s,burst=5", 10 * time.Millisecond, []string{"5", "0.1", "6"}},
	} {
		if got := parse(t, test.limit).ScriptArgs(test.wait); !slices.Equal(got, test.want) {
			t.Errorf("%s, waiting %v: got %v, want %v", test.limit, test.wait, got, test.want)
		}
	}
}

func TestReadReply(t *testing.T) {
	const ms = time.Millisecond
	five, slow := "10/s,burst=5", "1/10s,burst=5"
	for _, test := range []struct {
		name    string
		limit   string
		reply   []any
		charged bool
		want    Reply
	}{
		{"the first", five, reply(1, 0, "7.1"), true, Reply{Decision: Decision{true, 4, 100 * ms, 100 * ms}, TAT: "7.1"}},
		{"the second", five, reply(1, 100*ms, "7.2"), true, Reply{Decision: Decision{true, 3, 100 * ms, 200 * ms}, TAT: "7.2"}},
		{"refused", five, reply(0, 430*ms, ""), false, Reply{Decision: Decision{false, 0, 30 * ms, 430 * ms}}},
		{"another limit refuses", five, reply(1, 0, "7.1"), false, Reply{Decision: Decision{true, 5, 0, 0}}},
		{"another limit refuses, one spent", five, reply(1, 70*ms, "7.2"), false, Reply{Decision: Decision{true, 4, 70 * ms, 70 * ms}}},

		{"raised", five, reply(1, 40*time.Second, "7.2", int64(10*time.Second), int64(5)), true,
			Reply{Decision{true, 0, 100 * ms, 500 * ms}, "7.2", Former{10 * time.Second, 5}}},
		{"raised, refused: at the new pace", five, reply(0, 45*time.Second, "", int64(10*time.Second), int64(5)), false,
			Reply{Decision{false, 0, 50 * ms, 450 * ms}, "", Former{10 * time.Second, 5}}},
		{"raised, another limit refuses: as it was", five, reply(1, 15*time.Second, "7.2", int64(10*time.Second), int64(5)), false,
			Reply{Decision{true, 3, 5 * time.Second, 15 * time.Second}, "", Former{10 * time.Second, 5}}},
		{"cut", slow, reply(1, 250*ms, "7.2", int64(100*ms), int64(5)), true,
			Reply{Decision{true, 1, 5 * time.Second, 35 * time.Second}, "7.2", Former{100 * ms, 5}}},
		{"cut, refused: at the old pace", slow, reply(0, 1900*ms, "", int64(100*ms), int64(20)), false,
			Reply{Decision{false, 0, 1500 * ms, 1900 * ms}, "", Former{100 * ms, 20}}},
	} {
		if got, err := parse(t, test.limit).ReadReply(test.reply, test.charged); err != nil || got != test.want {
			t.Errorf("%s: got %+v, %v, want %+v", test.name, got, err, test.want)
		}
	}
}

func reply(allowed int64, ahead time.Duration, tat string, former ...any) []any {
	return append([]any{allowed, int64(ahead), tat}, former...)
}

func TestReadReply_RefusesWhatIsMalformed(t *testing.T) {
	for _, reply := range []any{
		nil, "", int64(1), []any{}, []any{int64(1)}, []any{nil, nil, nil}, []any{nil, nil, nil, nil, nil},
		[]any{int64(1), int64(4)},
		[]any{int64(1), int64(4), "7.1", int64(1)},
		[]any{int64(1), int64(4), "7.1", int64(1), int64(1), int64(1)},
		[]any{"1", int64(4), "7.1"},
		[]any{int64(1), "4", "7.1"},
		[]any{int64(1), int64(-4), "7.1"},
		[]any{int64(1), int64(4), nil},
		[]any{int64(1), int64(4), "7.1", int64(0), int64(1)},
		[]any{int64(1), int64(4), "7.1", int64(1), int64(-1)},
		[]any{int64(1), int64(4), "7.1", "1", int64(1)},
	} {
		for _, charged := range []bool{true, false} {
			if r, err := parse(t, "10/s").ReadReply(reply, charged); err == nil || r != (Reply{}) {
				t.Errorf("%v: got %+v, %v, want an error", reply, r, err)
			}
		}
	}
	if r, err := parse(t, "10/s").ReadReply(reply(0, time.Second, ""), true); err == nil {
		t.Errorf("refused and charged: got %+v, want an error", r)
	}
}

// FuzzReadReply checks that no number, however odd, makes figures that cannot be.
func FuzzReadReply(f *testing.F) {
	for _, ahead := range []int64{0, 1, 1e9, 1 << 53, 1 << 62, math.MaxInt64, -1, math.MinInt64} {
		for _, interval := range []int64{1, 1e8, 1e9, 1 << 62} {
			f.Add(int64(1), ahead, interval, true)
			f.Add(int64(1), ahead, interval, false)
			f.Add(int64(0), ahead, interval, false)
		}
	}
	f.Fuzz(func(t *testing.T, allowed, ahead, interval int64, charged bool) {
		l := Limit{Rate: 10, Period: time.Second, Burst: 5}
		d, err := l.ReadReply([]any{allowed, ahead, "", interval, int64(5)}, charged)
		if err == nil && (d.Remaining < 0 || d.Remaining > l.Burst || d.NextAfter < 0 || d.ResetAfter < 0) {
			t.Errorf("%d, %d ahead by %d, charged %t: got %+v", allowed, ahead, interval, charged, d)
		}
	})
}
