package proxy

import (
	"net/http"
	"testing"
	"time"

	"throttle-proxy/cluster"
)

// The caller in an event is the one whom the limit that refused knows, the same
// for the same caller, and nobody where nothing tells callers apart.
func TestEventKnowsTheCaller(t *testing.T) {
	byTenant, byClient, shared := limit(t, "tenant", "1/h"), limit(t, "client", "9/h"), limit(t, "all", "9/h")
	byTenant.By, byClient.By = By{Header: "Tenant"}, By{Client: true}
	byNobody := func(r *Route) { r.CoolDown.Longest = 0 }
	for name, test := range map[string]struct {
		limits []Limit
		fields []string
		want   string // digest of what
	}{
		"nothing":     {[]Limit{shared}, nil, ""},
		"credentials": {[]Limit{shared}, []string{"X-Api-Key", "k"}, digest("X-Api-Key", "k")},
		"the first limit with callers, while none refuses": {[]Limit{shared, byClient, byTenant}, []string{"Tenant", "a"}, digest("192.0.2.1")},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, answers(ok, ""), limits(test.limits...))
			r.do(post("one", test.fields...))
			want := test.want
			if want != "" {
				want = want[:8]
			}
			if e := <-r.events; e.Caller != want || e.Client.String() != "192.0.2.1" {
				t.Errorf("got caller %q of %s, want %q of 192.0.2.1", e.Caller, e.Client, want)
			}
		})
	}
	t.Run("the limit that refuses", func(t *testing.T) {
		r := newRig(t, answers(ok, ""), limits(byClient, byTenant), byNobody)
		r.do(post("one", "Tenant", "a"))
		r.do(post("two", "Tenant", "a"))
		<-r.events
		if e, want := <-r.events, digest("a")[:8]; e.Reason != ReasonLimited || e.Caller != want {
			t.Errorf("got %s of caller %q, want limited of %q", e.Reason, e.Caller, want)
		}
	})
	t.Run("the cool-down that refuses", func(t *testing.T) {
		r := newRig(t, roundTrip(func(*http.Request) (*http.Response, error) {
			res := answer(http.StatusTooManyRequests, "")
			res.Header.Set("Retry-After", "60")
			return res, nil
		}), limits(byClient))
		for range 2 {
			r.do(post("one", "X-Api-Key", "k"))
		}
		<-r.events
		if e, want := <-r.events, digest("X-Api-Key", "k")[:8]; e.Reason != ReasonCoolingDown || e.Caller != want {
			t.Errorf("got %s of caller %q, want cooling-down of %q", e.Reason, e.Caller, want)
		}
	})
}

// What is told of a request when it is sent is what is told of it when it ends.
func TestSentIsToldBeforeItsAnswer(t *testing.T) {
	var sent []Event
	ended := make(chan Event, 2)
	p, err := New([]Route{{Name: "hook", Upstream: mustParse(t, "https://upstream.example/"), Dedupe: DedupeOn, DedupeHeaders: []string{"A"}, DuplicateStatus: 409, Timeout: time.Minute, ClosedStatus: 499, ClientGone: Finish, AnswerIdle: time.Minute, Hold: Hold{Success: time.Minute}}}, Options{
		Cluster: cluster.NewMemory("replica-1"), MaxBody: 1 << 20, BodyMemory: 1 << 30, BodyTimeout: time.Minute, MaxInFlight: 10,
		Sent:    func(e *Event) { sent = append(sent, *e) },
		Observe: func(e *Event) { ended <- *e },
	})
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{Proxy: p}
	r.over(roundTrip(func(*http.Request) (*http.Response, error) {
		if len(sent) != 1 {
			t.Error("it was not told before it was sent")
		}
		return answer(ok, ""), nil
	}))
	r.do(post("one"))
	r.do(post("one")) // a duplicate, which is not sent
	if e := <-ended; len(sent) != 1 || sent[0].ID != e.ID || sent[0].Route != "hook" || sent[0].Client != e.Client {
		t.Errorf("got %+v sent, want %s", sent, e.ID)
	}
}
