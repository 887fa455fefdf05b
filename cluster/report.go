package cluster

import (
	"context"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
)

// Replicas report what they do only while somebody looks: whoever does sets a key
// for a while, which each heartbeat reads besides. So nobody pays for what nobody
// sees.

const (
	watchTime   = 15 * time.Second // for which replicas report after somebody has looked
	firstReport = 2 * beatInterval // longest that the first look waits for all of them
	reportPoll  = 100 * time.Millisecond
)

// MaxReport is the most bytes of a report that are stored.
const MaxReport = 32 << 10

func (r *Redis) watchKey() string           { return r.key("{fleet}:watch") }
func (r *Redis) reportKey(id string) string { return r.key("{fleet}:report:" + id) }

// report tells the others what this replica does. A report that is lost is followed
// by another with the next heartbeat.
func (r *Redis) report() {
	if r.options.Report == nil {
		return
	}
	if text := r.options.Report(); len(text) <= MaxReport {
		ctx, cancel := context.WithTimeout(context.Background(), r.options.patience())
		defer cancel()
		_ = r.redis().Set(ctx, r.reportKey(r.options.Self.ID), text, beatExpiry).Err()
	}
}

// Reports returns by their ids what the other replicas report, as their
// [Options.Report] has it, and has them go on reporting for a while. The first look
// waits until they have begun, but for 2 s at most; of a replica that has not, or
// has died, there is nothing. It costs one pipeline with a GET for each replica. The
// error is [ErrStoreAway].
func (r *Redis) Reports(ctx context.Context) (reports map[string][]byte, err error) {
	if whole := r.parts.whole; whole != nil && whole.away() {
		return nil, ErrStoreAway
	}
	ids := r.fleet.others()
	for began, first := time.Now(), true; ; first = false {
		reports, watched, err := r.readReports(ctx, ids)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrStoreAway, err)
		}
		if len(reports) == len(ids) || first && watched || time.Since(began) > firstReport {
			return reports, nil
		}
		select {
		case <-ctx.Done():
			return reports, nil
		case <-time.After(reportPoll):
		}
	}
}

// readReports reads what there is, and tells whether somebody has looked before.
func (r *Redis) readReports(ctx context.Context, ids []string) (reports map[string][]byte, watched bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, r.options.patience())
	defer cancel()
	pipe := r.redis().Pipeline()
	before := pipe.Get(ctx, r.watchKey())
	pipe.Set(ctx, r.watchKey(), 1, watchTime)
	stored := make([]*redis.StringCmd, len(ids))
	for i, id := range ids {
		stored[i] = pipe.Get(ctx, r.reportKey(id))
	}
	if _, err := pipe.Exec(ctx); err != nil && err != redis.Nil {
		return nil, false, err
	}
	reports = make(map[string][]byte, len(ids))
	for i, id := range ids {
		if text, err := stored[i].Bytes(); err == nil {
			reports[id] = text
		}
	}
	return reports, before.Err() == nil, nil
}

// Reports returns nothing: there is no other replica.
func (m *Memory) Reports(context.Context) (map[string][]byte, error) { return nil, nil }
