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
			err := askBy(t, r, d, test.first)
			d.mu.Lock()
			goes := len(d.underWay) > r.pace().most
			d.mu.Unlock()
			if !errors.Is(err, context.DeadlineExceeded) || test.silent && !goes {
				t.Errorf("got %v, and a batch under way: %v; want it to give up before that is over", err, goes)
			}
			if test.silent { // nor need the second wait any more
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
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond) // less than until its batch goes
	defer cancel()
	v, err := r.decideInTurn(ctx, r.known.now()+time.Minute, by(Open, unlocked(many)), turn{})
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
