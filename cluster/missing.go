package cluster

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	farewellTime = 10 * time.Second // in which the others look for one whom they miss

	missingAfter = beatExpiry       // of not being heard of; a store that was empty is told again by then
	missedFor    = 15 * time.Minute // from then on nobody waits for it any more
	maxMissing   = 100
)

// Missing is a replica that is no more heard of, and has not said that it ends.
type Missing struct {
	Replica
	Silent time.Duration
}

func (r *Redis) farewellKey(id string) string { return r.key("{fleet}:left:" + id) }

// others returns the ids of the replicas that live, without this one.
func (f *fleet) others() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Sorted(maps.Keys(f.peers))
}

// missed returns who is missed, where these are the peers that live. It forgets who
// has said that it ends, who was replaced by a later one of that name, and after a
// while everybody.
func (r *Redis) missed(ctx context.Context, peers map[string]Peer) map[string]Peer {
	now := max(1, r.known.now())
	r.fleet.mu.Lock()
	before, lost := maps.Clone(r.fleet.peers), maps.Clone(r.fleet.lost)
	r.fleet.mu.Unlock()
	latest := map[string]time.Time{r.options.Self.Name: r.options.Self.Started} // start of a name
	for _, peer := range peers {
		if peer.Started.After(latest[peer.Name]) {
			latest[peer.Name] = peer.Started
		}
	}
	for id, peer := range before {
		if _, lives := peers[id]; lives || !peer.read || len(lost) >= maxMissing {
			continue
		}
		if r.redis().Get(ctx, r.farewellKey(id)).Err() == redis.Nil {
			if lost == nil {
				lost = make(map[string]Peer)
			}
			peer.gone = now
			lost[id] = peer
		}
	}
	maps.DeleteFunc(lost, func(id string, peer Peer) bool {
		_, lives := peers[id]
		return lives || latest[peer.Name].After(peer.Started) || now-peer.gone > missedFor
	})
	return lost
}

// heardOf returns the ids of the replicas that were heard of at an instant, or less than
// missingAfter before.
func (f *fleet) heardOf(now time.Duration) []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	ids := slices.Collect(maps.Keys(f.peers))
	for id, peer := range f.lost {
		if now-peer.gone < missingAfter {
			ids = append(ids, id)
		}
	}
	return ids
}

// missing returns who is missed at an instant, the first one first; with f.mu held.
func (f *fleet) missing(now time.Duration) (all []Missing) {
	for _, peer := range f.lost {
		if silent := now - peer.gone; silent >= missingAfter {
			all = append(all, Missing{Replica: peer.Replica, Silent: silent + beatExpiry}) // as long as it was still counted
		}
	}
	slices.SortFunc(all, func(a, b Missing) int { return cmp.Or(cmp.Compare(b.Silent, a.Silent), cmp.Compare(a.ID, b.ID)) })
	return all
}
