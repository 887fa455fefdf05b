package cluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"throttle-proxy/limiter"
)

const (
	orderTime = 2 * time.Second       // for all replicas to say that they follow an order
	orderPoll = 20 * time.Millisecond // between two looks at who does

	// toldAgain is how long an empty store takes to be told by all replicas that they
	// live, and of what operators have changed.
	toldAgain = beatInterval + beatInterval/2
)

// ErrStoreAway is why nothing can be changed that is to hold for all replicas.
var ErrStoreAway = errors.New("the store does not answer, so that nothing was changed")

func (r *Redis) controlKey() string { return r.key("{fleet}:control") }

// followedKey is that of what a replica has followed.
func (r *Redis) followedKey(id string) string { return r.key("{fleet}:followed:" + id) }

// Control has an order followed by all replicas. It returns when each of them has
// said that it does, or 2 s have passed: from then on no request is decided by what
// was before, on any that said so. The store keeps it, also while no replica lives;
// one that comes back empty is told by those that know it: where it did not know this
// replica until a moment ago, an order waits for that, for 1.5 s at most. The error
// wraps [ErrStoreAway] if the store gave no answer.
func (r *Redis) Control(o Order) (Receipt, error) {
	r.awaitOthers()
	ctx, cancel := context.WithTimeout(context.Background(), orderTime)
	defer cancel()
	if o.Deed == FillBudget {
		if err := r.fill(ctx, o); err != nil {
			return Receipt{}, err
		}
	}
	version, err := r.order(ctx, o)
	if err != nil {
		return Receipt{}, err
	}
	select {
	case r.ordered <- struct{}{}: // this replica looks at once
	default:
	}
	return r.receipt(ctx, version), nil
}

// awaitOthers waits until the store has been told of all replicas again, if it has
// just come back empty, or until this one knows that it has not.
func (r *Redis) awaitOthers() {
	r.fleet.mu.Lock()
	left := r.fleet.anew + toldAgain - r.known.now()
	r.fleet.mu.Unlock()
	select {
	case <-time.After(left):
	case <-r.stop:
	}
}

// order keeps an order in the store, and returns its version.
func (r *Redis) order(ctx context.Context, o Order) (version uint64, err error) {
	stored, _, at, err := r.keep(ctx, controls{})
	for err == nil || errors.Is(err, errUnreadable) {
		if own := r.known.control.Load(); own != nil && (err != nil || own.Version > stored.Version) {
			newest := max(own.Version, stored.Version)
			stored = own.controls // of a store that has come back empty, or with what nobody can read
			stored.Version = newest
		}
		next, errNext := stored.with(o, at)
		if errNext != nil {
			return 0, errNext
		}
		kept := false
		if stored, kept, at, err = r.keep(ctx, next); kept {
			return next.Version, nil
		}
		// Another operator was faster.
	}
	return 0, err
}

// keep has the store keep c unless it has something as new, and returns what it has
// then, whether that is c, and its time. The zero c only asks.
func (r *Redis) keep(ctx context.Context, c controls) (stored controls, kept bool, at time.Duration, err error) {
	value := ""
	if c.Version > 0 {
		value = c.String()
	}
	ctx, cancel := context.WithTimeout(ctx, r.options.patience())
	defer cancel()
	reply, err := controlScript.Run(ctx, r.redis(), []string{r.controlKey()}, value, c.Version).Slice()
	if err != nil {
		return stored, false, 0, fmt.Errorf("%w: %w", ErrStoreAway, err)
	}
	if len(reply) != 2 {
		return stored, false, 0, errReply(reply)
	}
	micros, _ := reply[0].(int64)
	text, _ := reply[1].(string)
	stored, err = parseControls(text)
	return stored, err == nil && text == value, time.Duration(micros) * time.Microsecond, err
}

// fill has nothing spent of budgets in the store.
func (r *Redis) fill(ctx context.Context, o Order) error {
	ctx, cancel := context.WithTimeout(ctx, r.options.patience())
	defer cancel()
	for _, name := range o.Limits {
		key := r.key(Charge{Name: name, Caller: o.Caller}.rateKey(o.Tag))
		if err := r.redis().Del(ctx, key).Err(); err != nil {
			return fmt.Errorf("%w: %w", ErrStoreAway, err)
		}
	}
	return nil
}

// receipt waits until all replicas follow a version, or ctx ends.
func (r *Redis) receipt(ctx context.Context, version uint64) (receipt Receipt) {
	receipt.Version = version
	poll := time.NewTicker(orderPoll)
	defer poll.Stop()
	for {
		waiting := false
		now := Receipt{Version: version}
		for _, id := range r.living(ctx) {
			followed, freed := r.followed(ctx, id)
			if followed < version {
				now.Missing, waiting = append(now.Missing, r.nameOf(id)), true
				continue
			}
			now.Holds, now.Freed = append(now.Holds, r.nameOf(id)), now.Freed+freed
		}
		if len(now.Holds)+len(now.Missing) > 0 && ctx.Err() == nil {
			receipt = now
		}
		if len(receipt.Holds) > 0 && !waiting {
			break
		}
		select {
		case <-poll.C:
			continue
		case <-ctx.Done():
		}
		break
	}
	slices.Sort(receipt.Holds)
	slices.Sort(receipt.Missing)
	return receipt
}

// living returns the ids of the replicas that live, by the store, and of those that
// this one has heard of just before, unless they have said that they end: a store that
// has come back empty is told of each only with its next heartbeat.
func (r *Redis) living(ctx context.Context) []string {
	ids, _ := r.redis().ZRange(ctx, r.replicasKey(), 0, -1).Result() // asked again
	for _, id := range append(r.fleet.heardOf(r.known.now()), r.options.Self.ID) {
		if !slices.Contains(ids, id) && r.redis().Get(ctx, r.farewellKey(id)).Err() == redis.Nil {
			ids = append(ids, id)
		}
	}
	return ids
}

// followed returns what a replica says that it follows, and how many locks were
// freed by that.
func (r *Redis) followed(ctx context.Context, id string) (version uint64, freed int) {
	text, _ := r.redis().Get(ctx, r.followedKey(id)).Result()
	followed, count, _ := strings.Cut(text, " ")
	version, _ = strconv.ParseUint(followed, 10, 63)
	freed, _ = strconv.Atoi(count)
	return version, freed
}

// nameOf returns what operators call a replica.
func (r *Redis) nameOf(id string) string {
	if id == r.options.Self.ID {
		return cmp.Or(r.options.Self.Name, id)
	}
	r.fleet.mu.Lock()
	defer r.fleet.mu.Unlock()
	return cmp.Or(r.fleet.peers[id].Name, r.fleet.lost[id].Name, id)
}

// obey obeys what operators have changed, as a heartbeat has found it, and tells
// the store of what it does not know any more. Once no ask is under way that was
// decided by what was before, this replica says that it follows.
func (r *Redis) obey(f news) {
	if own := r.known.control.Load(); own != nil && own.Version > f.version {
		ctx, cancel := context.WithTimeout(context.Background(), r.options.patience())
		defer cancel()
		_, _, _, _ = r.keep(ctx, own.controls) // or after the next heartbeat
		return
	}
	if f.text == "" || r.settled != nil { // it is asked for again when that is settled
		return
	}
	c, err := parseControls(f.text)
	if err != nil {
		if r.unread != f.text { // told once
			r.changes.tell(Change{Kind: ControlUnread, Err: err})
		}
		r.unread = f.text
		return
	}
	r.unread = ""
	locks, given := r.known.obey(c, f.at-r.known.now())
	for _, g := range given {
		r.changes.tell(Change{Kind: Ordered, Order: g.Text, By: g.By, Version: g.Version})
	}
	for _, lock := range locks {
		if lock.stored.Load() {
			r.tell(r.ending(lock, 0))
		}
	}
	r.freedNow = len(locks)
	r.epochs.end()
	r.settled, r.settleBy = time.After(0), r.known.now()+3*r.options.Timeout // longer than any ask takes
}

// settle says that this replica follows what it obeys, once no ask is under way that
// was decided by what was before.
func (r *Redis) settle() {
	if !r.epochs.over() && r.known.now() < r.settleBy {
		r.settled = time.After(orderPoll)
		return
	}
	r.settled = nil
	r.follows = strconv.FormatUint(r.known.version(), 10) + " " + strconv.Itoa(r.freedNow)
	r.beat()
}

// unlocked reports whether the lock that refuses ask was freed by an operator, and
// is gone now. It may be of a replica that has ended, and not renewed by anybody.
func (r *Redis) unlocked(ask Ask, v Verdict) bool {
	c := r.known.control.Load()
	if c == nil || v.value == "" || !c.freed[freedLock{ask.Tag, v.Holder.RequestID}] {
		return false
	}
	gone := &lock{id: lockID{ask.Tag, *ask.Fingerprint}, hash: ask.Fingerprint.hash(), value: v.value}
	r.tell(r.ending(gone, 0))
	return true
}

// Control has an order followed: from when it returns no request is decided by what
// was before.
func (m *Memory) Control(o Order) (Receipt, error) {
	m.ordering.Lock()
	defer m.ordering.Unlock()
	at := time.Duration(m.known.start.UnixNano()) + m.known.now()
	var before controls
	if own := m.known.control.Load(); own != nil {
		before = own.controls
	}
	next, err := before.with(o, at)
	if err != nil {
		return Receipt{}, err
	}
	if o.Deed == FillBudget {
		m.known.mu.Lock()
		for _, name := range o.Limits {
			c := Charge{Name: name, Caller: o.Caller}
			m.budgets.Fill(m.known.now(), limiter.Charge{Key: c.rateKey(o.Tag), ByCaller: c.Caller != ""})
		}
		m.known.mu.Unlock()
	}
	freed, _ := m.known.obey(next, at-m.known.now())
	return Receipt{Version: next.Version, Holds: []string{m.known.replica}, Freed: len(freed)}, nil
}
