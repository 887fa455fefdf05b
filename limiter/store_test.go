package limiter

import (
	_ "embed"
	"fmt"
	"math"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"throttle-proxy/integration/redistest"
)

//go:embed testdata/harness.lua
var harnessSource string

// inRedis is a [keeper]: a real Redis, whose time is the test's.
type inRedis struct {
	testing.TB
	client *redis.Client
	script *redis.Script
}

func openRedis(tb testing.TB) inRedis {
	tb.Helper()
	prelude, err := Prelude("spend", "reserve", "charge", "refund")
	if err != nil {
		tb.Fatal(err)
	}
	return inRedis{tb, redistest.Start(tb).Client(), redis.NewScript(prelude + harnessSource)}
}

// epoch is the instant 0 of a test's time, in Unix seconds.
const epoch = 1_790_000_000

// run runs a function of the prelude, and returns what it returned. What it
// has written must expire when the budget is full, to the next second.
func (r inRedis) run(what string, now time.Duration, keys []string, args ...any) (result any, admitted bool) {
	r.Helper()
	instant := []any{what, int64(epoch + now/time.Second), int64(now % time.Second / time.Microsecond)}
	reply, err := r.script.Run(r.Context(), r.client, keys, append(instant, args...)...).Slice()
	if err != nil {
		r.Fatal(err)
	}
	for i, ttl := range reply[2].([]any) {
		if ttl := ttl.(int64); ttl > 0 {
			ahead := r.stored(now, Charge{Key: keys[i]}).tat - now
			if want := int64((ahead+time.Second-1)/time.Second) * 1000; ttl > want || ttl <= want-1000 {
				r.Fatalf("%s: written for %d ms, but full in %v", keys[i], ttl, ahead)
			}
		}
	}
	return reply[0], reply[1] == int64(1)
}

func (r inRedis) limits(charges []Charge) (keys []string, all []any) {
	for _, c := range charges {
		keys, all = append(keys, c.Key), append(all, args(c.Limit)...)
	}
	return keys, all
}

func (r inRedis) take(now time.Duration, charges []Charge) (decisions []Decision, tats []string, admitted bool) {
	r.Helper()
	keys, limits := r.limits(charges)
	result, admitted := r.run("spend", now, keys, limits...)
	for i, reply := range result.([]any) {
		read, err := charges[i].Limit.ReadReply(reply, admitted)
		if err != nil {
			r.Fatal(err)
		}
		decisions = append(decisions, read.Decision)
		if admitted {
			tats = append(tats, read.TAT)
		}
	}
	return decisions, tats, admitted
}

func (r inRedis) allows(now time.Duration, c Charge) bool {
	r.Helper()
	keys, limits := r.limits([]Charge{c})
	_, admitted := r.run("look", now, keys, limits...)
	return admitted
}

func (r inRedis) refund(now time.Duration, c Charge, tat string) bool {
	r.Helper()
	given, _ := r.run("refund", now, []string{c.Key}, tat)
	return given == int64(1)
}

func (r inRedis) stored(now time.Duration, c Charge) budget {
	r.Helper()
	value := r.client.Get(r.Context(), c.Key).Val()
	if value == "" {
		return budget{}
	}
	var seconds, nanos, furthest int64
	var interval string
	if n, err := fmt.Sscanf(value, "%d.%d %s %d", &seconds, &nanos, &interval, &furthest); n != 4 {
		r.Fatalf("%s: got %q: %v", c.Key, value, err)
	}
	every, err := time.ParseDuration(interval + "s")
	if err != nil {
		r.Fatalf("%s: got %q: %v", c.Key, value, err)
	}
	b := budget{time.Duration(seconds-epoch)*time.Second + time.Duration(nanos), every}
	if b.tat <= now {
		return budget{}
	}
	return b
}

func TestPrelude_ChangedLimits(t *testing.T) {
	r := openRedis(t)
	testChangedLimits(t, func() keeper {
		r.client.FlushAll(t.Context())
		return r
	})
}

// TestPrelude_UnderAnyLimits is [history.run] for budgets in Redis.
func TestPrelude_UnderAnyLimits(t *testing.T) {
	r := openRedis(t)
	for seed := range uint64(80) {
		newHistory(t, r, seed, fmt.Sprint(seed)).run(60)
	}
}

// A budget in Redis is one in memory, to the nanosecond, as far ahead as a double
// counts them.
func TestPrelude_CountsAsMemoryDoes(t *testing.T) {
	r := openRedis(t)
	for seed := range uint64(60) {
		memory := inMemory{NewBudgets(10)}
		h := newHistory(t, r, seed, fmt.Sprint(seed))
		for range 60 {
			h.move(0)
			b := h.budgets[0]
			b.current = h.random.IntN(len(b.limits))
			c := b.charge()
			want, _, _ := memory.take(h.now, []Charge{c})
			got, _, _ := r.take(h.now, []Charge{c})
			if memory.stored(h.now, c).tat-h.now > 1<<53 {
				break
			}
			if got[0] != want[0] || r.stored(h.now, c) != memory.stored(h.now, c) {
				t.Fatalf("seed %d: %v at %v: got %+v and %+v, in memory %+v and %+v", seed, c, h.now, got[0], r.stored(h.now, c), want[0], memory.stored(h.now, c))
			}
		}
	}
}

func TestPrelude_WhatIsNoBudgetIsAbsent(t *testing.T) {
	r := openRedis(t)
	c := Charge{Key: "key", Limit: parse(t, "3/h")}
	hours := func(n float64) string { return fmt.Sprintf("%.0f.000000000", epoch+n*3600) }
	full := parse(t, "3/h").decision(true, 20*time.Minute, 20*time.Minute)
	for _, test := range []struct {
		value string
		read  bool
	}{
		{hours(0.99) + " 1200 3", true},
		{hours(1.99) + " 1200 6", true}, // of a larger burst, or of one that waits
		{hours(1) + " 0.1 36000", true},
		{"", false}, {" ", false}, {"garbage", false}, {"nan 1200 3", false}, {"inf 1200 3", false},
		{"1790003600", false}, {"306003600.5", false}, // as redis_rate writes it
		{hours(0.9), false}, {hours(0.9) + " 1200", false}, {hours(0.9) + " 1200 3 ", false}, {hours(0.9) + " 1200 3 4", false},
		{"1790003000.5 1200 3", false}, {"-" + hours(0.9) + " 1200 3", false}, {"1e9.000000000 1200 3", false},
		{hours(0.9) + " 0 3", false}, {hours(0.9) + " -1200 3", false}, {hours(0.9) + " nan 3", false}, {hours(0.9) + " 1200 inf", false},
		{hours(0.9) + " 1200 0", false},
		{hours(0.9) + " " + strings.Repeat("9", 400) + " 3", false}, {hours(0.9) + " 1200 " + strings.Repeat("9", 400), false},
		{hours(0.9) + " 0 " + strings.Repeat("9", 400), false},
		{strings.Repeat("9", 400) + ".000000000 1200 3", false},
		{strings.Repeat("9", 400) + ".000000000 1200 " + strings.Repeat("9", 400), false},
		{"99999999999999999999.000000000 1200 3", false},
		// Further ahead than its limit can have put it: the clock stepped back.
		{hours(1.1) + " 1200 3", false}, {hours(50*365*24) + " 1200 3", false},
		{hours(-1) + " 1200 3", false}, // over
	} {
		r.client.Set(t.Context(), c.Key, test.value, 0)
		decisions, _, admitted := r.take(0, []Charge{c})
		if absent := admitted && decisions[0] == full; absent == test.read || admitted == test.read {
			t.Errorf("%q: got admitted %t, %+v, want it read %t", test.value, admitted, decisions[0], test.read)
		}
	}
	// A second of grace, for clocks of masters that differ a little.
	for _, test := range []struct {
		value string
		read  bool
	}{{fmt.Sprintf("%d.000000000 1200 3", epoch+3601), true}, {fmt.Sprintf("%d.000000001 1200 3", epoch+3601), false}} {
		r.client.Set(t.Context(), c.Key, test.value, 0)
		if _, _, admitted := r.take(0, []Charge{c}); admitted == test.read {
			t.Errorf("%q: got admitted %t, want it read %t", test.value, admitted, test.read)
		}
	}
}

// What is not allowed as a whole charges nothing, and each limit costs one GET
// and one SET at most.
func TestPrelude_WritesOnlyWhatWasDecided(t *testing.T) {
	r := openRedis(t)
	fast, slow := parse(t, "10/s,burst=1"), parse(t, "1/m,burst=1")
	free := Charge{Key: "free", Limit: parse(t, "5/h")}
	for _, test := range []struct {
		name string
		was  Limit // spent
		now  Limit // refuses
		got  string
		sets int
	}{
		{"its own limit", slow, slow, "60 1", 0},
		{"a slower one", fast, slow, "0.1 1", 0},
		{"a faster one", slow, fast, "0.1 1", 1},
		{"a faster one of a smaller burst", parse(t, "2/m"), fast, "0.1 2", 1},
	} {
		r.client.FlushAll(t.Context())
		for range test.was.Burst {
			r.take(0, []Charge{{Key: "spent", Limit: test.was}})
		}
		r.client.ConfigResetStat(t.Context())
		for _, order := range [][]Charge{{free, {Key: "spent", Limit: test.now}}, {{Key: "spent", Limit: test.now}, free}} {
			if _, _, admitted := r.take(0, order); admitted {
				t.Fatalf("%s: admitted", test.name)
			}
		}
		if r.client.Exists(t.Context(), free.Key).Val() != 0 {
			t.Errorf("%s: another was charged", test.name)
		}
		if value := r.client.Get(t.Context(), "spent").Val(); !strings.HasSuffix(value, " "+test.got) {
			t.Errorf("%s: got %q, want it by %q", test.name, value, test.got)
		}
		// The test itself has asked for the value, and for what was written.
		if gets, sets := r.calls("get"), r.calls("set"); gets != 5+sets || sets != test.sets {
			t.Errorf("%s: got %d GET and %d SET, want %d and %d", test.name, gets, sets, 5+sets, test.sets)
		}
	}
	r.client.FlushAll(t.Context())
	r.client.ConfigResetStat(t.Context())
	if _, _, admitted := r.take(0, []Charge{free, {Key: "other", Limit: fast}}); !admitted {
		t.Fatal("refused")
	}
	if gets, sets := r.calls("get"), r.calls("set"); gets != 4 || sets != 2 { // two are the test's own
		t.Errorf("got %d GET and %d SET, want 4 and 2", gets, sets)
	}
}

// calls returns how often a command was called since the statistics were reset.
func (r inRedis) calls(command string) int {
	_, rest, _ := strings.Cut(r.client.Info(r.Context(), "commandstats").Val(), "cmdstat_"+command+":calls=")
	calls, _, _ := strings.Cut(rest, ",")
	n, _ := strconv.Atoi(calls)
	return n
}

// A limit's arithmetic is exact up to the largest that there are.
func TestPrelude_LargestLimits(t *testing.T) {
	r := openRedis(t)
	for _, text := range []string{"1000000/s,burst=1000000000000", "1000000/s", "1/876000h", "1/d,burst=36500", "1/s,burst=3153600000"} {
		c := Charge{Key: text, Limit: parse(t, text)}
		burst, err := strconv.ParseFloat(c.Limit.ScriptArgs(0)[2], 64)
		if err != nil || burst != float64(c.Limit.Burst) {
			t.Fatalf("%s: got FURTHEST %f, %v", text, burst, err)
		}
		r.run("charge", 0, []string{c.Key}, append(args(c.Limit), c.Limit.Burst-1)...)
		for _, want := range []bool{true, false} {
			decisions, _, admitted := r.take(0, []Charge{c})
			if d := decisions[0]; admitted != want || d.Remaining != 0 || d.NextAfter != c.Limit.interval() {
				t.Errorf("%s: got admitted %t, %+v, want %t", text, admitted, d, want)
			}
		}
	}
}

func args(l Limit) []any {
	return anys(l.ScriptArgs(0))
}

func TestPrelude_Charge(t *testing.T) {
	r := openRedis(t)
	ten := parse(t, "10/h")
	c := Charge{Key: "key", Limit: ten}
	charge := func(name string, l Limit, requests, want float64) {
		t.Helper()
		if result, _ := r.run("charge", 0, []string{c.Key}, append(args(l), requests)...); result != int64(1) {
			t.Fatalf("%s: got %v, want 1", name, result)
		}
		b := r.stored(0, c)
		if got := float64(b.tat) / float64(b.interval); b.tat == 0 && want > 0 || b.tat > 0 && math.Abs(got-want) > 1e-9 {
			t.Errorf("%s: got %f requests, want %f", name, got, want)
		}
	}
	charge("nothing", ten, 0, 0)
	charge("a part", ten, 0.5, 0.5)
	charge("more", ten, 2.25, 2.75)
	charge("to the brim", ten, 8, 10)
	charge("and again", ten, 8, 10)
	charge("and far beyond", ten, 1e9, 10)
	charge("what a larger burst has spent is not given back", parse(t, "10/h,burst=3"), 1, 10)
	charge("under another limit", parse(t, "100/h"), 5, 15)
	charge("and a slower one", parse(t, "1/h,burst=20"), 1.5, 16.5)
	for _, value := range []string{"garbage", "", "nan", "-1", "1790000000", "99999999999999999999.000000000 360 10"} {
		r.client.Set(t.Context(), c.Key, value, 0)
		charge(fmt.Sprintf("instead of %q", value), ten, 3, 3)
	}
}

func TestPrelude_KeyOfAWrongTypeIsAnError(t *testing.T) {
	r := openRedis(t)
	r.client.RPush(t.Context(), "key", "value")
	l := parse(t, "10/h")
	for what, args := range map[string][]any{"charge": append(args(l), 1), "refund": {"1790000000.000000000"}} {
		result, _ := r.run(what, 0, []string{"key"}, args...)
		if err, ok := result.(error); !ok || !strings.HasPrefix(err.Error(), "WRONGTYPE") {
			t.Errorf("%s: got %v, want an error about the type", what, result)
		}
	}
}
