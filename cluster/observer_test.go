package cluster

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// An observer that takes no more, as where nobody reads the log, holds nothing up.
func TestRedis_ObserverThatBlocksHoldsNothingUp(t *testing.T) {
	server := startRedis(t)
	blocked := make(chan struct{})
	defer close(blocked)
	r := open(t, server.URL(), Options{Timeout: storeTimeout, Observe: func(Change) { <-blocked }})
	for range 3 {
		server.Kill()
		lose(t, r)
		r.Status()
		if v, err := r.Admit(t.Context(), request("a")); !errors.Is(err, ErrUndecided) {
			t.Errorf("got %+v, %v, want undecided", v, err)
		}
		server.Restart()
		eventually(t, "decided by the store", func() bool {
			v, err := r.Admit(t.Context(), request("b"))
			v.Grant.Release(0)
			return err == nil
		})
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
}

func TestObserver_DropsWhatNobodyTakes(t *testing.T) {
	o := newObserver()
	for range 2 * cap(o.changes) {
		o.tell(Change{Kind: LockLost})
	}
	told := 0
	go o.run(func(Change) { told++ })
	o.close(time.Minute)
	if told != cap(o.changes) {
		t.Errorf("told %d changes, want %d", told, cap(o.changes))
	}
}

// Cool-downs that are met while the store is away are told when it is back, each
// once, and are not kept without end.
func TestRedis_CoolDownsMetWhileTheStoreIsAwayAreBounded(t *testing.T) {
	t.Parallel()
	server := startRedis(t)
	told := newChanges()
	r := join(t, server.URL(), Options{Observe: told.observe})
	admit(t, r, under(unlocked(), ""))
	server.Kill()
	for range 10 {
		undecided(t, r, unlocked(charge("many", "1000/h")))
	}
	told.next(t, StoreAway)
	r.Pause("slack", "longest", time.Hour, 429)
	r.Pause("slack", "", 30*time.Second, 429)
	for i := range 3 * Capacity / 2 {
		r.Pause("slack", fmt.Sprint(i), time.Minute, 429)
	}
	for range 1000 {
		r.Pause("slack", "again and again", 30*time.Minute, 429)
	}
	p := r.partOf("slack")
	eventually(t, "none is left in the queue", func() bool {
		r.queue.mu.Lock()
		defer r.queue.mu.Unlock()
		p.mu.Lock()
		defer p.mu.Unlock()
		return len(r.queue.tasks[coolings])+len(r.queue.tasks[awaited])+len(p.postponed[coolings]) == 0
	})
	server.Restart()
	told.next(t, StoreBack)
	other := join(t, server.URL(), Options{})
	for _, name := range []string{"longest", "again and again", ""} {
		eventually(t, "paused "+name, func() bool { return ask(t, other, under(unlocked(), name)).Outcome == CoolingDown })
	}
}

func TestBacklog_IsBoundedAndInOrder(t *testing.T) {
	var b backlog
	waits := make(chan struct{})
	for i := range Capacity + 10 {
		b.add(&task{class: sums, forget: time.Duration(i)})
	}
	b.add(&task{class: coolings})
	b.add(&task{class: endings})
	b.add(&task{class: sums, tried: waits})
	taken, more := b.take(4)
	if taken[0].tried != waits || taken[1].class != endings || taken[2].class != coolings || taken[3].class != sums || !more {
		t.Errorf("got %v, %t, want one of each, by urgency", taken, more)
	}
	if taken[3].forget != 10 || len(b[sums]) != Capacity-1 {
		t.Errorf("got %d left from %d, want the oldest given up", len(b[sums]), taken[3].forget)
	}
	for b[awaited] = nil; len(b[awaited]) < Capacity; {
		b.add(&task{tried: make(chan struct{})})
	}
	first := b[awaited][0].tried
	b.add(&task{tried: make(chan struct{})})
	<-first // who waits for what is given up is told
}

// A picture of everything is no reason for a verdict to wait.
func TestMemory_StatusIsCopiedInPieces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := NewMemory("replica-0")
		for i := range 1000 {
			m.Pause("slack", fmt.Sprint(i), time.Minute, 429)
			admit(t, m, request(fmt.Sprint(i)))
		}
		stop := make(chan struct{})
		go func() { // comes and goes meanwhile
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
					m.Pause("slack", fmt.Sprint("more", i%100), time.Second, 429)
					admit(t, m, unlocked())
				}
			}
		}()
		for range 10 {
			if s := m.Status(); len(s.Pauses) < 1000 || len(s.Locks) != 1000 {
				t.Errorf("got %d cool-downs and %d locks, want all 1000", len(s.Pauses), len(s.Locks))
			}
		}
		close(stop)
	})
}

// There are as many callers as clients like: beyond the bound theirs goes first.
func TestRedis_WhatCallersShareIsToldHoweverManyThereAre(t *testing.T) {
	r, p, _ := unasked(t, "10/s")
	r.known.refusal(under(unlocked(), "")) // of a route
	r.known.pause("slack", "", time.Hour, 429)
	shared := charge("shared", "1/h")
	p.debts.Add(r.known.now(), unlocked(shared).charges(), 1)
	for i := range Capacity {
		callers := charge("callers", "1/h")
		callers.Caller = fmt.Sprint(i)
		p.debts.Add(r.known.now(), unlocked(callers).charges(), 1)
		r.known.pause("slack", callers.Caller, time.Hour, 429)
	}
	p.unpaused = true
	r.queue.add(r.kept(p)...)
	tasks := r.queue.take(int(classes) * Capacity)
	var sharedDebts, routes int
	for _, task := range tasks {
		switch what := task.what.(type) {
		case debt:
			if !what.ByCaller {
				sharedDebts++
			}
		case pausing:
			if what.name == "" {
				routes++
			}
		}
	}
	if sharedDebts != 1 || routes != 1 || len(tasks) != Capacity+2 {
		t.Errorf("got %d shared debts and %d routes' cool-downs of %d, want one each of %d", sharedDebts, routes, len(tasks), Capacity+2)
	}
}
