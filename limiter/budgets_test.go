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
	narrow, wide := Charge{"narrow", parse(t, "1/s,burst=1")}, Charge{"wide", parse(t, "3/h")}
	full := Charge{"full", parse(t, "1/h,burst=1")}
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
		decisions, admitted := b.Take(step.now, step.charges)
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
			decisions, _ := b.Take(0, []Charge{{key, parse(t, "100/h")}})
			last = decisions[0]
		}
		return last
	}
	spend("most", 30)
	spend("least", 10)
	spend("middle", 20)
	spend("one too many", 1) // is itself the nearest to full
	for key, want := range map[string]int{"most": 69, "least": 89, "middle": 79} {
		if got := spend(key, 1); got.Remaining != want {
			t.Errorf("%s: got %d remaining, want %d", key, got.Remaining, want)
		}
	}
	b.Take(0, []Charge{{"a day", parse(t, "1/d")}})
	for _, test := range []struct {
		key  string
		want int
	}{{"most", 68}, {"middle", 78}, {"least", 99}} {
		if got := spend(test.key, 1); got.Remaining != test.want {
			t.Errorf("%s: got %d remaining, want %d", test.key, got.Remaining, test.want)
		}
	}
	if got := b.tats.Len(); got != capacity {
		t.Errorf("got %d keys, want %d", got, capacity)
	}
}

func TestBudgets_ForgetThoseThatAreFull(t *testing.T) {
	b, second := NewBudgets(1000), parse(t, "1/s")
	for i := range 500 {
		b.Take(0, []Charge{{fmt.Sprint(i), second}})
	}
	for range 500 {
		b.Take(time.Second, nil)
	}
	if got := b.tats.Len(); got != 0 {
		t.Errorf("got %d keys, want none", got)
	}
}
