package cluster

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
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

// sharingTrials are what a replica needs besides to share answers, by the channel of
// a tag's flights. In a Cluster the commands of channels begin with an s. That
// messages come is tried by itself.
func sharingTrials(s string) []trial {
	return []trial{
		{"ping", func(string) []any { return []any{"ping"} }},
		{s + "publish", func(channel string) []any { return []any{s + "publish", channel, ""} }},
	}
}

// Examine asks a Redis for all that a replica with these options asks of it, under
// keys of its own that are gone at once, and says what it is like. The error is why
// it cannot be used. Of a Cluster it asks the masters of tags, and names the first
// where a right is missing. Those of tags that are among shared must let answers be
// shared too; a message that says nothing goes to their followers.
func Examine(ctx context.Context, o Options, tags, shared []string) (report Report, err error) {
	life, end := context.WithCancel(ctx)
	defer end()
	client, err := o.Connect(life)
	if err != nil {
		return Report{}, err
	}
	defer client.Close()
	for _, tag := range tags {
		e := examiner{prefix: o.Prefix, report: &report}
		if err := e.examine(ctx, client, tag, slices.Contains(shared, tag)); err != nil {
			return report, err
		}
		if len(e.missing) > 0 {
			return report, fmt.Errorf("the user lacks rights%s: add %s", e.at, strings.Join(e.missing, " "))
		}
	}
	return report, report.ask(ctx, client)
}

// examiner tries what is asked of one tag's server.
type examiner struct {
	prefix  string
	report  *Report
	at      string   // of a Cluster, which master it is: " on HOST:PORT"
	missing []string // what the user has no right to, as an ACL names it
}

func (e *examiner) examine(ctx context.Context, client redis.UniversalClient, tag string, shared bool) error {
	beside := string(appendTag(fmt.Appendf(nil, "%s:%s:", e.prefix, keyFormat), tag))
	key, channel := beside+":check", e.prefix+":"+keyFormat+":"+string(appendChannel(nil, tag))
	s, subscribe := "", client.Subscribe
	if nodes, ok := client.(*redis.ClusterClient); ok {
		master, err := nodes.MasterForKey(ctx, key)
		if err != nil {
			return e.tried("cluster|slots", err)
		}
		client, e.at = master, " on "+master.Options().Addr
		s, subscribe = "s", master.SSubscribe
	}
	if err := e.tryAll(ctx, client, trials, key); err != nil || !shared {
		return err
	}
	if err := e.tryAll(ctx, client, sharingTrials(s), channel); err != nil {
		return err
	}
	pubsub := subscribe(ctx, channel)
	defer pubsub.Close()
	_, err := pubsub.ReceiveTimeout(ctx, silence)
	return e.tried(s+"subscribe", err)
}

func (e *examiner) tryAll(ctx context.Context, client redis.UniversalClient, trials []trial, name string) error {
	for _, trial := range trials {
		began := time.Now()
		cmd := redis.NewCmd(ctx, trial.args(name)...)
		err := client.Process(ctx, noRetry{cmd})
		if trip := time.Since(began); FaultOf(err) != faultRights && (e.report.Trip == 0 || trip < e.report.Trip) {
			e.report.Trip = trip
		}
		if err := e.tried(trial.name, err); err != nil {
			return err
		}
	}
	return nil
}

// tried notes what the user has no right to, if that is what err says, the answer to a
// command. It returns any other error. That a slot is moving is none: rights are
// looked at before.
func (e *examiner) tried(command string, err error) error {
	fault := FaultOf(err)
	switch {
	case err == nil, err == redis.Nil, redis.HasErrorPrefix(err, "NOSCRIPT"), fault == faultMoved:
		return nil
	case fault != faultRights:
		return err
	}
	right := "+" + command
	switch named := namedCommand.FindStringSubmatch(err.Error()); {
	case named != nil: // another may come before the one that was sent
		right = "+" + named[1]
	case strings.Contains(err.Error(), "channel"):
		right = "&" + e.prefix + ":" + keyFormat + ":*"
	case strings.Contains(err.Error(), "key"):
		right = "~" + e.prefix + ":*"
	}
	if !slices.Contains(e.missing, right) {
		e.missing = append(e.missing, right)
	}
	return nil
}

// namedCommand is how a Redis names a command that a user has no right to.
var namedCommand = regexp.MustCompile(`to run the '([a-z|]+)' command`)

// ask completes r by what the Redis says of itself.
func (r *Report) ask(ctx context.Context, client redis.UniversalClient) error {
	nodes, ok := client.(*redis.ClusterClient)
	if !ok {
		return r.read(client.Info(ctx))
	}
	var mu sync.Mutex
	return nodes.ForEachMaster(ctx, func(ctx context.Context, node *redis.Client) error { // all at the same time
		info := node.Info(ctx)
		mu.Lock()
		defer mu.Unlock()
		return r.read(info)
	})
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
