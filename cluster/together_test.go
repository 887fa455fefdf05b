package cluster

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// Whatever keeps a store from deciding, asks that go together are told what each is told
// by itself, and what is told so was not charged.
func TestGuards_AsksThatGoTogetherFailAsEachAlone(t *testing.T) {
	server := startRedis(t)
	client := server.Client()
	r := join(t, server.URL(), Options{LockTTL: time.Hour})
	two := charge("two", "2/h")
	slotted := func(a Ask) Ask {
		a.Slots = []Slot{{Name: "s", Most: 100}}
		return a
	}
	plain := []Ask{unlocked(two), unlocked(two), unlocked(two), request("a", two), request("b", charge("other", "1/h"))}
	whole := make([]Ask, len(plain))
	for i, a := range plain {
		whole[i] = slotted(a)
	}
	for name, test := range map[string]struct{ begin, end []any }{
		"it is a replica":           {[]any{"replicaof", "127.0.0.1", "1"}, []any{"replicaof", "no", "one"}},
		"its replicas are missing":  {[]any{"config", "set", "min-replicas-to-write", "1"}, []any{"config", "set", "min-replicas-to-write", "0"}},
		"memory is short":           {[]any{"config", "set", "maxmemory", "1"}, []any{"config", "set", "maxmemory", "0"}},
		"no right to run scripts":   {[]any{"acl", "setuser", "default", "-evalsha"}, []any{"acl", "setuser", "default", "+evalsha"}},
		"no right to read":          {[]any{"acl", "setuser", "default", "-get"}, []any{"acl", "setuser", "default", "+get"}},
		"no right to write":         {[]any{"acl", "setuser", "default", "-set"}, []any{"acl", "setuser", "default", "+set"}},
		"no right to take slots":    {[]any{"acl", "setuser", "default", "-zadd"}, []any{"acl", "setuser", "default", "+zadd"}},
		"no right to any key":       {[]any{"acl", "setuser", "default", "resetkeys"}, []any{"acl", "setuser", "default", "~*"}},
		"it does not know a script": {[]any{"script", "flush"}, []any{"ping"}},
	} {
		for guard, asks := range map[*script][]Ask{plainGuardScript: plain, guardScript: whole} {
			which := fmt.Sprintf("%s, plain: %v", name, guard == plainGuardScript)
			var want []string
			must(t, client.FlushAll(t.Context()))
			must(t, client.Do(t.Context(), test.begin...))
			for _, a := range asks {
				alone, _ := together(t, r, guard, a)
				want = append(want, alone...)
			}
			must(t, client.Do(t.Context(), test.end...))
			must(t, client.FlushAll(t.Context()))
			must(t, client.Do(t.Context(), test.begin...))
			got, errs := together(t, r, guard, asks...)
			must(t, client.Do(t.Context(), test.end...))
			if !slices.Equal(got, want) {
				t.Errorf("%s: got %v, %v, want %v", which, got, errs, want)
			}
			charged := slices.ContainsFunc(keysOf(t, client), func(key string) bool { return strings.Contains(key, ":rate:") })
			if charged != slices.Contains(got, fmt.Sprint(Admitted)) {
				t.Errorf("%s: got %v, and charged: %v", which, got, charged)
			}
		}
	}
}
