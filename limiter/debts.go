package limiter

import (
	"math"
	"time"
)

// Debts remembers what was spent of budgets while their store could not be
// asked, so that it can be charged afterwards. It is not safe for concurrent
// use.
//
// A budget earns in its store during an outage too, so what was earned must not
// be spent twice: by this replica meanwhile, and from the store afterwards. What
// the store has left is not known, and it keeps no key of a budget that is full
// again. Debts therefore counts as if every budget had been empty when the
// outage began: what it has earned beyond its burst since then pays back what
// was spent, and nothing else does.
//
// Each of several replicas knows its own debts only, and counts by its share of
// the rate. What they owe together, added to what the store has kept, is never
// less than what one budget would owe that had seen all requests.
type Debts struct {
	shared, byCaller *timeline[debtor, struct{}] // TATs as of one replica's share that was empty at the start
	start            time.Duration               // when the first debt was made
	begun            bool                        // one was
}

// debtor is a budget, by how many replicas it was shared.
type debtor struct {
	Charge
	replicas int
}

// Debt is what is to be charged to a budget.
type Debt struct {
	Charge
	Requests float64       // which need not be whole
	End      time.Duration // from when on it no longer matters
}

// NewDebts returns Debts that remember at most capacity callers' budgets.
func NewDebts(capacity int) *Debts {
	return &Debts{
		shared:   newTimeline[debtor, struct{}](math.MaxInt),
		byCaller: newTimeline[debtor, struct{}](capacity),
	}
}

// Add adds one request for each of charges, as one of n replicas. tats is for
// each of them what [Debts.Refund] takes.
func (d *Debts) Add(now time.Duration, charges []Charge, n int) (tats []time.Duration) {
	if !d.begun {
		d.start, d.begun = now, true
	}
	d.shared.expire(now)
	d.byCaller.expire(now)
	d.byCaller.begin()
	for _, c := range charges {
		d.of(c).keep(d.of(c).get(debtor{c, n}))
	}
	for _, c := range charges {
		key := debtor{c, n}
		last := d.of(c).get(key)
		from := max(now, d.full(c.Limit))
		tat := from
		if last != nil {
			tat = max(from, last.at)
		}
		tat = min(tat+c.Limit.shareInterval(n), from+maxOffset)
		d.of(c).set(last, key, tat, struct{}{})
		tats = append(tats, tat)
	}
	return tats
}

// Refund takes back the request that was added for c as one of n replicas, if
// that was the last one: tat is what [Debts.Add] said of c. Otherwise it stays
// owed. It is to be called once at most for each charge.
func (d *Debts) Refund(c Charge, n int, tat time.Duration) (given bool) {
	key := debtor{c, n}
	last := d.of(c).get(key)
	if last == nil || last.at != tat {
		return false
	}
	d.of(c).set(last, key, tat-c.Limit.shareInterval(n), struct{}{})
	return true
}

// Take returns what is owed, and forgets it.
func (d *Debts) Take(now time.Duration) (owed []Debt) {
	if !d.begun {
		return nil
	}
	for _, debts := range []*timeline[debtor, struct{}]{d.shared, d.byCaller} {
		for key, tat := range debts.all() {
			if left := tat - max(now, d.full(key.Limit)); left > 0 {
				owed = append(owed, Debt{
					Charge:   key.Charge,
					Requests: float64(left) / float64(key.Limit.shareInterval(key.replicas)),
					End:      tat,
				})
			}
		}
	}
	*d = *NewDebts(d.byCaller.capacity)
	return owed
}

func (d *Debts) of(c Charge) *timeline[debtor, struct{}] {
	if c.ByCaller {
		return d.byCaller
	}
	return d.shared
}

// full is when a budget of l is full again that was empty at the start.
func (d *Debts) full(l Limit) time.Duration {
	return d.start + min(l.offset(), maxOffset/2) // no sum of instants overflows, and no replica lives for 50 years
}

func (l Limit) shareInterval(n int) time.Duration { return l.Share(n).interval() }
