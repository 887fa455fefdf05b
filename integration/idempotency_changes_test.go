package integration

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"throttle-proxy/integration/redistest"
)

// Fails if a key that all servers had before Redis changed is executed again, if any
// is where no write can have been lost, or if a request with a key is answered by
// anything but its answer, a refusal, or 503.
func TestKeysWhoseRedisChangesUnderLoad(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"Sentinel, master killed", "Cluster, master killed", "Cluster, slot moved"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const before = 30
			u := newUpstream(t)
			defer u.open()
			c := changes[name](t)
			var fleet []*replica
			for range 2 {
				fleet = append(fleet, startReplica(t, append(c.words, "--register", "hook="+u.URL, "--rate", "off", "--hold", "0s,unknown=0s",
					"--idempotency", "24h", "--store-timeout", "500ms", "--lock-ttl", "5s")...))
			}
			send := func(i, on int) answer {
				order := fmt.Sprint("order-", i)
				return post(t, fleet[on%2].url+"/hook", order, answersOwn, "Idempotency-Key: "+order)
			}
			for i := range before {
				expect(t, "before", decided(func() answer { return send(i, i) }), "202")
			}
			eventually(t, "all servers have the keys", func() bool {
				keys := 0
				for _, s := range c.left {
					keys += len(s.Client().Keys(t.Context(), "*:key:*").Val())
				}
				return keys == before
			})
			var next, refused atomic.Int64
			next.Store(before)
			stop := constantly(t, 4, func() {
				i := int(next.Add(1)) - 1
				for try := range 2 {
					switch a := send(i, i+try); a.String() {
					case "202", "409 duplicate", "409 outcome-unknown", "409 answer-not-kept":
					case "503 undecided":
						refused.Add(1)
					default:
						t.Errorf("order %d: got %v", i, a)
					}
				}
			})
			grows := func(n int64) {
				enough := next.Load() + n
				eventually(t, "the load goes on", func() bool { return next.Load() >= enough })
			}
			grows(50)
			c.begin()
			c.over(t)
			eventually(t, "the replicas are well again", func() bool {
				return fleet[0].ready(t) == "ok\n" && fleet[1].ready(t) == "ok\n"
			})
			grows(50)
			stop()
			for i := range before {
				a := decided(func() answer { return send(i, i+1) })
				if a.header.Get("Idempotent-Replayed") != "true" && a.String() != "409 outcome-unknown" {
					t.Errorf("order %d: got %v, want its answer", i, a)
				}
			}
			times := map[string]int{}
			for _, call := range u.all() {
				times[call.body]++
			}
			lost := 0
			for i := range int(next.Load()) {
				if n := times[fmt.Sprint("order-", i)]; n > 1 {
					if lost++; i < before || strings.Contains(name, "slot moved") {
						t.Errorf("order %d: executed %d times, want once", i, n)
					}
				}
			}
			t.Logf("%s: %d orders, %d answers of 503, %d executed twice for lost writes", name, next.Load(), refused.Load(), lost)
		})
	}
}

// constantly calls do in n goroutines, a moment after each other, until it is stopped or
// the test ends, which wait for what is under way.
func constantly(t *testing.T, n int, do func()) (stop func()) {
	stopped := make(chan struct{})
	var working sync.WaitGroup
	for range n {
		working.Go(func() {
			for {
				select {
				case <-stopped:
					return
				case <-time.After(5 * time.Millisecond):
				}
				do()
			}
		})
	}
	stop = sync.OnceFunc(func() {
		close(stopped)
		working.Wait()
	})
	t.Cleanup(stop)
	return stop
}

// Each row holds over every protocol of a client, with and without Redis, for bodies
// that the direct sender takes and for those that are sent in parts.
func TestKeysOverEveryProtocol(t *testing.T) {
	t.Parallel()
	pair, cert, key := newKeyPair(t, "replica.test")
	words := []string{"--tls-cert", writeFile(t, "cert.pem", cert), "--tls-key", writeFile(t, "key.pem", key)}
	type protocol struct {
		tls bool
		set func(*http.Protocols)
	}
	for name, p := range map[string]protocol{
		"h1":     {false, func(p *http.Protocols) { p.SetHTTP1(true) }},
		"h2c":    {false, func(p *http.Protocols) { p.SetUnencryptedHTTP2(true) }},
		"h1 TLS": {true, func(p *http.Protocols) { p.SetHTTP1(true) }},
		"h2 TLS": {true, func(p *http.Protocols) { p.SetHTTP2(true) }},
	} {
		for _, store := range []string{"memory", "Redis"} {
			t.Run(name+", "+store, func(t *testing.T) {
				u := newUpstream(t)
				defer u.open()
				flags := []string{"--register", "pay=" + u.URL, "--rate", "off", "--hold", "0s,unknown=0s", "--idempotency", "1h,required"}
				scheme := "http://"
				if p.tls {
					flags, scheme = append(flags, words...), "https://"
				}
				var r *replica
				if store == "Redis" {
					r = startReplicas(t, redistest.Start(t).URL(), 1, flags...)[0]
				} else {
					r = startReplica(t, flags...)
				}
				c := protoClient(t, &http.Transport{TLSClientConfig: trusting(pair)}, p.set)
				send := func(body string, fields ...string) answer {
					a, err := try(t.Context(), c, http.MethodPost, scheme+r.addr+"/pay", body, fields...)
					if err != nil {
						t.Errorf("no answer: %v", err)
					}
					return a
				}
				for size, body := range map[string]string{"small": "5", "large": strings.Repeat("5", 100<<10)} {
					gate := make(chan struct{})
					u.does[size] = func(http.ResponseWriter, *http.Request) { <-gate }
					blocks := doesField + ": " + size
					k := "Idempotency-Key: " + size
					expect(t, size+", the first", send(body, k, answersOwn), "202")
					replayed(t, size+", kept", send(body, k, answersOwn), 202, "its own words")
					replayed(t, size+", in chunks", send(body, k, answersOwn, "Transfer-Encoding: chunked"), 202, "its own words")
					expect(t, size+", reused", send(body+"6", k, answersOwn), "422 key-reused")
					expect(t, size+", malformed", send(body, `Idempotency-Key: "x`), "400 bad-key")
					expect(t, size+", required", send(body), "400 bad-key")
					calls := len(u.all())
					flight := k + "-flight"
					first := inBackground(func() answer { return send(body, flight, blocks) })
					eventually(t, "it is in flight", func() bool { return len(u.all()) > calls })
					expect(t, size+", in flight", send(body, flight, blocks), "409 duplicate")
					expect(t, size+", reused in flight", send(body+"6", flight, blocks), "422 key-reused")
					close(gate)
					expect(t, size+", the first in flight", <-first, "200")
					replayed(t, size+", then kept", send(body, flight, blocks), 200, "")
					if n := len(u.all()); n != calls+1 {
						t.Errorf("%s: %d requests reached the upstream, want %d", size, n, calls+1)
					}
				}
			})
		}
	}
}
