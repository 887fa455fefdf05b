package limiter

import (
	"cmp"
	"fmt"
	"math/big"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// TestBudgets_UnderAnyLimits is [history.run] for budgets in memory.
func TestBudgets_UnderAnyLimits(t *testing.T) {
	for seed := range uint64(1000) {
		newHistory(t, inMemory{NewBudgets(10)}, seed, "key").run(100)
	}
}

// history asks budgets at random instants, under limits that change midway or
// lie side by side, singly and together, and gives some places back.
type history struct {
	*testing.T
	keeper
	random  *rand.Rand
	name    string
	budgets []*changing
	now     time.Duration
}

// changing is a budget of a history, and what it is in exact arithmetic.
type changing struct {
	key      string
	byCaller bool
	limits   []Limit // in force one after the other, or side by side
	current  int
	exact    exactBudget
	admitted []time.Duration
	used     []Limit // that have decided so far
	wrote    Limit   // that has admitted last
}

func newHistory(t *testing.T, k keeper, seed uint64, key string) *history {
	h := &history{T: t, keeper: k, random: rand.New(rand.NewPCG(seed, 10)), name: fmt.Sprint("seed ", seed)}
	for i := range 1 + h.random.IntN(2) {
		b := &changing{key: key + string(rune('a'+i)), byCaller: h.random.IntN(2) == 0}
		for range 2 + h.random.IntN(2) {
			b.limits = append(b.limits, h.limit())
		}
		h.budgets = append(h.budgets, b)
	}
	return h
}

// limit returns a limit of one request in 10 µs to 10 days.
func (h *history) limit() Limit {
	rates := []int{1, 2, 3, 7, 10, 60, 100, 999, 1000, 70_000, 100_000}
	lengths := []time.Duration{time.Second, time.Minute, time.Hour, 24 * time.Hour, 17 * time.Second, 240 * time.Hour}
	return Limit{rates[h.random.IntN(len(rates))], lengths[h.random.IntN(len(lengths))], 1 + h.random.IntN(1+h.random.IntN(40)), false}
}

func (h *history) run(asks int) {
	h.Helper()
	sideBySide := h.random.IntN(2) == 0
	midway := 1 + h.random.IntN(asks/2)
	var told time.Duration
	for i := range asks {
		h.move(told)
		if sideBySide {
			for _, b := range h.budgets {
				b.current = h.random.IntN(len(b.limits))
			}
		} else if i%midway == midway-1 {
			for _, b := range h.budgets {
				b.current = (b.current + 1) % len(b.limits)
			}
		}
		asked := h.budgets
		if len(asked) > 1 && h.random.IntN(3) == 0 {
			j := h.random.IntN(len(asked))
			asked = asked[j : j+1]
		}
		told = h.step(asked)
	}
	for _, b := range h.budgets {
		b.checkWindows(h)
	}
}

// move lets a random time go by, or that which was told last.
func (h *history) move(told time.Duration) {
	b := h.budgets[h.random.IntN(len(h.budgets))]
	switch l := b.limits[b.current]; h.random.IntN(5) {
	case 0: // at the same time
	case 1:
		h.now += below(h.random, 10) * time.Microsecond
	case 2:
		h.now += below(h.random, 2*l.interval()).Truncate(time.Microsecond)
	case 3:
		h.now += told
	case 4:
		h.now += below(h.random, l.offset()/4+2).Truncate(time.Microsecond)
	}
}

// step asks for one request of each, and gives some back. It returns what was
// told, or 0.
func (h *history) step(asked []*changing) (told time.Duration) {
	h.Helper()
	i := h.random.IntN(len(asked))
	before := h.stored(h.now, asked[i].charge())
	tats, told := h.ask(asked)
	if tats != nil && h.random.IntN(4) == 0 {
		h.giveBack(asked[i], before, tats[i])
	}
	return told
}

// ask asks for one request of each, and compares everything with the exact
// budgets. It returns what was charged, and what was told or 0.
func (h *history) ask(asked []*changing) (tats []string, told time.Duration) {
	h.Helper()
	var charges []Charge
	var before []budget
	var wants, certain []bool
	for _, b := range asked {
		c := b.charge()
		charges, before = append(charges, c), append(before, h.stored(h.now, c))
		b.used = append(b.used, c.Limit)
		b.exact.at(h.now)
		want, sure := b.exact.allows(c.Limit)
		wants, certain = append(wants, want), append(certain, sure)
	}
	decisions, tats, admitted := h.take(h.now, charges)
	all := true
	for i, d := range decisions {
		if d.Allowed != wants[i] && certain[i] {
			h.Fatalf("%s: %v at %v: got %+v, want allowed %t, with %v spent", h.name, charges[i], h.now, d, wants[i], asked[i].exact.spent)
		}
		all = all && d.Allowed
	}
	if admitted != all {
		h.Fatalf("%s: got admitted %t of %+v", h.name, admitted, decisions)
	}
	for i, b := range asked {
		d, c := decisions[i], charges[i]
		b.exact.settle(c.Limit, d.Allowed, admitted)
		if d.Allowed && !admitted && h.stored(h.now, c) != before[i] {
			h.Fatalf("%s: %v was changed by the refusal of another", h.name, c)
		}
		h.compare(b, c, d)
		if !d.Allowed {
			checkTold(h.T, h.name, h, c, h.now, d)
			told = max(told, d.NextAfter)
			if longest := b.longest(c.Limit); d.NextAfter > longest {
				h.Fatalf("%s: %v at %v: %v told after %v, want at most %v", h.name, c, h.now, d.NextAfter, b.wrote, longest)
			}
		} else if admitted {
			b.wrote = c.Limit
			b.admitted = append(b.admitted, h.now)
		}
	}
	return tats, told
}

// giveBack refunds what was just charged to a budget, now or later, or after
// another.
func (h *history) giveBack(b *changing, before budget, tat string) {
	h.Helper()
	c := b.charge()
	if h.random.IntN(3) == 0 {
		admitted := len(b.admitted)
		if h.ask([]*changing{b}); len(b.admitted) == admitted {
			return
		}
		was := h.stored(h.now, c)
		if h.refund(h.now, c, tat) || h.stored(h.now, c) != was {
			h.Fatalf("%s: %v: given back although another was charged since", h.name, c)
		}
		return
	}
	h.now += below(h.random, c.Limit.interval()).Truncate(time.Microsecond)
	if !h.refund(h.now, c, tat) {
		h.Fatalf("%s: %v: not given back at %v, but nothing was charged since", h.name, c, h.now)
	}
	sameLimit := before.tat == 0 || before.interval == c.Limit.interval()
	if before.tat <= h.now {
		before = budget{}
	}
	after := h.stored(h.now, c)
	if sameLimit && after != before {
		h.Fatalf("%s: %v: got %v back at %v, want %v", h.name, c, after, h.now, before)
	}
	b.admitted = b.admitted[:len(b.admitted)-1]
	b.exact.at(h.now)
	b.exact.giveBack()
	b.exact.compare(h, c, after)
}

// compare checks what is stored and told after an ask.
func (h *history) compare(b *changing, c Charge, d Decision) {
	h.Helper()
	kept := h.stored(h.now, c)
	b.exact.compare(h, c, kept)
	if want := max(0, kept.tat-h.now).Round(time.Microsecond); kept.tat > 0 && d.ResetAfter != want {
		h.Fatalf("%s: %v: got full after %v, want %v", h.name, c, d.ResetAfter, want)
	}
	left, _ := new(big.Rat).Sub(big.NewRat(int64(c.Limit.Burst), 1), b.exact.spent).Float64()
	half, extra := float64(time.Microsecond/2)/float64(b.exact.interval), b.exact.extra
	if d.Allowed && (float64(d.Remaining) > left+half+1e-9 || float64(d.Remaining)+1 < left-extra-1e-9) {
		h.Fatalf("%s: %v: got %d remaining, want what is whole of %f", h.name, c, d.Remaining, left)
	}
}

func (b *changing) charge() Charge {
	return Charge{Key: b.key, Limit: b.limits[b.current], ByCaller: b.byCaller}
}

// longest is what a refusal by l may tell at most: where l is a raise of the
// limit that wrote the budget, its interval, else what that one takes to be full.
func (b *changing) longest(l Limit) time.Duration {
	if l.interval() <= b.wrote.interval() && l.Burst >= b.wrote.Burst {
		return roundUp(l.interval())
	}
	return roundUp(b.wrote.offset())
}

// checkWindows checks that no window, however long, has more than the largest
// burst and the fastest rate × its length.
func (b *changing) checkWindows(h *history) {
	if len(b.used) == 0 {
		return
	}
	perNano := func(l Limit) float64 { return float64(l.Rate) / float64(l.Period) }
	fastest := perNano(slices.MaxFunc(b.used, func(l, m Limit) int { return cmp.Compare(perNano(l), perNano(m)) }))
	burst := slices.MaxFunc(b.used, func(l, m Limit) int { return cmp.Compare(l.Burst, m.Burst) }).Burst
	for i, from := range b.admitted {
		for j, to := range b.admitted[i:] {
			if over := float64(j + 1 - burst); over > float64(to-from)*fastest+1e-6 {
				h.Fatalf("%s: %v: %d admitted within %v", h.name, b.limits, j+1, to-from)
			}
		}
	}
}

// exactBudget is what a budget remembers, in exact arithmetic: requests, and the
// pace at which they are earned again.
type exactBudget struct {
	spent    *big.Rat // requests
	interval time.Duration
	now      time.Duration
	extra    float64 // requests that rounding, of a nanosecond at each change of limits, may have added
}

// at lets the budget earn until now.
func (b *exactBudget) at(now time.Duration) {
	if b.spent == nil {
		b.spent = new(big.Rat)
	}
	if b.interval > 0 {
		b.spent.Sub(b.spent, big.NewRat(int64(now-b.now), int64(b.interval)))
	}
	if b.now = now; b.spent.Sign() <= 0 {
		b.spent.SetInt64(0)
	}
}

// allows reports whether one more may be spent, and whether that is so however
// it was rounded.
func (b *exactBudget) allows(l Limit) (allowed, certain bool) {
	room := new(big.Rat).Sub(big.NewRat(int64(l.Burst-1), 1), b.spent)
	f, _ := room.Float64()
	rounding := 1 / float64(l.interval())
	unchanged := b.extra == 0 && (b.interval == l.interval() || b.spent.Sign() == 0)
	return room.Sign() >= 0, f > b.extra+rounding || f < -1e-9 || unchanged
}

func (b *exactBudget) settle(l Limit, allowed, admitted bool) {
	interval := l.interval()
	writes := allowed && admitted || !allowed && interval < b.interval
	if allowed && admitted {
		b.spent.Add(b.spent, big.NewRat(1, 1))
	}
	if writes && interval != b.interval {
		b.extra += 1 / float64(interval)
		b.interval = interval
	}
}

func (b *exactBudget) giveBack() {
	if b.spent.Sub(b.spent, big.NewRat(1, 1)).Sign() < 0 {
		b.spent.SetInt64(0)
	}
}

// compare checks that what is kept has as much spent.
func (b *exactBudget) compare(h *history, c Charge, kept budget) {
	h.Helper()
	var got, want float64
	want, _ = b.spent.Float64()
	if kept.interval > 0 {
		got = float64(kept.tat-h.now) / float64(kept.interval)
		if kept.interval != b.interval {
			h.Fatalf("%s: %v at %v: kept by %v, want %v", h.name, c, h.now, kept.interval, b.interval)
		}
	}
	if got < want-1e-9 || got > want+b.extra+1e-9 {
		h.Fatalf("%s: %v at %v: got %.12f spent, want %.12f", h.name, c, h.now, got, want)
	}
}
