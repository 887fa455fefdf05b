package limiter

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

func TestBudgets_Reserve(t *testing.T) {
	one, many := Charge{Key: "one", Limit: parse(t, "1/s,burst=1")}, Charge{Key: "many", Limit: parse(t, "6/m,burst=2")}
	for _, test := range []struct {
		name    string
		before  []Charge // taken at 0
		charges []Charge
		longest time.Duration
		want    Reservation
		ok      bool
	}{
		{"nothing refuses", nil, []Charge{one, many}, time.Hour, Reservation{}, false},
		{"the only one", []Charge{one}, []Charge{one}, time.Second, Reservation{0, time.Second, 2 * time.Second, Decision{true, 0, time.Second, time.Second}}, true},
		{"too long", []Charge{one}, []Charge{one}, time.Second - time.Microsecond, Reservation{}, false},
		{"the one that refuses", []Charge{one}, []Charge{many, one}, time.Second, Reservation{1, time.Second, 2 * time.Second, Decision{true, 0, time.Second, time.Second}}, true},
		{"the last that admits", []Charge{one, many, many}, []Charge{one, many}, time.Minute, Reservation{1, 10 * time.Second, 30 * time.Second, Decision{true, 0, 10 * time.Second, 20 * time.Second}}, true},
		{"too long for the last", []Charge{one, many, many}, []Charge{one, many}, 9 * time.Second, Reservation{}, false},
	} {
		b := NewBudgets(10)
		for _, c := range test.before {
			b.Take(0, []Charge{c})
		}
		before := fmt.Sprint(inMemory{b}.stored(0, one), inMemory{b}.stored(0, many))
		got, ok := b.Reserve(0, test.charges, test.longest)
		if got != test.want || ok != test.ok {
			t.Errorf("%s: got %+v, %t, want %+v, %t", test.name, got, ok, test.want, test.ok)
		}
		if after := fmt.Sprint(inMemory{b}.stored(0, one), inMemory{b}.stored(0, many)); !ok && after != before {
			t.Errorf("%s: got %s spent, want %s as before", test.name, after, before)
		}
		if ok && !b.Refund(test.charges[got.Charge], got.TAT) {
			t.Errorf("%s: it could not be given back", test.name)
		}
	}
}

// reserver is a keeper of places of requests that wait.
type reserver interface {
	keeper
	// queue asks as take does, and where that is refused for a place.
	queue(now time.Duration, charges []Charge, longest time.Duration) (r Reservation, admitted, ok bool)
}

func (m inMemory) queue(now time.Duration, charges []Charge, longest time.Duration) (r Reservation, admitted, ok bool) {
	if _, _, admitted := m.Take(now, charges); admitted {
		return r, true, true
	}
	r, ok = m.Reserve(now, charges, longest)
	r.TAT = 0 // is written otherwise in a Redis
	return r, false, ok
}

func (r inRedis) queue(now time.Duration, charges []Charge, longest time.Duration) (place Reservation, admitted, ok bool) {
	r.Helper()
	keys, all := r.limits(charges)
	for i, c := range charges { // the longest wait is part of a limit
		copy(all[3*i:], anys(c.Limit.ScriptArgs(longest)))
	}
	result, admitted := r.run("reserve", now, keys, append(all, longest.Microseconds())...)
	if admitted {
		return place, true, true
	}
	replies := result.([]any)
	if len(replies) == len(charges) {
		return place, false, false
	}
	place.Charge = int(replies[len(charges)].(int64)) - 1
	read, after, err := charges[place.Charge].Limit.ReadReserved(replies[place.Charge])
	if err != nil {
		r.Fatal(err)
	}
	place.After, place.Decision = after, read.Decision
	return place, false, true
}

// Whoever waits goes at an instant at which the budget, asked then, would have
// admitted him after all who asked before, and no more are granted any stretch of
// time than burst + rate × t.
func TestReservations(t *testing.T) {
	t.Run("memory", func(t *testing.T) {
		for seed := range uint64(300) {
			testReservations(t, inMemory{NewBudgets(10)}, seed, 200)
		}
	})
	t.Run("Redis", func(t *testing.T) {
		r := openRedis(t)
		for seed := range uint64(20) {
			r.client.FlushAll(t.Context())
			testReservations(t, both{r, inMemory{NewBudgets(10)}}, seed, 60)
		}
	})
}

func testReservations(t *testing.T, k reserver, seed uint64, asks int) {
	t.Helper()
	random := rand.New(rand.NewPCG(seed, 0))
	limits := []string{"10/s", "3/s,burst=2", "7/m,burst=1", "1000/s,burst=30", "90000/s,burst=3", "5/s,strict", "50/h,burst=7,strict"}
	limit := parse(t, limits[random.IntN(len(limits))])
	c := Charge{Key: "key", Limit: limit}
	longest := time.Duration(random.IntN(8)) * limit.interval() * time.Duration(1+limit.Burst)
	var now time.Duration
	var granted []time.Duration
	var last time.Duration
	for range asks {
		place, admitted, ok := k.queue(now, []Charge{c}, longest)
		switch {
		case !ok:
		case admitted && len(granted) > 0 && now < last-time.Microsecond:
			t.Fatalf("seed %d, %v: admitted at %v, before one that waits until %v", seed, limit, now, last)
		case place.After > longest:
			t.Fatalf("seed %d, %v: waits %v, want at most %v", seed, limit, place.After, longest)
		default:
			last = now + place.After
			granted = append(granted, last)
		}
		if random.IntN(3) > 0 {
			now += time.Duration(random.Int64N(int64(limit.interval()) * 2)).Truncate(time.Microsecond)
		}
	}
	for i, from := range granted {
		for j, to := range granted[i:] {
			// Each instant is rounded up to a microsecond.
			earned := int(float64(to-from+time.Microsecond) / float64(limit.interval()))
			if n := j + 1; n > limit.Burst+earned {
				t.Fatalf("seed %d, %v: %d granted in %v, want at most %d", seed, limit, n, to-from, limit.Burst+earned)
			}
		}
	}
}

// both asks a Redis and memory, which must say the same.
type both struct {
	inRedis
	memory inMemory
}

func (b both) queue(now time.Duration, charges []Charge, longest time.Duration) (r Reservation, admitted, ok bool) {
	b.Helper()
	r, admitted, ok = b.inRedis.queue(now, charges, longest)
	want, wantAdmitted, wantOK := b.memory.queue(now, charges, longest)
	if r != want || admitted != wantAdmitted || ok != wantOK {
		b.Fatalf("%v at %v: got %+v, %t, %t, in memory %+v, %t, %t", charges, now, r, admitted, ok, want, wantAdmitted, wantOK)
	}
	for _, c := range charges {
		if got, want := b.stored(now, c), b.memory.stored(now, c); got != want {
			b.Fatalf("%v at %v: got %v stored, in memory %v", c, now, got, want)
		}
	}
	return r, admitted, ok
}

// A strict limit admits no more than its rate in any period, wherever it begins,
// and no fewer than that where it is asked without end.
func TestStrict(t *testing.T) {
	for _, text := range []string{"100/m,strict", "100/m,burst=50,strict", "7/s,burst=7,strict", "1/s,strict", "3/s,burst=2,strict", "1000/s,burst=999,strict"} {
		limit := parse(t, text)
		for seed := range uint64(20) {
			random := rand.New(rand.NewPCG(seed, 1))
			b, charges := NewBudgets(1), []Charge{{Key: "key", Limit: limit}}
			var now time.Duration
			var admitted []time.Duration
			for len(admitted) < 4*limit.Rate {
				if decisions, _, ok := b.Take(now, charges); ok {
					admitted = append(admitted, now)
				} else if seed > 0 {
					now += time.Duration(random.Int64N(int64(decisions[0].NextAfter) * 2))
				} else {
					now += decisions[0].NextAfter
				}
				if seed > 0 && random.IntN(2*limit.Rate) == 0 {
					now += limit.Period
				}
			}
			most := 0
			for i, from := range admitted {
				end, _ := slices.BinarySearch(admitted, from+limit.Period+1) // the period's last instant included
				most = max(most, end-i)
			}
			if most > limit.Rate || seed == 0 && most < limit.Rate {
				t.Errorf("%s, seed %d: got %d in one period, want %d at most", text, seed, most, limit.Rate)
			}
		}
	}
}

func anys(words []string) (all []any) {
	for _, word := range words {
		all = append(all, word)
	}
	return all
}
