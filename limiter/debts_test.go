package limiter

import (
	"math/big"
	"math/rand/v2"
	"testing"
	"time"
)

// owes returns how many requests a replica owes of one budget, and leaves the
// debt as it was.
func owes(d *Debts, now time.Duration) (requests float64) {
	for key, end := range d.ends.All() {
		requests += Debt{key.Charge, key.Limit.shareInterval(key.replicas), end}.Requests(now)
	}
	return requests
}

// requests returns how many requests a budget of the model has spent and not
// yet earned again.
func (m *model) requests(now time.Duration) float64 {
	ahead := new(big.Rat).Sub(m.tat, instant(now))
	if ahead.Sign() < 0 {
		return 0
	}
	f, _ := ahead.Quo(ahead, m.interval).Float64()
	return f
}

// TestDebts lets replicas admit what their shares admit, or whatever comes, and
// compares what they owe together with one exact budget that sees it all.
func TestDebts(t *testing.T) {
	limits := []string{"10/s", "3/s,burst=9", "7/s,burst=5", "1000/m,burst=50", "1/d,burst=4", "70000/s,burst=1000", "13/17s,burst=40"}
	for seed := range uint64(150) {
		random := rand.New(rand.NewPCG(seed, 0))
		l, n := parse(t, limits[random.IntN(len(limits))]), 1+random.IntN(6)
		shared := random.IntN(4) > 0 // else open: all are admitted
		exact, charges := newModel(l), []Charge{{"key", l}}
		share := []Charge{{"key", l.Share(n)}}
		shares, debts := make([]*Budgets, n), make([]*Debts, n)
		for i := range n {
			shares[i], debts[i] = NewBudgets(10), NewDebts(10)
			if seed%2 == 0 {
				shares[i] = NewEmptyBudgets(10, 0)
			}
		}
		var now time.Duration
		for range 500 {
			switch random.IntN(3) {
			case 0:
				now += below(random, l.interval())
			case 1:
				now += below(random, 2*l.interval()/time.Duration(n)+1)
			}
			if random.IntN(100) == 0 {
				now += below(random, l.offset())
			}
			i := random.IntN(n)
			if _, admitted := shares[i].Take(now, share); admitted || !shared {
				debts[i].Add(now, charges, n)
				exact.spend(now)
			}
			var owed float64
			for _, d := range debts {
				owed += owes(d, now)
			}
			if want := exact.requests(now); owed < want-1e-6 {
				t.Fatalf("seed %d: %v over %d replicas at %v: %f owed, want at least %f", seed, l, n, now, owed, want)
			}
			if shared && n <= l.Burst && owed > float64(l.Burst)+1e-6 {
				t.Fatalf("seed %d: %v over %d replicas at %v: %f owed, want at most the burst", seed, l, n, now, owed)
			}
		}
		// Time alone pays it back.
		for _, d := range debts {
			for _, owed := range d.Take(now) {
				if left := owed.Requests(now); left <= 0 || owed.Requests(owed.End) != 0 || owed.Requests(owed.End+time.Hour) != 0 {
					t.Fatalf("seed %d: got %+v, with %f at %v", seed, owed, left, now)
				}
				if half := owed.Requests(now + (owed.End-now)/2); half > owed.Requests(now)/2+1e-3 {
					t.Fatalf("seed %d: %f owed, and %f after half of the time", seed, owed.Requests(now), half)
				}
			}
			if again := d.Take(now); len(again) > 0 {
				t.Fatalf("seed %d: taken twice: %+v", seed, again)
			}
		}
	}
}

func TestDebts_AreCountedByTheShareOfTheirTime(t *testing.T) {
	d, ten := NewDebts(10), Charge{"ten", parse(t, "10/h")}
	d.Add(0, []Charge{ten}, 1)
	d.Add(0, []Charge{ten}, 1)
	d.Add(0, []Charge{ten}, 5)
	got := map[time.Duration]float64{}
	for _, owed := range d.Take(0) {
		if owed.Charge != ten {
			t.Errorf("got %+v, want %+v", owed.Charge, ten)
		}
		got[owed.Interval] = owed.Requests(0)
	}
	if len(got) != 2 || got[6*time.Minute] != 2 || got[30*time.Minute] != 1 {
		t.Errorf("got %v, want 2 requests of 6m and 1 of 30m", got)
	}
}

func TestDebts_ForgetWhatIsPaidBackAndTheSmallestBeyondCapacity(t *testing.T) {
	const capacity = 3
	d := NewDebts(capacity)
	add := func(now time.Duration, key string, n int) {
		for range n {
			d.Add(now, []Charge{{key, parse(t, "1/s")}}, 1)
		}
	}
	add(0, "most", 30)
	add(0, "least", 10)
	add(0, "middle", 20)
	add(0, "more", 15)
	add(19*time.Second, "new", 5)
	got := map[string]float64{}
	for _, owed := range d.Take(19 * time.Second) {
		got[owed.Key] = owed.Requests(19 * time.Second)
	}
	if len(got) != 3 || got["most"] != 11 || got["middle"] != 1 || got["new"] != 5 {
		t.Errorf("got %v, want 11 of most, 1 of middle and 5 of new", got)
	}
}

func TestDebts_DoNotOverflow(t *testing.T) {
	rare := Charge{"rare", parse(t, "1/876000h")}
	for n := range 10 {
		d := NewDebts(10)
		for range n + 1 {
			d.Add(time.Hour, []Charge{rare}, 1000)
		}
		if owed := d.Take(time.Hour); len(owed) != 1 || owed[0].Requests(time.Hour) < 1 {
			t.Errorf("after %d: got %+v, want at least one request", n+1, owed)
		}
	}
}
