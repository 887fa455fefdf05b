package upstream

import (
	"context"
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
	end context.CancelCauseFunc

	mu    sync.Mutex
	stage int
	until time.Time // zero while nothing is awaited of the upstream
	why   error
	timer *time.Timer
}

// await ends the exchange by why unless the upstream does something within d.
// It replaces what was awaited before.
func (w *watch) await(stage int, d time.Duration, why error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if stage < w.stage {
		return
	}
	w.stage, w.until, w.why = stage, time.Now().Add(d), why
	if w.timer == nil {
		w.timer = time.AfterFunc(d, w.fire)
	} else {
		w.timer.Reset(d)
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
	if w.timer != nil {
		w.timer.Stop()
	}
}

func (w *watch) fire() {
	w.mu.Lock()
	late, why := !w.until.IsZero() && !time.Now().Before(w.until), w.why
	w.mu.Unlock()
	if late {
		w.end(why)
	}
}
