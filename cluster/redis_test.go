package cluster

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"throttle-proxy/integration/redistest"
)

// store is a Redis of either kind, with keys for one test alone.
type store struct {
	url, prefix string
	servers     []*redistest.Server
}

func TestRedis(t *testing.T) {
	server := startRedis(t)
	testStore(t, store{url: server.URL(), servers: []*redistest.Server{server}})
}

func TestRedisCluster(t *testing.T) {
	skipIfShort(t)
	cluster := redistest.StartCluster(t)
	testStore(t, store{url: cluster.URL(), servers: cluster.Nodes})
}

// testStore runs the behaviours, and the faults after them.
func testStore(t *testing.T, s store) {
	for i, name := range slices.Sorted(maps.Keys(behaviours)) {
		t.Run(name, func(t *testing.T) {
			fleet := make([]replica, 3)
			for n := range fleet {
				fleet[n] = join(t, s.url, Options{Prefix: fmt.Sprint("prefix-", i), Self: Replica{ID: fmt.Sprint("replica-", n)}})
			}
			behaviours[name](t, fleet)
		})
	}
	for i, name := range slices.Sorted(maps.Keys(faults)) {
		t.Run(name, func(t *testing.T) {
			s.prefix = fmt.Sprint("fault-", i)
			faults[name](t, s)
		})
	}
}

// faults are what may happen to a Redis of either kind.
var faults = map[string]func(t *testing.T, s store){
	"A store that was paused keeps no orphan": pause,
	// Asked again, a budget would be charged twice, and an ask be refused by its own lock.
	"A lost answer is not asked for again": loseAnswers,
}

func startRedis(t testing.TB, args ...string) *redistest.Server {
	t.Helper()
	skipIfShort(t)
	return redistest.Start(t, args...)
}

func skipIfShort(t testing.TB) {
	t.Helper()
	if testing.Short() {
		t.Skip("starts a redis-server")
	}
}

func connect(t *testing.T, url string, timeout time.Duration) redis.UniversalClient {
	t.Helper()
	client, err := NewClient(url, TLSFiles{}, timeout)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// open returns a replica that the test has to close. What o leaves out is set
// to what no test has to wait for.
func open(t testing.TB, url string, o Options) *Redis {
	t.Helper()
	if o.Prefix == "" {
		o.Prefix = "throttle"
	}
	if o.Self.ID == "" {
		o.Self = Replica{ID: "replica-0"}
	}
	if o.LockTTL == 0 {
		o.LockTTL = time.Minute
	}
	if o.Timeout == 0 {
		o.Timeout = 10 * time.Second
	}
	if o.Replicas == 0 {
		o.Replicas = 1
	}
	o.Pipeline = true
	if o.Connect == nil {
		o.Connect = func() (redis.UniversalClient, error) { return NewClient(url, TLSFiles{}, o.Timeout) }
	}
	r, err := NewRedis(o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// join returns a replica that ends with the test.
func join(t testing.TB, url string, o Options) *Redis {
	t.Helper()
	r := open(t, url, o)
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// must returns the value of a command of the test's own.
func must[T any](t *testing.T, cmd interface{ Result() (T, error) }) T {
	t.Helper()
	value, err := cmd.Result()
	if err != nil {
		t.Fatal(err)
	}
	return value
}

// keysOf returns the keys of asks: not those by which replicas know each other
// and look for the store.
func keysOf(t *testing.T, client *redis.Client) []string {
	t.Helper()
	return slices.DeleteFunc(must(t, client.Keys(t.Context(), "*")), func(key string) bool {
		return strings.HasPrefix(key, "throttle:1:replica") || strings.HasSuffix(key, ":probe")
	})
}

// lockKey is where the lock of an ask is, by default.
func lockKey(a Ask) string { return fmt.Sprintf("throttle:1:{%s}:lock:%x", a.Tag, *a.Fingerprint) }

func TestRedis_KeysAndValues(t *testing.T) {
	server := startRedis(t)
	client := server.Client()
	r := join(t, server.URL(), Options{})
	alice := charge("by-caller", "1/h")
	alice.Caller = "5e8848"
	inFlight, held := request("a", charge("slack", "10/s,burst=20"), charge("slack-2", "100/d"), alice), request("b")
	lock := admit(t, r, inFlight).Lock
	admit(t, r, held).Lock.Release(time.Minute)
	admit(t, r, request("c")).Lock.Release(0)
	expect(t, r, Limited, request("d", alice))
	other := request("e", charge("slack", "1/d"))
	other.Tag = "pool"
	admit(t, r, other).Lock.Release(time.Hour)
	heldValue := func(a Ask) func() bool {
		return func() bool { return strings.HasSuffix(must(t, client.Get(t.Context(), lockKey(a))), " held") }
	}
	eventually(t, "held", heldValue(held))
	eventually(t, "held", heldValue(other))

	longest := map[string]time.Duration{ // no key stays longer than what is in it matters
		lockKey(inFlight):                          time.Minute,
		lockKey(held):                              time.Minute,
		lockKey(other):                             time.Hour,
		"throttle:1:{slack}:rate:slack":            time.Second,
		"throttle:1:{slack}:rate:slack-2":          15 * time.Minute,
		"throttle:1:{slack}:rate:by-caller:5e8848": time.Hour,
		"throttle:1:{pool}:rate:slack":             24 * time.Hour,
		"throttle:1:replicas":                      beatExpiry,
		"throttle:1:replica:replica-0":             beatExpiry,
	}
	for _, key := range must(t, client.Keys(t.Context(), "*")) {
		most, known := longest[key]
		if ttl := must(t, client.PTTL(t.Context(), key)); !known || ttl > most || ttl <= 0 && most > time.Second {
			t.Errorf("%s: got TTL %v, want up to %v", key, ttl, most)
		}
		delete(longest, key)
	}
	delete(longest, "throttle:1:{slack}:rate:slack") // may have ended
	if len(longest) > 0 {
		t.Errorf("missing: %v", longest)
	}

	for a, mark := range map[*Ask]string{&inFlight: "", &held: " held"} {
		value := must(t, client.Get(t.Context(), lockKey(*a)))
		fields := regexp.MustCompile(`^1 ([A-Z2-7]{26,}) replica-0 (id-\d+) (\d{16})( held)?$`).FindStringSubmatch(value)
		if fields == nil || fields[2] != a.RequestID || fields[4] != mark {
			t.Fatalf("got %q, want 1 TOKEN replica-0 %s STARTED%s", value, a.RequestID, mark)
		}
		micros, _ := strconv.ParseInt(fields[3], 10, 64)
		if age := must(t, client.Time(t.Context())).Sub(time.UnixMicro(micros)); age < 0 || age > time.Minute {
			t.Errorf("got an age of %v by the server's time", age)
		}
		if a == &inFlight && fields[1] != lock.token() {
			t.Errorf("got token %s, want %s", fields[1], lock.token())
		}
	}
}

func TestTokensAreRandom(t *testing.T) {
	seen := make(map[string]bool)
	for range 1000 {
		token := newStoredLock(request("a"), "replica-0", nil).token()
		if bits := 5 * len(token); bits < 128 || strings.Trim(token, "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567") != "" || seen[token] {
			t.Fatalf("got token %q, want 128 bits in base32, each its own", token)
		}
		seen[token] = true
	}
}

func TestRedis_OneTripForAnAskAndNoneForWhatIsKnown(t *testing.T) {
	server := startRedis(t)
	client := server.Client()
	r, other := join(t, server.URL(), Options{}), join(t, server.URL(), Options{})
	eventually(t, "scripts loaded", func() bool {
		return !slices.Contains(must(t, client.ScriptExists(t.Context(), r.guard.Hash(), renewScript.Hash(), releaseScript.Hash(), heartbeatScript.Hash())), false)
	})
	one, many := charge("one", "1/h"), charge("many", "100/h")
	var lock *Lock
	for _, step := range []struct {
		name  string
		trips int
		do    func()
	}{
		{"five admissions with two windows", 5, func() {
			for i := range 5 {
				lock = admit(t, r, request(fmt.Sprint(i), many, charge("day", "100/d"))).Lock
			}
		}},
		{"repeats of an own request", 0, func() {
			for range 5 {
				expect(t, r, Duplicate, request("4", many))
				r.Refusal(request("4", many))
			}
		}},
		{"a repeat of another's", 1, func() { expect(t, other, Duplicate, request("4", many)) }},
		{"the release", 1, func() { lock.Release(0) }},
		{"an admission and a refusal", 2, func() {
			admit(t, r, request("a", one))
			expect(t, r, Limited, request("b", one))
		}},
		{"refusals already known", 0, func() {
			for i := range 5 {
				expect(t, r, Limited, request(fmt.Sprint("c", i), one, many))
				r.Refusal(unlocked(one))
			}
		}},
		{"a refusal that the other does not know", 1, func() { expect(t, other, Limited, request("b", one)) }},
		{"nothing asked for", 0, func() { admit(t, r, unlocked()) }},
	} {
		must(t, client.ConfigResetStat(t.Context()))
		step.do()
		if got := scriptsRun(t, client); got != step.trips {
			t.Errorf("%s: got %d scripts run, want %d", step.name, got, step.trips)
		}
	}
}

// scriptsRun returns how many scripts a server ran since its figures were reset,
// besides heartbeats, of which each runs one ZADD.
func scriptsRun(t *testing.T, client *redis.Client) int {
	t.Helper()
	stats := must(t, client.Info(t.Context(), "commandstats"))
	return calls(t, stats, "evalsha") + calls(t, stats, "eval") - calls(t, stats, "zadd")
}

// calls returns how often a server ran a command, by its figures.
func calls(t *testing.T, stats, command string) int {
	t.Helper()
	_, rest, found := strings.Cut(stats, "cmdstat_"+command+":calls=")
	if !found {
		return 0
	}
	digits, _, _ := strings.Cut(rest, ",")
	n, err := strconv.Atoi(digits)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestRedis_RenewalKeepsALockBeyondItsTTL(t *testing.T) {
	t.Parallel()
	server := startRedis(t)
	client := server.Client()
	const ttl = 3 * time.Second // two thirds of it may pass without a renewal
	r := join(t, server.URL(), Options{LockTTL: ttl})
	a := request("a")
	admit(t, r, a)
	admitted := time.Now()
	value := must(t, client.Get(t.Context(), lockKey(a)))
	time.Sleep(ttl + ttl/10 - time.Since(admitted))
	if got := must(t, client.Get(t.Context(), lockKey(a))); got != value {
		t.Errorf("got %q, want %q: not lost in between", got, value)
	}
}

func TestRedis_LockOfADeadReplicaGoesWithinItsTTL(t *testing.T) {
	t.Parallel()
	server := startRedis(t)
	client := server.Client()
	const ttl = time.Second
	r, other := open(t, server.URL(), Options{LockTTL: ttl}), join(t, server.URL(), Options{})
	admit(t, r, request("a"))
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if left := must(t, client.PTTL(t.Context(), lockKey(request("a")))); left > ttl {
		t.Errorf("got %v left, want at most %v", left, ttl)
	}
	eventually(t, "free", func() bool { return ask(t, other, request("a")).Outcome == Admitted })
}

func TestRedis_RenewalTakesAMissingLockAgain(t *testing.T) {
	t.Parallel()
	server := startRedis(t)
	client := server.Client()
	r := join(t, server.URL(), Options{LockTTL: time.Second})
	a := request("a")
	lock := admit(t, r, a).Lock
	for name, lose := range map[string]func(){
		"deleted":                     func() { must(t, client.Del(t.Context(), lockKey(a))) },
		"everything flushed":          func() { must(t, client.FlushAll(t.Context())) },
		"the scripts flushed as well": func() { must(t, client.FlushAll(t.Context())); must(t, client.ScriptFlush(t.Context())) },
	} {
		lose()
		eventually(t, "taken again after "+name, func() bool {
			return strings.HasPrefix(client.Get(t.Context(), lockKey(a)).Val(), lock.value+" ")
		})
		if ttl := must(t, client.PTTL(t.Context(), lockKey(a))); ttl <= 0 || ttl > time.Second {
			t.Errorf("%s: got TTL %v, want up to 1s", name, ttl)
		}
	}
	lock.Release(0)
	admit(t, join(t, server.URL(), Options{}), request("a"))
}

func TestRedis_AnothersLockIsLostAndNotTouched(t *testing.T) {
	t.Parallel()
	server := startRedis(t)
	client := server.Client()
	lost := make(chan struct{}, 100)
	r := join(t, server.URL(), Options{LockTTL: time.Second, Observe: func(change Change) {
		if change.Kind != LockLost {
			t.Errorf("got change %+v, want LockLost", change)
		}
		lost <- struct{}{}
	}})
	other := join(t, server.URL(), Options{Self: Replica{ID: "replica-1"}})
	a := request("a")
	lock := admit(t, r, a).Lock
	// As after a pause longer than the TTL.
	eventually(t, "taken, unless the renewal comes first", func() bool {
		must(t, client.Del(t.Context(), lockKey(a)))
		return ask(t, other, a).Outcome == Admitted
	})
	value := must(t, client.Get(t.Context(), lockKey(a)))
	select {
	case <-lost:
	case <-time.After(20 * time.Second):
		t.Error("not reported")
	}
	// Several renewals later: one loss is one report, for whoever counts them.
	time.Sleep(time.Second)
	if n := len(lost); n > 0 {
		t.Errorf("got %d more reports, want none", n)
	}
	lock.Release(0)
	if got := must(t, client.Get(t.Context(), lockKey(a))); got != value {
		t.Errorf("got %q, want %q", got, value)
	}
	if ttl := must(t, client.PTTL(t.Context(), lockKey(a))); ttl < 30*time.Second {
		t.Errorf("got TTL %v, want the other's", ttl)
	}
}

func TestRedis_ReleaseDoesNotTouchASuccessor(t *testing.T) {
	server := startRedis(t)
	client := server.Client()
	r, other := join(t, server.URL(), Options{}), join(t, server.URL(), Options{})
	for _, hold := range []time.Duration{0, time.Second} {
		a := request(hold.String())
		lock := admit(t, r, a).Lock
		must(t, client.Del(t.Context(), lockKey(a)))
		admit(t, other, a)
		value := must(t, client.Get(t.Context(), lockKey(a)))
		lock.Release(hold)
		// The loop does one thing after the other: this release is the last.
		admit(t, r, request("last"+hold.String())).Lock.Release(0)
		if got := must(t, client.Get(t.Context(), lockKey(a))); got != value {
			t.Errorf("hold %v: got %q, want %q", hold, got, value)
		}
	}
}

func TestRedis_ManyReleasesAtOnce(t *testing.T) {
	server := startRedis(t)
	client := server.Client()
	r := join(t, server.URL(), Options{})
	const many = 3*batchSize + 1
	locks := make([]*Lock, many)
	for i := range locks {
		locks[i] = admit(t, r, request(fmt.Sprint(i))).Lock
	}
	concurrently(t, many, func(i int) Outcome {
		locks[i].Release(0)
		if n := must(t, client.Exists(t.Context(), "throttle:1:"+string(locks[i].appendKey(nil)))); n != 0 {
			t.Error("there after Release returned")
		}
		return Admitted
	})
	if keys := keysOf(t, client); len(keys) != 0 {
		t.Errorf("got %d keys, want none", len(keys))
	}
}

// pause stops the store without its noticing: it executes what it had been
// sent when it wakes.
func pause(t *testing.T, s store) {
	r := join(t, s.url, Options{Prefix: s.prefix, Timeout: 200 * time.Millisecond})
	patient := join(t, s.url, Options{Prefix: s.prefix})
	ten := charge("ten", "10/h")
	admit(t, patient, unlocked(ten))
	var lock *Lock
	eventually(t, "admitted, with a connection to spare", func() bool {
		v, err := r.Admit(t.Context(), request("b"))
		lock = v.Lock
		return err == nil && lock != nil
	})

	client := connect(t, s.url, 10*time.Second)
	defer client.Close()
	spent := func() string {
		return must(t, client.Get(t.Context(), s.prefix+":1:{slack}:rate:ten"))
	}
	before := spent()
	// An ask is not even sent where there is no connection to spare, as when a
	// heartbeat has just taken it.
	eventually(t, "a buffered ask executed", func() bool {
		for _, server := range s.servers {
			server.Pause()
		}
		undecided(t, r, request("c", ten))
		lock.Release(0) // returns, and is told later
		for _, server := range s.servers {
			server.Resume()
		}
		for range 100 {
			if spent() != before {
				return true
			}
			time.Sleep(5 * time.Millisecond)
		}
		return false
	})
	for _, body := range []string{"b", "c"} {
		eventually(t, "no orphan of "+body, func() bool { return ask(t, patient, request(body)).Outcome == Admitted })
	}
	// The ask that got no answer has been charged, and only once.
	if got := admit(t, patient, unlocked(ten)).Decisions[0].Remaining; got != 7 {
		t.Errorf("got %d remaining, want 7", got)
	}
}

func loseAnswers(t *testing.T, s store) {
	var loss loss
	client := connect(t, s.url, 10*time.Second)
	switch client := client.(type) {
	case *redis.Client:
		client.AddHook(&loss)
	case *redis.ClusterClient:
		client.OnNewNode(func(node *redis.Client) { node.AddHook(&loss) })
	}
	connected := func() (redis.UniversalClient, error) { return client, nil }
	r, other := join(t, s.url, Options{Prefix: s.prefix, Connect: connected}), join(t, s.url, Options{Prefix: s.prefix})
	ten := charge("ten", "10/h")
	admit(t, r, unlocked(ten))
	for _, a := range []Ask{unlocked(ten), request("a", ten)} {
		guard := []byte(r.guard.Hash())
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
		v.Lock.Release(0)
		admit(t, other, request("a")).Lock.Release(0)
	}
}

func TestRedis_KeyOfAWrongTypeIsUndecided(t *testing.T) {
	server := startRedis(t)
	client := server.Client()
	r := join(t, server.URL(), Options{})
	a := request("a", charge("ten", "10/h"), charge("bad", "10/h"))
	for _, key := range []string{lockKey(a), "throttle:1:{slack}:rate:bad"} {
		must(t, client.RPush(t.Context(), key, "value"))
		undecided(t, r, a)
		// All or nothing: neither the lock nor the other limit was written.
		if keys := keysOf(t, client); len(keys) != 1 {
			t.Errorf("got %v, want %s alone", keys, key)
		}
		must(t, client.Del(t.Context(), key))
	}
	if got := admit(t, r, a).Decisions[0].Remaining; got != 9 {
		t.Errorf("got %d remaining, want 9", got)
	}
}

func TestRedis_GarbageInsteadOfATATIsAbsent(t *testing.T) {
	server := startRedis(t)
	client := server.Client()
	r := join(t, server.URL(), Options{})
	const key = "throttle:1:{slack}:rate:three"
	tat := func(in time.Duration) string {
		return strconv.FormatInt(must(t, client.Time(t.Context())).Add(in).Unix(), 10) + ".000000000 1200 3"
	}
	for _, value := range []string{
		"", " ", "garbage", "1 TOKEN replica-0", "nan", "-nan", "inf", "-inf", "1e308", "1e400", "-1", "99999999999999999999",
		tat(24 * time.Hour), tat(50 * 365 * 24 * time.Hour),
	} {
		must(t, client.Set(t.Context(), key, value, 0))
		if v := admit(t, r, unlocked(charge("three", "3/h"))); v.Decisions[0].Remaining != 2 {
			t.Errorf("%q: got %+v, want 2 remaining", value, v.Decisions[0])
		}
		got := must(t, client.Get(t.Context(), key))
		if ttl := must(t, client.PTTL(t.Context(), key)); !strings.HasSuffix(got, " 1200 3") || ttl <= 0 {
			t.Errorf("%q: became %q, with TTL %v", value, got, ttl)
		}
	}
	// Nor is what a replica with a larger burst may have written.
	must(t, client.Set(t.Context(), key, strings.TrimSuffix(tat(2*time.Hour), "3")+"9", time.Hour))
	expect(t, r, Limited, unlocked(charge("three", "3/h")))
}

func TestRedis_LockOfAnotherFormatIsOfAnUnknownHolder(t *testing.T) {
	server := startRedis(t)
	client := server.Client()
	r := join(t, server.URL(), Options{})
	a := request("a")
	for _, value := range []string{
		"", " ", "garbage", "1", "1 TOKEN", "1 TOKEN replica-0 id-1", "2 TOKEN replica-0 id-1 1700000000000000", "2 TOKEN replica-0 id-1 1700000000000000 held", "\x00\xff", " held",
	} {
		must(t, client.Set(t.Context(), lockKey(a), value, time.Minute))
		if v := expect(t, r, Duplicate, a); v.Holder != (Holder{}) {
			t.Errorf("%q: got holder %+v, want an unknown one", value, v.Holder)
		}
	}
	must(t, client.Set(t.Context(), lockKey(a), "1 TOKEN replica-9 id-1 soon", time.Minute))
	if v := expect(t, r, Duplicate, a); v.Holder != (Holder{RequestID: "id-1", Replica: "replica-9"}) {
		t.Errorf("got holder %+v, want one of unknown age", v.Holder)
	}
}

func TestReadReply_RefusesWhatIsMalformed(t *testing.T) {
	a := request("a", charge("ten", "10/h"))
	decision := []any{int64(1), int64(0), "TAT"}
	for _, reply := range [][]any{
		nil, {nil}, {"1", decision}, {int64(0), decision}, {int64(4), decision},
		{int64(1)}, {int64(1), nil}, {int64(1), decision, decision}, {int64(1), decision[:2]}, {int64(3), "no"},
		{int64(2)}, {int64(2), "value"}, {int64(2), "value", "soon"}, {int64(2), "value", nil},
	} {
		if v, _, err := readReply(a, reply); err == nil {
			t.Errorf("%v: got %+v, want an error", reply, v)
		}
	}
	if v, _, err := readReply(a, []any{int64(1), decision}); err != nil || v.Outcome != Admitted {
		t.Errorf("got %+v, %v, want an admission", v, err)
	}
}

func TestRedis_PrefixesKeepFleetsApart(t *testing.T) {
	server := startRedis(t)
	one := charge("one", "1/h")
	for _, prefix := range []string{"a", "b", "a:1"} {
		r, other := join(t, server.URL(), Options{Prefix: prefix}), join(t, server.URL(), Options{Prefix: prefix})
		admit(t, r, request("a", one))
		expect(t, other, Duplicate, request("a", one))
		expect(t, other, Limited, request("b", one))
	}
}

func TestRedis_BudgetsAndLocksOutliveReplicas(t *testing.T) {
	server := startRedis(t)
	one, ten := charge("one", "1/h"), charge("ten", "10/h")
	for i := range 3 {
		r := open(t, server.URL(), Options{})
		if got := admit(t, r, request(fmt.Sprint(i), ten)).Decisions[0].Remaining; got != 9-i {
			t.Errorf("got %d remaining, want %d", got, 9-i)
		}
		if v := ask(t, r, request("a", one)); (v.Outcome == Admitted) != (i == 0) {
			t.Errorf("replica %d: got %+v", i, v)
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
	}
	r := join(t, server.URL(), Options{})
	expect(t, r, Duplicate, request("0"))
	// What a replica knows by itself is not known to others.
	if v, known := r.Refusal(request("0", one)); known {
		t.Errorf("got %+v, want nothing known", v)
	}
}

func TestRedis_CloseGivesBackWhatIsQueued(t *testing.T) {
	server := startRedis(t)
	client := server.Client()
	r := open(t, server.URL(), Options{})
	const many = 6*batchSize + 1
	var locks []*Lock
	for i := range many {
		locks = append(locks, admit(t, r, request(fmt.Sprint(i))).Lock)
	}
	for _, lock := range locks {
		lock.Release(time.Minute)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	keys := keysOf(t, client)
	for _, key := range keys {
		if value := must(t, client.Get(t.Context(), key)); !strings.HasSuffix(value, " held") {
			t.Fatalf("got %q, want a hold", value)
		}
	}
	if len(keys) != many {
		t.Errorf("got %d keys, want %d", len(keys), many)
	}
}

func TestRedis_CloseLeavesNoGoroutine(t *testing.T) {
	server := startRedis(t)
	r := open(t, server.URL(), Options{})
	concurrently(t, 20, func(i int) Outcome {
		v := ask(t, r, request(fmt.Sprint(i), charge("ten", "10/h")))
		v.Lock.Release(time.Duration(i%2) * time.Minute)
		return v.Outcome
	})
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "no goroutine left", func() bool {
		stacks := make([]byte, 1<<20)
		stacks = stacks[:runtime.Stack(stacks, true)]
		return !strings.Contains(string(stacks), "cluster.(*Redis)") && !strings.Contains(string(stacks), "go-redis")
	})
}
