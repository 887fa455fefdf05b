package cluster

import (
	"context"
	"strings"
	"time"
)

// Sharing says what an ask wants of an equal one in flight, whose answer it may
// share. The answer to it may be shared likewise.
type Sharing int

// The ways of sharing.
const (
	Unshared Sharing = iota // it is refused
	Joined                  // the answer of the flight that it meets, or that is held
	Fresh                   // the answer of a flight that began after it arrived
)

// Flight is an exchange whose answer may be shared, as a follower sees it: one
// that is equal to it, and has been refused for it. It is safe for concurrent use.
type Flight struct {
	holder Holder
	fresh  bool    // its answer is too old for who wants a fresh one
	own    *flight // led by this replica; or
	watch  watched // by another
}

// Ending is how a flight has ended for those who followed it.
type Ending struct {
	Kind   EndingKind
	Answer []byte        // as [Grant.Share] was given it, for Answered; it must not be changed
	Age    time.Duration // of the answer
	Holder Holder        // the request whose exchange it was
}

// EndingKind is a kind of ending.
type EndingKind byte

// The kinds. They are what a store keeps, and what replicas tell each other.
const (
	Answered    EndingKind = 'A'
	Unshareable EndingKind = 'U' // there is an answer, for its leader alone; the exchange may go on
	Again       EndingKind = 'G' // nothing of it was sent, or its answer is too old: who followed it asks again
	Lost        EndingKind = 'L' // its leader has died, or does not know what has become of it
)

// Follow waits until the flight has ended, and says how. The error is why ctx has
// ended before.
func (f *Flight) Follow(ctx context.Context) (Ending, error) {
	var e Ending
	if f.own != nil {
		select {
		case <-f.own.ended:
			e = f.own.ending
			e.Age = max(0, time.Since(f.own.answered))
		case <-ctx.Done():
			return Ending{}, context.Cause(ctx)
		}
	} else {
		var err error
		if e, err = f.watch.follow(ctx); err != nil {
			return Ending{}, err
		}
	}
	e.Holder = f.holder
	if f.fresh && e.Kind == Answered {
		e = Ending{Kind: Again, Holder: f.holder}
	}
	return e, nil
}

// flight is an exchange of this replica whose answer may be shared.
type flight struct {
	ended chan struct{}

	// Written by the leader, and read once ended is closed.
	ending   Ending
	answered time.Time

	// Guarded by known.mu.
	over    bool // ended is closed
	awaited bool // others may come who arrived before it began: it leaves a mark
}

func newFlight(ask Ask) *flight {
	return &flight{ended: make(chan struct{}), ending: Ending{Kind: Again}, awaited: ask.Arrived > 0}
}

// share lets followers have an answer when the exchange ends.
func (f *flight) share(answer []byte) {
	if !f.isOver() {
		f.ending, f.answered = Ending{Kind: Answered, Answer: answer}, time.Now()
	}
}

// lose is for an exchange that has ended, and whose answer was not shared.
func (f *flight) lose() {
	if !f.isOver() && f.ending.Kind == Again {
		f.ending.Kind = Lost
	}
}

func (f *flight) isOver() bool {
	select {
	case <-f.ended:
		return true
	default:
		return false
	}
}

// endLocked tells the followers on this replica. Calls after the first do nothing.
func (f *flight) endLocked() {
	if f != nil && !f.over {
		f.over = true
		close(f.ended)
	}
}

// Share says what the followers of g's exchange get when it is released. It must
// be called before, or not at all: what is released without is lost for them.
// answer must not be changed from here on.
func (g *Grant) Share(answer []byte) {
	if g.Shared() {
		g.flight.share(answer)
	}
}

// Unshareable says that the followers of g's exchange get no answer. They are told
// at once, also on other replicas.
func (g *Grant) Unshareable() {
	if g.Shared() && !g.flight.isOver() {
		g.flight.ending = Ending{Kind: Unshareable}
		g.owner.unshareable(g)
	}
}

// Shared reports whether others may follow g's exchange.
func (g *Grant) Shared() bool { return g != nil && g.flight != nil }

// followLocked lets a follower of ask's have the flight of a lock of this replica,
// if it has one, in which case its answer is, or will be, there. Which is fresher
// than ask can only be told by the clock that decides: it arrived by that, or at 0
// if that is not known.
func (v *Verdict) followLocked(ask Ask, lock *lock, arrived time.Duration) {
	f := lock.flight
	if ask.Sharing == Unshared || f == nil || ask.Sharing == Fresh && (lock.started == 0 || arrived == 0) {
		return
	}
	if f.over && f.ending.Kind != Answered {
		return
	}
	v.Flight = &Flight{holder: v.Holder, own: f, fresh: ask.Sharing == Fresh && lock.started <= arrived}
	v.Arrived = lock.started // as good as when it came: no other has begun since
	if f.over && v.Flight.fresh {
		v.Flight = nil // it has a hold
	}
}

// A flight's mark in its lock's value, behind the time at which it began.
// Beside this one scripts write ' wanted', where others wait for its answer, and ' done',
// where it is over, and refuses only those who came before it began: for its answer.
const aloneMark = " alone" // its answer is its leader's alone

// sharedToken begins the token of a lock whose exchange may be followed. Others are
// all in capitals.
const sharedToken = "j"

// isShared reports whether the exchange of a lock with that value may be followed.
func isShared(value string) bool {
	_, token, _ := strings.Cut(value, " ")
	return strings.HasPrefix(token, sharedToken) && !strings.Contains(value, aloneMark)
}

const (
	// maxHeldAnswer is the longest answer that is kept for the time of a hold where
	// nobody has asked for it before.
	maxHeldAnswer = 16 << 10
	// maxAnswers is how much memory a replica without a store has for kept answers.
	maxAnswers = 64 << 20
	// markTime is how long it remembers flights for those who came before they began.
	markTime = time.Second
)

// unshareable tells the followers on this replica that they get no answer.
func (k *known) unshareable(g *Grant) {
	k.mu.Lock()
	defer k.mu.Unlock()
	g.flight.endLocked()
}

// keepLocked keeps the answer of a flight that has ended where others can ask for it
// yet, and returns for how long its lock is known.
func (k *known) keepLocked(lock *lock, hold time.Duration) time.Duration {
	f := lock.flight
	lock.flight = nil // those who follow it have it
	size := int64(len(f.ending.Answer))
	marks := hold <= 0 && f.awaited && (f.ending.Kind == Answered || f.ending.Kind == Unshareable)
	if !k.alone || !marks && (hold <= 0 || size > maxHeldAnswer) || k.locks.answers+size > maxAnswers {
		return hold
	}
	lock.flight = f
	k.locks.answers += size
	if marks {
		lock.passed = true
		return markTime
	}
	return hold
}
