package limiter

import (
	"math/big"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"
	"time"
)

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

// TestDebts lets replicas admit what their shares admit, or whatever comes,
// while the store keeps what one budget had spent before. What the store then
// knows, with all debts charged, must be no less than what that budget would
// have spent if it had seen all requests.
func TestDebts(t *testing.T) {
	limits := []string{"10/s", "3/s,burst=9", "7/s,burst=5", "1000/m,burst=50", "1/d,burst=4", "70000/s,burst=1000", "13/17s,burst=40"}
	for seed := range uint64(1000) {
		random := rand.New(rand.NewPCG(seed, 0))
		l, n := parse(t, limits[random.IntN(len(limits))]), 1+random.IntN(6)
		shared := random.IntN(4) > 0 // else open: all are admitted
		stored, exact := newModel(l), newModel(l)
		for range random.IntN(2 * l.Burst) { // before the outage
			if stored.admits(0) {
				stored.spend(0)
				exact.spend(0)
			}
		}
		charges, share := []Charge{{Key: "key", Limit: l}}, []Charge{{Key: "key", Limit: l.Share(n)}}
		shares, debts := make([]*Budgets, n), make([]*Debts, n)
		for i := range n {
			shares[i], debts[i] = NewEmptyBudgets(10, 0), NewDebts(10)
		}
		var now time.Duration
		var mostBusy, gaps = 1 + random.IntN(3), 1 + random.IntN(200)
		for range random.IntN(400) {
			switch random.IntN(3) {
			case 0:
				now += below(random, l.interval()/time.Duration(mostBusy)+1)
			case 1:
				now += below(random, 2*l.interval()/time.Duration(n)+1)
			}
			if random.IntN(gaps) == 0 {
				now += below(random, l.offset())
			}
			i := random.IntN(n)
			if _, _, admitted := shares[i].Take(now, share); admitted || !shared {
				debts[i].Add(now, charges, n)
				exact.spend(now)
			}
		}
		var owed float64
		for _, d := range debts {
			for _, debt := range d.Take(now) {
				if debt.Charge != charges[0] || debt.Requests <= 0 || debt.End <= now {
					t.Fatalf("seed %d: got %+v at %v", seed, debt, now)
				}
				owed += debt.Requests
			}
			if again := d.Take(now); len(again) > 0 {
				t.Fatalf("seed %d: taken twice: %+v", seed, again)
			}
		}
		if got, want := stored.requests(now)+owed, exact.requests(now); got < want-1e-6 {
			t.Fatalf("seed %d: %v over %d replicas at %v: %f in the store and %f owed, want at least %f", seed, l, n, now, stored.requests(now), owed, want)
		}
		if shared && n <= l.Burst && exact.requests(now) > float64(l.Burst+n) {
			t.Fatalf("seed %d: %v over %d replicas at %v: %f spent, want at most the burst and one for each replica", seed, l, n, now, exact.requests(now))
		}
	}
}

// What a budget has earned beyond its burst pays back what was spent.
func TestDebts_ArePaidBackByWhatTheStoreCannotKeep(t *testing.T) {
	l := parse(t, "1/s,burst=10")
	for _, test := range []struct {
		name string
		at   []int // seconds into the outage at which one request is spent
		end  int
		want float64
	}{
		{"an outage in which the budget cannot have become full", []int{2, 4, 6}, 8, 3},
		{"all of the rate, long", seconds(0, 60), 60, 10},
		{"all of the rate, as long as the budget takes to be full", seconds(0, 10), 10, 10},
		{"half of the rate, as long", seconds(0, 5), 10, 5},
		{"half of the rate at first, twice as long", seconds(0, 10), 20, 0},
		{"a few at the end", []int{0, 1, 55, 55, 55}, 55, 3},
		{"once", []int{0}, 5, 1},
		{"once, paid back", []int{0}, 12, 0},
	} {
		d := NewDebts(10)
		for _, at := range test.at {
			d.Add(time.Duration(at)*time.Second, []Charge{{Key: "key", Limit: l}}, 1)
		}
		var got float64
		for _, debt := range d.Take(time.Duration(test.end) * time.Second) {
			got += debt.Requests
		}
		if got != test.want {
			t.Errorf("%s: got %g owed, want %g", test.name, got, test.want)
		}
	}
}

// seconds returns from, from+1, … up to but without end.
func seconds(from, end int) (all []int) {
	for s := from; s < end; s++ {
		all = append(all, s)
	}
	return all
}

func TestDebts_AreCountedByTheShareOfTheirTime(t *testing.T) {
	d, ten := NewDebts(10), Charge{Key: "ten", Limit: parse(t, "10/h")}
	d.Add(0, []Charge{ten}, 1)
	d.Add(0, []Charge{ten}, 1)
	d.Add(0, []Charge{ten}, 5)
	var got []float64
	for _, owed := range d.Take(6 * time.Minute) {
		if owed.Charge != ten {
			t.Errorf("got %+v, want %+v", owed.Charge, ten)
		}
		got = append(got, owed.Requests, owed.End.Minutes())
	}
	slices.Sort(got)
	// A replica of five earns one in half an hour; the budget was full after one.
	if want := []float64{1, 2, 72, 90}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v: 2 requests until 1h12m and 1 until 1h30m", got, want)
	}
}

func TestDebts_ForgetWhatIsPaidBackAndTheSmallestBeyondCapacity(t *testing.T) {
	const capacity = 3
	d := NewDebts(capacity)
	add := func(now time.Duration, key string, n int) {
		for range n {
			d.Add(now, []Charge{{Key: key, Limit: parse(t, "1/s"), ByCaller: true}}, 1)
		}
	}
	add(0, "most", 30)
	add(0, "least", 10)
	add(0, "middle", 20)
	add(0, "more", 15)
	add(19*time.Second, "new", 5)
	got := map[string]float64{}
	for _, owed := range d.Take(19 * time.Second) {
		got[owed.Key] = owed.Requests
	}
	if len(got) != 3 || got["most"] != 12 || got["middle"] != 2 || got["new"] != 5 {
		t.Errorf("got %v, want 12 of most, 2 of middle and 5 of new", got)
	}
}

func TestDebts_DoNotOverflow(t *testing.T) {
	rare := Charge{Key: "rare", Limit: parse(t, "1/876000h")}
	for n := range 10 {
		d := NewDebts(10)
		for range n + 1 {
			d.Add(time.Hour, []Charge{rare}, 1000)
		}
		if owed := d.Take(time.Hour); len(owed) != 1 || owed[0].Requests < 1 {
			t.Errorf("after %d: got %+v, want at least one request", n+1, owed)
		}
	}
}

func TestDebts_RefundTakesBackWhileLast(t *testing.T) {
	d, c := NewDebts(10), Charge{Key: "key", Limit: parse(t, "1/m,burst=10")}
	first, second := d.Add(0, []Charge{c}, 2), d.Add(time.Second, []Charge{c}, 2)
	if d.Refund(c, 2, first[0]) || d.Refund(c, 1, second[0]) || !d.Refund(c, 2, second[0]) {
		t.Error("taken back but the last, or not the last")
	}
	if owed := d.Take(time.Second); len(owed) != 1 || owed[0].Requests != 1 {
		t.Errorf("got %+v, want one request", owed)
	}
}

func TestDebts_ForgetNothingThatIsShared(t *testing.T) {
	const capacity = 10
	d, limit := NewDebts(capacity), parse(t, "1/m")
	for i := range 3 * capacity {
		d.Add(0, []Charge{{Key: "shared " + strconv.Itoa(i), Limit: limit}, {Key: "one's own " + strconv.Itoa(i), Limit: limit, ByCaller: true}}, 1)
	}
	if owed := d.Take(0); len(owed) != 4*capacity {
		t.Errorf("got %d debts, want all %d that are shared and %d more", len(owed), 3*capacity, capacity)
	}
}
