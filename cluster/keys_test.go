package cluster

import (
	"crypto/sha256"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// keysOf returns the keys of asks: not those by which replicas know each other
// and look for the store.
func keysOf(t *testing.T, client *redis.Client) []string {
	t.Helper()
	return slices.DeleteFunc(must(t, client.Keys(t.Context(), "*")), func(key string) bool {
		return strings.HasPrefix(key, "throttle:2:{fleet}:") || strings.Contains(key, ":probe:")
	})
}

// lockKey is where the lock of an ask is, by default.
func lockKey(a Ask) string {
	return fmt.Sprintf("throttle:2:{%s}:lock:%x", a.Tag, sha256.Sum256(append([]byte{1}, a.Fingerprint[:]...)))
}

func TestRedis_KeysAndValues(t *testing.T) {
	server := startRedis(t)
	client := server.Client()
	r := join(t, server.URL(), Options{})
	alice := charge("by-caller", "1/h")
	alice.Caller = "5e8848"
	inFlight, held := request("a", charge("slack", "10/s,burst=20"), charge("slack-2", "100/d"), alice), request("b")
	lock := admit(t, r, inFlight).Grant
	admit(t, r, held).Grant.Release(time.Minute)
	admit(t, r, request("c")).Grant.Release(0)
	expect(t, r, Limited, request("d", alice))
	other := request("e", charge("slack", "1/d"))
	other.Tag = "pool"
	admit(t, r, other).Grant.Release(time.Hour)
	heldValue := func(a Ask) func() bool {
		return func() bool { return strings.HasSuffix(must(t, client.Get(t.Context(), lockKey(a))), " held") }
	}
	eventually(t, "held", heldValue(held))
	eventually(t, "held", heldValue(other))

	longest := map[string]time.Duration{ // no key stays longer than what is in it matters
		lockKey(inFlight):                          time.Minute,
		lockKey(held):                              time.Minute,
		lockKey(other):                             time.Hour,
		"throttle:2:{slack}:rate:slack":            time.Second,
		"throttle:2:{slack}:rate:slack-2":          15 * time.Minute,
		"throttle:2:{slack}:rate:by-caller:5e8848": time.Hour,
		"throttle:2:{pool}:rate:slack":             24 * time.Hour,
		"throttle:2:{fleet}:replicas":              beatExpiry,
		"throttle:2:{fleet}:followed:replica-0":    beatExpiry,
		"throttle:2:{fleet}:replica:replica-0":     beatExpiry,
	}
	eventually(t, "a heartbeat is there", func() bool {
		return must(t, client.Exists(t.Context(), "throttle:2:{fleet}:replica:replica-0", "throttle:2:{fleet}:replicas")) == 2
	})
	for _, key := range must(t, client.Keys(t.Context(), "*")) {
		most, known := longest[key]
		if ttl := must(t, client.PTTL(t.Context(), key)); !known || ttl > most || ttl <= 0 && most > time.Second {
			t.Errorf("%s: got TTL %v, want up to %v", key, ttl, most)
		}
		delete(longest, key)
	}
	delete(longest, "throttle:2:{slack}:rate:slack") // may have ended
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
		if a == &inFlight && fields[1] != lock.lock.token() {
			t.Errorf("got token %s, want %s", fields[1], lock.lock.token())
		}
	}
}

func TestTokensAreRandom(t *testing.T) {
	seen := make(map[string]bool)
	for range 1000 {
		token := storedLock(request("a")).token()
		if bits := 5 * len(token); bits < 128 || strings.Trim(token, "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567") != "" || seen[token] {
			t.Fatalf("got token %q, want 128 bits in base32, each its own", token)
		}
		seen[token] = true
	}
}

func TestRedis_KeyOfAWrongTypeIsUndecided(t *testing.T) {
	server := startRedis(t)
	client := server.Client()
	r := join(t, server.URL(), Options{})
	a := request("a", charge("ten", "10/h"), charge("bad", "10/h"))
	for _, key := range []string{lockKey(a), "throttle:2:{slack}:rate:bad"} {
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

// tatIn is a TAT as a budget has it, which lies so far ahead by the server's clock.
func tatIn(t *testing.T, client *redis.Client, d time.Duration) string {
	t.Helper()
	at := must(t, client.Time(t.Context())).Add(d)
	return fmt.Sprintf("%d.%09d", at.Unix(), at.Nanosecond())
}

func TestRedis_GarbageInsteadOfABudgetIsAbsent(t *testing.T) {
	server := startRedis(t)
	client := server.Client()
	r := join(t, server.URL(), Options{})
	const key = "throttle:2:{slack}:rate:three"
	const three = " 1200 3" // what 3/h writes behind its TAT
	for _, value := range []string{
		"", " ", "garbage", "1 TOKEN replica-0", "nan", "-nan", "inf", "-inf", "1e308", "1e400", "-1", "99999999999999999999",
		"nan" + three, "1e400" + three, "1.5" + three, tatIn(t, client, time.Hour), tatIn(t, client, time.Hour) + " 0 3", tatIn(t, client, time.Hour) + " -1200 3",
		tatIn(t, client, time.Hour+time.Minute) + three, tatIn(t, client, 50*365*24*time.Hour) + three,
	} {
		must(t, client.Set(t.Context(), key, value, 0))
		if v := admit(t, r, unlocked(charge("three", "3/h"))); v.Decisions[0].Remaining != 2 {
			t.Errorf("%q: got %+v, want 2 remaining", value, v.Decisions[0])
		}
		got := must(t, client.Get(t.Context(), key))
		if ttl := must(t, client.PTTL(t.Context(), key)); !regexp.MustCompile(`^\d+\.\d{9} 1200 3$`).MatchString(got) || ttl <= 0 {
			t.Errorf("%q: became %q, with TTL %v", value, got, ttl)
		}
	}
	// Further ahead is what a replica with a larger burst may have written.
	must(t, client.Set(t.Context(), key, tatIn(t, client, 2*time.Hour)+" 1200 6", time.Hour))
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

func TestReadAnswer_RefusesWhatIsMalformed(t *testing.T) {
	a := under(request("a", charge("ten", "10/h")), "")
	const now = int64(1700000000000000)
	budget := []any{int64(1), int64(0), "1700000360.000000000"}
	for _, reply := range [][]any{
		nil, {nil}, {int64(1)}, {int64(1), now}, {"1", now, budget}, {int64(1), "1", budget}, {int64(1), int64(0), budget},
		{int64(0), now, budget}, {int64(6), now, budget}, {int64(1), now, nil}, {int64(1), now, budget, budget}, {int64(1), now, budget[:2]},
		{int64(3), now, "no"}, {int64(2), now}, {int64(2), now, "value", "value"}, {int64(4), now}, {int64(4), now, int64(1)}, {int64(5), now, "value"},
	} {
		if got, err := readAnswer(a, reply); err == nil {
			t.Errorf("%v: got %+v, want an error", reply, got)
		}
	}
	for want, reply := range map[Outcome][]any{
		Admitted: {int64(1), now, budget}, Duplicate: {int64(2), now, "value"}, CoolingDown: {int64(4), now, int64(1), int64(429)}, 0: {int64(5), now},
	} {
		if got, err := readAnswer(a, reply); err != nil || got.Outcome != want || got.at != time.Duration(now)*time.Microsecond || got.late != (want == 0) {
			t.Errorf("%v: got %+v, %v, want outcome %d", reply, got, err, want)
		}
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
