package cluster

import (
	"context"
	_ "embed"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

//go:embed flight.lua
var flightSource string

var flightScript = newScript(flightSource)

// flightID is what a flight of another replica is known by.
type flightID struct{ tag, token string }

// watches are the flights of other replicas that are followed here.
type watches struct {
	mu            sync.Mutex
	closed        bool // nobody watches any more
	all           map[flightID]*watch
	subscriptions map[string]*subscription // by tag in a Cluster, else one by none
}

// watch is a flight of another replica, as long as anybody follows it here.
type watch struct {
	flightID
	fingerprint Fingerprint
	held        bool          // its answer was there from the first: it is had at once, or not at all
	look        chan struct{} // has one element when there may be news of it
	unwatch     context.CancelFunc
	ended       chan struct{}
	ending      Ending // once ended is closed

	// Guarded by watches.mu.
	followers int
	told      EndingKind // how it has ended, by a message or its lock; 0 for not yet
}

// watched is a flight of another replica, as one follower sees it.
type watched struct {
	by          *Redis
	id          flightID
	fingerprint Fingerprint
	held        bool // its lock is a hold, which has the answer if there is one
}

// follow waits until the flight has ended. Whatever is lost on the way, it is looked
// for at the latest once a TTL: no lock lasts longer whose leader has died.
func (w watched) follow(ctx context.Context) (Ending, error) {
	watch := w.by.watch(w)
	defer w.by.leaveWatch(watch)
	select {
	case <-watch.ended:
		return watch.ending, nil
	case <-ctx.Done():
		return Ending{}, context.Cause(ctx)
	}
}

// watch returns the watch of a flight, with one more who follows it.
func (r *Redis) watch(w watched) *watch {
	r.watches.mu.Lock()
	defer r.watches.mu.Unlock()
	one := r.watches.all[w.id]
	if one == nil && r.watches.closed {
		one = &watch{flightID: w.id, unwatch: func() {}, ended: make(chan struct{}), ending: Ending{Kind: Lost}}
		close(one.ended)
	}
	if one == nil {
		ctx, cancel := context.WithCancel(context.Background())
		one = &watch{flightID: w.id, fingerprint: w.fingerprint, held: w.held, look: make(chan struct{}, 1), unwatch: cancel, ended: make(chan struct{})}
		if r.watches.all == nil {
			r.watches.all = make(map[flightID]*watch)
		}
		if w.held {
			one.told = Answered
		}
		r.watches.all[w.id] = one
		subscribed := r.subscribeLocked(w.id.tag)
		r.stopped.Go(func() { r.look(ctx, one, subscribed) })
	}
	one.followers++
	return one
}

// closeWatches tells all who follow a flight of another replica that it is lost for
// them, and lets nobody follow one any more.
func (r *Redis) closeWatches() {
	r.watches.mu.Lock()
	defer r.watches.mu.Unlock()
	r.watches.closed = true
	for _, w := range r.watches.all {
		w.told = Lost
		w.stir()
	}
}

// leaveWatch ends what one follower has begun.
func (r *Redis) leaveWatch(w *watch) {
	r.watches.mu.Lock()
	defer r.watches.mu.Unlock()
	if w.followers--; w.followers == 0 {
		w.unwatch()
		if r.watches.all[w.flightID] == w {
			delete(r.watches.all, w.flightID)
		}
	}
}

// look looks for a flight until it has ended, or nobody follows it any more: once
// messages come, whenever one says so, and once a TTL; or a moment after it got no
// answer.
func (r *Redis) look(ctx context.Context, w *watch, subscribed <-chan struct{}) {
	defer w.unwatch()
	select {
	case <-subscribed:
	case <-time.After(r.options.Timeout): // it is looked for again when they do
	case <-r.stop:
	case <-ctx.Done():
		return
	}
	for {
		told := r.toldOf(w)
		ending, known, again := Ending{Kind: told}, true, r.options.LockTTL
		if told == 0 || told == Answered {
			var err error
			if ending, known, err = r.readFlight(ctx, w, told); err != nil {
				again = min(again, beatInterval) // what it was told of is there yet
				if w.held && r.partOf(w.tag).away() {
					ending, known = Ending{Kind: Lost}, true // as for who comes from here on
				}
			}
		}
		if told := r.toldOf(w); known && ending.Kind == Lost && told != 0 && told != Answered { // meanwhile
			ending.Kind = told
		}
		if known {
			w.ending = ending
			close(w.ended)
			r.watches.mu.Lock()
			if r.watches.all[w.flightID] == w { // who comes from here on looks anew
				delete(r.watches.all, w.flightID)
			}
			r.watches.mu.Unlock()
			return
		}
		select {
		case <-w.look:
		case <-time.After(again):
		case <-ctx.Done():
			return
		}
	}
}

// readFlight asks the store for what has become of a flight, and reports whether it
// has ended. The error is that there was no answer.
//
// Its lock and its answer are read apart, since neither is found together with the
// other while their slot moves. So an answer that is told of is read at once, and any
// other once the lock says that the flight is over: it was written by then.
func (r *Redis) readFlight(ctx context.Context, w *watch, told EndingKind) (e Ending, known bool, err error) {
	part := r.partOf(w.tag)
	if part.away() {
		return Ending{}, false, errAway
	}
	ctx, cancel := context.WithTimeout(ctx, r.options.Timeout)
	defer cancel()
	conn := r.conn.Load()
	answer := func() (e Ending, known bool, err error) {
		key := r.key(string(appendAnswerKey(nil, w.tag, w.token)))
		text, err := conn.process(ctx, redis.NewCmd(ctx, "get", key)).Text()
		if err == redis.Nil {
			return Ending{}, false, nil
		}
		e, known = w.read(text, part.clock.at(r.known.now()))
		return e, known, err
	}
	if told == Answered {
		if e, known, err := answer(); known || err != nil {
			return e, known, err
		}
	}
	c := newCommand(r.options.Prefix)
	defer c.done()
	c.beginKey()
	c.text = appendLockKey(c.text, w.tag, w.fingerprint.hash())
	c.endKey()
	c.arg(w.token)
	text, err := conn.once(ctx, flightScript, c).Text()
	if err != nil {
		return Ending{}, false, err
	}
	over, isOver := w.read(text, 0)
	if !isOver {
		return Ending{}, false, nil
	}
	if e, known, err := answer(); known || err != nil {
		return e, known, err
	}
	return over, true, nil
}

// read reads what flight.lua answered, or is kept as the flight's answer, at an instant
// of the store's clock.
func (w *watch) read(text string, now time.Duration) (e Ending, known bool) {
	if text == "" {
		return Ending{}, false
	}
	switch kind := EndingKind(text[0]); kind {
	case Answered:
		answer, at, err := w.fingerprint.open([]byte(text[1:]), w.token)
		if err != nil {
			return Ending{Kind: Unshareable}, true // what is there is nothing of ours
		}
		e := Ending{Kind: Answered, Answer: answer}
		if at > 0 { // else its leader did not know the time
			e.Age = max(0, now-at)
		}
		return e, true
	case Unshareable, Again, Lost:
		return Ending{Kind: kind}, true
	}
	return Ending{}, false
}

// hear is a message 'TOKEN KIND' that a flight of a tag has ended.
func (r *Redis) hear(tag, message string) {
	token, kind, _ := strings.Cut(message, " ")
	r.watches.mu.Lock()
	defer r.watches.mu.Unlock()
	if w := r.watches.all[flightID{tag, token}]; w != nil {
		if kind != "" {
			w.told = EndingKind(kind[0])
		}
		w.stir()
	}
}

// stir has a watch look.
func (w *watch) stir() {
	select {
	case w.look <- struct{}{}:
	default:
	}
}

// toldOf returns what a message has said of w; 0 for nothing.
func (r *Redis) toldOf(w *watch) EndingKind {
	r.watches.mu.Lock()
	defer r.watches.mu.Unlock()
	return w.told
}

// asksToShare reports whether an ask that this replica refuses goes to the store all
// the same: to share the answer of another replica's, whose lock was found there, or
// to hear when it came. equal says that it is refused for one of this replica's own.
func (r *Redis) asksToShare(ask Ask, refusal Verdict, equal bool) bool {
	if refusal.Outcome != Duplicate && refusal.Outcome != Held || r.partOf(ask.Tag).away() {
		return false
	}
	if equal {
		return ask.Sharing == Fresh && ask.Arrived == 0
	}
	return ask.Sharing != Unshared && isShared(refusal.value)
}

// shareIn lets a follower have the flight of the lock that refuses it, if it has one
// whose answer is, or will be, there.
func (r *Redis) shareIn(ask Ask, v *Verdict, arrived time.Duration) {
	if ask.Sharing == Unshared || ask.Sharing == Fresh && arrived == 0 || v.Flight != nil || v.Outcome != Duplicate && v.Outcome != Held || !isShared(v.value) {
		return
	}
	_, rest, _ := strings.Cut(v.value, " ")
	token, _, _ := strings.Cut(rest, " ")
	switch own, inFlight := r.known.flightOf(ask, token); {
	case own != nil:
		v.Flight = &Flight{own: own}
	case inFlight || r.partOf(ask.Tag).away():
		return
	default:
		v.Flight = &Flight{watch: watched{r, flightID{ask.Tag, token}, *ask.Fingerprint, v.Outcome == Held}}
	}
	v.Flight.holder = v.Holder
	if ask.Sharing == Fresh {
		v.Flight.fresh = startedOf(v.value) <= arrived
		if v.Flight.fresh && v.Outcome == Held {
			v.Flight = nil // it would be as old when the hold is over
		}
	}
}

// flightOf returns the flight of this replica with a token, or nil if there is none
// whose answer can be had, and reports whether it is under way.
func (k *known) flightOf(ask Ask, token string) (own *flight, inFlight bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	lock := k.locks.known[lockID{ask.Tag, *ask.Fingerprint}]
	if lock == nil || lock.token() != token {
		return nil, false
	}
	if lock.flight == nil || lock.flight.over && lock.flight.ending.Kind != Answered {
		return nil, !lock.held()
	}
	return lock.flight, !lock.held()
}

// startedOf returns when the exchange of a lock with that value began, by the store's
// clock; 0 if that is not known.
func startedOf(value string) time.Duration {
	fields := strings.Fields(value)
	if len(fields) < 5 {
		return 0
	}
	started, err := strconv.ParseInt(fields[4], 10, 64)
	if err != nil {
		return 0
	}
	return time.Duration(started) * time.Microsecond
}
