package upstream

import (
	"errors"
	"sync"
	"time"
)

// Why a watch ends an exchange.
var (
	errTimeout = errors.New("the upstream did not answer, or take the request, in time")
	errIdle    = errors.New("the upstream stopped within its answer")
)

// The stages of an exchange. What is late from an earlier one changes nothing.
const (
	sending = iota
	answering
)

// watch ends an exchange whose upstream lets it wait too long. There is one
// thing at most that it waits for at a time. It is safe for concurrent use.
type watch struct {
	// lasts is whether it is for many exchanges, one after another. Then its timer
	// runs on while nothing is awaited: that costs less than to stop it and begin anew.
	lasts bool

	mu    sync.Mutex
	life  *Life // of the exchange; nil between two
	stage int
	until time.Time // zero while nothing is awaited of the upstream
	why   error
	timer *time.Timer
	rings time.Time // when the timer does, at the earliest; zero if it does not run
}

// begin begins an exchange.
func (w *watch) begin(life *Life) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.life, w.stage, w.until = life, sending, time.Time{}
}

// over ends what [watch.begin] began. another says whether one more may follow.
func (w *watch) over(another bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.life, w.until = nil, time.Time{}
	if !another {
		w.stopLocked()
	}
}

// await ends the exchange by why unless the upstream does something within d.
// It replaces what was awaited before.
func (w *watch) await(stage int, d time.Duration, why error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if stage < w.stage || w.life == nil {
		return
	}
	now := time.Now()
	w.stage, w.until, w.why = stage, now.Add(d), why
	w.ringLocked(now)
}

// ringLocked has the timer look, at the latest, when what is awaited is late.
func (w *watch) ringLocked(now time.Time) {
	if !w.rings.IsZero() && !w.rings.After(w.until) {
		return // it looks before, and then again
	}
	if w.rings = w.until; w.timer == nil {
		w.timer = time.AfterFunc(w.until.Sub(now), w.fire)
	} else {
		w.timer.Reset(w.until.Sub(now))
	}
}

// rest awaits nothing of the upstream.
func (w *watch) rest(stage int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if stage < w.stage {
		return
	}
	w.stage, w.until = stage, time.Time{}
	if !w.lasts {
		w.stopLocked()
	}
}

func (w *watch) stopLocked() {
	if w.timer != nil {
		w.timer.Stop()
		w.rings = time.Time{}
	}
}

// fire ends the exchange without w.mu: its connection is closed then, which waits for
// whoever writes to it, who may be about to say that a part is written.
func (w *watch) fire() {
	w.mu.Lock()
	now := time.Now()
	w.rings = time.Time{}
	late := !w.until.IsZero() && !now.Before(w.until)
	if !w.until.IsZero() && !late {
		w.ringLocked(now)
	}
	life, why := w.life, w.why
	w.mu.Unlock()
	if late {
		life.End(why)
	}
}
