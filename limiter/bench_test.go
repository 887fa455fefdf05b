package limiter

import (
	"strconv"
	"testing"
	"time"
)

// BenchmarkTake spends from one budget that all callers share, and from two of
// each of many callers.
func BenchmarkTake(b *testing.B) {
	second, day := parse(b, "1000000/s,burst=1000000"), parse(b, "1000000/d")
	for name, every := range map[string]time.Duration{"busy": time.Microsecond - 1, "idle": time.Microsecond} {
		b.Run(name, func(b *testing.B) {
			budgets, charges := NewBudgets(1000), []Charge{{Key: "{slack}:rate:slack", Limit: second}}
			for i := range b.N {
				budgets.Take(time.Duration(i)*every, charges)
			}
		})
	}
	b.Run("two", func(b *testing.B) {
		budgets := NewBudgets(1000)
		charges := make([][]Charge, 400)
		for i := range charges {
			caller := strconv.Itoa(i)
			charges[i] = []Charge{{Key: "{slack}:rate:slack:" + caller, Limit: second}, {Key: "{slack}:rate:slack-2:" + caller, Limit: day}}
		}
		for i := range b.N {
			budgets.Take(time.Duration(i)*time.Microsecond, charges[i%len(charges)])
		}
	})
}
