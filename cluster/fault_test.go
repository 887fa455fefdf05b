package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"throttle-proxy/integration/redistest"
)

func TestRedis_KeyOfAWrongTypeIsNoOutage(t *testing.T) {
	server := startRedis(t)
	client := server.Client()
	told := newChanges()
	r := open(t, server.URL(), Options{Observe: told.observe})
	ten, bad := charge("ten", "10/h"), charge("bad", "1000/s,burst=1")
	lock := request("a")
	must(t, client.RPush(t.Context(), lockKey(lock), "value"))
	must(t, client.RPush(t.Context(), "throttle:2:{slack}:rate:bad", "value"))
	for range 30 {
		for _, a := range []Ask{lock, unlocked(bad)} {
			undecided(t, r, by(Closed, a))
			if v := degraded(t, r, Admitted, by(Open, a)); v.Fault != "wrong-type" {
				t.Errorf("got %+v, want a wrong type", v)
			} else if v.Grant.Locked() {
				expect(t, r, Duplicate, lock)
				v.Grant.Release(0)
			}
			eventually(t, "a share", func() bool {
				v := ask(t, r, by(Local, a))
				v.Grant.Release(0)
				if v.Share != 1 || v.Fault != "wrong-type" {
					t.Fatalf("got %+v, want a wrong type", v)
				}
				return v.Outcome == Admitted
			})
		}
		// The store decides all others.
		if v := admit(t, r, request("b")); v.Degraded {
			t.Errorf("got %+v, want the store's verdict", v)
		} else {
			v.Grant.Release(0)
		}
	}
	// Of what else was admitted with them the store is told at once.
	degraded(t, r, Admitted, by(Open, request("a", ten)))
	other := join(t, server.URL(), Options{})
	eventually(t, "charged", func() bool { return ask(t, other, unlocked(ten)).Decisions[0].Remaining < 9 })

	// Renewals and ends of such locks are not repeated.
	must(t, client.ConfigResetStat(t.Context()))
	time.Sleep(10 * retryAfter)
	if n := scriptsRun(t, client); n > 3 {
		t.Errorf("got %d scripts run, want none of them again and again", n)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	told.none(t)
	if r.Status().Faults["wrong-type"] == 0 {
		t.Error("not counted")
	}
}

// readable are faults of a store that can be reached, and may be read.
var readable = map[string]struct {
	fault      string
	begin, end func(t *testing.T, server *redistest.Server, client *redis.Client)
}{
	"out of memory": {
		"out-of-memory",
		func(t *testing.T, _ *redistest.Server, c *redis.Client) {
			must(t, c.ConfigSet(t.Context(), "maxmemory", "1"))
		},
		func(t *testing.T, _ *redistest.Server, c *redis.Client) {
			must(t, c.ConfigSet(t.Context(), "maxmemory", "0"))
		},
	},
	"read-only": {
		"readonly",
		func(t *testing.T, _ *redistest.Server, c *redis.Client) {
			must(t, c.Do(t.Context(), "replicaof", "127.0.0.1", "1"))
		},
		func(t *testing.T, _ *redistest.Server, c *redis.Client) {
			must(t, c.Do(t.Context(), "replicaof", "no", "one"))
		},
	},
	"too few replicas": {
		"no-replicas",
		func(t *testing.T, _ *redistest.Server, c *redis.Client) {
			must(t, c.ConfigSet(t.Context(), "min-replicas-to-write", "1"))
		},
		func(t *testing.T, _ *redistest.Server, c *redis.Client) {
			must(t, c.ConfigSet(t.Context(), "min-replicas-to-write", "0"))
		},
	},
	"a password": {
		"auth",
		func(t *testing.T, _ *redistest.Server, c *redis.Client) {
			must(t, c.ConfigSet(t.Context(), "requirepass", "new"))
			must(t, c.Do(t.Context(), "client", "kill", "type", "normal", "skipme", "yes"))
		},
		func(t *testing.T, _ *redistest.Server, c *redis.Client) {
			must(t, c.ConfigSet(t.Context(), "requirepass", ""))
		},
	},
	"no right in a script": {
		"rights",
		func(t *testing.T, _ *redistest.Server, c *redis.Client) {
			must(t, c.Do(t.Context(), "acl", "setuser", "default", "-time"))
		},
		func(t *testing.T, _ *redistest.Server, c *redis.Client) {
			must(t, c.Do(t.Context(), "acl", "setuser", "default", "+@all"))
		},
	},
	"no rights": {
		"rights",
		func(t *testing.T, _ *redistest.Server, c *redis.Client) {
			must(t, c.Do(t.Context(), "acl", "setuser", "default", "-evalsha", "-eval", "-set"))
		},
		func(t *testing.T, _ *redistest.Server, c *redis.Client) {
			must(t, c.Do(t.Context(), "acl", "setuser", "default", "+@all"))
		},
	},
	"loading": {
		"loading",
		func(t *testing.T, server *redistest.Server, c *redis.Client) {
			must(t, c.Do(t.Context(), "debug", "populate", 20_000))
			must(t, c.Save(t.Context()))
			server.Kill()
			// Long, unless it is told to hurry.
			server.Configure("--key-load-delay", "10000", "--loading-process-events-interval-bytes", "1024")
			server.Restart()
		},
		func(t *testing.T, _ *redistest.Server, c *redis.Client) {
			must(t, c.ConfigSet(t.Context(), "key-load-delay", "0"))
		},
	},
}

func TestRedis_StoreThatCannotBeWrittenIsAway(t *testing.T) {
	for name, test := range readable {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := startRedis(t)
			client := server.Client()
			told := newChanges()
			r := join(t, server.URL(), Options{Observe: told.observe})
			ten := charge("ten", "10/h")
			admit(t, r, unlocked(ten))
			test.begin(t, server, client)
			eventually(t, "degraded by "+test.fault, func() bool {
				v := ask(t, r, by(Open, unlocked(ten)))
				return v.Degraded && v.Fault == test.fault
			})
			lose(t, r)
			if change := told.next(t, StoreAway); change.Err == nil {
				t.Errorf("got %+v, want an error", change)
			}
			if v, err := r.Admit(t.Context(), by(Closed, unlocked(ten))); !errors.Is(err, ErrUndecided) || v.Fault != "store-away" {
				t.Errorf("got %+v, %v, want undecided", v, err)
			}
			// It is looked for, and not found until it can be written.
			faults := func() uint64 { return r.Status().Faults[test.fault] }
			before := faults()
			eventually(t, "looked for", func() bool { return faults() >= before+3 })
			told.none(t)
			test.end(t, server, client)
			told.next(t, StoreBack)
			if v := ask(t, r, by(Open, unlocked(ten))); v.Degraded {
				t.Errorf("got %+v, want the store's verdict", v)
			}
		})
	}
}

// That it can be read is no answer to an ask.
func TestRedis_StoreThatIsOnlyReadIsAway(t *testing.T) {
	t.Parallel()
	server := startRedis(t)
	r, other := join(t, server.URL(), Options{}), join(t, server.URL(), Options{Self: Replica{ID: "replica-1"}})
	knowEachOther(t, []replica{r, other})
	alices, many := charge("alices", "1/h"), charge("many", "1000/h")
	alices.Caller = "alice"
	admit(t, r, unlocked(alices))
	expect(t, r, Limited, request("a", alices))
	must(t, server.Client().ConfigSet(t.Context(), "min-replicas-to-write", "1"))
	for range 4 * failuresRunning {
		degraded(t, r, Admitted, by(Open, unlocked(many)))
		for range 3 { // looks for a lock each time
			expect(t, r, Limited, by(Open, request("a", alices)))
		}
		if _, away := r.Away(); away {
			return
		}
	}
	t.Error("is asked on")
}

// go-redis believes for a second that there is nothing to connect to, once as
// many dials have failed as a pool has connections.
func TestRedis_StoreIsFoundBackByANewClient(t *testing.T) {
	t.Parallel()
	server := startRedis(t)
	told := newChanges()
	r := join(t, server.URL(), Options{Timeout: storeTimeout, Observe: told.observe})
	old := r.redis()
	server.Kill()
	for range 20 * runtime.GOMAXPROCS(0) {
		if old.Ping(t.Context()).Err() == nil {
			t.Fatal("the store is there")
		}
	}
	lose(t, r)
	told.next(t, StoreAway)
	server.Restart()
	told.next(t, StoreBack)
	if r.redis() == old {
		t.Error("got the client of before")
	}
	if v := ask(t, r, by(Open, request("a"))); v.Degraded {
		t.Errorf("got %+v, want the store's verdict", v)
	}
	eventually(t, "the old one closed", func() bool { return errors.Is(old.Ping(t.Context()).Err(), redis.ErrClosed) })
}

type wrongType struct{}

func TestFaultOf(t *testing.T) {
	reply := func(text string) error { return keyError(text) }
	for want, errs := range map[string][]error{
		"":               {nil},
		"store-away":     {errAway, fmt.Errorf("%w: %w", ErrUndecided, errAway)},
		"auth":           {reply("NOAUTH Authentication required."), reply("WRONGPASS invalid username-password pair or user is disabled."), reply("ERR Protocol error: unauthenticated multibulk length")},
		"loading":        {reply("LOADING Redis is loading the dataset in memory")},
		"rights":         {reply("NOPERM this user has no permissions to run the 'evalsha' command"), reply("ERR The user executing the script can't run this command or subcommand script: 5b, on @user_script:25.")},
		"readonly":       {reply("READONLY You can't write against a read only replica."), reply("READONLY You can't write against a read only replica. script: 5b, on @user_script:74."), reply("MASTERDOWN Link with MASTER is down")},
		"out-of-memory":  {reply("OOM command not allowed when used memory > 'maxmemory'."), reply("ERR Error running script (call to f_5b): @user_script:74: -OOM command not allowed when used memory > 'maxmemory'.")},
		"no-persistence": {reply("MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk.")},
		"cluster-down":   {reply("CLUSTERDOWN The cluster is down")},
		"moved":          {reply("MOVED 3999 127.0.0.1:6381"), reply("ASK 3999 127.0.0.1:6381"), reply("TRYAGAIN Multiple keys request during rehashing of slot")},
		"busy":           {reply("BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.")},
		"wrong-type":     {wrongType{}, reply("WRONGTYPE Operation against a key holding the wrong kind of value script: 5b, on @user_script:25."), reply("ERR Error running script (call to f_5b): @user_script:25: WRONGTYPE Operation against a key")},
		"no-replicas":    {reply("NOREPLICAS Not enough good replicas to write.")},
		"refused":        {syscall.ECONNREFUSED, &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}},
		"pool":           {redis.ErrPoolTimeout, redis.ErrPoolExhausted},
		"timeout":        {context.DeadlineExceeded, os.ErrDeadlineExceeded, reply("LATE nobody waits for this renewal any more"), fmt.Errorf("ask: %w", context.DeadlineExceeded), &net.OpError{Op: "read", Err: os.ErrDeadlineExceeded}},
		"closed":         {io.EOF, io.ErrUnexpectedEOF, redis.ErrClosed, net.ErrClosed, &net.OpError{Op: "read", Err: syscall.ECONNRESET}, &net.OpError{Op: "write", Err: syscall.EPIPE}},
		"other":          {errors.New("anything"), reply("ERR anything"), reply("")},
	} {
		for _, err := range errs {
			for _, err := range []error{err, wrapped(err)} {
				if got := FaultOf(err); got != want {
					t.Errorf("%v: got %q, want %q", err, got, want)
				}
			}
		}
	}
}

func wrapped(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w: %w", ErrUndecided, err)
}

// A right that only the guard needs is missed by a probe too: the store is away
// until it is given, and not again and again.
func TestRedis_MissingRightOfTheGuardIsOneOutage(t *testing.T) {
	t.Parallel()
	server := startRedis(t)
	client := server.Client()
	told := newChanges()
	r := join(t, server.URL(), Options{Observe: told.observe})
	paused := by(Open, under(unlocked(), ""))
	admit(t, r, paused)
	must(t, client.Do(t.Context(), "acl", "setuser", "default", "-get"))
	eventually(t, "away", func() bool {
		ask(t, r, paused)
		_, away := r.Away()
		return away
	})
	if change := told.next(t, StoreAway); FaultOf(change.Err) != "rights" || !strings.Contains(change.Err.Error(), "no right to +get") {
		t.Errorf("got %+v, want a missing right", change)
	}
	before := r.Status().Faults["rights"]
	eventually(t, "looked for", func() bool {
		ask(t, r, paused)
		return r.Status().Faults["rights"] >= before+5
	})
	told.none(t)
	must(t, client.Do(t.Context(), "acl", "setuser", "default", "+get"))
	told.next(t, StoreBack)
	if v := ask(t, r, paused); v.Degraded {
		t.Errorf("got %+v, want the store's verdict", v)
	}
}
