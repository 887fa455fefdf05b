package integration

import (
	"fmt"
	"net/http"
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
	pause    time.Duration // after the upstream has asked for one
	replicas int
	ttl      time.Duration
	few      int // of the route "few" at once
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
	away           bool    // its replica took the store to be away, at some time of it
	logged         int     // how often
	line           string  // of the log, the last
}

// equal is what requests have in common that must not overlap.
func (r *request) equal() string { return r.route + " " + r.tenant + " " + r.body }

// fault is a time during which something was wrong, and a while after.
type fault struct {
	kind    faultKind
	replica int           // or -1 for the store
	step    time.Duration // of the store's clock, if it made one
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
	wait      time.Duration // longest that a request waits for it
}

// check returns the violations of all laws that a history tells of, and how
// many overlaps there were, by what explains them.
func (h *history) check() (violations []string, explained map[string]int) {
	violations, explained = h.overlaps()
	for _, law := range []func() []string{h.crowds, h.repeatedTooSoon, h.misledDuplicates, h.disturbed, h.excesses, h.disagreements, h.unanswered, h.wrongPolicies, h.misplacedAnswers, h.repeatedKeys} {
		violations = append(violations, law()...)
	}
	return violations, explained
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
	by := func(process int) func(*request) {
		return func(r *request) { r.process, r.replica = process, process }
	}
	pause := with(admitted(0, 0, 10), func(r *request) { r.route, r.body, r.does, r.answer.status = "rests", "pause", asksToPause, 429 })
	on := func(route string) func(*request) { return func(r *request) { r.route = route } }
	few := func(process, from, to int) request {
		return with(admitted(process, from, to), func(r *request) { r.route, r.body = "few", r.nonce })
	}
	on9 := func(route string, from, to int) request {
		return with(admitted(0, from, to), func(r *request) {
			r.route, r.answer.header = route, http.Header{servedField: {r.nonce}}
		})
	}
	// answeredBy is a request that got the answer to another.
	answeredBy := func(from int, nonce, route string) request {
		return with(admitted(1, from, from+20), func(r *request) {
			r.route, r.calls, r.answer.header = route, nil, http.Header{servedField: {nonce}}
		})
	}
	replayed := func(r *request) { r.answer.header.Set("Idempotent-Replayed", "true") }
	cutOff := func(r *request) { r.does, r.answer = cuts, answer{status: 499, Reason: "upstream-closed"} }
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
			faults:   []fault{{kind: forgetsAll, replica: -1, begin: at(0), healed: at(50), end: at(50)}},
			want:     "law 1",
		},
		"an overlap after a flush": {
			requests:  []request{admitted(0, 0, 100), admitted(1, 60, 120)},
			faults:    []fault{{kind: forgetsAll, replica: -1, begin: at(40), healed: at(50), end: at(50)}},
			explained: "store lost the lock",
		},
		"an overlap after a step of the clock": {
			requests:  []request{admitted(0, 0, 100), admitted(1, 60, 120)},
			faults:    []fault{{kind: stepsForward, replica: -1, step: 2 * time.Second, begin: at(40), healed: at(50), end: at(50)}},
			explained: "store's clock stepped beyond the lock's end",
		},
		"an overlap after a short step": {
			requests: []request{admitted(0, 0, 100), admitted(1, 60, 120)},
			faults:   []fault{{kind: stepsForward, replica: -1, step: time.Second, begin: at(40), healed: at(50), end: at(50)}},
			want:     "law 1",
		},
		"an overlap after a step back": {
			requests: []request{admitted(0, 0, 100), admitted(1, 60, 120)},
			faults:   []fault{{kind: stepsBack, replica: -1, step: -2 * time.Second, begin: at(40), healed: at(50), end: at(50)}},
			want:     "law 1",
		},
		"an overlap in one process": {
			requests: []request{admitted(0, 0, 100), with(admitted(0, 60, 120), alone)},
			faults:   []fault{{kind: forgetsAll, replica: -1, begin: at(40), healed: at(50), end: at(50)}},
			want:     "law 1",
		},
		"an overlap decided alone":         {requests: []request{admitted(0, 0, 10), with(admitted(1, 9, 20), alone)}, explained: "decided without the store"},
		"an overlap while the store waits": {requests: []request{with(admitted(0, 0, 10), on("shut")), with(admitted(1, 9, 20), on("shut"))}, faults: []fault{{kind: stops, replica: -1, begin: at(0), healed: at(100), end: at(100)}}, want: "law 1"},
		"an overlap after a short pause": {
			requests: []request{admitted(0, 0, 500), admitted(1, 450, 600)},
			faults:   []fault{{kind: pauses, replica: 0, begin: at(0), healed: at(400), end: at(400)}},
			want:     "law 1",
		},
		"an overlap after a long pause": {
			requests:  []request{admitted(0, 0, 3000), admitted(1, 2000, 2010)},
			faults:    []fault{{kind: pauses, replica: 0, begin: at(0), healed: at(2500), end: at(2500)}},
			explained: "replica paused for longer than the TTL",
		},
		"an overlap after a long pause of a third": {
			requests: []request{admitted(0, 0, 3000), admitted(1, 2000, 2010)},
			faults:   []fault{{kind: pauses, replica: 2, begin: at(0), healed: at(2500), end: at(2500)}},
			want:     "law 1",
		},
		"a success repeated after its hold":             {requests: []request{with(admitted(0, 0, 10), on("held")), with(admitted(1, 110, 120), on("held"))}},
		"a success repeated within its hold":            {requests: []request{with(admitted(0, 0, 10), on("held")), with(admitted(1, 50, 60), on("held"))}, want: "hold"},
		"a duplicate that is told to come back":         {requests: []request{admitted(0, 0, 30), refused(10, 429, "limited")}, want: "order"},
		"one on another replica":                        {requests: []request{admitted(0, 0, 30), with(refused(10, 429, "cooling-down"), by(1))}, want: "order"},
		"one that is told so while its equal is held":   {requests: []request{with(admitted(0, 0, 10), on("held")), with(refused(50, 429, "limited"), on("held"))}, want: "order"},
		"one that is told so afterwards":                {requests: []request{admitted(0, 0, 30), refused(40, 429, "limited")}},
		"one that is told what it is":                   {requests: []request{admitted(0, 0, 30), with(refused(10, 409, "duplicate"), by(1))}},
		"one that is told so by a replica alone":        {requests: []request{admitted(0, 0, 30), with(with(refused(10, 429, "limited"), by(1)), alone)}},
		"one by a replica that the store is away for":   {requests: []request{admitted(0, 0, 30), with(with(refused(10, 429, "limited"), by(1)), func(r *request) { r.away = true })}},
		"one that is told so when the lock is lost":     {requests: []request{admitted(0, 0, 30), with(refused(20, 429, "limited"), by(1))}, faults: []fault{{kind: stepsForward, replica: -1, step: 2 * time.Second, begin: at(2), healed: at(9), end: at(9)}}},
		"one that is told so while the store is away":   {requests: []request{admitted(0, 0, 30), with(refused(10, 429, "limited"), by(1))}, faults: []fault{{kind: stops, replica: -1, begin: at(2), healed: at(9), end: at(9)}}},
		"one that is told so while a replica is new":    {requests: []request{admitted(0, 0, 30), with(refused(10, 429, "limited"), by(1))}, faults: []fault{{kind: kills, replica: 2, begin: at(2), healed: at(9), end: at(9)}}},
		"one that is told so while a replica pauses":    {requests: []request{admitted(0, 0, 30), with(refused(10, 429, "limited"), by(1))}, faults: []fault{{kind: pauses, replica: 2, begin: at(2), healed: at(9), end: at(9)}}, want: "order"},
		"one within that of a replica that is cut off":  {requests: []request{with(pause, func(r *request) { r.away = true }), with(admitted(1, 100, 110), on("rests"))}},
		"a request within a pause":                      {requests: []request{pause, with(admitted(1, 100, 110), on("rests"))}, want: "pause"},
		"a request after a pause":                       {requests: []request{pause, with(admitted(1, 310, 320), on("rests"))}},
		"a request within a pause that was not told of": {requests: []request{pause, with(admitted(1, 100, 110), on("rests"))}, faults: []fault{{kind: stops, replica: -1, begin: at(2), healed: at(50), end: at(50)}}},
		"a request that could not be sent":              {requests: []request{with(refused(0, 502, "upstream-refused"), on("gone"))}},
		"a request that could not be sent, and was":     {requests: []request{with(with(admitted(0, 0, 10), on("gone")), func(r *request) { r.answer = answer{status: 502, Reason: "upstream-refused"} })}, want: "law 3"},
		"a burst after the clock has stepped":           {requests: burst(15), faults: []fault{{kind: stepsBack, replica: -1, begin: at(1050), healed: at(1060), end: at(1060)}}},
		"two bursts after one step":                     {requests: burst(25), faults: []fault{{kind: stepsBack, replica: -1, begin: at(1050), healed: at(2000), end: at(2000)}}, want: "law 2"},
		"a burst":                                       {requests: burst(12)}, // and what is earned meanwhile
		"one too many":                                  {requests: burst(15), want: "law 2"},
		"a burst of another tenant":                     {requests: append(burst(8), burst(8, func(r *request) { r.tenant = "other"; r.nonce += "other" })...)},
		"a burst after a loss":                          {requests: burst(15), faults: []fault{{kind: forgetsAll, replica: -1, begin: at(1050), healed: at(1060), end: at(1060)}}},
		"alone and with the store":                      {requests: append(burst(3, alone, func(r *request) { r.body += "alone" }), burst(10)...)},
		"a burst alone":                                 {requests: burst(15, alone), want: "law 2"},
		"shares that begin full":                        {requests: burst(6, alone), faults: []fault{{kind: stops, replica: -1, begin: at(900), healed: at(9000), end: at(9000)}}, want: "law 2"},
		"shares that begin with nothing":                {requests: burst(4, alone), faults: []fault{{kind: stops, replica: -1, begin: at(900), healed: at(9000), end: at(9000)}}},
		"a burst again after an outage":                 {requests: outage(10), faults: []fault{{kind: stops, replica: -1, begin: at(1210), healed: at(5490), end: at(5500)}}, want: "law 2"},
		"no burst again after an outage":                {requests: outage(4), faults: []fault{{kind: stops, replica: -1, begin: at(1210), healed: at(5490), end: at(5500)}}},
		"a burst again after a loss":                    {requests: outage(10), faults: []fault{{kind: restarts, replica: -1, begin: at(1210), healed: at(5490), end: at(5500)}}},
		"an outage of some replicas":                    {requests: outage(10), faults: []fault{{kind: cutsRequests, replica: -1, begin: at(1210), healed: at(5490), end: at(5500)}}},
		"a replica killed during an outage":             {requests: outage(10), faults: []fault{{kind: stops, replica: -1, begin: at(1210), healed: at(5490), end: at(5500)}, {kind: kills, replica: 1, begin: at(2000), healed: at(2500), end: at(2600)}}},
		"refused":                                       {requests: []request{refused(0, 409, "duplicate"), refused(1, 429, "limited"), with(refused(2, 503, "undecided"), on("shut"))}},
		"an answer of one that was met":                 {requests: []request{on9("shared", 0, 30), answeredBy(10, "0 0", "shared")}},
		"one of another exchange":                       {requests: []request{on9("shared", 0, 30), with(answeredBy(10, "0 0", "shared"), func(r *request) { r.body = "other" })}, want: "law 9"},
		"one that was over":                             {requests: []request{on9("shared", 0, 30), answeredBy(80, "0 0", "shared")}, want: "law 9"},
		"one that is held":                              {requests: []request{on9("twice", 0, 30), answeredBy(80, "0 0", "twice")}},
		"one that began before":                         {requests: []request{on9("newest", 0, 30), answeredBy(10, "0 0", "newest")}, want: "law 9"},
		"one that began afterwards":                     {requests: []request{on9("newest", 20, 30), answeredBy(10, "0 20", "newest")}},
		"an answer of nobody":                           {requests: []request{answeredBy(10, "0 0", "shared")}, want: "law 9"},
		"an answer on a route that shares none":         {requests: []request{on9("hook", 0, 30), answeredBy(10, "0 0", "hook")}, want: "law 9"},
		"a failure of one that was met":                 {requests: []request{with(on9("shared", 0, 30), cutOff), with(answeredBy(10, "", "shared"), func(r *request) { r.answer = answer{status: 499, Reason: "upstream-closed"} })}},
		"a failure of nobody":                           {requests: []request{with(answeredBy(10, "", "shared"), func(r *request) { r.answer = answer{status: 499, Reason: "upstream-closed"} })}, want: "law 9"},
		"a kept answer":                                 {requests: []request{on9("keyed", 0, 30), with(answeredBy(900, "0 0", "keyed"), replayed)}},
		"one that does not say so":                      {requests: []request{on9("keyed", 0, 30), answeredBy(900, "0 0", "keyed")}, want: "law 9"},
		"one for other words":                           {requests: []request{on9("keyed", 0, 30), with(answeredBy(900, "0 0", "keyed"), func(r *request) { replayed(r); r.other = true })}, want: "law 9"},
		"a key that is sent twice":                      {requests: []request{on9("keyed", 0, 30), with(on9("keyed", 900, 930), func(r *request) { r.other = true })}, want: "law 9"},
		"a key that an error has freed":                 {requests: []request{with(on9("keyed", 0, 30), func(r *request) { r.does, r.answer.status = fails, 500 }), on9("keyed", 900, 930)}},
		"a key that the store has lost":                 {requests: []request{on9("keyed", 0, 30), on9("keyed", 900, 930)}, faults: []fault{{kind: forgetsAll, replica: -1, begin: at(40), healed: at(50), end: at(50)}}},
		"as many as there are slots":                    {requests: []request{few(0, 0, 10), few(1, 1, 20), few(2, 10, 30)}},
		"one more than there are slots":                 {requests: []request{few(0, 0, 10), few(1, 1, 20), few(2, 9, 30)}, want: "slots"},
		"one more, alone":                               {requests: []request{few(0, 0, 10), few(1, 1, 20), with(few(2, 9, 30), alone)}},
		"one more after a loss":                         {requests: []request{few(0, 0, 10), few(1, 1, 20), few(2, 9, 30)}, faults: []fault{{kind: forgetsAll, replica: -1, begin: at(2), healed: at(3), end: at(4)}}},
		"one more after a step":                         {requests: []request{few(0, 0, 10), few(1, 1, 20), few(2, 9, 30)}, faults: []fault{{kind: stepsBack, replica: -1, step: -1, begin: at(2), healed: at(3), end: at(4)}}},
		"one more than one that was left":               {requests: []request{with(few(0, 0, 10), leave(2)), few(1, 1, 20), few(2, 9, 30)}},
		"refused, and sent":                             {requests: []request{with(admitted(0, 0, 10), func(r *request) { r.answer = answer{status: 409, Reason: "held"} })}, want: "law 3"},
		"answered, and not sent":                        {requests: []request{with(admitted(0, 0, 10), func(r *request) { r.calls = nil })}, want: "law 3"},
		"sent twice":                                    {requests: []request{with(admitted(0, 0, 10), func(r *request) { r.calls = append(r.calls, &call{start: at(20), end: at(30)}) })}, want: "law 3"},
		"a failure of the upstream":                     {requests: []request{with(admitted(0, 0, 10), func(r *request) { r.does, r.answer.status = fails, 500 })}},
		"a failure of the proxy":                        {requests: []request{with(admitted(0, 0, 10), func(r *request) { r.answer.status = 500 })}, want: "law 6"},
		"an answer of the proxy":                        {requests: []request{refused(0, 502, "upstream-refused")}, want: "law 6"},
		"no answer":                                     {requests: []request{with(admitted(0, 0, 10), unansweredBy("reset"))}, want: "law 4"},
		"no answer to who has left":                     {requests: []request{with(with(admitted(0, 0, 10), unansweredBy("left")), func(r *request) { r.abort = 1 })}},
		"no answer of one that was killed":              {requests: []request{with(admitted(0, 0, 10), unansweredBy("reset"))}, faults: []fault{{kind: kills, replica: 0, begin: at(10), healed: at(50), end: at(50)}}},
		"no answer while another was killed":            {requests: []request{with(admitted(0, 0, 10), unansweredBy("reset"))}, faults: []fault{{kind: kills, replica: 1, begin: at(10), healed: at(50), end: at(50)}}, want: "law 4"},
		"half an answer":                                {requests: []request{with(admitted(0, 0, 10), func(r *request) { r.does = cutsBody })}, want: "law 4"},
		"answered twice":                                {requests: []request{with(admitted(0, 0, 10), func(r *request) { r.logged = 2 })}, want: "law 4"},
		"forwarded without a verdict":                   {requests: []request{with(with(admitted(0, 0, 10), on("shut")), alone)}, want: "law 6"},
		"undecided against the policy":                  {requests: []request{refused(0, 503, "undecided")}, want: "law 6"},
	} {
		t.Run(name, func(t *testing.T) {
			h := &history{
				requests: test.requests, faults: test.faults, replicas: 3, ttl: 3 * time.Second, hold: 100 * time.Millisecond, pause: 300 * time.Millisecond,
				closed: []string{"shut"}, few: 2, limits: []limit{{route: "limited", perSecond: 5, burst: 10, byTenant: true}},
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
