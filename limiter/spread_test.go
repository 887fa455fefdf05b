package limiter

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// told returns what n callers are told whom a budget refuses at once, in seconds.
func told(s *Spread, l Limit, p Place, next time.Duration, n int) (waits []string) {
	for range n {
		waits = append(waits, fmt.Sprintf("%.4g", s.Wait("key", l, p, time.Hour, time.Hour+next).Seconds()))
	}
	return waits
}

func TestSpread(t *testing.T) {
	const ms = time.Millisecond
	for name, tt := range map[string]struct {
		limit string
		place Place
		next  time.Duration
		want  []string
	}{
		"one after the other":                         {"1/s,burst=5", Alone, time.Second, []string{"1", "2", "3", "4", "5", "1", "2"}},
		"from the next instant on":                    {"1/s,burst=3", Alone, 300 * ms, []string{"0.3", "1.3", "2.3", "0.3"}},
		"several a second, where the burst covers it": {"2/s,burst=4", Alone, 500 * ms, []string{"0.5", "1", "1.5", "2", "0.5"}},
		"a day": {"1/d,burst=2", Alone, 24 * time.Hour, []string{"8.64e+04", "1.728e+05", "8.64e+04"}},
		"a burst of one: there is no other instant":    {"1/m", Alone, time.Minute, []string{"60", "60", "60"}},
		"but within seconds there is":                  {"1/s", Alone, time.Second, []string{"1", "2", "3", "4", "5"}},
		"as many a second as the burst":                {"10/s,burst=1", Alone, 100 * ms, []string{"0.1", "1.1", "2.1", "3.1"}},
		"as many a second as the burst, and more":      {"10/s,burst=2", Alone, 100 * ms, []string{"0.1", "1", "1.1", "2", "2.1"}},
		"the first of three replicas":                  {"1/s,burst=9", Place{3, 0}, time.Second, []string{"1", "2", "5", "8", "1"}},
		"the second":                                   {"1/s,burst=9", Place{3, 1}, time.Second, []string{"1", "3", "6", "9", "1"}},
		"the third":                                    {"1/s,burst=9", Place{3, 2}, time.Second, []string{"1", "4", "7", "1"}},
		"more replicas than instants":                  {"1/s,burst=3", Place{1 << 40, 1 << 39}, time.Second, []string{"1", "1", "1"}},
		"a budget that counts by a slower limit still": {"10/s,burst=20", Alone, time.Minute, []string{"60", "60.1", "60.2"}},
	} {
		t.Run(name, func(t *testing.T) {
			l := limitOf(t, tt.limit)
			if got := told(NewSpread(10), l, tt.place, tt.next, len(tt.want)); !slices.Equal(got, tt.want) {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

// Callers of one budget do not delay those of another, and what is remembered is
// bounded.
func TestSpreadOfManyBudgets(t *testing.T) {
	s, l := NewSpread(10), limitOf(t, "1/s,burst=5")
	for i := range 100 {
		if got := s.Wait(fmt.Sprint(i), l, Alone, 0, time.Second); got != time.Second {
			t.Errorf("got %s for the first caller of %d, want 1s", got, i)
		}
	}
	if n := s.next.Len(); n != 10 {
		t.Errorf("got %d budgets, want 10", n)
	}
	// What has passed is forgotten.
	for range 10 {
		s.Wait("later", l, Alone, time.Hour, time.Hour+time.Second)
	}
	if n := s.next.Len(); n != 1 {
		t.Errorf("got %d budgets an hour later, want 1", n)
	}
}

func limitOf(t *testing.T, text string) Limit {
	t.Helper()
	l, err := Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// TestSpreadKeepsItsWord has callers refused by random budgets, who all come when
// they are told, after whole seconds or to the microsecond. Nobody is told to come
// before the budget allows it, or after it is full; and whoever is told is admitted,
// unless they are so many that the first instants are told again.
func TestSpreadKeepsItsWord(t *testing.T) {
	for seed := range uint64(1000) {
		random := rand.New(rand.NewPCG(seed, 0))
		l := Limit{Rate: 1 + random.IntN(30), Period: time.Second * time.Duration(1+random.IntN(3)*random.IntN(20)), Burst: 1 + random.IntN(40)}
		s, budgets := NewSpread(10), NewBudgets(10)
		charges := []Charge{{Key: "key", Limit: l}}
		for range l.Burst {
			budgets.Take(time.Hour, charges)
		}
		var refused []time.Duration // before the next one is earned
		for range 60 {
			refused = append(refused, time.Hour+below(random, l.interval()))
		}
		slices.Sort(refused)
		var comes []time.Duration
		for _, now := range refused {
			decisions, _, admitted := budgets.Take(now, charges)
			if admitted {
				t.Fatalf("seed %d: %s: admitted at %s", seed, l, now)
			}
			next, full := decisions[0].NextAfter, decisions[0].ResetAfter
			if l.offset() < roomy {
				full = max(full, longestSpread)
			}
			before, _, _ := s.next.Get("key")
			wait := s.Wait("key", l, Alone, now, now+next)
			if wait < next || wait > full+2*time.Microsecond { // both are rounded
				t.Fatalf("seed %d: %s: told %s, want from %s to %s", seed, l, wait, next, full)
			}
			if before > now+next && wait == next {
				break // again
			}
			if random.IntN(3) > 0 {
				wait = (wait + time.Second - 1).Truncate(time.Second)
			}
			comes = append(comes, now+wait)
		}
		slices.Sort(comes)
		for _, now := range comes {
			if _, _, admitted := budgets.Take(now, charges); !admitted {
				t.Fatalf("seed %d: %s: whoever came when told, at %s, was refused; all came at %v", seed, l, now, comes)
			}
		}
	}
}
