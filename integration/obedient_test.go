package integration

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"path"
	"strconv"
	"sync"
	"testing"
	"time"
)

// Clients that obey all they are told: they wait for Retry-After before they
// repeat a request, and do not repeat one that was refused as a duplicate.

var (
	obedientSeed     = flag.Uint64("obedient.seed", 0, "seed of budgets, cool-downs and messages of obedient clients; 0 for any")
	obedientMessages = flag.Int("obedient.messages", 600, "messages of obedient clients")
)

// inbox is an upstream that accepts messages, each at a path of its own.
type inbox struct {
	*upstream

	mu       sync.Mutex
	messages map[string]*delivery
	copies   []answer // the first to each copy of what was in flight
}

// delivery is what an inbox knows of one.
type delivery struct {
	accepted int
	arrived  chan struct{} // closed when it is accepted for the first time
	answer   chan struct{} // closed when that one may be answered
}

const accepts = doesField + ": accept"

func newInbox(t *testing.T) *inbox {
	in := &inbox{upstream: pausing(t, http.StatusTooManyRequests, "Retry-After: 1"), messages: map[string]*delivery{}}
	in.does["accept"] = func(_ http.ResponseWriter, r *http.Request) {
		m := in.message(path.Base(r.URL.Path))
		in.mu.Lock()
		m.accepted++
		first := m.accepted == 1
		in.mu.Unlock()
		if first {
			close(m.arrived)
			<-m.answer
		}
	}
	return in
}

func (in *inbox) message(name string) *delivery {
	in.mu.Lock()
	defer in.mu.Unlock()
	m := in.messages[name]
	if m == nil {
		m = &delivery{arrived: make(chan struct{}), answer: make(chan struct{})}
		in.messages[name] = m
	}
	return m
}

// deliver sends a message until it is accepted, or refused as a duplicate. does
// is what the upstream is to do with the first try. told is called with the
// first answer.
func deliver(t *testing.T, url, key, does string, told func(answer)) {
	const longest = 5 * time.Minute
	for began := time.Now(); ; {
		a := post(t, url, "hello", does, key)
		told(a)
		told = func(answer) {}
		wait := a.header.Get("Retry-After")
		switch a.status {
		case http.StatusOK:
			return
		case http.StatusConflict:
			if wait != "" {
				t.Errorf("%s: %v with Retry-After %s", url, a, wait)
			}
			return
		}
		seconds, err := strconv.Atoi(wait)
		if a.status != http.StatusTooManyRequests || err != nil || time.Since(began) > longest {
			t.Errorf("%s: %v with Retry-After %q, %s after the first try", url, a, wait, time.Since(began))
			return
		}
		select {
		case <-time.After(time.Duration(seconds) * time.Second):
		case <-t.Context().Done():
			return
		}
		does = accepts
	}
}

// Fails if a message reaches the upstream a second time although whoever sends
// it does what the replicas say: the click that is repeated while the first is
// in flight, and the same message from several at once, whatever is spent or
// cooling down.
func TestObedientClientsNeverSendTwice(t *testing.T) {
	t.Parallel()
	seed := *obedientSeed
	if seed == 0 {
		seed = rand.Uint64N(1 << 32)
	}
	random := rand.New(rand.NewPCG(seed, 0))
	const routes, tenants, workers = 6, 3, 128
	in := newInbox(t)
	words := []string{"--cool-down", "on", "--max-cool-down", fmt.Sprint(1+random.IntN(2), "s")}
	for i := range routes {
		route := fmt.Sprint("route-", i)
		words = append(words, "--register", route+"="+in.URL)
		rate := fmt.Sprintf("%s=%d/s,burst=%d", route, 10+random.IntN(30), 1+random.IntN(20))
		if random.IntN(3) == 0 {
			rate += ",by=header:X-Api-Key"
		}
		words = append(words, "--rate", rate)
		if random.IntN(3) == 0 {
			words = append(words, "--rate", fmt.Sprintf("%s=%d/10s,burst=%d,name=%s-long", route, 200+random.IntN(200), 20+random.IntN(100), route))
		}
		if i%2 == 0 {
			words = append(words, "--hold", route+"=0s")
		} else {
			words = append(words, "--hold", route+"=10m") // no copy comes after that
		}
	}
	f := startFleet(t, 3, words...)
	f.awaitBeats(t, 3) // who is alone looks nowhere else

	plans := make([]obedience, *obedientMessages)
	for i := range plans {
		plans[i] = obedience{
			route: random.IntN(routes), tenant: random.IntN(tenants), copies: 1 + random.IntN(3),
			pauses: random.IntN(40) == 0, apart: time.Duration(random.Int64N(int64(50 * time.Millisecond))),
		}
	}
	each(len(plans), workers, func(i int) { plans[i].play(t, in, f.url, fmt.Sprint("message-", i)) })
	twice := 0
	for i, p := range plans {
		if n := in.message(fmt.Sprint("message-", i)).accepted; n != 1 {
			if twice++; twice <= 10 {
				t.Errorf("message %d %+v was accepted %d times", i, p, n)
			}
		}
	}
	expectCounts(t, in.copies, fmt.Sprintf("%d × 409 duplicate", len(in.copies)))
	t.Logf("-obedient.seed=%d: %d messages, %d of them not accepted once; %d copies of what was in flight; %v",
		seed, len(plans), twice, len(in.copies), words)
}

// obedience is how one message is sent.
type obedience struct {
	route, tenant int
	copies        int
	pauses        bool          // the upstream does not accept the first, and asks for a pause
	apart         time.Duration // between copies
}

func (o obedience) play(t *testing.T, in *inbox, fleet, name string) {
	url := fmt.Sprintf("%s/route-%d/%s", fleet, o.route, name)
	key := fmt.Sprint("X-Api-Key: tenant-", o.tenant)
	does := accepts
	if o.pauses {
		does = asksToPause
	}
	m := in.message(name)
	var sending sync.WaitGroup
	defer sending.Wait()
	defer close(m.answer)
	send := func(told func(answer)) {
		sending.Go(func() { deliver(t, url, key, accepts, told) })
	}
	given := make(chan struct{}) // up or taken, the first
	sending.Go(func() {
		defer close(given)
		deliver(t, url, key, does, func(answer) {})
	})
	if o.route%2 != 0 { // the same from several, of whom none knows of the others
		for range o.copies {
			time.Sleep(o.apart)
			send(func(answer) {})
		}
		return
	}
	// Clicked again while the first is in flight.
	select {
	case <-m.arrived:
	case <-given:
		return // deliver has told why
	}
	var answered sync.WaitGroup
	answered.Add(o.copies)
	for range o.copies {
		send(func(a answer) {
			in.mu.Lock()
			in.copies = append(in.copies, a)
			in.mu.Unlock()
			answered.Done()
		})
	}
	answered.Wait()
}
