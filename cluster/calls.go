package cluster

import (
	"context"
	"slices"

	"github.com/redis/go-redis/v9"
)

// call is a script's run for one key.
type call struct {
	part   *part
	anyway bool // also if the part is away
	tag    string
	script *script
	what   subject
	result int64
	err    error
}

const (
	batchSize = 256 // keys in one pipeline
	groupSize = 64  // keys in one run of a script, for which everybody else waits
	// groupBytes is how long answers may be together in one run of a script, but for
	// one that is longer by itself; and in one pipeline batchBytes.
	groupBytes = 1 << 20
	batchBytes = 4 << 20
)

// pipeline runs calls in batches, but for those of a part that is away. After a
// batch in which a part has answered nothing the rest of it is not tried.
func (r *Redis) pipeline(calls []call) {
	var reached []*call
	for i := range calls {
		if c := &calls[i]; c.part.away() && !c.anyway {
			c.err = errAway
		} else {
			reached = append(reached, c)
		}
	}
	silent := make(map[*part]error)
	for len(reached) > 0 {
		n := fitting(reached)
		batch := reached[:n:n]
		reached = reached[n:]
		batch = slices.DeleteFunc(batch, func(c *call) bool {
			c.err = silent[c.part]
			return c.err != nil
		})
		if len(batch) == 0 {
			continue
		}
		r.runPipeline(batch, groupSize)
		if missing := failedBy(batch, func(err error) bool { return redis.HasErrorPrefix(err, "NOSCRIPT") }); len(missing) > 0 {
			r.load()
			r.runPipeline(missing, groupSize)
		}
		// Keys of a slot that is moving can be in two places: only one at a time is
		// found.
		if divided := failedBy(batch, func(err error) bool { return FaultOf(err) == faultMoved }); len(divided) > 0 {
			r.runPipeline(divided, 1)
		}
		r.noteSilence(batch, silent)
	}
}

// noteSilence adds to silent the parts of which no call of a batch was answered,
// and why.
func (r *Redis) noteSilence(batch []*call, silent map[*part]error) {
	spoke := make(map[*part]bool)
	for _, c := range batch {
		spoke[c.part] = spoke[c.part] || c.err == nil || ofOneKey(FaultOf(c.err))
	}
	for _, c := range batch {
		if !spoke[c.part] && silent[c.part] == nil {
			silent[c.part] = c.err
			r.record(c.part, c.err)
		}
	}
}

// failedBy returns the calls that have failed by such an error.
func failedBy(calls []*call, such func(error) bool) []*call {
	return slices.DeleteFunc(slices.Clone(calls), func(c *call) bool { return !such(c.err) })
}

// runPipeline runs calls in one pipeline, up to size of one script and tag together, and
// up to groupBytes of answers.
func (r *Redis) runPipeline(calls []*call, size int) {
	ctx, cancel := context.WithTimeout(context.Background(), r.options.Timeout)
	defer cancel()
	now := r.known.now()
	pipe := r.redis().Pipeline()
	groups := grouped(calls, size)
	replies := make([]*redis.Cmd, len(groups))
	for i, group := range groups {
		c := newCommand(r.options.Prefix)
		for _, call := range group {
			c.beginKey()
			c.text = call.what.appendKey(c.text)
			c.endKey()
		}
		for _, call := range group {
			call.what.args(c, now)
		}
		replies[i] = c.cmd(ctx, evalSHA, &group[0].script.hash)
		_ = pipe.Process(ctx, noRetry{replies[i]}) // queues it
		c.done()
	}
	_, failure := pipe.Exec(ctx)
	for i, group := range groups {
		results, err := resultsOf(replies[i], failure)
		err = group[0].script.name(err)
		if err == nil && len(results) != len(group) {
			err = errReply(results)
		}
		for j, call := range group {
			call.result, call.err = 0, err
			if err != nil {
				continue
			}
			switch result := results[j].(type) {
			case int64:
				call.result = result
			case string:
				call.err = keyError(result)
			default:
				call.err = errReply(results)
			}
		}
	}
}

// keyError is the error of one key, which a script returns as a text: go-redis
// stops to read an array at most errors, and leaves the rest of it to whoever
// uses the connection next.
type keyError string

func (e keyError) Error() string { return string(e) }
func (keyError) RedisError()     {}

// resultsOf returns what a script in a pipeline has answered. failure is what the
// pipeline says: where it was not even sent, a command can be left without any
// error of its own.
func resultsOf(reply *redis.Cmd, failure error) ([]any, error) {
	if reply.Err() == nil && reply.Val() == nil && failure != nil {
		return nil, failure
	}
	return reply.Slice()
}

// grouped returns calls by script and tag, in groups of at most size, and groupBytes.
func grouped(calls []*call, size int) (groups [][]*call) {
	type kind struct {
		script *script
		tag    string
	}
	open := map[kind]int{} // the last group of each kind
	var bytes []int        // of each group
	for _, c := range calls {
		k := kind{c.script, c.tag}
		i, ok := open[k]
		if !ok || len(groups[i]) == size || bytes[i]+c.bytes() > groupBytes {
			i = len(groups)
			open[k], groups, bytes = i, append(groups, nil), append(bytes, 0)
		}
		groups[i], bytes[i] = append(groups[i], c), bytes[i]+c.bytes()
	}
	return groups
}

// bytes returns how long the answer is that c carries, if it carries one.
func (c *call) bytes() int {
	if answer, ok := c.what.(interface{ bytes() int }); ok {
		return answer.bytes()
	}
	return 0
}

// fitting returns how many of calls go into one pipeline: at least one.
func fitting(calls []*call) (n int) {
	bytes := 0
	for n < min(len(calls), batchSize) && (n == 0 || bytes+calls[n].bytes() <= batchBytes) {
		bytes += calls[n].bytes()
		n++
	}
	return n
}
