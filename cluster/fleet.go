package cluster

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"throttle-proxy/limiter"
)

const (
	beatInterval = time.Second
	beatExpiry   = 5 * time.Second // a replica that is silent for as long counts as gone
)

// Replica is what the replicas of a fleet know of each other.
type Replica struct {
	ID      string            `json:"id"`   // random, without spaces; all that clients are told
	Name    string            `json:"name"` // for operators
	Version string            `json:"version"`
	Started time.Time         `json:"started"`
	Routes  map[string]Digest `json:"routes"` // by name
}

// Digest tells replicas that differ in a route, without telling in what.
type Digest struct {
	Upstream string `json:"upstream"`
	Policy   string `json:"policy"`
}

// differences returns in what other differs from r: for each such route its
// "upstream" or "policy", or its "absence" from one of them.
func (r Replica) differences(other Replica) (differ []Difference) {
	for name, ours := range r.Routes {
		switch theirs, ok := other.Routes[name]; {
		case !ok:
			differ = append(differ, Difference{name, "absence"})
		case ours.Upstream != theirs.Upstream:
			differ = append(differ, Difference{name, "upstream"})
		case ours.Policy != theirs.Policy:
			differ = append(differ, Difference{name, "policy"})
		}
	}
	for name := range other.Routes {
		if _, ok := r.Routes[name]; !ok {
			differ = append(differ, Difference{name, "absence"})
		}
	}
	slices.SortFunc(differ, func(a, b Difference) int { return strings.Compare(a.Route, b.Route) })
	return differ
}

// Difference is a route in which two replicas differ.
type Difference struct {
	Route string `json:"route"`
	In    string `json:"in"` // "upstream", "policy", or "absence" where only one of them has it
}

// Peer is another replica of the fleet.
type Peer struct {
	Replica
	Differences []Difference
	read        bool // else no more is known than that it lives

	gone time.Duration // since when it is no more heard of, on the clock of what is known; 0 while it is
}

// fleet is who lives, as far as the store has told.
type fleet struct {
	mu    sync.Mutex
	known bool
	peers map[string]Peer // by id
	lost  map[string]Peer // those that are no more heard of, and have not said that they end
	count int             // with this one
	rank  int             // of this one, by their ids
	odd   bool            // one of them is not known to be as this one is

	// Instants on the clock of what is known; 0 is this replica's start.
	heard time.Duration // when the store told last
	met   time.Duration // when there was another, for the last time
	anew  time.Duration // when the store was found not to know this replica, for the last time
}

// live returns how many replicas there are, or fallback if that was never
// known.
func (f *fleet) live(fallback int) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.known {
		return fallback
	}
	return f.count
}

// place returns this replica's among those that live, or of as many as fallback
// says if that was never known.
func (f *fleet) place(fallback int) limiter.Place {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.known {
		return limiter.Place{Replicas: fallback}
	}
	return limiter.Place{Replicas: f.count, Rank: f.rank}
}

// aloneFor returns for how long there has been no other replica, at an instant;
// 0 where that is not known.
func (f *fleet) aloneFor(now time.Duration) time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.known || f.count > 1 || now-f.heard > beatExpiry {
		return 0
	}
	return now - f.met
}

// alike reports whether all replicas are known to decide as this one does.
func (f *fleet) alike() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.known && !f.odd
}

func (r *Redis) replicaKey(id string) string { return r.key("{fleet}:replica:" + id) }
func (r *Redis) replicasKey() string         { return r.key("{fleet}:replicas") }

// beat tells the store that this replica lives, and asks who else does, and what
// operators have changed.
func (r *Redis) beat() {
	whole := r.parts.whole
	if whole != nil && whole.away() {
		return
	}
	ids, control, watched, err := r.heartbeat()
	if whole != nil { // in a cluster it says nothing of the routes' parts
		r.record(whole, err)
	} else {
		r.replace()
	}
	if err == nil {
		r.meet(ids)
		r.obey(control)
	}
	if watched {
		r.report()
	}
	// A store that is away is told of by itself.
	if unknown := FaultOf(err) == faultWrongType; unknown != r.uncounted {
		if r.uncounted = unknown; unknown {
			r.changes.tell(Change{Kind: FleetUnknown, Err: err})
		}
	}
}

// heartbeat also returns whether somebody looks at what replicas do.
func (r *Redis) heartbeat() (ids []string, control news, watched bool, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), r.options.patience())
	defer cancel()
	client, self := r.redis(), r.options.Self
	pipe := client.Pipeline()
	kept := pipe.PExpire(ctx, r.replicaKey(self.ID), beatExpiry)
	keys := []string{r.replicasKey(), r.controlKey(), r.followedKey(self.ID)}
	args := []any{self.ID, beatExpiry.Milliseconds(), r.known.version(), r.follows}
	beat := heartbeatScript.EvalSha(ctx, pipe, keys, args...)
	watch := pipe.Get(ctx, r.watchKey())
	began := time.Now()
	_, _ = pipe.Exec(ctx) // each reply has its own error
	took := time.Since(began)
	if redis.HasErrorPrefix(beat.Err(), "NOSCRIPT") {
		beat = heartbeatScript.Eval(ctx, client, keys, args...)
	}
	if err := kept.Err(); err != nil {
		return nil, news{}, false, err
	}
	r.trip.Store(int64(took))
	if !kept.Val() {
		r.fleet.mu.Lock()
		r.fleet.anew = r.known.now()
		r.fleet.mu.Unlock()
		value, err := json.Marshal(self)
		if err != nil {
			return nil, news{}, false, err
		}
		if err := client.Set(ctx, r.replicaKey(self.ID), value, beatExpiry).Err(); err != nil {
			return nil, news{}, false, err
		}
	}
	reply, err := beat.Slice()
	if err != nil {
		return nil, news{}, false, err
	}
	ids, control, err = readHeartbeat(reply)
	return ids, control, watch.Err() == nil, err
}

// news is what a heartbeat has found of what operators have changed.
type news struct {
	at      time.Duration // by the store's clock
	version uint64        // that is stored
	text    string        // what is, if it is newer than what is known here
}

// readHeartbeat reads what heartbeat.lua answered.
func readHeartbeat(reply []any) (ids []string, control news, err error) {
	if len(reply) < 3 {
		return nil, news{}, errReply(reply)
	}
	micros, _ := reply[0].(int64)
	version, _ := reply[1].(int64)
	control.at, control.version = time.Duration(micros)*time.Microsecond, uint64(max(0, version))
	control.text, _ = reply[2].(string)
	for _, id := range reply[3:] {
		text, ok := id.(string)
		if !ok {
			return nil, news{}, errReply(reply)
		}
		ids = append(ids, text)
	}
	return ids, control, nil
}

// meet takes note of who lives, and tells of those that differ from this
// replica. A replica stays what it is for as long as it lives, so what has been
// read of it is not read again.
func (r *Redis) meet(ids []string) {
	ctx, cancel := context.WithTimeout(context.Background(), r.options.patience())
	defer cancel()
	peers := make(map[string]Peer, len(ids))
	var met []Peer
	for _, id := range ids {
		if id == r.options.Self.ID {
			continue
		}
		r.fleet.mu.Lock()
		peer, known := r.fleet.peers[id]
		if !known {
			peer = r.fleet.lost[id] // which is heard of again, as after a store was emptied
			peer.gone = 0
		}
		r.fleet.mu.Unlock()
		if !peer.read {
			value, err := r.redis().Get(ctx, r.replicaKey(id)).Bytes()
			if err != nil || json.Unmarshal(value, &peer.Replica) != nil {
				peers[id] = Peer{Replica: Replica{ID: id}} // of another version, or coming or going in this moment
				continue
			}
			peer.read = true
			peer.Differences = r.options.Self.differences(peer.Replica)
			met = append(met, peer)
		}
		peers[id] = peer
	}
	lost := r.missed(ctx, peers)
	r.fleet.mu.Lock()
	r.fleet.lost = lost
	r.fleet.known, r.fleet.peers, r.fleet.count, r.fleet.rank, r.fleet.odd = true, peers, len(peers)+1, 0, false
	r.fleet.heard = r.known.now()
	if len(peers) > 0 {
		r.fleet.met = r.fleet.heard
	}
	for id, peer := range peers {
		if id < r.options.Self.ID {
			r.fleet.rank++
		}
		r.fleet.odd = r.fleet.odd || !peer.read || len(peer.Differences) > 0
	}
	r.fleet.mu.Unlock()
	for _, peer := range met {
		if len(peer.Differences) > 0 {
			r.changes.tell(Change{Kind: ReplicaDiffers, Peer: peer})
		}
	}
}

// leave tells the others that this replica is no more.
func (r *Redis) leave() {
	ctx, cancel := context.WithTimeout(context.Background(), r.options.Timeout)
	defer cancel()
	pipe := r.redis().Pipeline()
	pipe.ZRem(ctx, r.replicasKey(), r.options.Self.ID)
	pipe.Del(ctx, r.replicaKey(r.options.Self.ID))
	pipe.Set(ctx, r.farewellKey(r.options.Self.ID), 1, farewellTime)
	pipe.Del(ctx, r.followedKey(r.options.Self.ID))
	_, _ = pipe.Exec(ctx) // or its heartbeat expires
}

// warnOfDistance tells once of a store whose round trips take more than two thirds
// of the time that an ask has.
func (r *Redis) warnOfDistance() {
	if r.options.Dialled == nil {
		return
	}
	if trip, _ := r.options.Dialled(); 3*trip > 2*r.options.Timeout && r.far.CompareAndSwap(false, true) {
		r.changes.tell(Change{Kind: StoreFar, Trip: trip})
	}
}

// warn tells once of a store that may evict what it holds: an evicted lock is a
// lock lost. A store that does not let itself be asked is believed.
func (r *Redis) warn() {
	r.warnOfDistance()
	ctx, cancel := context.WithTimeout(context.Background(), r.options.patience())
	defer cancel()
	info, err := r.redis().Info(ctx, "memory").Result()
	if err != nil {
		return
	}
	_, policy, _ := strings.Cut(info, "maxmemory_policy:")
	policy, _, _ = strings.Cut(policy, "\r")
	if policy != "" && policy != "noeviction" && policy != r.policy {
		r.changes.tell(Change{Kind: StoreEvicts, Policy: policy})
	}
	r.policy = policy
}
