package limiter

import "time"

// Debts remembers what was spent of budgets while their store could not be
// asked, so that it is charged afterwards: not every request, but what is left
// of them after the time that has passed, as a budget would count it.
//
// Each of several replicas knows its own debts only, so they decay at its share
// of the rate. Together they are never less than the debt of one budget that
// had seen all requests. It is not safe for concurrent use.
type Debts struct {
	ends *Deadlines[debtor] // when each is paid back by time alone
}

// debtor is a budget, by how many replicas it was shared.
type debtor struct {
	Charge
	replicas int
}

// Debt is an amount to be charged to a budget.
type Debt struct {
	Charge
	Interval time.Duration // in which a replica's share pays back one request
	End      time.Duration // when nothing is left
}

// NewDebts returns Debts that remember at most capacity budgets.
func NewDebts(capacity int) *Debts { return &Debts{ends: NewDeadlines[debtor](capacity)} }

// Add adds one request for each of charges, as one of n replicas.
func (d *Debts) Add(now time.Duration, charges []Charge, n int) {
	d.ends.Expire(now)
	for _, c := range charges {
		key := debtor{c, n}
		end, _ := d.ends.Get(key)
		d.ends.Set(key, min(max(end, now)+c.Limit.shareInterval(n), now+maxOffset))
	}
}

// Take returns what is owed, and forgets it.
func (d *Debts) Take(now time.Duration) (owed []Debt) {
	if d.ends.Len() == 0 {
		return nil
	}
	for key, end := range d.ends.All() {
		if end > now {
			owed = append(owed, Debt{Charge: key.Charge, Interval: key.Limit.shareInterval(key.replicas), End: end})
		}
	}
	d.ends = NewDeadlines[debtor](d.ends.capacity)
	return owed
}

// Requests returns how many requests are owed, which need not be whole.
func (d Debt) Requests(now time.Duration) float64 {
	return float64(max(0, d.End-now)) / float64(d.Interval)
}

func (l Limit) shareInterval(n int) time.Duration { return l.Share(n).interval() }
