package cluster

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"throttle-proxy/integration/redistest"
)

// Those that come while others are under way go together, in the order in which they
// came, and no more at once than Redis can decide while others wait.
func TestDesk(t *testing.T) {
	p := pace{most: 2, lateAfter: time.Second}
	var d desk
	var going, waiting []*batch
	for i := range p.most + 2*groupSize + 1 {
		b, first, goes := d.enter(t.Context(), &asker{deadline: time.Duration(i)}, p, 0)
		if wantFirst := i < p.most || (i-p.most)%groupSize == 0; goes != (i < p.most) || first != wantFirst {
			t.Fatalf("ask %d: goes at once: %v, want %v; is the first: %v, want %v", i, goes, i < p.most, first, wantFirst)
		}
		switch {
		case goes:
			going = append(going, b)
		case first:
			waiting = append(waiting, b)
		}
	}
	if got, want := len(waiting), 3; got != want {
		t.Fatalf("got %d batches, want %d", got, want)
	}
	next := time.Duration(p.most)
	over := going[0]
	for i, want := range waiting {
		got := d.next(over, p, 0)
		if got != want {
			t.Fatalf("batch %d is not the next", i)
		}
		for _, a := range got.asks {
			if a.deadline != next {
				t.Fatalf("got ask %d, want %d", a.deadline, next)
			}
			next++
		}
		over = got
	}
	for _, b := range []*batch{over, going[1]} {
		if got := d.next(b, p, 0); got != nil {
			t.Fatalf("got another batch, %+v", got)
		}
	}
	if _, _, goes := d.enter(t.Context(), new(asker), p, 0); !goes {
		t.Error("nothing is under way, but an ask waits")
	}
}

// Batches that are late keep nobody, and are replaced by no more than there may be.
func TestDesk_WhoIsLate(t *testing.T) {
	p := pace{most: 1, lateAfter: time.Second}
	var d desk
	enter := func(now time.Duration) (*batch, bool) {
		b, _, goes := d.enter(t.Context(), new(asker), p, now)
		return b, goes
	}
	late, _ := enter(0)
	waits, goes := enter(p.lateAfter - 1)
	if goes {
		t.Error("one that is on time keeps nobody")
	}
	if !d.hasten(waits, p.lateAfter) || d.hasten(waits, p.lateAfter) {
		t.Error("want what has waited to be run, once")
	}
	third, goes := enter(p.lateAfter)
	if goes {
		t.Error("what goes in the place of one that is late keeps nobody")
	}
	if got := d.next(late, p, p.lateAfter); got != nil {
		t.Errorf("got %v in the place of one that was late, which another has", got)
	}
	if got := d.next(waits, p, p.lateAfter); got != third {
		t.Errorf("got %v, want the one that waits", got)
	}
	if _, goes := enter(2 * p.lateAfter); !goes {
		t.Error("one that is late keeps an ask")
	}
}

// One that is given up is not sent, as long as its batch is not under way.
func TestDesk_WhoGivesUp(t *testing.T) {
	p := pace{most: 1, lateAfter: time.Second}
	var d desk
	enter := func() (*batch, *asker) {
		a := new(asker)
		b, _, _ := d.enter(t.Context(), a, p, 0)
		return b, a
	}
	goes, goer := enter()
	if d.withdraw(goes, goer) {
		t.Error("what is under way was taken out")
	}
	b, one := enter()
	_, two := enter()
	if !d.withdraw(b, one) || len(b.asks) != 1 || b.asks[0] != two {
		t.Errorf("got %v, want the other alone", b.asks)
	}
	if got := d.next(goes, p, 0); got != b || d.withdraw(b, two) {
		t.Errorf("got %v, want the batch, once", got)
	}
	given, one := enter()
	if !d.withdraw(given, one) || d.next(b, p, 0) != nil || len(d.underWay) != 0 {
		t.Error("a batch of nobody is run")
	}
}

func TestBatchesAtOnce(t *testing.T) {
	for trip, want := range map[time.Duration]int{
		0: 2, 100 * time.Microsecond: 2, time.Millisecond: 6, 5 * time.Millisecond: 22, 80 * time.Millisecond: farBatches, time.Hour: farBatches,
	} {
		if got := batchesAtOnce(trip); got != want {
			t.Errorf("%v: got %d, want %d", trip, got, want)
		}
	}
}

// A batch has as much time as that of its asks which has most.
func TestDesk_WhoHasLittleTimeTakesNoneOfOthers(t *testing.T) {
	var d desk
	long, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	short, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for name, order := range map[string][]context.Context{"first": {long, short}, "last": {short, long}} {
		var b *batch
		d.waiting = nil
		for _, ctx := range order {
			b, _, _ = d.enter(ctx, new(asker), pace{}, 0)
		}
		if len(b.asks) != 2 || b.ctx != long {
			t.Errorf("who has most time comes %s: got a batch of %d with less", name, len(b.asks))
		}
	}
}

// keptBack is a desk of plain asks of r at which whoever comes waits for a batch that
// is never over, and never late.
func keptBack(r *Redis) *desk {
	d := &desk{script: plainGuardScript, underWay: []*batch{{began: r.known.now() + time.Hour}}}
	for len(d.underWay) < r.pace().most {
		d.underWay = append(d.underWay, d.underWay[0])
	}
	r.desks.Store(deskID{"slack", plainGuardScript}, d)
	return d
}

// askBy asks by itself until an instant.
func askBy(t *testing.T, r *Redis, d *desk, timeout time.Duration) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	return r.together(ctx, d.script, newAsker(unlocked(charge("many", "1000/h")), nil, 0))
}

// Who sees to it that a batch goes may have less time than others of it, as one that
// asks again: it takes no more than that, and leaves them to nobody.
func TestDesk_WhoComesFirstWithLittleTime(t *testing.T) {
	const timeout = 5 * time.Second // so that a batch goes after a second in any case
	for name, test := range map[string]struct {
		first  time.Duration
		silent bool // no batch is answered
	}{
		"less than until its batch goes":        {timeout / 10, false},
		"less than until its batch is answered": {timeout / 4, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := startRedis(t)
			link := redistest.NewLink(t, server.Addr)
			r := join(t, link.URL(), Options{Timeout: timeout})
			eventually(t, "the scripts are there", func() bool { return r.Status().Live == 1 })
			d := keptBack(r)
			if test.silent {
				link.Silence()
			}
			var second sync.WaitGroup
			second.Go(func() {
				eventually(t, "the first waits", func() bool { return waitingAsks(r, deskID{"slack", plainGuardScript}) > 0 })
				if err := askBy(t, r, d, timeout); (err != nil) != test.silent {
					t.Errorf("got %v of the one that has time", err)
				}
			})
			defer second.Wait()
			if err := askBy(t, r, d, test.first); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("got %v, want it to give up", err)
			}
			if test.silent { // nor need the second wait any more, once the batch is under way
				eventually(t, "the batch goes on, or goes", func() bool {
					d.mu.Lock()
					defer d.mu.Unlock()
					return len(d.underWay) > r.pace().most
				})
				link.Heal()
				link.Cut()
			}
		})
	}
}

// An answer that has come is not lost because nobody had time to read it.
func TestRedis_AnswerThatComesInTheLastMoment(t *testing.T) {
	server := startRedis(t)
	r := join(t, server.URL(), Options{})
	over, cancel := context.WithCancel(t.Context())
	cancel()
	for range 100 {
		b := &batch{over: make(chan struct{})}
		close(b.over)
		if err := r.await(over, keptBack(r), b, newAsker(unlocked(), nil, 0), false); err != nil {
			t.Fatalf("got %v, want what the store has said", err)
		}
	}
}

// Of asks that go together one answer is lost, if any is: that is no outage, however many
// they are.
func TestRedis_LostAnswerToManyAsksIsNoOutage(t *testing.T) {
	t.Parallel()
	server := startRedis(t)
	link := redistest.NewLink(t, server.Addr)
	told := newChanges()
	r := join(t, link.URL(), Options{Timeout: 5 * time.Second, Observe: told.observe})
	eventually(t, "the scripts are there", func() bool { return r.Status().Live == 1 })
	many := charge("many", "1000/h")
	admit(t, r, unlocked(many)) // from then on it knows the store's clock
	keptBack(r)
	const asks = 4 * failuresRunning
	link.LoseAnswers(1, "slack")
	var asking sync.WaitGroup
	for range asks {
		asking.Go(func() {
			if v, err := r.Admit(t.Context(), unlocked(many)); !errors.Is(err, ErrUndecided) {
				t.Errorf("got %+v, %v, want no answer", v, err)
			}
		})
	}
	eventually(t, "all wait", func() bool { return waitingAsks(r, deskID{"slack", plainGuardScript}) == asks })
	asking.Wait()
	eventually(t, "an answer", func() bool { return r.partOf("slack").state() == asked })
	if v := admit(t, r, unlocked(many)); v.Degraded {
		t.Errorf("got %+v, want what the store says", v)
	}
	told.none(t)
	if got := r.Status().Faults["timeout"]; got != asks {
		t.Errorf("got %d asks that timed out, want %d", got, asks)
	}
}

// Trips of many asks each make an outage as those of one do.
func TestRedis_LostTripsOfManyAsksAreAnOutage(t *testing.T) {
	refused := errors.New("refused")
	client := redis.NewClient(&redis.Options{MaxRetries: -1, DialerRetries: 1, Dialer: func(context.Context, string, string) (net.Conn, error) {
		return nil, refused
	}})
	defer client.Close()
	for name, trip := range map[string]func(*Redis, []*asker){
		"to decide":          func(r *Redis, asks []*asker) { r.send(t.Context(), plainGuardScript, asks) },
		"to look for a lock": func(r *Redis, asks []*asker) { r.lookFor(t.Context(), asks) },
	} {
		p := newPart()
		p.probing = true // by nobody
		r := &Redis{parts: parts{whole: p}, known: newKnown("replica-0"), changes: newObserver()}
		r.conn.Store(&connection{client: client})
		for n := range failuresRunning {
			if p.away() {
				t.Fatalf("%s: away after %d trips", name, n)
			}
			asks := []*asker{asking(request("a"), 0), asking(request("b"), 0), asking(request("c"), 0)}
			trip(r, asks)
			for _, a := range asks {
				if !errors.Is(a.err, refused) {
					t.Errorf("%s: got %v, want why", name, a.err)
				}
			}
		}
		if !p.away() {
			t.Errorf("%s: %d trips are lost, and it is not away", name, failuresRunning)
		}
	}
}

// Who has waited for another's turn, whose answer was lost, may have no time left: it is
// not sent, and tells nothing of the store.
func TestRedis_AsksWithoutTimeAreNotSent(t *testing.T) {
	server := startRedis(t)
	told := newChanges()
	r := join(t, server.URL(), Options{Observe: told.observe})
	over, cancel := context.WithTimeout(t.Context(), 0)
	defer cancel()
	for range 2 * failuresRunning {
		if err := r.together(over, plainGuardScript, asking(unlocked(), 0)); err != errUnasked {
			t.Errorf("got %v, want it not sent", err)
		}
	}
	if state := r.partOf("slack").state(); state != asked {
		t.Errorf("got state %d, want nothing told of it", state)
	}
	told.none(t)
}

// What is admitted because an answer did not come in time is charged once the store
// answers, and not before its trip is known to be lost: it would be charged twice.
func TestRedis_WhatGotNoAnswerIsChargedOnce(t *testing.T) {
	t.Parallel()
	server := startRedis(t)
	r := join(t, server.URL(), Options{Timeout: 5 * time.Second})
	eventually(t, "the scripts are there", func() bool { return r.Status().Live == 1 })
	many := charge("many", "1000/h")
	admit(t, r, unlocked(many))
	keptBack(r)
	server.Pause()
	const patience = 100 * time.Millisecond // less than until its batch goes
	end := r.known.now() + patience
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	v, err := r.decideInTurn(ctx, end, by(Open, unlocked(many)), turn{})
	if err != nil || v.Outcome != Admitted || !v.Degraded {
		t.Errorf("got %+v, %v, want it let pass", v, err)
	}
	if r.partOf("slack").state() == asked {
		t.Error("it has not answered, and is told of the charge at once")
	}
	server.Resume()
	r.desks.Clear()
	eventually(t, "an answer", func() bool { return r.partOf("slack").state() == asked })
	spent := 2 // with the next
	eventually(t, "the charge", func() bool {
		spent++
		got := 1000 - admit(t, r, unlocked(many)).Decisions[0].Remaining
		if got > spent {
			t.Fatalf("%d requests are charged, want %d", got, spent)
		}
		return got == spent
	})
}
