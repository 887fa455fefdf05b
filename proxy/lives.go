package proxy

import (
	"context"
	"sync"

	"throttle-proxy/proxy/upstream"
)

// lives are those of the exchanges with upstreams that are under way. The zero
// lives has none. It is safe for concurrent use.
type lives struct {
	mu    sync.Mutex
	of    map[*upstream.Life]struct{}
	ended error // by which all are that begin; nil for none
}

// begin returns another, until [lives.over].
func (l *lives) begin() *upstream.Life {
	life := new(upstream.Life)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.of == nil {
		l.of = map[*upstream.Life]struct{}{}
	}
	l.of[life] = struct{}{}
	if l.ended != nil {
		life.End(l.ended)
	}
	return life
}

// over ends one of them.
func (l *lives) over(life *upstream.Life) {
	l.mu.Lock()
	delete(l.of, life)
	l.mu.Unlock()
	life.End(context.Canceled)
}

// end ends all, and those to come, by a cause.
func (l *lives) end(cause error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended = cause
	for life := range l.of {
		life.End(cause)
	}
}

// endWithClient ends the exchange when its client leaves, until stop is called.
func (x *exchange) endWithClient() (stop func()) {
	forget := context.AfterFunc(x.in.Context(), func() {
		if !x.body.aborted() {
			x.life.End(errClientLeft)
		}
	})
	return func() { x.pinned = !forget() || x.pinned }
}
