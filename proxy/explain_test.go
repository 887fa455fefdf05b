package proxy

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"throttle-proxy/cluster"
)

// What a request is told to be is what becomes of it, and nothing of it is told.
func TestExplanationIsWhatBecomesOfARequest(t *testing.T) {
	bubble(t, "explain", func(t *testing.T) {
		l := limit(t, "hook", "2/d")
		l.By = By{Header: "Authorization"}
		r := newRig(t, answers(ok, ""), limits(l), hold(time.Minute), upstreamURL(t, secretURL))
		ask := func(body string, fields ...string) *http.Request {
			if fields == nil {
				fields = []string{"Authorization", "Bearer canary"}
			}
			return request(http.MethodPost, "/hook/canary-path?canary=query", body, fields...)
		}
		explain := func(want cluster.Outcome, body string, fields ...string) Explanation {
			t.Helper()
			for range 3 { // takes nothing
				if e, err := r.Explain(ask("", fields...), []byte(body)); err != nil || e.Outcome != want {
					t.Fatalf("%s: got %+v, %v, want outcome %d", body, e, err, want)
				}
			}
			e, _ := r.Explain(ask("", fields...), []byte(body))
			if text := fmt.Sprint(e.Route, e.Compared, e.Lock, e.Ask.Charges, e.Ask.Pauses); strings.Contains(text, "canary") {
				t.Errorf("%s tells a secret", text)
			}
			return e
		}
		first := explain(cluster.Admitted, "one canary")
		wantOutcome(t, r.do(ask("one canary")), "200")
		if held := explain(cluster.Held, "one canary"); held.Lock != first.Lock {
			t.Errorf("got lock %s, want that of before, %s", held.Lock, first.Lock)
		}
		wantOutcome(t, r.do(ask("one canary")), "held")
		if other := explain(cluster.Admitted, "one other"); other.Lock == first.Lock {
			t.Error("another body has the same lock")
		}
		wantOutcome(t, r.do(ask("two")), "200")
		explain(cluster.Limited, "three")
		wantOutcome(t, r.do(ask("three")), "limited")
		explain(cluster.Admitted, "three", "Authorization", "Bearer another")

		e, err := r.Explain(request(http.MethodGet, "/hook", ""), nil)
		if err != nil || e.Compared != nil || e.Lock != "" || e.Outcome != cluster.Admitted {
			t.Errorf("got %+v, %v, want that a GET is not compared", e, err)
		}
		for target, want := range map[string]Reason{"/other": ReasonUnknownRoute, "/hook/../canary": ReasonBadPath} {
			req := request(http.MethodPost, "/hook", "")
			req.RequestURI = target
			if e, err := r.Explain(req, nil); err != nil || e.Reason != want {
				t.Errorf("%s: got %+v, %v, want %s", target, e, err, want)
			}
		}
		want := "[route hook method POST path and query (25 bytes) Authorization (sent) Content-Encoding (not sent) Content-Type (not sent) Idempotency-Key (not sent) body (10 bytes)]"
		if got := fmt.Sprint(first.Compared); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	})
}

// A request with a key is told what is kept under it, and one whose answer is shared
// that it is.
func TestExplanationOfAnswersForOthers(t *testing.T) {
	bubble(t, "key", func(t *testing.T) {
		r := newRig(t, answers(ok, "an answer"), keeps(time.Hour))
		for want, body := range map[cluster.Outcome]string{cluster.Replayed: "one", cluster.KeyReused: "other"} {
			wantOutcome(t, r.do(post("one", "Idempotency-Key", "k")), "200")
			e, err := r.Explain(post("", "Idempotency-Key", "k"), []byte(body))
			if err != nil || e.Outcome != want || len(e.Answer) > 0 {
				t.Errorf("got %+v, %v, want outcome %d", e, err, want)
			}
		}
		if e, err := r.Explain(post("", "Idempotency-Key", "a b"), nil); err != nil || e.Reason != ReasonBadKey {
			t.Errorf("got %+v, %v, want a bad key", e, err)
		}
	})
	bubble(t, "join", func(t *testing.T) {
		r := newRig(t, answers(ok, ""), shares(Join))
		e, err := r.Explain(post(""), []byte("one"))
		if err != nil || e.Shares != Join || slices.Contains(e.Compared, "host") {
			t.Errorf("got %+v, %v, want that its answer is shared, whatever its host", e, err)
		}
	})
}
