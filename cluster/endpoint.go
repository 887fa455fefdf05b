package cluster

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// Endpoint is where a Redis is, and how it lets itself be used. What it is made
// of is read again for each new connection: a password and certificates may
// change while it is in use. It may be used concurrently.
type Endpoint struct {
	source  func() (rawURL string, err error)
	files   TLSFiles
	timeout time.Duration
	trips   trips
	failure atomic.Pointer[error] // to make the last connection; nil if that was made

	sentinels *sentinels             // nil without
	master    atomic.Pointer[string] // that the sentinels named last, and a client uses
}

const (
	leastDialTime = 250 * time.Millisecond // to connect, of a Redis that is near
	dialTime      = time.Second            // of one of which nothing is known
	dialTrips     = 8                      // to a sentinel and its answer, and by TLS to a Redis, twice as many as it takes
)

// NewEndpoint returns the Redis at the URL that source returns, which is one of
//
//	redis://[user:password@]host[:port][/db]
//	unix://[user:password@]/path[?db=0]
//	redis+sentinel://[user:password@]host[:port],…[/db]?master_name=NAME
//	redis+cluster://[user:password@]host[:port],…
//
// with rediss in place of redis for TLS. User and password are those of the
// data nodes; sentinels have sentinel_username and sentinel_password in the
// query. No connection is made yet. timeout bounds each read, write and wait for
// a connection that is there. Errors never contain a part of the URL: what looks
// like a port, a database or a parameter may be the password, where a character is
// missing or not escaped.
func NewEndpoint(source func() (rawURL string, err error), files TLSFiles, timeout time.Duration) (*Endpoint, error) {
	e := &Endpoint{source: source, files: files, timeout: timeout}
	o, err := e.options()
	if err != nil {
		return nil, err
	}
	if files != (TLSFiles{}) && o.TLSConfig == nil {
		return nil, errors.New("certificates were given, but the URL is without TLS: write rediss in place of redis")
	}
	if _, err := files.config(); err != nil {
		return nil, err
	}
	if o.MasterName != "" {
		e.sentinels = newSentinels(e, o)
	}
	return e, nil
}

// options are what the URL says now.
func (e *Endpoint) options() (*redis.UniversalOptions, error) {
	rawURL, err := e.source()
	if err != nil {
		return nil, err
	}
	return parseURL(rawURL)
}

// Connect returns a new client, whose connections are made until life ends. No
// command is ever sent twice by itself. It is of one master: a client of before a
// failover stays with the old one, see [Endpoint.Watch].
func (e *Endpoint) Connect(life context.Context) (redis.UniversalClient, error) {
	o, err := e.options()
	if err != nil {
		return nil, err
	}
	// A retried SET NX is refused by the lock that it took itself, and a
	// retried limit charges twice. A cluster client obeys once instead.
	o.MaxRetries, o.DialerRetries = -1, 1
	o.ReadTimeout, o.WriteTimeout, o.PoolTimeout = e.timeout, e.timeout, e.timeout
	o.DialTimeout = e.dialTimeout()
	o.ContextTimeoutEnabled = true
	// Nobody waits for the connection that is needed next.
	o.MinIdleConns = fewAsks
	if trip, _ := e.trips.shortest(); isFar(trip, e.timeout) {
		o.PipelinePoolSize = farBatches
		o.AutoPipelineOptions = &redis.AutoPipelineOptions{
			MaxBatchSize: batchSize, Unordered: true, MaxConcurrentBatches: farBatches, MaxFlushDelay: trip / farBatches,
		}
	}
	// Fewer round trips before the first command of a connection.
	o.DisableIdentity = true
	o.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	o.CredentialsProviderContext = e.credentials
	d := &dialer{endpoint: e, life: life, database: o.DB, tls: o.TLSConfig != nil}
	o.Dialer, o.TLSConfig = d.dial, nil
	if o.IsClusterMode {
		return redis.NewClusterClient(o.Cluster()), nil
	}
	return redis.NewClient(o.Simple()), nil
}

// farBatches is how many batches of asks may be under way at once to a Redis that is
// far: an ask cannot wait for the answer to the batch before its own. Each is
// gathered for as long as there is always a connection for the next.
const farBatches = 32

// isFar reports whether two round trips, one after the other, may be too long for
// the timeout of an ask.
func isFar(trip, timeout time.Duration) bool { return 3*trip > timeout }

// NewClient returns a client of the Redis at rawURL, as [NewEndpoint] and
// [Endpoint.Connect] do.
func NewClient(rawURL string, files TLSFiles, timeout time.Duration) (redis.UniversalClient, error) {
	e, err := NewEndpoint(func() (string, error) { return rawURL, nil }, files, timeout)
	if err != nil {
		return nil, err
	}
	return e.Connect(context.Background())
}

// credentials are what the URL says now.
func (e *Endpoint) credentials(context.Context) (user, password string, err error) {
	o, err := e.options()
	if err != nil {
		return "", "", err
	}
	return o.Username, o.Password, nil
}

// dialTimeout bounds how long a connection may take until commands can be sent,
// for which no request waits.
func (e *Endpoint) dialTimeout() time.Duration {
	trip, known := e.trips.shortest()
	if !known {
		return max(dialTime, e.timeout)
	}
	return max(leastDialTime, e.timeout, dialTrips*trip)
}

// Dialled returns how long a round trip takes, as seen when connections were made
// last, 0 if none was; and why the last connection could not be made, or nil.
func (e *Endpoint) Dialled() (trip time.Duration, err error) {
	trip, _ = e.trips.shortest()
	if failure := e.failure.Load(); failure != nil {
		err = *failure
	}
	return trip, err
}

// trips are how long the last ones took. The zero value knows none.
type trips struct {
	mu   sync.Mutex
	last [2 * fewAsks]time.Duration
	next int
}

func (t *trips) add(trip time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.last[t.next%len(t.last)] = max(1, trip)
	t.next++
}

func (t *trips) shortest() (trip time.Duration, known bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, d := range t.last {
		if d > 0 && (!known || d < trip) {
			trip, known = d, true
		}
	}
	return trip, known
}
