package limiter

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/go-redis/redis_rate/v10"
	"github.com/redis/go-redis/v9"
)

//go:embed budget.lua
var budgetSource string

// Prelude returns the Lua functions by which a script spends from budgets in
// Redis, of those that budget.lua's header names: how, it says as well. spend comes
// with open, settle and write; reserve needs them. A script is this text and its own behind it.
//
// Inside they run redis_rate's own GCRA script. redis_rate keeps it to itself,
// and asks one limit in one trip; it is taken from there so that it can be run
// for several limits, all or nothing.
func Prelude(functions ...string) (string, error) {
	gcra, err := learn()
	return strings.Replace(Excerpt(budgetSource, functions...), "--[[redis_rate]]", gcra, 1), err
}

// ScriptArgs returns l as the functions of [Prelude] take it: burst, emission
// interval in seconds, and how many requests the TAT may lie ahead, where
// requests wait for the budget as long as wait.
func (l Limit) ScriptArgs(wait time.Duration) []string {
	interval := l.interval()
	return []string{strconv.Itoa(l.Burst), decimal(interval), strconv.Itoa(l.Burst + waiting(wait, interval))}
}

// decimal returns d in seconds, exactly.
func decimal(d time.Duration) string {
	s := fmt.Sprintf("%d.%09d", d/time.Second, d%time.Second)
	return strings.TrimSuffix(strings.TrimRight(s, "0"), ".")
}

// learn lets redis_rate ask its script, and returns what it sends to Redis.
func learn() (script string, err error) {
	var r recorder
	if _, err := redis_rate.NewLimiter(&r).Allow(context.Background(), "", redis_rate.PerSecond(1)); !errors.Is(err, errRecorded) {
		return "", fmt.Errorf("redis_rate did not ask its script: %w", err)
	}
	return r.script, nil
}

// recorder stands where redis_rate expects a Redis, and records what it is
// asked. It knows no script by its hash, so redis_rate sends the source.
type recorder struct {
	redis.Cmdable // nil: redis_rate's Allow uses nothing but the two methods below
	script        string
}

func (r *recorder) EvalSha(ctx context.Context, _ string, _ []string, _ ...any) *redis.Cmd {
	cmd := redis.NewCmd(ctx)
	cmd.SetErr(noScript{})
	return cmd
}

func (r *recorder) Eval(ctx context.Context, script string, _ []string, _ ...any) *redis.Cmd {
	r.script = script
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

// Reply is what a script has answered for one limit.
type Reply struct {
	Decision
	TAT string // what the charge has written, for a refund; empty where nothing was charged, or another after it
	Was Former // where the budget was another limit's until now; else zero
}

// ReadReserved reads what spend of [Prelude] said of l for a request for which
// reserve has taken a place, and returns how long to wait for it, rounded up to
// microseconds. The decision is as of then.
func (l Limit) ReadReserved(reply any) (r Reply, after time.Duration, err error) {
	if r, err = l.ReadReply(reply, true); err != nil {
		return Reply{}, 0, err
	}
	b := budget{tat: time.Duration(reply.([]any)[1].(int64)), interval: l.interval()}
	if r.Was != (Former{}) {
		b.interval = r.Was.Interval
	}
	next, after := l.reserve(b, 0)
	r.Decision = l.reserved(next.tat, after)
	return r, roundUp(after), nil
}

// ReadReply reads what spend of [Prelude] said of l. charged says whether the
// ask as a whole was admitted: a limit that allows a request is still not
// charged where another one refuses.
func (l Limit) ReadReply(reply any, charged bool) (Reply, error) {
	fields, _ := reply.([]any)
	if len(fields) != 3 && len(fields) != 5 {
		return Reply{}, errReply(reply)
	}
	allowed, ok := fields[0].(int64)
	ahead, isNumber := fields[1].(int64)
	tat, isText := fields[2].(string)
	if !ok || !isNumber || !isText || ahead < 0 || allowed == 0 && charged {
		return Reply{}, errReply(reply)
	}
	// The budget's clock starts at the ask.
	b := budget{tat: time.Duration(ahead), interval: l.interval()}
	var r Reply
	if len(fields) == 5 {
		interval, ok := fields[3].(int64)
		furthest, isNumber := fields[4].(int64)
		if !ok || !isNumber || interval < 1 || furthest < 0 {
			return Reply{}, errReply(reply)
		}
		b.interval = time.Duration(interval)
		r.Was = Former{Interval: b.interval, Furthest: int(furthest)}
	}
	next, _ := l.spend(b, 0)
	_, r.Decision = l.settle(b, next, 0, allowed > 0, charged)
	if charged {
		r.TAT = tat
	}
	return r, nil
}

func errReply(reply any) error { return fmt.Errorf("unexpected answer of a budget: %v", reply) }
