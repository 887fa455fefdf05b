package limiter

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/go-redis/redis_rate/v10"
	"github.com/redis/go-redis/v9"
)

// Script returns the source of redis_rate's own GCRA script. It expects the
// budget's key in KEYS[1] and [Limit.ScriptArgs] in ARGV, and its answer is
// read by [Limit.ReadReply].
//
// redis_rate keeps the script to itself, and asks one limit in one trip. Its
// script is taken from it here so that it can be run for several limits
// inside a script of the cluster package.
func Script() (string, error) {
	script, _, err := learn(redis_rate.PerSecond(1))
	return script, err
}

// ScriptArgs returns the arguments with which redis_rate would ask its script
// for one request, as they are sent. The last of them is how many are asked for.
func (l Limit) ScriptArgs() ([]string, error) {
	_, args, err := learn(redis_rate.Limit{Rate: l.Rate, Period: l.Period, Burst: l.Burst})
	if err != nil {
		return nil, err
	}
	words := make([]string, len(args))
	for i, arg := range args {
		if f, ok := arg.(float64); ok {
			words[i] = strconv.FormatFloat(f, 'f', -1, 64)
		} else {
			words[i] = fmt.Sprint(arg)
		}
	}
	return words, nil
}

// learn lets redis_rate ask for one request, and returns what it would have
// sent to Redis.
func learn(limit redis_rate.Limit) (script string, args []any, err error) {
	var r recorder
	if _, err := redis_rate.NewLimiter(&r).Allow(context.Background(), "", limit); !errors.Is(err, errRecorded) {
		return "", nil, fmt.Errorf("redis_rate did not ask its script: %w", err)
	}
	return r.script, r.args, nil
}

// recorder stands where redis_rate expects a Redis, and records what it is
// asked. It knows no script by its hash, so redis_rate sends the source.
type recorder struct {
	redis.Cmdable // nil: redis_rate's Allow uses nothing but the two methods below
	script        string
	args          []any
}

func (r *recorder) EvalSha(ctx context.Context, _ string, _ []string, _ ...any) *redis.Cmd {
	cmd := redis.NewCmd(ctx)
	cmd.SetErr(noScript{})
	return cmd
}

func (r *recorder) Eval(ctx context.Context, script string, _ []string, args ...any) *redis.Cmd {
	r.script, r.args = script, args
	cmd := redis.NewCmd(ctx)
	cmd.SetErr(errRecorded)
	return cmd
}

var errRecorded = errors.New("recorded")

// noScript is Redis' error for a hash that it does not know; go-redis tells a
// server's errors by the method RedisError.
type noScript struct{}

func (noScript) Error() string { return "NOSCRIPT" }
func (noScript) RedisError()   {}

// ReadReply reads what the script answered for l. charged says whether the
// script's write was carried out: a limit that admits is still not charged
// where another one refuses.
func (l Limit) ReadReply(reply any, charged bool) (Decision, error) {
	// redis_rate answers {allowed, remaining, retry after, reset after}.
	fields, ok := reply.([]any)
	if !ok || len(fields) != 4 {
		return Decision{}, fmt.Errorf("unexpected answer of redis_rate's script: %v", reply)
	}
	allowed, ok := fields[0].(int64)
	text, isText := fields[3].(string)
	seconds, err := strconv.ParseFloat(text, 64)
	if !ok || !isText || err != nil {
		return Decision{}, fmt.Errorf("unexpected answer of redis_rate's script: %v", reply)
	}
	// Floating point is a little off; a whole second must not become two in a
	// Retry-After.
	resetAfter := time.Duration(seconds * float64(time.Second)).Round(time.Microsecond)
	interval := float64(l.Period) / float64(l.Rate)
	if allowed > 0 && !charged {
		resetAfter -= time.Duration(interval)
	}
	return l.decision(allowed > 0, resetAfter, interval), nil
}
