package clients

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// cell is one client in one situation: an upstream, a balancer and replicas of
// its own.
type cell struct {
	*testing.T
	client   client
	upstream *httptest.Server
	balancer *httptest.Server

	answers func(http.ResponseWriter) // what the upstream does with a message that it has read; set before start
	arrived chan struct{}             // a value for each that it has
	freed   chan struct{}             // closed when it may answer that of others

	mu        sync.Mutex
	reached   int      // messages that it has
	accepted  int      // of them are those that it answered with a success
	target    *url.URL // the replica to which the balancer sends
	tries     []int    // the status of each answer to the client
	onAnswer  func()   // called once, before the first of them is passed on; set before it can be
	successes int      // that the client's callers saw
}

const (
	message  = "hello"
	occupant = "occupant" // a message of others
)

func newCell(t *testing.T, c client) *cell {
	x := &cell{T: t, client: c, arrived: make(chan struct{}, 1000), freed: make(chan struct{})}
	x.answers = x.accept
	x.upstream = httptest.NewServer(http.HandlerFunc(x.receive))
	t.Cleanup(x.upstream.Close)
	x.balancer = httptest.NewServer(&httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			x.mu.Lock()
			defer x.mu.Unlock()
			r.SetURL(x.target)
		},
		Transport:      &http.Transport{DisableKeepAlives: true, DisableCompression: true},
		ModifyResponse: x.note,
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			if t.Context().Err() == nil && !errors.Is(err, context.Canceled) {
				t.Errorf("the replica did not answer: %v", err)
			}
			cut(w)
		},
	})
	t.Cleanup(x.balancer.Close)
	return x
}

// receive is the upstream.
func (x *cell) receive(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	if !bytes.Contains(body, []byte(message)) {
		x.arrived <- struct{}{}
		select {
		case <-x.freed:
		case <-x.Context().Done():
		}
		return
	}
	x.mu.Lock()
	x.reached++
	x.mu.Unlock()
	x.arrived <- struct{}{}
	x.answers(w)
}

// accept answers with a success.
func (x *cell) accept(w http.ResponseWriter) {
	x.mu.Lock()
	x.accepted++
	x.mu.Unlock()
	kind := "application/json"
	if strings.HasPrefix(x.client.answer, "<") {
		kind = "text/xml"
	}
	w.Header().Set("Content-Type", kind)
	_, _ = io.WriteString(w, x.client.answer)
}

// then has act called with the next answer to the client.
func (x *cell) then(act func()) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.onAnswer = act
}

// note counts an answer to the client.
func (x *cell) note(res *http.Response) error {
	x.mu.Lock()
	x.tries = append(x.tries, res.StatusCode)
	act := x.onAnswer
	x.onAnswer = nil
	x.mu.Unlock()
	if act != nil {
		act()
	}
	return nil
}

// start starts a replica for the client and lets the balancer send to it. Words
// come after the client's own.
func (x *cell) start(words ...string) {
	x.Helper()
	_, address := startReplica(x.T, x.words(x.upstream.URL, words...)...)
	x.to(address)
}

// words returns the replica's command line.
func (x *cell) words(upstream string, words ...string) []string {
	return slices.Concat([]string{"--register", x.client.route + "=" + upstream, "--rate", "off"}, x.client.words, words)
}

// to lets the balancer send to the replica at address from now on.
func (x *cell) to(address string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.target = &url.URL{Scheme: "http", Host: address}
}

// send sends the message by the client, and returns what its caller saw.
func (x *cell) send() error {
	ctx, cancel := context.WithTimeout(x.Context(), patience)
	defer cancel()
	base := x.balancer.URL
	if x.client.route != "v1" {
		base += "/" + x.client.route
	}
	err := x.client.send(ctx, base, message)
	if ctx.Err() != nil {
		x.Errorf("it still tries after %s: %s", patience, x.answered())
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if err == nil {
		x.successes++
	}
	return err
}

// occupy sends a message of others to the replica. It is in flight until release
// is called, which returns once it has been answered.
func (x *cell) occupy() (release func()) {
	ended := make(chan struct{})
	x.mu.Lock()
	to := x.target.JoinPath(x.client.route)
	x.mu.Unlock()
	go func() {
		defer close(ended)
		res, err := http.Post(to.String(), "text/plain", strings.NewReader(occupant))
		if err != nil {
			x.Errorf("the message of others: %v", err)
			return
		}
		_ = res.Body.Close()
	}()
	x.await()
	return func() {
		close(x.freed)
		<-ended
	}
}

// await returns once the upstream got another message.
func (x *cell) await() {
	x.Helper()
	select {
	case <-x.arrived:
	case <-time.After(patience):
		x.Fatalf("nothing arrived; answered: %s", x.answered())
	}
}

// answered returns how the client was answered, try by try.
func (x *cell) answered() string {
	x.mu.Lock()
	defer x.mu.Unlock()
	return folded(x.tries)
}

// folded returns statuses, each with how often it came running.
func folded(statuses []int) string {
	var words []string
	for len(statuses) > 0 {
		n := slices.IndexFunc(statuses, func(s int) bool { return s != statuses[0] })
		if n < 0 {
			n = len(statuses)
		}
		word := strconv.Itoa(statuses[0])
		if n > 1 {
			word += "×" + strconv.Itoa(n)
		}
		words, statuses = append(words, word), statuses[n:]
	}
	return strings.Join(words, " ")
}
