package limiter

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// remaining returns what d tells of each budget, for one look at several.
func remaining(decisions []Decision) []int {
	var n []int
	for _, d := range decisions {
		n = append(n, d.Remaining)
	}
	return n
}

func TestBudgets_ChargeAllOrNone(t *testing.T) {
	narrow, wide := Charge{Key: "narrow", Limit: parse(t, "1/s,burst=1")}, Charge{Key: "wide", Limit: parse(t, "3/h")}
	full := Charge{Key: "full", Limit: parse(t, "1/h,burst=1")}
	b := NewBudgets(10)
	for _, step := range []struct {
		name      string
		now       time.Duration
		charges   []Charge
		admitted  bool
		remaining []int
	}{
		{"both admit", 0, []Charge{narrow, wide}, true, []int{0, 2}},
		{"the first refuses", 0, []Charge{narrow, wide}, false, []int{0, 2}},
		{"the last refuses", 0, []Charge{wide, narrow}, false, []int{2, 0}},
		{"a full bucket of burst 1 stays full", 0, []Charge{full, narrow}, false, []int{1, 0}},
		{"and is one", 0, []Charge{full}, true, []int{0}},
		{"nothing was charged", 0, []Charge{wide}, true, []int{1}},
		{"both again", time.Second, []Charge{narrow, wide}, true, []int{0, 0}},
		{"both refuse", time.Second, []Charge{narrow, wide}, false, []int{0, 0}},
		{"no budget", time.Second, nil, true, nil},
	} {
		decisions, _, admitted := b.Take(step.now, step.charges)
		if got := remaining(decisions); admitted != step.admitted || !slices.Equal(got, step.remaining) {
			t.Errorf("%s: got %t %v, want %t %v", step.name, admitted, got, step.admitted, step.remaining)
		}
	}
}

func TestBudgets_ForgetTheOneNearestToFull(t *testing.T) {
	const capacity = 3
	b := NewBudgets(capacity)
	spend := func(key string, n int) (last Decision) {
		for range n {
			decisions, _, _ := b.Take(0, []Charge{{Key: key, Limit: parse(t, "100/h"), ByCaller: true}})
			last = decisions[0]
		}
		return last
	}
	spend("most", 30)
	spend("least", 10)
	spend("middle", 20)
	spend("one too many", 1) // is itself the nearest to full, and is kept all the same
	for _, test := range []struct {
		key  string
		want int
	}{{"most", 69}, {"middle", 79}, {"one too many", 98}, {"least", 99}} {
		if got := spend(test.key, 1); got.Remaining != test.want {
			t.Errorf("%s: got %d remaining, want %d", test.key, got.Remaining, test.want)
		}
	}
	if got := len(b.byCaller.byKey); got != capacity {
		t.Errorf("got %d keys, want %d", got, capacity)
	}
}

func TestBudgets_ForgetThoseThatAreFull(t *testing.T) {
	b, second := NewBudgets(1000), parse(t, "1/s")
	for i := range 500 {
		b.Take(0, []Charge{{Key: fmt.Sprint(i), Limit: second, ByCaller: i%2 == 0}})
	}
	for range 500 {
		b.Take(time.Second, nil)
	}
	if got := len(b.byCaller.byKey) + len(b.shared.byKey); got != 0 {
		t.Errorf("got %d keys, want none", got)
	}
}

// What is not earned since the beginning is not there: at any time no more is
// admitted than time has brought, and never more than the burst at once.
func TestEmptyBudgets(t *testing.T) {
	const began = time.Hour
	for _, text := range []string{"10/s,burst=5", "1/s", "3/s,burst=1", "7/s,burst=20", "1/d,burst=2"} {
		limit := parse(t, text)
		for name, waits := range map[string][]time.Duration{
			"without a pause":       {0},
			"a pause of an hour":    {time.Hour},
			"before it is half":     {limit.offset() / 2},
			"a little at a time":    {limit.interval() / 3, limit.interval() / 2},
			"just before and after": {limit.interval() - 1, 1, 1},
		} {
			b := NewEmptyBudgets(10, began)
			now, admitted := began, []time.Duration(nil)
			for i := range 100 {
				for range limit.Burst + 1 {
					decisions, _, ok := b.Take(now, []Charge{{Key: "key", Limit: limit}})
					if ok {
						admitted = append(admitted, now)
					} else if want := (now - began) / limit.interval(); len(admitted) == 0 && want >= 1 {
						t.Fatalf("%s, %s: nothing admitted after %v", text, name, now-began)
					} else if now+decisions[0].NextAfter < began+limit.interval() {
						t.Fatalf("%s, %s: got %+v after %v", text, name, decisions[0], now-began)
					}
				}
				if earned := int((now - began) / limit.interval()); len(admitted) > earned {
					t.Fatalf("%s, %s: %d admitted in %v, want at most %d", text, name, len(admitted), now-began, earned)
				}
				now += waits[i%len(waits)]
			}
			checkWindows(t, limit, admitted)
		}
	}
}

func TestEmptyBudgets_AdmitAtTheirRate(t *testing.T) {
	b, limit := NewEmptyBudgets(10, 0), parse(t, "10/s,burst=5")
	admitted := 0
	for now := time.Duration(0); now <= 10*time.Second; now += time.Millisecond {
		if _, _, ok := b.Take(now, []Charge{{Key: "key", Limit: limit}}); ok {
			admitted++
		}
	}
	if admitted != 100 {
		t.Errorf("got %d admitted in 10 s, want 100", admitted)
	}
	// A key that is new late is full: it was empty at the beginning only.
	decisions, _, _ := b.Take(10*time.Second, []Charge{{Key: "new", Limit: limit}})
	if decisions[0].Remaining != 4 {
		t.Errorf("got %+v, want 4 remaining", decisions[0])
	}
}

// Whatever number of callers comes, and however far ahead their
// TATs lie, what all callers share is not forgotten, nor what was just spent.
func TestBudgets_ForgetNothingThatIsSharedOrWasJustSpent(t *testing.T) {
	const capacity = 50
	for name, b := range map[string]*Budgets{"": NewBudgets(capacity), "during an outage": NewEmptyBudgets(capacity, -24*time.Hour)} {
		shared, second, day := parse(t, "1/m,burst=1"), parse(t, "1/s,burst=1"), parse(t, "1/d,burst=1")
		take := func(want bool, charges ...Charge) {
			t.Helper()
			if _, _, admitted := b.Take(0, charges); admitted != want {
				t.Errorf("%s: %v: got admitted %t, want %t", name, charges, admitted, want)
			}
		}
		for i := range 3 * capacity {
			take(true, Charge{Key: fmt.Sprint("shared ", i), Limit: shared})
			take(true, Charge{Key: fmt.Sprint("day ", i), Limit: day, ByCaller: true})
		}
		for i := range 3 * capacity {
			// Of all that is known, these two windows' TATs are the earliest.
			windows := []Charge{{Key: fmt.Sprint("second ", i), Limit: second, ByCaller: true}, {Key: fmt.Sprint("other ", i), Limit: second, ByCaller: true}}
			take(true, windows...)
			take(false, windows[0])
			take(false, windows[1])
			take(false, Charge{Key: fmt.Sprint("shared ", i), Limit: shared})
		}
		if got := len(b.byCaller.byKey); got != capacity {
			t.Errorf("%s: got %d callers' keys, want %d", name, got, capacity)
		}
	}
}

func TestBudgets_RefundGivesBackWhileLast(t *testing.T) {
	limit := parse(t, "1/m,burst=3")
	c := Charge{Key: "key", Limit: limit}
	for _, test := range []struct {
		name  string
		steps string // s spends, a digit gives that one back, X the first, which is not to be
		left  int
	}{
		{"the only one", "s0", 3},
		{"the last", "ss1", 2},
		{"not the last", "ssX", 1},
		{"one after the other, the last first", "sss210", 3},
	} {
		b := NewBudgets(10)
		var tats []time.Duration
		for i, step := range test.steps {
			switch {
			case step == 's':
				_, spent, _ := b.Take(time.Duration(i), []Charge{c})
				tats = append(tats, spent...)
			case step == 'X':
				if b.Refund(c, tats[0]) {
					t.Errorf("%s: given back", test.name)
				}
			default:
				if !b.Refund(c, tats[step-'0']) {
					t.Errorf("%s: %c not given back", test.name, step)
				}
			}
		}
		for range test.left {
			if _, _, admitted := b.Take(time.Duration(len(test.steps)), []Charge{c}); !admitted {
				t.Errorf("%s: refused, want %d left", test.name, test.left)
			}
		}
		if _, _, admitted := b.Take(time.Duration(len(test.steps)), []Charge{c}); admitted {
			t.Errorf("%s: admitted, want %d left", test.name, test.left)
		}
	}
}

// A budget that began empty is as empty after a refund.
func TestEmptyBudgets_Refund(t *testing.T) {
	b, c := NewEmptyBudgets(10, 0), Charge{Key: "key", Limit: parse(t, "1/s,burst=5")}
	_, tats, _ := b.Take(time.Second, []Charge{c})
	b.Refund(c, tats[0])
	if _, _, admitted := b.Take(time.Second, []Charge{c}); !admitted {
		t.Error("refused, want the place that was given back")
	}
	if _, _, admitted := b.Take(time.Second, []Charge{c}); admitted {
		t.Error("admitted, want one in a second")
	}
}

// Room for a new key is made by none of those that the same request spends from.
func TestBudgets_NewKeyBesideAKnownOneThatIsTheEarliest(t *testing.T) {
	b := NewBudgets(2)
	day, known := Charge{Key: "day", Limit: parse(t, "1/d"), ByCaller: true}, Charge{Key: "known", Limit: parse(t, "2/s"), ByCaller: true}
	fresh := Charge{Key: "fresh", Limit: parse(t, "1/m"), ByCaller: true}
	for _, step := range []struct {
		charges  []Charge
		admitted bool
	}{
		{[]Charge{day}, true},
		{[]Charge{known}, true},
		{[]Charge{fresh, known}, true},
		{[]Charge{known}, false},
		{[]Charge{fresh}, false},
	} {
		if _, _, admitted := b.Take(0, step.charges); admitted != step.admitted {
			t.Errorf("%v: got admitted %t, want %t", step.charges, admitted, step.admitted)
		}
	}
	if got := len(b.byCaller.byKey); got != 2 || len(b.byCaller.earliest) != 2 {
		t.Errorf("got %d keys, %d of them in order, want 2", got, len(b.byCaller.earliest))
	}
}
