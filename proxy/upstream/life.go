package upstream

import (
	"context"
	"sync"
)

// A Life is how long one exchange lasts: until it is ended, by a cause that the
// first who ends it gives. It is what [context.WithCancelCause] makes, and
// [context.AfterFunc] for the connection that is cut with it, but for eight of nine
// allocations: it makes a context only for who needs one, as a dial does, and
// net/http's Transport. The zero Life has not ended. It is safe for concurrent use.
type Life struct {
	mu     sync.Mutex
	cause  error           // why it has ended; nil as long as it has not
	cut    func()          // closes the connection that the exchange has; nil for none
	ctx    context.Context // ends with it; nil as long as nobody needs one
	cancel context.CancelCauseFunc
}

// End ends what is under way, by a cause. After the first it does nothing.
func (l *Life) End(cause error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cause != nil {
		return
	}
	l.cause = cause
	if l.cut != nil {
		l.cut()
	}
	if l.cancel != nil {
		l.cancel(cause)
	}
}

// Cause returns why it has ended, or nil if it has not.
func (l *Life) Cause() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.cause
}

// Context returns a context that ends with it, by the same cause.
func (l *Life) Context() context.Context {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ctx == nil {
		l.ctx, l.cancel = context.WithCancelCause(context.Background())
		if l.cause != nil {
			l.cancel(l.cause)
		}
	}
	return l.ctx
}

// takes has cut called when it ends, which may be at once. cut may wait for who reads
// or writes, who are not to wait for the Life meanwhile.
func (l *Life) takes(cut func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cut = cut; l.cause != nil {
		cut()
	}
}

// spares takes that back. It reports whether cut was not called.
func (l *Life) spares() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut = nil
	return l.cause == nil
}
