package integration

import (
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

// The laws as functions of what was recorded of a run, and tests that each can
// fail. None of them depends on how fast anything is.

// history is what happened in a run.
type history struct {
	requests []request
	faults   []fault
	limits   []limit
	closed   []string      // routes that are refused while the store is away
	hold     time.Duration // after a success on the route "held"
	replicas int
	ttl      time.Duration
}

// request is one request of a history, with all that is known of it.
type request struct {
	operation
	nonce          string
	sent, answered time.Time
	answer         answer
	err            error   // why there was no answer, or no whole one
	calls          []*call // that arrived for it
	process        int     // that logged it; -1 if none did, as one that was killed
	alone          bool    // decided without the store
	logged         int     // how often
	line           string  // of the log, the last
}

// equal is what requests have in common that must not overlap.
func (r *request) equal() string { return r.route + " " + r.tenant + " " + r.body }

// fault is a time during which something was wrong, and a while after.
type fault struct {
	kind    faultKind
	replica int // or -1 for the store
	begin   time.Time
	healed  time.Time // when nothing was wrong any more
	end     time.Time // when all replicas had found out
}

// overlaps reports whether the fault was on at some time between two moments.
func (f fault) overlaps(from, to time.Time) bool { return f.begin.Before(to) && from.Before(f.end) }

// limit is a budget of a route.
type limit struct {
	route     string
	perSecond float64
	burst     int
	byTenant  bool
}

// check returns the violations of all laws that a history tells of, and how
// many overlaps there were, by what explains them.
func (h *history) check() (violations []string, explained map[string]int) {
	violations, explained = h.overlaps()
	for _, law := range []func() []string{h.repeatedTooSoon, h.excesses, h.disagreements, h.unanswered, h.wrongPolicies} {
		violations = append(violations, law()...)
	}
	return violations, explained
}

// exchange is a call with the request that it is for.
type exchange struct {
	*request
	*call
}

// exchanges returns those that a lock is for, by what makes them equal, in the
// order of their arrival.
func (h *history) exchanges() map[string][]exchange {
	equal := map[string][]exchange{}
	for i := range h.requests {
		r := &h.requests[i]
		for _, c := range r.calls {
			if r.route != "free" {
				equal[r.equal()] = append(equal[r.equal()], exchange{r, c})
			}
		}
	}
	for _, all := range equal {
		slices.SortFunc(all, func(a, b exchange) int { return a.start.Compare(b.start) })
	}
	return equal
}

// Law 1: at most one exchange per fingerprint, while the store keeps its data
// and holders renew in time.
func (h *history) overlaps() (violations []string, explained map[string]int) {
	explained = map[string]int{}
	for _, all := range h.exchanges() {
		var live []exchange
		for _, e := range all {
			if !e.end.After(e.start) {
				continue // its client had left before it arrived
			}
			live = slices.DeleteFunc(live, func(before exchange) bool { return !before.end.After(e.start) })
			for _, before := range live {
				if why := h.explain(before, e); why != "" {
					explained[why]++
				} else {
					violations = append(violations, fmt.Sprintf("law 1: %s was in flight for %s when %s arrived, for %s", before, e.start.Sub(before.start), e, e.equal()))
				}
			}
			live = append(live, e)
		}
	}
	return violations, explained
}

func (e exchange) String() string {
	return fmt.Sprintf("request %s by process %d at %s (alone: %t)", e.request.nonce, e.process, e.start.Format("05.000"), e.alone)
}

// explain says which fault lets two exchanges overlap, if one does. None lets
// two of one process: it knows its own.
func (h *history) explain(a, b exchange) string {
	late := ""
	if a.cut && h.gone(a.request, b.start) {
		late = "over, which was seen late"
	}
	if a.process >= 0 && a.process == b.process {
		return late
	}
	sent := a.sent
	if b.sent.Before(sent) {
		sent = b.sent
	}
	if !slices.Contains(h.closed, a.route) && (a.decidedAlone() || b.decidedAlone()) {
		return "decided without the store"
	}
	why := late
	for _, f := range h.faults {
		long := f.end.Sub(f.begin) >= h.ttl/2 // a lock lives on for two thirds of the TTL at least
		switch {
		case !f.overlaps(sent, b.start):
		case f.kind.loses:
			return "store lost the lock"
		case f.kind.pauses && long && (f.replica == a.replica || f.replica == b.replica):
			return "replica paused for longer than the TTL"
		case f.kind.store && long:
			why = "store away for longer than the TTL"
		}
	}
	return why
}

// gone reports whether the client of a request had left, or its replica was
// killed, before a moment.
func (h *history) gone(r *request, before time.Time) bool {
	return r.abort > 0 && r.err != nil && r.answered.Before(before) || slices.ContainsFunc(h.faults, func(f fault) bool {
		return f.kind.kills && f.replica == r.replica && f.begin.After(r.sent) && f.begin.Before(before)
	})
}

// decidedAlone reports whether a request was, or may have been, decided by one
// replica without the store.
func (r *request) decidedAlone() bool { return r.alone || r.process < 0 }

// A success is not repeated within its hold.
func (h *history) repeatedTooSoon() (violations []string) {
	const clocks = 20 * time.Millisecond // the test's and the store's
	if len(h.faults) > 0 {
		return nil
	}
	for _, all := range h.exchanges() {
		for i := 1; i < len(all); i++ {
			a, b := all[i-1], all[i]
			if a.route == "held" && a.answer.String() == "200" && b.start.Sub(a.end) < h.hold-clocks {
				violations = append(violations, fmt.Sprintf("hold: %s arrived %s after the success of %s", b, b.start.Sub(a.end), a))
			}
		}
	}
	return violations
}

// Law 2: no more than burst + rate × t is admitted in any interval t, while
// the store keeps its data: a loss gives each budget its burst again. That
// holds over an outage too, in which replicas all together begin with nothing.
// What some of them admit without the store while others still ask it is on top.
func (h *history) excesses() (violations []string) {
	for _, l := range h.limits {
		stored, alone, both := map[string][]admission{}, map[string][]admission{}, map[string][]admission{}
		for _, r := range h.requests {
			if r.route != l.route || len(r.calls) == 0 || r.process < 0 {
				continue
			}
			caller, a := "", admission{r.sent, r.calls[0].start}
			if l.byTenant {
				caller = r.tenant
			}
			if r.alone {
				alone[caller] = append(alone[caller], a)
			} else {
				stored[caller] = append(stored[caller], a)
			}
			both[caller] = append(both[caller], a)
		}
		violate := func(who, excess string) {
			if excess != "" {
				violations = append(violations, fmt.Sprintf("law 2: %s %s, %g/s burst %d: %s", l.route, who, l.perSecond, l.burst, excess))
			}
		}
		for caller, admissions := range both {
			violate("with and without the store for "+caller, excessOf(admissions, l.burst+h.replicas, l.perSecond, func(from, to time.Time) float64 {
				return float64(l.burst*h.losses(from, to)) + l.perSecond*h.divided(from, to).Seconds()
			}))
		}
		for caller, admissions := range stored {
			violate("by the store for "+caller, excessOf(admissions, l.burst, l.perSecond, func(from, to time.Time) float64 {
				return float64(l.burst * h.losses(from, to))
			}))
		}
		for caller, admissions := range alone {
			violate("without the store for "+caller, excessOf(admissions, max(h.replicas, l.burst), l.perSecond, nil))
			for _, f := range h.faults {
				if f.kind.store && !h.aloneBefore(f) {
					since := slices.DeleteFunc(slices.Clone(admissions), func(a admission) bool { return a.sent.Before(f.begin) || a.sent.After(f.end) })
					// The moment at which it began counts as one more request.
					since = append(since, admission{f.begin, f.begin})
					violate("without the store, from the fault on, for "+caller, excessOf(since, h.replicas+1, l.perSecond, nil))
				}
			}
		}
	}
	return violations
}

// losses returns how often the store lost its data between two moments.
func (h *history) losses(from, to time.Time) (n int) {
	for _, f := range h.faults {
		if f.kind.loses && f.overlaps(from, to) {
			n++
		}
	}
	return n
}

// divided returns for how long, between two moments, some replicas may have
// asked the store while others could not, or did not get to tell it afterwards
// of what they had admitted.
func (h *history) divided(from, to time.Time) (d time.Duration) {
	for _, f := range h.faults {
		if !f.kind.store || !f.overlaps(from, to) {
			continue
		}
		begin := f.begin
		if f.kind.all && !slices.ContainsFunc(h.faults, func(other fault) bool {
			return (other.kind.pauses || other.kind.kills) && other.overlaps(f.begin, f.end)
		}) {
			begin = f.healed
		}
		d += f.end.Sub(begin)
	}
	return d
}

// aloneBefore reports whether a replica may have been deciding alone when f
// began.
func (h *history) aloneBefore(f fault) bool {
	const while = 5 * time.Second
	return slices.ContainsFunc(h.requests, func(r request) bool {
		return r.alone && r.answered.After(f.begin.Add(-while)) && r.sent.Before(f.begin)
	})
}

// does are what an upstream can be told to do, and the answer that comes of it
// if the request is admitted.
var answersTo = map[string]string{
	plain: "200", dawdles: "200", lingers: "200", chunks: "200",
	fails: "500", cuts: "499 upstream-closed", cutsBody: "200",
}

// refusals are the answers to requests that must not reach the upstream.
var refusals = []string{"409 duplicate", "409 held", "429 limited", "503 undecided"}

// Law 3: what was refused has not arrived, what was answered by the upstream
// has once, and nothing has twice. Law 6: the proxy has no other answer.
func (h *history) disagreements() (violations []string) {
	for _, r := range h.requests {
		n, got := len(r.calls), r.answer.String()
		switch {
		case n > 1:
			violations = append(violations, fmt.Sprintf("law 3: request %s arrived %d times", r.nonce, n))
		case r.err != nil: // law 4's
		case slices.Contains(refusals, got):
			if n != 0 {
				violations = append(violations, fmt.Sprintf("law 3: request %s was answered %s, and arrived", r.nonce, got))
			}
		case got != answersTo[r.does]:
			violations = append(violations, fmt.Sprintf("law 6: request %s (%s) was answered %s: %.500s", r.nonce, r.does, got, r.answer.body))
		case n != 1:
			violations = append(violations, fmt.Sprintf("law 3: request %s was answered %s, and has not arrived", r.nonce, got))
		}
	}
	return violations
}

// Law 4: every request is answered once, but for those whose client has left
// or whose replica was killed.
func (h *history) unanswered() (violations []string) {
	for _, r := range h.requests {
		excused := r.abort > 0 || r.does == cutsBody && len(r.calls) == 1 || slices.ContainsFunc(h.faults, func(f fault) bool {
			return f.kind.kills && f.replica == r.replica && f.overlaps(r.sent, r.answered)
		})
		if r.err != nil && !excused {
			violations = append(violations, fmt.Sprintf("law 4: request %s (%s) to replica %d has no answer, status %d, after %s; arrived %d times: %v; %s",
				r.nonce, r.does, r.replica, r.answer.status, r.answered.Sub(r.sent), len(r.calls), r.err, r.line))
		}
		if r.err == nil && r.does == cutsBody && r.answer.status == http.StatusOK {
			violations = append(violations, fmt.Sprintf("law 4: request %s has the half of an answer as a whole one", r.nonce))
		}
		killed := slices.ContainsFunc(h.faults, func(f fault) bool { // before it could
			return f.kind.kills && f.replica == r.replica && r.sent.Before(f.end)
		})
		if r.logged > 1 || r.logged == 0 && !excused && !killed {
			violations = append(violations, fmt.Sprintf("law 4: request %s was logged %d times", r.nonce, r.logged))
		}
	}
	return violations
}

// Law 6: the route says what is decided without the store.
func (h *history) wrongPolicies() (violations []string) {
	for _, r := range h.requests {
		closed := slices.Contains(h.closed, r.route)
		if closed && r.alone && len(r.calls) > 0 {
			violations = append(violations, fmt.Sprintf("law 6: request %s was forwarded without a verdict", r.nonce))
		}
		if !closed && r.answer.Reason == "undecided" {
			violations = append(violations, fmt.Sprintf("law 6: request %s was left undecided", r.nonce))
		}
	}
	return violations
}

// What each law is for, and that it can fail.
func TestLaws(t *testing.T) {
	t.Parallel()
	t0 := time.Now()
	at := func(ms int) time.Time { return t0.Add(time.Duration(ms) * time.Millisecond) }
	// admitted is a request that took from one millisecond to another.
	admitted := func(process, from, to int) request {
		return request{
			operation: operation{route: "hook", does: plain, replica: process},
			nonce:     fmt.Sprint(process, " ", from),
			sent:      at(from - 5), answered: at(to + 5),
			answer: answer{status: 200}, process: process, logged: 1,
			calls: []*call{{start: at(from), end: at(to)}},
		}
	}
	refused := func(from int, status int, reason string) request {
		r := admitted(0, from, from)
		r.answer, r.calls = answer{status: status, Reason: reason}, nil
		return r
	}
	with := func(r request, change func(*request)) request {
		change(&r)
		return r
	}
	alone := func(r *request) { r.alone = true }
	// leave lets the client leave, and the exchange be cancelled.
	leave := func(ms int) func(*request) {
		return func(r *request) {
			unansweredBy("left")(r)
			r.abort, r.answered, r.calls[0].cut = 1, at(ms), true
		}
	}
	on := func(route string) func(*request) { return func(r *request) { r.route = route } }
	burst := func(n int, changes ...func(*request)) (requests []request) {
		for i := range n {
			r := admitted(i%3, 1000+20*i, 1001+20*i)
			r.route, r.body = "limited", fmt.Sprint(i)
			for _, change := range changes {
				change(&r)
			}
			requests = append(requests, r)
		}
		return requests
	}
	// outage is a burst, as many as are earned in the 4 s without the store that
	// follow, and more with the store.
	outage := func(more int) (requests []request) {
		requests = burst(10)
		for i := range 20 {
			requests = append(requests, with(admitted(i%3, 1500+200*i, 1501+200*i), func(r *request) { r.route, r.alone = "limited", true }))
		}
		for i := range more {
			requests = append(requests, with(admitted(i%3, 5500+i, 5501+i), on("limited")))
		}
		return requests
	}
	for name, test := range map[string]struct {
		requests  []request
		faults    []fault
		want      string // that the only violation begins with; empty for none
		explained string
	}{
		"one after the other":               {requests: []request{admitted(0, 0, 10), admitted(1, 10, 20)}},
		"different at once":                 {requests: []request{admitted(0, 0, 10), with(admitted(1, 5, 20), func(r *request) { r.body = "other" })}},
		"without a lock":                    {requests: []request{with(admitted(0, 0, 10), on("free")), with(admitted(1, 5, 20), on("free"))}},
		"an overlap":                        {requests: []request{admitted(0, 0, 10), admitted(1, 9, 20)}, want: "law 1"},
		"an overlap, reordered":             {requests: []request{admitted(1, 9, 20), admitted(0, 0, 10)}, want: "law 1"},
		"one inside another":                {requests: []request{admitted(0, 0, 30), admitted(1, 40, 50), admitted(2, 10, 20)}, want: "law 1"},
		"one that was over when it arrived": {requests: []request{admitted(0, 0, 30), admitted(0, 10, 10)}},
		"an overlap with one that was left": {requests: []request{with(admitted(0, 0, 10), leave(2)), admitted(1, 9, 20)}, explained: "over, which was seen late"},
		"an overlap with one that is left":  {requests: []request{with(admitted(0, 0, 10), leave(9)), admitted(1, 9, 20)}, want: "law 1"},
		"an overlap with one that went on": {
			requests: []request{with(with(admitted(0, 0, 10), leave(2)), func(r *request) { r.calls[0].cut = false }), admitted(1, 9, 20)},
			want:     "law 1",
		},
		"an overlap long after a flush": {
			requests: []request{admitted(0, 100, 110), admitted(1, 109, 120)},
			faults:   []fault{{forgetsAll, -1, at(0), at(50), at(50)}},
			want:     "law 1",
		},
		"an overlap after a flush": {
			requests:  []request{admitted(0, 0, 100), admitted(1, 60, 120)},
			faults:    []fault{{forgetsAll, -1, at(40), at(50), at(50)}},
			explained: "store lost the lock",
		},
		"an overlap in one process": {
			requests: []request{admitted(0, 0, 100), with(admitted(0, 60, 120), alone)},
			faults:   []fault{{forgetsAll, -1, at(40), at(50), at(50)}},
			want:     "law 1",
		},
		"an overlap decided alone":         {requests: []request{admitted(0, 0, 10), with(admitted(1, 9, 20), alone)}, explained: "decided without the store"},
		"an overlap while the store waits": {requests: []request{with(admitted(0, 0, 10), on("shut")), with(admitted(1, 9, 20), on("shut"))}, faults: []fault{{stops, -1, at(0), at(100), at(100)}}, want: "law 1"},
		"an overlap after a short pause": {
			requests: []request{admitted(0, 0, 500), admitted(1, 450, 600)},
			faults:   []fault{{pauses, 0, at(0), at(400), at(400)}},
			want:     "law 1",
		},
		"an overlap after a long pause": {
			requests:  []request{admitted(0, 0, 3000), admitted(1, 2000, 2010)},
			faults:    []fault{{pauses, 0, at(0), at(2500), at(2500)}},
			explained: "replica paused for longer than the TTL",
		},
		"an overlap after a long pause of a third": {
			requests: []request{admitted(0, 0, 3000), admitted(1, 2000, 2010)},
			faults:   []fault{{pauses, 2, at(0), at(2500), at(2500)}},
			want:     "law 1",
		},
		"a success repeated after its hold":  {requests: []request{with(admitted(0, 0, 10), on("held")), with(admitted(1, 110, 120), on("held"))}},
		"a success repeated within its hold": {requests: []request{with(admitted(0, 0, 10), on("held")), with(admitted(1, 50, 60), on("held"))}, want: "hold"},
		"a burst":                            {requests: burst(12)}, // and what is earned meanwhile
		"one too many":                       {requests: burst(15), want: "law 2"},
		"a burst of another tenant":          {requests: append(burst(8), burst(8, func(r *request) { r.tenant = "other"; r.nonce += "other" })...)},
		"a burst after a loss":               {requests: burst(15), faults: []fault{{forgetsAll, -1, at(1050), at(1060), at(1060)}}},
		"alone and with the store":           {requests: append(burst(3, alone, func(r *request) { r.body += "alone" }), burst(10)...)},
		"a burst alone":                      {requests: burst(15, alone), want: "law 2"},
		"shares that begin full":             {requests: burst(6, alone), faults: []fault{{stops, -1, at(900), at(9000), at(9000)}}, want: "law 2"},
		"shares that begin with nothing":     {requests: burst(4, alone), faults: []fault{{stops, -1, at(900), at(9000), at(9000)}}},
		"a burst again after an outage":      {requests: outage(10), faults: []fault{{stops, -1, at(1210), at(5490), at(5500)}}, want: "law 2"},
		"no burst again after an outage":     {requests: outage(4), faults: []fault{{stops, -1, at(1210), at(5490), at(5500)}}},
		"a burst again after a loss":         {requests: outage(10), faults: []fault{{restarts, -1, at(1210), at(5490), at(5500)}}},
		"an outage of some replicas":         {requests: outage(10), faults: []fault{{cutsRequests, -1, at(1210), at(5490), at(5500)}}},
		"a replica killed during an outage":  {requests: outage(10), faults: []fault{{stops, -1, at(1210), at(5490), at(5500)}, {kills, 1, at(2000), at(2500), at(2600)}}},
		"refused":                            {requests: []request{refused(0, 409, "duplicate"), refused(1, 429, "limited"), with(refused(2, 503, "undecided"), on("shut"))}},
		"refused, and sent":                  {requests: []request{with(admitted(0, 0, 10), func(r *request) { r.answer = answer{status: 409, Reason: "held"} })}, want: "law 3"},
		"answered, and not sent":             {requests: []request{with(admitted(0, 0, 10), func(r *request) { r.calls = nil })}, want: "law 3"},
		"sent twice":                         {requests: []request{with(admitted(0, 0, 10), func(r *request) { r.calls = append(r.calls, &call{start: at(20), end: at(30)}) })}, want: "law 3"},
		"a failure of the upstream":          {requests: []request{with(admitted(0, 0, 10), func(r *request) { r.does, r.answer.status = fails, 500 })}},
		"a failure of the proxy":             {requests: []request{with(admitted(0, 0, 10), func(r *request) { r.answer.status = 500 })}, want: "law 6"},
		"an answer of the proxy":             {requests: []request{refused(0, 502, "upstream-refused")}, want: "law 6"},
		"no answer":                          {requests: []request{with(admitted(0, 0, 10), unansweredBy("reset"))}, want: "law 4"},
		"no answer to who has left":          {requests: []request{with(with(admitted(0, 0, 10), unansweredBy("left")), func(r *request) { r.abort = 1 })}},
		"no answer of one that was killed":   {requests: []request{with(admitted(0, 0, 10), unansweredBy("reset"))}, faults: []fault{{kills, 0, at(10), at(50), at(50)}}},
		"no answer while another was killed": {requests: []request{with(admitted(0, 0, 10), unansweredBy("reset"))}, faults: []fault{{kills, 1, at(10), at(50), at(50)}}, want: "law 4"},
		"half an answer":                     {requests: []request{with(admitted(0, 0, 10), func(r *request) { r.does = cutsBody })}, want: "law 4"},
		"answered twice":                     {requests: []request{with(admitted(0, 0, 10), func(r *request) { r.logged = 2 })}, want: "law 4"},
		"forwarded without a verdict":        {requests: []request{with(with(admitted(0, 0, 10), on("shut")), alone)}, want: "law 6"},
		"undecided against the policy":       {requests: []request{refused(0, 503, "undecided")}, want: "law 6"},
	} {
		t.Run(name, func(t *testing.T) {
			h := &history{
				requests: test.requests, faults: test.faults, replicas: 3, ttl: 3 * time.Second, hold: 100 * time.Millisecond,
				closed: []string{"shut"}, limits: []limit{{route: "limited", perSecond: 5, burst: 10, byTenant: true}},
			}
			violations, explained := h.check()
			if test.want == "" && len(violations) > 0 || test.want != "" && (len(violations) != 1 || !strings.HasPrefix(violations[0], test.want)) {
				t.Errorf("got %q, want %q", violations, test.want)
			}
			if test.explained != "" && explained[test.explained] != 1 || test.explained == "" && len(explained) > 0 {
				t.Errorf("overlaps: got %v, want one for %q", explained, test.explained)
			}
		})
	}
}

func unansweredBy(why string) func(*request) {
	return func(r *request) { r.answer, r.err = answer{}, fmt.Errorf("%s", why) }
}

// The instrument: an exchange ends when its connection does, whether or not
// anybody has read that.
func TestClosedConnectionsAreSeen(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	for name, end := range map[string]func(*net.TCPConn){
		"closed": func(conn *net.TCPConn) { _ = conn.Close() },
		"reset":  func(conn *net.TCPConn) { _ = conn.SetLinger(0); _ = conn.Close() },
	} {
		client, err := net.Dial("tcp", listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		server, err := listener.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer server.Close()
		_, _ = client.Write([]byte("a request"))
		if closed(server) {
			t.Errorf("%s: before the end", name)
		}
		end(client.(*net.TCPConn))
		eventually(t, "it is seen that the connection was "+name, func() bool { return closed(server) })
	}
}
