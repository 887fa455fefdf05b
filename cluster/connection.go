package cluster

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

// deadlines lends contexts that end after a timeout, or up to a fiftieth of it
// earlier: asks that begin at about the same time share one, and its timer.
type deadlines struct {
	timeout time.Duration
	last    atomic.Pointer[deadline]
}

type deadline struct {
	ctx  context.Context
	lent time.Duration // for the first time
}

// context is for an ask that begins now, on the clock of all others. It ends at
// an instant of that.
func (d *deadlines) context(now time.Duration) (ctx context.Context, end time.Duration) {
	last := d.last.Load()
	if last == nil || now-last.lent > d.timeout/50 {
		ctx, cancel := context.WithTimeout(context.Background(), d.timeout)
		context.AfterFunc(ctx, cancel) // others may use it until then
		last = &deadline{ctx, now}
		d.last.Store(last)
	}
	return last.ctx, last.lent + d.timeout
}

// connection is how a Redis is reached, until it is reached anew.
type connection struct {
	client redis.UniversalClient
	end    context.CancelFunc // of connections that are being made
	// pipeline sends what concurrent callers ask in one write, and reads the
	// answers in one read. Nobody waits for others: whoever comes while a batch
	// is under way is in the next one. nil to send each by itself.
	pipeline *redis.AutoPipeliner
	running  atomic.Int32 // scripts that are being run once
}

// patience is how long connections and commands may take for which no request
// waits. What is read of a connection has the timeout of an ask all the same.
func (o *Options) patience() time.Duration { return max(2*dialTime, 2*o.Timeout) }

// fewAsks is how many scripts at once are sent each by itself, also with a pipeline:
// it is handed from one goroutine to the next, which takes longer than they
// would wait for each other.
const fewAsks = 4

func (o *Options) connect() (*connection, error) {
	life, end := context.WithCancel(context.Background())
	client, err := o.Connect(life)
	if err != nil {
		end()
		return nil, err
	}
	c := &connection{client: client, end: end}
	pipelining, ok := client.(interface {
		AsyncAutoPipeline() (*redis.AutoPipeliner, error)
	})
	if ok && o.Pipeline {
		if c.pipeline, err = pipelining.AsyncAutoPipeline(); err != nil {
			_ = c.close()
			return nil, err
		}
	}
	return c, nil
}

// warm makes the connections for asks that are sent together: go-redis has others
// for those. It says nothing of whether it could.
func (c *connection) warm(ctx context.Context) {
	if c.pipeline == nil {
		return
	}
	n := 1
	if client, ok := c.client.(*redis.Client); ok {
		n = max(n, client.Options().PipelinePoolSize)
	}
	var warming sync.WaitGroup
	for range n {
		warming.Go(func() {
			pipe := c.client.Pipeline()
			pipe.Time(ctx)
			_, _ = pipe.Exec(ctx)
		})
	}
	warming.Wait()
}

func (c *connection) close() error {
	c.end()
	if c.pipeline != nil {
		_ = c.pipeline.Close()
	}
	return c.client.Close()
}

// once runs a script at most once. Charging a budget is not idempotent, and
// go-redis resends a command whose answer was lost: a plain client obeys
// MaxRetries, a cluster client only the command itself. Only a script that was
// not there is asked for again, by its source.
func (c *connection) once(ctx context.Context, s *script, what *command) *redis.Cmd {
	cmd := c.process(ctx, what.cmd(ctx, evalSHA, &s.hash))
	if redis.HasErrorPrefix(cmd.Err(), "NOSCRIPT") {
		cmd = c.process(ctx, what.cmd(ctx, eval, &s.source))
	}
	if err := cmd.Err(); err != nil {
		cmd.SetErr(s.name(err))
	}
	return cmd
}

func (c *connection) process(ctx context.Context, cmd *redis.Cmd) *redis.Cmd {
	defer c.running.Add(-1)
	if c.running.Add(1) <= fewAsks || c.pipeline == nil {
		_ = c.client.Process(ctx, noRetry{cmd}) // cmd has the error
		return cmd
	}
	future := c.pipeline.Submit(ctx, noRetry{cmd})
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
