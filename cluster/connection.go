package cluster

import (
	"context"

	"github.com/redis/go-redis/v9"
)

// connection is how a Redis is reached, until it is reached anew.
type connection struct {
	client redis.UniversalClient
	// pipeline sends what concurrent callers ask in one write, and reads the
	// answers in one read. Nobody waits for others: whoever comes while a batch
	// is under way is in the next one. nil to send each by itself.
	pipeline *redis.AutoPipeliner
}

func (o *Options) connect() (*connection, error) {
	client, err := o.Connect()
	if err != nil {
		return nil, err
	}
	c := &connection{client: client}
	pipelining, ok := client.(interface {
		AsyncAutoPipeline() (*redis.AutoPipeliner, error)
	})
	if ok && o.Pipeline {
		if c.pipeline, err = pipelining.AsyncAutoPipeline(); err != nil {
			_ = client.Close()
			return nil, err
		}
	}
	return c, nil
}

// sentinel reports whether the Redis is found by asking sentinels.
func (c *connection) sentinel() bool {
	client, ok := c.client.(*redis.Client)
	return ok && client.Options().Addr == "FailoverClient" // what go-redis has in place of an address
}

func (c *connection) close() error {
	if c.pipeline != nil {
		_ = c.pipeline.Close()
	}
	return c.client.Close()
}

// once returns a Redis that is asked each script at most once. Charging a
// budget is not idempotent, and go-redis resends a command whose answer was
// lost: a plain client obeys MaxRetries, a cluster client only the command
// itself.
func (c *connection) once() redis.Scripter { return once{c.client, c.pipeline} }

type once struct {
	redis.UniversalClient
	pipeline *redis.AutoPipeliner
}

func (o once) EvalSha(ctx context.Context, sha1 string, keys []string, args ...any) *redis.Cmd {
	return o.eval(ctx, "evalsha", sha1, keys, args)
}

func (o once) Eval(ctx context.Context, script string, keys []string, args ...any) *redis.Cmd {
	return o.eval(ctx, "eval", script, keys, args)
}

func (o once) eval(ctx context.Context, name, script string, keys []string, args []any) *redis.Cmd {
	all := make([]any, 0, 3+len(keys)+len(args))
	all = append(all, name, script, len(keys))
	for _, key := range keys {
		all = append(all, key)
	}
	cmd := redis.NewCmd(ctx, append(all, args...)...)
	cmd.SetFirstKeyPos(3)
	if o.pipeline == nil {
		_ = o.Process(ctx, noRetry{cmd}) // cmd has the error
		return cmd
	}
	future := o.pipeline.Submit(ctx, noRetry{cmd})
	if err := future.WaitContext(ctx); err != nil && err == ctx.Err() {
		// The command may still be sent, and answered: it is not ours to read.
		late := redis.NewCmd(ctx)
		late.SetErr(err)
		return late
	}
	return cmd
}

type noRetry struct{ *redis.Cmd }

func (noRetry) NoRetry() bool { return true }
