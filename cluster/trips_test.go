package cluster

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
)

func TestRedis_OneTripForAnAskAndNoneForWhatIsKnown(t *testing.T) {
	server := startRedis(t)
	client := server.Client()
	r, other := join(t, server.URL(), Options{}), join(t, server.URL(), Options{})
	eventually(t, "scripts loaded", func() bool {
		return !slices.Contains(must(t, client.ScriptExists(t.Context(), r.guard.Hash(), renewScript.Hash(), releaseScript.Hash(), heartbeatScript.Hash())), false)
	})
	one, many := charge("one", "1/h"), charge("many", "100/h")
	var lock *Grant
	for _, step := range []struct {
		name  string
		trips int
		do    func()
	}{
		{"five admissions with two windows", 5, func() {
			for i := range 5 {
				lock = admit(t, r, request(fmt.Sprint(i), many, charge("day", "100/d"))).Grant
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
