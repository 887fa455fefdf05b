package cluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

const (
	pollInterval = 500 * time.Millisecond // between questions to the sentinels who the master is
	grace        = 50 * time.Millisecond  // that others have to answer after the first, at least
)

// sentinels say which server is the master of a name. All of them are asked, also
// those that they know of: during a failover one knows of it first.
type sentinels struct {
	endpoint *Endpoint
	name     string
	tls      bool

	mu    sync.Mutex
	known map[string]*redis.SentinelClient // by address
}

func newSentinels(e *Endpoint, o *redis.UniversalOptions) *sentinels {
	s := &sentinels{endpoint: e, name: o.MasterName, tls: o.TLSConfig != nil, known: make(map[string]*redis.SentinelClient)}
	for _, addr := range o.Addrs {
		s.add(addr)
	}
	return s
}

func (s *sentinels) add(addr string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.known[addr] != nil {
		return
	}
	s.known[addr] = redis.NewSentinelClient(&redis.Options{
		Addr: addr,
		Dialer: func(ctx context.Context, network, addr string) (net.Conn, error) {
			return connectTo(ctx, network, addr, s.tls, s.endpoint.files)
		},
		CredentialsProviderContext: func(context.Context) (user, password string, err error) {
			o, err := s.endpoint.options()
			if err != nil {
				return "", "", err
			}
			return o.SentinelUsername, o.SentinelPassword, nil
		},
		MaxRetries: -1, DialerRetries: 1, ContextTimeoutEnabled: true,
		DialTimeout: dialTime, ReadTimeout: dialTime, WriteTimeout: dialTime, PoolTimeout: dialTime,
		DisableIdentity:          true,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	})
}

// all returns the clients of those that are known, by address.
func (s *sentinels) all() map[string]*redis.SentinelClient {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.known)
}

// naming is what a sentinel said.
type naming struct {
	addr  string
	epoch int // the later is right
	err   error
}

// master returns the address that the sentinels have agreed upon last, as far as
// they answer at about the same time as the first.
func (s *sentinels) master(ctx context.Context) (addr string, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	all := s.all()
	answers := make(chan naming, len(all))
	for addr, sentinel := range all {
		go func() { answers <- s.ask(ctx, addr, sentinel) }()
	}
	began := time.Now()
	best := naming{epoch: -1}
	var errs []error
	var enough <-chan time.Time
	for range all {
		select {
		case <-enough:
			return best.addr, nil
		case answer := <-answers:
			if answer.err != nil {
				errs = append(errs, answer.err)
				continue
			}
			if answer.epoch > best.epoch {
				best = answer
			}
			if enough == nil {
				enough = time.After(max(grace, time.Since(began)))
			}
		}
	}
	if best.epoch < 0 {
		return "", fmt.Errorf("no sentinel names a master: %w", cmp.Or(errors.Join(errs...), ctx.Err()))
	}
	return best.addr, nil
}

func (s *sentinels) ask(ctx context.Context, addr string, sentinel *redis.SentinelClient) naming {
	master, err := sentinel.Master(ctx, s.name).Result()
	if err != nil {
		return naming{err: fmt.Errorf("sentinel %s: %w", addr, err)}
	}
	epoch, err := strconv.Atoi(master["config-epoch"])
	if err != nil || master["ip"] == "" {
		return naming{err: fmt.Errorf("sentinel %s: it does not say who the master is", addr)}
	}
	return naming{addr: net.JoinHostPort(master["ip"], master["port"]), epoch: epoch}
}

// discover learns from the sentinels which others there are.
func (s *sentinels) discover(ctx context.Context) {
	for _, sentinel := range s.all() {
		others, err := sentinel.Sentinels(ctx, s.name).Result()
		if err != nil {
			continue
		}
		for _, other := range others {
			if other["ip"] != "" && other["port"] != "" {
				s.add(net.JoinHostPort(other["ip"], other["port"]))
			}
		}
		return
	}
}

// Watch calls moved each time the sentinels name another master than the one that
// a client was connected to last, until ctx ends; it returns at once where there
// are no sentinels. It listens to all of them, and asks twice a second, so that
// all replicas move at about the same time.
func (e *Endpoint) Watch(ctx context.Context, moved func()) {
	s := e.sentinels
	if s == nil {
		return
	}
	defer s.close()
	var listening sync.WaitGroup
	defer listening.Wait()
	wake := make(chan struct{}, 1)
	heard := make(map[string]bool)
	for {
		for addr, sentinel := range s.all() {
			if !heard[addr] {
				heard[addr] = true
				listening.Go(func() { listen(ctx, sentinel, wake) })
			}
		}
		asking, cancel := context.WithTimeout(ctx, dialTime)
		master, err := s.master(asking)
		if known := e.master.Load(); err == nil && known != nil && *known != master {
			moved()
		}
		s.discover(asking)
		cancel()
		select {
		case <-ctx.Done():
			return
		case <-wake:
		case <-time.After(pollInterval):
		}
	}
}

// listen wakes up who waits when a sentinel tells of another master.
func listen(ctx context.Context, sentinel *redis.SentinelClient, wake chan<- struct{}) {
	subscription := sentinel.Subscribe(ctx, "+switch-master")
	defer subscription.Close()
	messages := subscription.Channel()
	for {
		select {
		case <-ctx.Done():
			return
		case <-messages:
			select {
			case wake <- struct{}{}:
			default:
			}
		}
	}
}

// close ends the connections to the sentinels.
func (s *sentinels) close() {
	for _, sentinel := range s.all() {
		_ = sentinel.Close()
	}
}
