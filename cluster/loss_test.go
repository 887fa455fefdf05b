package cluster

import (
	"bytes"
	"context"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"throttle-proxy/integration/redistest"
)

// pause stops the store without its noticing: when it wakes it finds what it had
// been sent, for which nobody waits any more.
func pause(t *testing.T, s store) {
	r := join(t, s.url, Options{Prefix: s.prefix, Timeout: 200 * time.Millisecond})
	patient := join(t, s.url, Options{Prefix: s.prefix})
	ten := charge("ten", "10/h")
	admit(t, patient, unlocked(ten))
	var lock *Grant
	eventually(t, "admitted, with a connection to spare", func() bool {
		v, err := r.Admit(t.Context(), request("b"))
		lock = v.Grant
		return err == nil && lock != nil
	})
	before := lateAsks(t, s.servers)
	// An ask is not even sent where there is no connection to spare, as when a
	// heartbeat has just taken it.
	eventually(t, "a buffered ask found", func() bool {
		for _, server := range s.servers {
			server.Pause()
		}
		undecided(t, r, request("c", ten))
		lock.Release(0) // returns, and is told later
		for _, server := range s.servers {
			server.Resume()
		}
		for range 100 {
			if lateAsks(t, s.servers) > before {
				return true
			}
			time.Sleep(5 * time.Millisecond)
		}
		return false
	})
	admit(t, patient, request("c")).Grant.Release(0)
	eventually(t, "no orphan of b", func() bool { return ask(t, patient, request("b")).Outcome == Admitted })
	if got := admit(t, patient, unlocked(ten)).Decisions[0].Remaining; got != 8 {
		t.Errorf("got %d remaining, want 8: what got no answer is not charged", got)
	}
}

// lateAsks returns how many asks servers have found too late, and others that
// were decided: each looks at the time. So does a heartbeat, with a ZADD.
func lateAsks(t *testing.T, servers []*redistest.Server) (n int) {
	t.Helper()
	for _, server := range servers {
		stats := must(t, server.Client().Info(t.Context(), "commandstats"))
		n += calls(t, stats, "time") - calls(t, stats, "zadd")
	}
	return n
}

func loseAnswers(t *testing.T, s store) {
	var loss loss
	client := connect(t, s.url, 10*time.Second)
	switch made := client.(type) { // none of whose connections is made before it has the hook
	case *redis.Client:
		options := *made.Options()
		options.MinIdleConns = 0
		_ = made.Close()
		hooked := redis.NewClient(&options)
		hooked.AddHook(&loss)
		client = hooked
	case *redis.ClusterClient:
		made.Options().MinIdleConns = 0
		made.OnNewNode(func(node *redis.Client) { node.AddHook(&loss) })
	}
	connected := func(context.Context) (redis.UniversalClient, error) { return client, nil }
	r, other := join(t, s.url, Options{Prefix: s.prefix, Connect: connected}), join(t, s.url, Options{Prefix: s.prefix})
	ten := charge("ten", "10/h")
	admit(t, r, unlocked(ten))
	for _, a := range []Ask{unlocked(ten), request("a", ten)} {
		guard := []byte(plainGuardScript.Hash())
		loss.due.Store(&guard)
		undecided(t, r, a)
	}
	eventually(t, "no orphan", func() bool { return ask(t, other, request("a")).Outcome == Admitted })
	if got := admit(t, other, unlocked(ten)).Decisions[0].Remaining; got != 6 {
		t.Errorf("got %d remaining, want 6", got)
	}
}

// loss is a hook by which, once it is due, a connection breaks instead of
// bringing the answer to a script that has been run.
type loss struct {
	due atomic.Pointer[[]byte] // the script's hash
}

func (l *loss) DialHook(next redis.DialHook) redis.DialHook {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := next(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return &lossyConn{Conn: conn, due: &l.due}, nil
	}
}

func (*loss) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }

func (*loss) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

type lossyConn struct {
	net.Conn
	due            *atomic.Pointer[[]byte]
	losing, broken bool
}

func (c *lossyConn) Write(b []byte) (int, error) {
	due := c.due.Load()
	c.losing = due != nil && bytes.Contains(b, *due) && c.due.CompareAndSwap(due, nil)
	return c.Conn.Write(b)
}

func (c *lossyConn) Read(b []byte) (int, error) {
	if c.broken {
		return 0, io.EOF
	}
	n, err := c.Conn.Read(b)
	if c.broken = c.losing; c.broken {
		return 0, io.EOF
	}
	return n, err
}

func TestRedis_ScriptFlushLosesNothing(t *testing.T) {
	server := startRedis(t)
	client := server.Client()
	r, other := join(t, server.URL(), Options{}), join(t, server.URL(), Options{})
	ten := charge("ten", "10/h")
	for i := range 5 {
		must(t, client.ScriptFlush(t.Context()))
		v := admit(t, r, request("a", ten))
		if got := v.Decisions[0].Remaining; got != 9-i {
			t.Errorf("got %d remaining, want %d", got, 9-i)
		}
		must(t, client.ScriptFlush(t.Context()))
		v.Grant.Release(0)
		admit(t, other, request("a")).Grant.Release(0)
	}
}
