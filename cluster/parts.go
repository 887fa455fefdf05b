package cluster

import (
	"context"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// parts are the parts of one store.
type parts struct {
	whole *part    // nil of a Redis Cluster, of which each master is a part
	byTag sync.Map // tag → *part

	mu       sync.Mutex       // held while a tag is placed
	byMaster map[string]*part // by address; of tags whose master is not known, by none
}

// partOf returns the part that has a tag.
func (r *Redis) partOf(tag string) *part {
	if r.parts.whole != nil {
		return r.parts.whole
	}
	if known, ok := r.parts.byTag.Load(tag); ok {
		return known.(*part)
	}
	return r.place(tag)
}

// place finds the part of a tag that is asked for the first time.
func (r *Redis) place(tag string) *part {
	r.parts.mu.Lock()
	lost := r.parts.byMaster[""]
	r.parts.mu.Unlock()
	if lost != nil && lost.away() {
		return r.parts.put(tag, "")
	}
	ctx, cancel := context.WithTimeout(context.Background(), r.options.Timeout)
	defer cancel()
	return r.parts.put(tag, r.conn.Load().master(ctx, tag))
}

// replace follows tags to other masters: slots move, and masters are replaced. A
// tag whose part is looked for stays with it until it is found, so that an outage
// ends as it began.
func (r *Redis) replace() {
	ctx, cancel := context.WithTimeout(context.Background(), r.options.patience())
	defer cancel()
	conn := r.conn.Load()
	for tag, known := range r.parts.byTag.Range {
		if known.(*part).state() != asked {
			continue
		}
		if master := conn.master(ctx, tag.(string)); master != "" {
			r.parts.put(tag.(string), master)
		}
	}
}

// master returns the address of the master that has a tag's slot, as far as the
// client knows; empty if it does not.
func (c *connection) master(ctx context.Context, tag string) string {
	nodes, ok := c.client.(*redis.ClusterClient)
	if !ok {
		return ""
	}
	node, err := nodes.MasterForKey(ctx, "{"+tag+"}")
	if err != nil {
		return ""
	}
	return node.Options().Addr
}

// put lets a tag be of the part of a master.
func (p *parts) put(tag, master string) *part {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.byMaster == nil {
		p.byMaster = make(map[string]*part)
	}
	to := p.byMaster[master]
	if to == nil {
		to = newPart()
		p.byMaster[master] = to
	}
	before, placed := p.byTag.Load(tag)
	if before == to {
		return to
	}
	to.tags.add(tag)
	p.byTag.Store(tag, to)
	if placed {
		before.(*part).tags.remove(tag)
	}
	return to
}

// bare reports whether a part has nothing of ours: a master's whose slots have gone
// to others.
func (p *parts) bare(part *part) bool { return part != p.whole && part.tags.first() == "" }

func (p *parts) all() iter.Seq[*part] {
	if p.whole != nil {
		return slices.Values([]*part{p.whole})
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Values(slices.Collect(maps.Values(p.byMaster)))
}

// tags are those of a part. The zero value is that of a part which is the whole
// store, and has all there are.
type tags struct {
	mu  sync.Mutex
	all []string // sorted
}

func (t *tags) add(tag string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if i, found := slices.BinarySearch(t.all, tag); !found {
		t.all = slices.Insert(t.all, i, tag)
	}
}

func (t *tags) remove(tag string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if i, found := slices.BinarySearch(t.all, tag); found {
		t.all = slices.Delete(t.all, i, i+1)
	}
}

// first returns one of them, or an empty string.
func (t *tags) first() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.all) == 0 {
		return ""
	}
	return t.all[0]
}

// String lists them for people.
func (t *tags) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.Join(t.all, ",")
}

// Away returns since when a part of the store, or all of it, is away. ok is
// false if none is.
func (r *Redis) Away() (since time.Time, ok bool) {
	for p := range r.parts.all() {
		p.mu.Lock()
		if !p.since.IsZero() && (!ok || p.since.Before(since)) {
			since, ok = p.since, true
		}
		p.mu.Unlock()
	}
	return since, ok
}
