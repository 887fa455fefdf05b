package cluster

import (
	"fmt"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"throttle-proxy/integration/redistest"
)

// One bad key costs itself alone, whatever the batch is about.
func TestRedis_OneBadKeyOfABatchCostsOnlyItself(t *testing.T) {
	server := startRedis(t)
	client := server.Client()
	r := join(t, server.URL(), Options{LockTTL: time.Hour})
	eventually(t, "the scripts are there", func() bool { return r.Status().Live == 1 })
	now := r.known.now()
	locks := make([]*lock, 3)
	for i := range locks {
		locks[i] = storedLock(request(fmt.Sprint(i)))
	}
	bad := locks[1]
	must(t, client.RPush(t.Context(), "throttle:2:"+string(bad.appendKey(nil)), "no lock"))
	must(t, client.RPush(t.Context(), "throttle:2:{slack}:rate:bad", "no budget"))
	owed := func(name string) *task {
		c := charge(name, "10/h")
		return &task{script: chargeScript, what: debtOf(r, c), tag: "slack", forget: now + time.Hour}
	}
	back := func(name string) *task {
		return &task{script: refundScript, what: refund{charge(name, "10/h"), "slack", "1.0"}, tag: "slack", forget: now + time.Hour}
	}
	renewals := func() (tasks []*task) {
		for _, l := range locks {
			tasks = append(tasks, &task{script: renewScript, what: r.renewal(l), tag: "slack", forget: now + time.Hour})
		}
		return tasks
	}
	paused := func(d time.Duration) *task {
		what := pausing{pauseID{"slack", d.String()}, coolDown{now + d, 429}}
		return &task{script: pauseScript, what: what, tag: "slack", forget: now + time.Hour}
	}
	for name, test := range map[string]struct {
		tasks   []*task
		results []int64
		err     int // of which
	}{
		"renewals":                 {renewals(), []int64{1, 0, 1}, 1},
		"endings":                  {[]*task{r.ending(locks[0], 0), r.ending(bad, time.Minute), r.ending(locks[2], time.Minute)}, []int64{1, 0, 1}, 1},
		"a cool-down that is over": {[]*task{paused(time.Minute), paused(-time.Minute), paused(time.Hour)}, []int64{1, 0, 1}, -1},
		"charges":                  {[]*task{owed("one"), owed("bad"), owed("two")}, []int64{1, 0, 1}, 1},
		"refunds":                  {[]*task{back("one"), back("bad"), back("two")}, []int64{0, 0, 0}, 1},
	} {
		if name == "endings" { // they are taken by now, in whichever order
			r.pipeline(callsOf(r, renewals()))
		}
		calls := callsOf(r, test.tasks)
		r.pipeline(calls)
		for i, c := range calls {
			if c.result != test.results[i] || (c.err != nil) != (i == test.err) || c.err != nil && FaultOf(c.err) != faultWrongType {
				t.Errorf("%s, %d: got %d, %v", name, i, c.result, c.err)
			}
		}
	}
	// What cannot be written now can be renewed all the same.
	lock := storedLock(request("renewed"))
	renew := []*task{{script: renewScript, what: r.renewal(lock), tag: "slack", forget: now + time.Hour}}
	r.pipeline(callsOf(r, renew))
	must(t, client.ConfigSet(t.Context(), "maxmemory", "1"))
	calls := callsOf(r, append([]*task{{script: renewScript, what: r.renewal(storedLock(request("new"))), tag: "slack"}}, renew...))
	r.pipeline(calls)
	if FaultOf(calls[0].err) != "out-of-memory" || calls[1].err != nil || calls[1].result != 1 {
		t.Errorf("got %v, %v, want one that has no room, and one renewed", calls[0].err, calls[1].err)
	}
}

func debtOf(r *Redis, c Charge) subject {
	var d debt
	d.Key, d.Limit, d.Requests, d.limit = c.rateKey("slack"), c.Limit, 1, r.limitArgs(c.Limit, 0)
	return d
}

func callsOf(r *Redis, tasks []*task) (calls []call) {
	for _, t := range tasks {
		calls = append(calls, call{part: r.partOf(t.tag), tag: t.tag, script: t.script, what: t.what})
	}
	return calls
}

// With many in flight, renewals take longer than anybody waits: 20 batches of
// 200 ms here.
func TestRedis_ReleaseIsBehindNoRenewals(t *testing.T) {
	t.Parallel()
	server := startRedis(t)
	link, client := redistest.NewLink(t, server.Addr), server.Client()
	const all, ends = 5000, 150
	r := join(t, link.URL(), Options{LockTTL: 6 * time.Second, Timeout: 1500 * time.Millisecond})
	grants := make([]*Grant, all)
	for i := range grants {
		v, err := r.Admit(t.Context(), request(fmt.Sprint(i)))
		if err != nil {
			t.Fatal(err)
		}
		grants[i] = v.Grant
	}
	link.Delay(100 * time.Millisecond)
	before := r.Status().Renewed
	eventually(t, "renewed", func() bool { return r.Status().Renewed > before })
	there := concurrently(t, ends, func(i int) Outcome {
		time.Sleep(time.Duration(i) * 20 * time.Millisecond)
		l := grants[i*all/ends].lock
		grants[i*all/ends].Release(0)
		if client.Exists(t.Context(), "throttle:2:"+string(l.appendKey(nil))).Val() > 0 {
			return Duplicate
		}
		return Admitted
	})
	if there[Duplicate] > 0 {
		t.Errorf("%d of %d locks were there when Release returned", there[Duplicate], ends)
	}
	link.Heal()
}

// A lock that ends while it is being renewed is not taken again by that.
func TestRedis_LockThatEndsWhileItIsRenewedIsGone(t *testing.T) {
	t.Parallel()
	server := startRedis(t)
	link, client := redistest.NewLink(t, server.Addr), server.Client()
	r := join(t, link.URL(), Options{LockTTL: time.Hour}) // renewed by this test alone
	for range 20 {
		a := request("a")
		grant := admit(t, r, a).Grant
		link.Delay(20 * time.Millisecond)
		renewing := make(chan bool)
		go func() { renewing <- r.renew() }()
		eventually(t, "being renewed", func() bool { return grant.lock.renewing.Load() })
		grant.Release(0)
		if client.Exists(t.Context(), lockKey(a)).Val() > 0 {
			t.Error("there when Release returned")
		}
		if !<-renewing || client.Exists(t.Context(), lockKey(a)).Val() > 0 {
			t.Error("taken again")
		}
		link.Heal()
	}
}

// The pipeline's own error is that of all that it has not sent.
func TestRedis_BatchThatIsNotSentTellsWhy(t *testing.T) {
	server := startRedis(t)
	client := server.Client()
	r := join(t, server.URL(), Options{LockTTL: time.Hour})
	grant := admit(t, r, request("a")).Grant
	must(t, client.ConfigSet(t.Context(), "requirepass", "new"))
	must(t, client.Do(t.Context(), "client", "kill", "type", "normal", "skipme", "yes"))
	renewal := callsOf(r, []*task{{script: renewScript, what: r.renewal(grant.lock), tag: "slack"}})
	for range 10 {
		r.runPipeline([]*call{&renewal[0]}, groupSize)
		if fault := FaultOf(renewal[0].err); fault != "auth" && fault != faultClosed {
			t.Errorf("got %q (%v), want auth", fault, renewal[0].err)
		}
	}
	if _, err := resultsOf(redis.NewCmd(t.Context()), keyError("NOAUTH Authentication required.")); FaultOf(err) != "auth" {
		t.Errorf("got %v, want what the pipeline said", err)
	}
	must(t, client.ConfigSet(t.Context(), "requirepass", ""))
}

// Nor does it cost the batches behind its own.
func TestRedis_LockThatCannotBeRenewedKeepsNoOtherFromIt(t *testing.T) {
	server := startRedis(t)
	client := server.Client()
	r := join(t, server.URL(), Options{LockTTL: time.Hour}) // renewed by this test alone
	const many = 2*batchSize + 1
	keys := make([]string, many)
	for i := range keys {
		a := request(fmt.Sprint(i))
		admit(t, r, a)
		keys[i] = lockKey(a)
		must(t, client.PExpire(t.Context(), keys[i], time.Minute))
	}
	must(t, client.Del(t.Context(), keys[0]))
	must(t, client.ConfigSet(t.Context(), "maxmemory", "1")) // so that it has no room
	if r.renew() {
		t.Error("got all renewed")
	}
	for _, key := range keys[1:] {
		if left := must(t, client.PTTL(t.Context(), key)); left < 50*time.Minute {
			t.Fatalf("%s has %v left, want an hour", key, left)
		}
	}
	must(t, client.ConfigSet(t.Context(), "maxmemory", "0"))
}
