package limiter

import (
	"fmt"
	"testing"
	"time"
)

// keeper is a place where budgets are kept: memory, or a Redis. Instants are on
// a clock of the test's own, in whole microseconds.
type keeper interface {
	take(now time.Duration, charges []Charge) (decisions []Decision, tats []string, admitted bool)
	// allows reports whether c would be admitted at an instant, and changes nothing.
	allows(now time.Duration, c Charge) bool
	refund(now time.Duration, c Charge, tat string) bool
	// stored is the TAT and the interval of c's budget; zero where it is full.
	stored(now time.Duration, c Charge) budget
}

// inMemory is a keeper.
type inMemory struct{ *Budgets }

func (m inMemory) take(now time.Duration, charges []Charge) (decisions []Decision, tats []string, admitted bool) {
	decisions, instants, admitted := m.Take(now, charges)
	for _, tat := range instants {
		tats = append(tats, tat.String())
	}
	return decisions, tats, admitted
}

func (m inMemory) allows(now time.Duration, c Charge) bool {
	_, allowed := c.Limit.spend(m.find(&c, now).budget, now)
	return allowed
}

func (m inMemory) refund(_ time.Duration, c Charge, tat string) bool {
	d, _ := time.ParseDuration(tat)
	return m.Refund(c, d)
}

func (m inMemory) stored(now time.Duration, c Charge) budget {
	if known := m.find(&c, now); known.tat > now {
		return known.budget
	}
	return budget{}
}

// changedLimits are the pairs by which it was found that a budget remembered
// seconds: what was left to wait after a raise was 8, 51, 3243 and 22321 s.
var changedLimits = []struct {
	from, to  string
	used      int
	remaining int           // under the new limit, if it is admitted at once,
	told      time.Duration // or else what is told
}{
	{"1/10s", "10/s,burst=20", 1, 18, 0},
	{"10/s,burst=20", "1/10s", 20, 0, 2 * time.Second},
	{"10/s,burst=20", "1/10s", 1, 0, 100 * time.Millisecond},
	{"1/m", "1/s,burst=10", 1, 8, 0},
	{"1/s,burst=10", "1/m", 10, 0, 10 * time.Second},
	{"100/h", "1000/h,burst=100", 100, 0, 3600 * time.Millisecond},
	{"100/h", "1000/h,burst=100", 99, 0, 0},
	{"1000/h,burst=100", "100/h", 100, 0, 3600 * time.Millisecond},
	{"1000/h,burst=100", "100/h", 60, 39, 0},
	{"1000/d", "1000/h", 300, 699, 0},
	{"1000/d", "1000/h", 1000, 0, 3600 * time.Millisecond},
	{"1000/h", "1000/d", 300, 699, 0},
	{"1000/h", "1000/d", 1000, 0, 3600 * time.Millisecond},
	{"10/s", "10/s,burst=4", 10, 0, 700 * time.Millisecond},
	{"10/s,burst=4", "10/s", 4, 5, 0},
}

func testChangedLimits(t *testing.T, open func() keeper) {
	for _, test := range changedLimits {
		from, to := Charge{Key: "key", Limit: parse(t, test.from)}, Charge{Key: "key", Limit: parse(t, test.to)}
		name, k := fmt.Sprintf("%s to %s with %d used", test.from, test.to, test.used), open()
		const now = time.Hour
		for range test.used {
			if _, _, admitted := k.take(now, []Charge{from}); !admitted {
				t.Fatalf("%s: not used", name)
			}
		}
		decisions, _, admitted := k.take(now, []Charge{to})
		d := decisions[0]
		if admitted != (test.told == 0) || admitted && d.Remaining != test.remaining || !admitted && d.NextAfter != test.told {
			t.Errorf("%s: got admitted %t, %+v, want %d remaining or %v", name, admitted, d, test.remaining, test.told)
		}
		if !admitted {
			checkTold(t, name, k, to, now, d)
		}
	}
}

func TestBudgets_ChangedLimits(t *testing.T) {
	testChangedLimits(t, func() keeper { return inMemory{NewBudgets(10)} })
}

// checkTold checks that a refusal told the time that it takes, to the
// microsecond.
func checkTold(t *testing.T, name string, k keeper, c Charge, now time.Duration, d Decision) {
	t.Helper()
	if !k.allows(now+d.NextAfter, c) {
		t.Fatalf("%s: refused at %v by %v for %v, and still after that", name, now, c.Limit, d.NextAfter)
	}
	if d.NextAfter > time.Microsecond && k.allows(now+d.NextAfter-time.Microsecond, c) {
		t.Fatalf("%s: refused at %v by %v for %v, but not a microsecond earlier", name, now, c.Limit, d.NextAfter)
	}
}
