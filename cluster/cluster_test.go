package cluster

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"throttle-proxy/limiter"
)

// replica is what a behaviour needs of a Memory or a Redis.
type replica interface {
	Admit(context.Context, Ask) (Verdict, error)
	Refusal(Ask) (Verdict, bool)
	Pause(tag, name string, d time.Duration, status int)
}

// behaviours are what a fleet of three owes its callers, whatever decides for
// it. A Memory runs them in a bubble, where sleep takes no time, and plays all
// three replicas itself. No row says that something is fast.
var behaviours = merged(lockBehaviours, budgetBehaviours, pauseBehaviours, orderBehaviours, grantBehaviours, spreadBehaviours, waitBehaviours, slotBehaviours, turnBehaviours, controlBehaviours, weighBehaviours, keyBehaviours, flightBehaviours)

func merged[V any](all ...map[string]V) map[string]V {
	one := make(map[string]V)
	for _, m := range all {
		maps.Copy(one, m)
	}
	return one
}

// request asks for the lock of a body, and for charges.
func request(body string, charges ...Charge) Ask {
	fingerprint := Fingerprint(sha256.Sum256([]byte(body)))
	return Ask{Tag: "slack", Fingerprint: &fingerprint, Charges: charges, RequestID: fmt.Sprintf("id-%d", requests.Add(1))}
}

var requests atomic.Int64

// unlocked asks for charges alone.
func unlocked(charges ...Charge) Ask { return Ask{Tag: "slack", Charges: charges} }

// under is ask where cool-downs with the names hold it up.
func under(a Ask, names ...string) Ask {
	a.Pauses = names
	return a
}

func charge(name, limit string) Charge {
	l, err := limiter.Parse(limit)
	if err != nil {
		panic(err)
	}
	return Charge{Name: name, Limit: l}
}

func ask(t *testing.T, r replica, a Ask) Verdict {
	t.Helper()
	v, err := r.Admit(t.Context(), a)
	if err != nil {
		t.Error(err)
	}
	return v
}

func expect(t *testing.T, r replica, want Outcome, a Ask) Verdict {
	t.Helper()
	v := ask(t, r, a)
	if v.Outcome != want || v.Grant.Locked() != (want == Admitted && a.Fingerprint != nil) {
		t.Fatalf("got %+v, want outcome %d", v, want)
	}
	return v
}

func admit(t *testing.T, r replica, a Ask) Verdict {
	t.Helper()
	return expect(t, r, Admitted, a)
}

func undecided(t *testing.T, r replica, a Ask) {
	t.Helper()
	if v, err := r.Admit(t.Context(), a); !errors.Is(err, ErrUndecided) || v.Outcome != 0 {
		t.Fatalf("got %+v, %v, want undecided", v, err)
	}
}

// knowEachOther returns once the replicas know that they are not alone.
func knowEachOther(t *testing.T, fleet []replica) {
	t.Helper()
	for _, r := range fleet {
		if r, ok := r.(*Redis); ok {
			eventually(t, "all known", func() bool { return r.Status().Live == len(fleet) })
		}
	}
}

// concurrently counts the outcomes of n asks at the same time.
func concurrently(t *testing.T, n int, ask func(i int) Outcome) map[Outcome]int {
	t.Helper()
	var mu sync.Mutex
	var all sync.WaitGroup
	outcomes := make(map[Outcome]int)
	for i := range n {
		all.Go(func() {
			outcome := ask(i)
			mu.Lock()
			defer mu.Unlock()
			outcomes[outcome]++
		})
	}
	all.Wait()
	return outcomes
}

// eventually returns once condition holds: soon, on a machine with time to spare.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	const patience = 20 * time.Second // shorter than any TTL or hold that must not be what ends the wait
	for deadline := time.Now().Add(patience); !condition(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not in %v: %s", patience, what)
		}
	}
}
