package cluster

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// Report is what a Redis is like, as far as it tells.
type Report struct {
	Trip   time.Duration // the shortest of a few round trips
	Evicts string        // its maxmemory-policy, if it is one that evicts what has not expired
	Bound  bool          // it has a maxmemory
	// MaxMemory is that, of all masters together; 0 if it has none.
	MaxMemory int64
	Followed  bool // replicas follow it
	// Guarded says that it stops to take writes when it has lost its replicas
	// (min-replicas-to-write), as a master does that was cut off.
	Guarded    bool
	Persistent bool // it writes down what it is told (appendonly)
}

// trial is a command that a replica needs, by its name in an ACL, and what it is
// tried with where keys matter.
type trial struct {
	name string
	args func(key string) []any
}

var trials = []trial{
	{"eval", func(key string) []any { return []any{"eval", "return 1", 1, key} }},
	{"evalsha", func(key string) []any { return []any{"evalsha", strings.Repeat("0", 40), 1, key} }},
	{"script|load", func(string) []any { return []any{"script", "load", "return 1"} }},
	{"time", func(string) []any { return []any{"time"} }},
	{"get", func(key string) []any { return []any{"get", key} }},
	{"set", func(key string) []any { return []any{"set", key, "check", "PX", 1} }},
	{"pexpire", func(key string) []any { return []any{"pexpire", key, 1} }},
	{"pttl", func(key string) []any { return []any{"pttl", key} }},
	{"zadd", func(key string) []any { return []any{"zadd", key + "s", 1, "check"} }},
	{"zrange", func(key string) []any { return []any{"zrange", key + "s", 0, -1} }},
	{"zcard", func(key string) []any { return []any{"zcard", key + "s"} }},
	{"zscore", func(key string) []any { return []any{"zscore", key + "s", "check"} }},
	{"zremrangebyscore", func(key string) []any { return []any{"zremrangebyscore", key + "s", 0, 0} }},
	{"zrem", func(key string) []any { return []any{"zrem", key + "s", "check"} }},
	{"del", func(key string) []any { return []any{"del", key} }},
	{"info", func(string) []any { return []any{"info", "memory"} }},
}

// Examine asks a Redis for all that a replica with these options asks of it, under
// keys of its own that are gone at once, and says what it is like. The error is why
// it cannot be used. Of a Cluster it asks the masters of tags.
func Examine(ctx context.Context, o Options, tags ...string) (report Report, err error) {
	life, end := context.WithCancel(ctx)
	defer end()
	client, err := o.Connect(life)
	if err != nil {
		return Report{}, err
	}
	defer client.Close()
	var missing []string
	for i, tag := range tags {
		key := fmt.Sprintf("%s:%s:{%s}:check", o.Prefix, keyFormat, tag)
		for _, trial := range trials {
			began := time.Now()
			cmd := redis.NewCmd(ctx, trial.args(key)...)
			err := client.Process(ctx, noRetry{cmd})
			switch {
			case err == nil, err == redis.Nil, redis.HasErrorPrefix(err, "NOSCRIPT"):
				if trip := time.Since(began); report.Trip == 0 || trip < report.Trip {
					report.Trip = trip
				}
			case FaultOf(err) == faultRights && i == 0:
				missing = append(missing, "+"+refusedCommand(err, trial.name))
			case FaultOf(err) != faultRights:
				return report, err
			}
		}
	}
	if missing = slices.Compact(missing); len(missing) > 0 {
		return report, fmt.Errorf("the user lacks rights: add %s, and ~%s:* for the keys", strings.Join(missing, " "), o.Prefix)
	}
	return report, report.ask(ctx, client)
}

// namedCommand is how a Redis names a command that a user has no right to.
var namedCommand = regexp.MustCompile(`to run the '([a-z|]+)' command`)

// refusedCommand returns which command a user has no right to, by the error, or
// else the one that was sent: before its first there may be another.
func refusedCommand(err error, sent string) string {
	if named := namedCommand.FindStringSubmatch(err.Error()); named != nil {
		return named[1]
	}
	return sent
}

// ask completes r by what the Redis says of itself.
func (r *Report) ask(ctx context.Context, client redis.UniversalClient) error {
	if nodes, ok := client.(*redis.ClusterClient); ok {
		return nodes.ForEachMaster(ctx, func(ctx context.Context, node *redis.Client) error { return r.read(node.Info(ctx)) })
	}
	return r.read(client.Info(ctx))
}

// read adds what one server says.
func (r *Report) read(info *redis.StringCmd) error {
	text, err := info.Result()
	if err != nil {
		return err
	}
	said := make(map[string]string)
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), ":"); ok {
			said[name] = value
		}
	}
	if policy := said["maxmemory_policy"]; policy != "noeviction" {
		r.Evicts = policy
	}
	followers, _ := strconv.Atoi(said["connected_slaves"])
	bound, _ := strconv.ParseInt(said["maxmemory"], 10, 64)
	r.MaxMemory += bound
	r.Bound = r.Bound || said["maxmemory"] != "0"
	r.Followed = r.Followed || followers > 0
	r.Guarded = r.Guarded || said["min_slaves_good_slaves"] != ""
	r.Persistent = r.Persistent || said["aof_enabled"] == "1"
	return nil
}
