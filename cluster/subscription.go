package cluster

import (
	"context"
	"errors"
	"maps"
	"net"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"
)

// subscription hears what becomes of flights that other replicas lead: of all tags,
// or in a Cluster, where each has its own server, of one. It lasts from the first
// follower on. Messages can be lost with a connection: after each subscription
// whoever watches a flight looks for it.
type subscription struct {
	channels map[string]channel // by name; guarded by watches.mu
	pubsub   *redis.PubSub      // likewise; nil while there is no connection
}

// channel is where it is told what becomes of the flights of a tag.
type channel struct {
	tag   string
	ready chan struct{} // closed when its messages come for the first time
}

// subscribeLocked has messages of a tag come. The channel is closed when they do for
// the first time.
func (r *Redis) subscribeLocked(tag string) <-chan struct{} {
	of := ""
	if r.parts.whole == nil {
		of = tag
	}
	if r.watches.subscriptions == nil {
		r.watches.subscriptions = make(map[string]*subscription)
	}
	s := r.watches.subscriptions[of]
	if s == nil {
		s = &subscription{channels: make(map[string]channel)}
		r.watches.subscriptions[of] = s
	}
	name := r.key(string(appendChannel(nil, tag)))
	if c, known := s.channels[name]; known {
		return c.ready
	}
	c := channel{tag, make(chan struct{})}
	s.channels[name] = c
	switch {
	case len(s.channels) == 1:
		r.stopped.Go(func() { r.listen(s) })
	case s.pubsub != nil: // else it is made with all of them
		pubsub := s.pubsub
		r.stopped.Go(func() { _ = pubsub.Subscribe(context.Background(), name) }) // in a Cluster there is but one
	}
	return c.ready
}

// listen is the loop of a subscription.
func (r *Redis) listen(s *subscription) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	r.stopped.Go(func() {
		select {
		case <-r.stop:
			cancel()
		case <-ctx.Done():
		}
	})
	for ctx.Err() == nil {
		pubsub := r.connectSubscription(ctx, s)
		unread := context.AfterFunc(ctx, func() { _ = pubsub.Close() }) // which a read that is under way does not see
		r.receive(ctx, s, pubsub)
		unread()
		r.watches.mu.Lock()
		s.pubsub = nil
		r.watches.mu.Unlock()
		_ = pubsub.Close()
		select {
		case <-time.After(retryAfter):
		case <-ctx.Done():
		}
	}
}

// connectSubscription makes a connection for s, on which the store is asked for its
// messages. Nobody who follows a flight waits for it.
func (r *Redis) connectSubscription(ctx context.Context, s *subscription) (pubsub *redis.PubSub) {
	channels := r.channelsOf(s)
	if cluster, ok := r.redis().(*redis.ClusterClient); ok {
		cluster.ReloadState(ctx) // the slot may have moved
		pubsub = cluster.SSubscribe(ctx, channels...)
	} else {
		pubsub = r.redis().Subscribe(ctx, channels...)
	}
	r.watches.mu.Lock()
	s.pubsub = pubsub
	r.watches.mu.Unlock()
	if all := r.channelsOf(s); len(all) > len(channels) { // none is ever left out
		_ = pubsub.Subscribe(ctx, all...)
	}
	return pubsub
}

func (r *Redis) channelsOf(s *subscription) []string {
	r.watches.mu.Lock()
	defer r.watches.mu.Unlock()
	return slices.Collect(maps.Keys(s.channels))
}

// silence is how long a connection may be silent before it is asked whether it lives,
// and until it has answered that.
const silence = 5 * time.Second

// receive passes on what comes, until the connection is lost, or the slot moves.
func (r *Redis) receive(ctx context.Context, s *subscription, pubsub *redis.PubSub) {
	silent := false // it was asked whether it lives
	for {
		message, err := pubsub.ReceiveTimeout(ctx, silence)
		var timeout net.Error
		switch {
		case err == nil:
			silent = false
		case errors.As(err, &timeout) && timeout.Timeout() && !silent && ctx.Err() == nil:
			silent = true
			if pubsub.Ping(ctx) != nil {
				return
			}
			continue
		default:
			return
		}
		switch m := message.(type) {
		case *redis.Subscription:
			if m.Kind == "sunsubscribe" || m.Kind == "unsubscribe" {
				return
			}
			r.subscribed(s, m.Channel)
		case *redis.Message:
			r.watches.mu.Lock()
			tag := s.channels[m.Channel].tag
			r.watches.mu.Unlock()
			r.hear(tag, m.Payload)
		}
	}
}

// subscribed has all that watch flights of a channel look for them: its messages come
// from now on, and those before may be lost.
func (r *Redis) subscribed(s *subscription, name string) {
	r.watches.mu.Lock()
	defer r.watches.mu.Unlock()
	c, known := s.channels[name]
	if !known {
		return
	}
	select {
	case <-c.ready:
	default:
		close(c.ready)
	}
	for id, w := range r.watches.all {
		if id.tag == c.tag {
			w.stir()
		}
	}
}
