package limiter

import (
	"math/big"
	"math/rand/v2"
	"testing"
	"time"
)

func TestDecision(t *testing.T) {
	const µs, ms = time.Microsecond, time.Millisecond
	for _, test := range []struct {
		limit      string
		allowed    bool
		resetAfter time.Duration
		want       Decision
	}{
		{"10/s,burst=5", true, 0, Decision{true, 5, 0, 0}},
		{"10/s,burst=5", true, 100 * ms, Decision{true, 4, 100 * ms, 100 * ms}},
		{"10/s,burst=5", true, 130 * ms, Decision{true, 3, 30 * ms, 130 * ms}},
		{"10/s,burst=5", true, 500 * ms, Decision{true, 0, 100 * ms, 500 * ms}},
		{"10/s,burst=5", false, 430 * ms, Decision{false, 0, 30 * ms, 430 * ms}},
		{"10/s,burst=5", false, 500 * ms, Decision{false, 0, 100 * ms, 500 * ms}},

		// Burst 1: full, or empty.
		{"1/s", true, 0, Decision{true, 1, 0, 0}},
		{"1/s", true, time.Second, Decision{true, 0, time.Second, time.Second}},
		{"1/s", false, time.Second, Decision{false, 0, time.Second, time.Second}},
		{"1/s", false, µs, Decision{false, 0, µs, µs}},
		{"1/d", true, 24 * time.Hour, Decision{true, 0, 24 * time.Hour, 24 * time.Hour}},
		{"1/d", false, time.Hour, Decision{false, 0, time.Hour, time.Hour}},

		// Intervals that are no whole number of nanoseconds, rounded up in
		// memory and not in Redis. NextAfter is rounded up too: who waits it
		// out is admitted.
		{"3/s", true, 333333334, Decision{true, 2, 333334 * µs, 333333 * µs}},
		{"3/s", true, 666667 * µs, Decision{true, 1, 333334 * µs, 666667 * µs}},
		{"3/s", true, 1000000002, Decision{true, 0, 333334 * µs, time.Second}},
		{"3/s", true, time.Second, Decision{true, 0, 333334 * µs, time.Second}},
		{"3/s", false, 900000001, Decision{false, 0, 233334 * µs, 900 * ms}},
		{"7/s", true, 142857143, Decision{true, 6, 142858 * µs, 142857 * µs}},
		{"7/s", true, 1000000001, Decision{true, 0, 142858 * µs, time.Second}},
		{"7/s", true, time.Second, Decision{true, 0, 142858 * µs, time.Second}},

		// One request a microsecond, the resolution of the store's clock.
		{"1000000/s", true, µs, Decision{true, 999_999, µs, µs}},
		{"1000000/s", true, 500 * ms, Decision{true, 500_000, µs, 500 * ms}},
		{"1000000/s", true, time.Second, Decision{true, 0, µs, time.Second}},
		{"1000000/s", false, time.Second, Decision{false, 0, µs, time.Second}},
		{"1000000/s,burst=1", true, µs, Decision{true, 0, µs, µs}},

		// A TAT from a time of a larger burst.
		{"10/s,burst=5", false, 2 * time.Second, Decision{false, 0, 1600 * ms, 2 * time.Second}},
		{"10/s,burst=5", true, 2 * time.Second, Decision{true, 0, 1600 * ms, 2 * time.Second}},
	} {
		l := parse(t, test.limit)
		if got := l.decision(test.allowed, test.resetAfter, l.interval()); got != test.want {
			t.Errorf("%s, allowed %t, full in %v: got %+v, want %+v", test.limit, test.allowed, test.resetAfter, got, test.want)
		}
	}
}

func TestDecision_OfNothingIsNoRefusal(t *testing.T) {
	for d, want := range map[Decision]struct{ known, refused bool }{
		{}:                                   {false, false},
		{Allowed: true}:                      {true, false},
		{Allowed: true, Remaining: 1}:        {true, false},
		{NextAfter: time.Second}:             {true, true},
		{false, 0, time.Second, time.Second}: {true, true},
	} {
		if d.Known() != want.known || d.Refused() != want.refused {
			t.Errorf("%+v: got known %t, refused %t, want %+v", d, d.Known(), d.Refused(), want)
		}
	}
}

func TestSpend(t *testing.T) {
	l := parse(t, "1/s,burst=2")
	for _, test := range []struct {
		tat, now, next time.Duration
		ok             bool
	}{
		{0, time.Hour, time.Hour + time.Second, true}, // what is not used is not saved up
		{time.Hour, time.Hour, time.Hour + time.Second, true},
		{time.Hour + time.Second, time.Hour, time.Hour + 2*time.Second, true},
		{time.Hour + time.Second + 1, time.Hour, time.Hour + time.Second + 1, false},
	} {
		b := budget{test.tat, time.Second}
		if next, ok := l.spend(b, test.now); next != (budget{test.next, time.Second}) || ok != test.ok {
			t.Errorf("TAT %v at %v: got %v %t, want %v %t", test.tat, test.now, next, ok, test.next, test.ok)
		}
	}
}

// model is GCRA in exact arithmetic.
type model struct {
	interval, offset, tat *big.Rat
}

func newModel(l Limit) *model {
	interval := big.NewRat(int64(l.Period), int64(l.Rate))
	return &model{interval, new(big.Rat).Mul(interval, big.NewRat(int64(l.Burst), 1)), new(big.Rat)}
}

// admits reports whether one more may be spent, and spend spends it.
func (m *model) admits(now time.Duration) bool {
	return new(big.Rat).Sub(m.next(now), m.offset).Cmp(instant(now)) <= 0
}

func (m *model) spend(now time.Duration) { m.tat = m.next(now) }

func (m *model) next(now time.Duration) *big.Rat {
	base := m.tat
	if base.Cmp(instant(now)) < 0 {
		base = instant(now)
	}
	return new(big.Rat).Add(base, m.interval)
}

func instant(d time.Duration) *big.Rat { return big.NewRat(int64(d), 1) }

func FuzzDecide(f *testing.F) {
	for i, s := range []string{
		"10/s", "3/s", "7/s,burst=2", "1/d", "1000000/s,burst=9", "1/s,burst=1", "70000/s,burst=50", "300000/s,burst=3", "13/17s,burst=4", "999999/s",
	} {
		l := parse(f, s)
		for seed := range uint64(5) {
			f.Add(l.Rate, int64(l.Period), l.Burst, seed+uint64(i)<<8)
		}
	}
	f.Fuzz(func(t *testing.T, rate int, period int64, burst int, seed uint64) {
		l := Limit{rate, time.Duration(period), burst, false}
		// Longer periods overflow the arithmetic of this test, not the limiter's.
		if l.Validate() != nil || l.Period > 24*time.Hour {
			t.Skip()
		}
		whole := period%int64(rate) == 0
		random := rand.New(rand.NewPCG(seed, 0))
		exact, budgets, charges := newModel(l), NewBudgets(1), []Charge{{Key: "key", Limit: l}}
		var now, nextAfter time.Duration
		var admitted []time.Duration
		for range 150 {
			switch random.IntN(4) {
			case 0: // at the same time
			case 1:
				now += below(random, 10*time.Nanosecond)
			case 2:
				now += below(random, 2*l.interval())
			case 3: // as early as the last decision said
				now += nextAfter
			}
			decisions, _, ok := budgets.Take(now, charges)
			d := decisions[0]
			nextAfter = d.NextAfter
			if d.Allowed != ok {
				t.Fatalf("%v at %v: got %+v, want allowed %t", l, now, d, ok)
			}
			switch admits := exact.admits(now); {
			case ok && !admits:
				t.Fatalf("%v at %v: admitted, want a refusal", l, now)
			case !ok && admits && whole:
				t.Fatalf("%v at %v: refused, want an admission", l, now)
			case ok:
				exact.spend(now)
				admitted = append(admitted, now)
			default:
				checkNextAfter(t, l, budgets.find(&charges[0], now).tat, now, d.NextAfter)
			}
			// The microsecond is what a Decision is rounded to.
			free := now + l.offset() - budgets.find(&charges[0], now).tat
			if most := int((free + time.Microsecond) / l.interval()); ok && (d.Remaining > most || d.Remaining < int((free-time.Microsecond)/l.interval())) {
				t.Fatalf("%v at %v, %v free: got %d remaining", l, now, free, d.Remaining)
			}
		}
		checkWindows(t, l, admitted)
	})
}

func below(random *rand.Rand, d time.Duration) time.Duration {
	return time.Duration(random.Int64N(int64(d)))
}

// checkNextAfter checks that a refusal's NextAfter, waited out, is long
// enough, and that 2µs less are not.
func checkNextAfter(t *testing.T, l Limit, tat, now, nextAfter time.Duration) {
	t.Helper()
	if _, ok := l.spend(budget{tat, l.interval()}, now+nextAfter); !ok {
		t.Fatalf("%v: refused at %v and again %v later, as it had said", l, now, nextAfter)
	}
	less := nextAfter - 2*time.Microsecond
	if _, ok := l.spend(budget{tat, l.interval()}, now+less); ok && less > 0 {
		t.Fatalf("%v: refused at %v for %v, but admitted after %v", l, now, nextAfter, less)
	}
}

// checkWindows checks that no window, however long, has more than burst +
// rate × its length.
func checkWindows(t *testing.T, l Limit, admitted []time.Duration) {
	t.Helper()
	for i, from := range admitted {
		for j, to := range admitted[i:] {
			if over := j + 1 - l.Burst; over > 0 && int64(over)*int64(l.Period) > int64(to-from)*int64(l.Rate) {
				t.Fatalf("%v: %d admitted within %v", l, j+1, to-from)
			}
		}
	}
}
