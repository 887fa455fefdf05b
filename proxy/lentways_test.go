package proxy

import (
	"crypto/tls"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"
)

// TestNoRequestHasAnythingOfAnother_WhoeverLeaves is the same of upstreams with TLS and
// HTTP/2, of gRPC, and of requests that follow others, wait, or take too long, while
// clients leave at any time.
func TestNoRequestHasAnythingOfAnother_WhoeverLeaves(t *testing.T) {
	c := newCrowd(t)
	serveTLS := func(http1 bool) (url string, trust func(*Route)) {
		up := httptest.NewUnstartedServer(http.HandlerFunc(c.upstream))
		up.Config.Protocols = new(http.Protocols)
		up.Config.Protocols.SetHTTP1(http1)
		up.Config.Protocols.SetHTTP2(true)
		up.EnableHTTP2 = true
		up.Config.ErrorLog = serve(t, nil).Config.ErrorLog
		up.StartTLS()
		t.Cleanup(up.Close)
		roots := up.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
		return up.URL, func(r *Route) { r.Upstream, r.TLS = mustParse(t, up.URL), &tls.Config{RootCAs: roots} }
	}
	_, both := serveTLS(true)
	_, only := serveTLS(false)
	plain := serve(t, http.HandlerFunc(c.upstream))

	g := c.gateway(plain.URL, map[string]func(*Route){
		"plain":     func(*Route) {},
		"tls":       both,
		"streams":   func(r *Route) { both(r); r.Dedupe = DedupeOff },
		"http2":     func(r *Route) { only(r); r.ClientGone = Cancel },
		"grpc":      c.overHTTP2(),
		"join":      func(r *Route) { r.OnDuplicate, r.Hold.Success = Join, time.Minute },
		"fresh":     func(r *Route) { both(r); r.OnDuplicate, r.Dedupe = Fresh, DedupeAll },
		"keyed":     func(r *Route) { both(r); r.Idempotency.Keep = time.Minute },
		"waits":     func(r *Route) { r.Limits, r.Wait = []Limit{limit(t, "few", "300/s,burst=1")}, patience },
		"slots":     func(r *Route) { r.Concurrency, r.Wait = []Concurrency{{Most: 2, Name: "two"}}, patience },
		"impatient": func(r *Route) { both(r); r.Timeout = 20 * time.Millisecond },
	})
	dos := []string{"anywhen", "plain", "hints", "trailer", "parts", "anywhen", "cut", "early", "late"}
	names := []string{"plain", "tls", "streams", "http2", "grpc", "join", "fresh", "keyed", "waits", "slots", "impatient"}
	sizes := []int{10, 4096, 20_001, 0, 700_000}
	const workers, each = 11, 27 // all pairs, three times
	var asking sync.WaitGroup
	var once sync.Map
	for worker := range workers {
		asking.Go(func() {
			for i := range each {
				n := worker*each + i
				do, route, size := dos[n%len(dos)], names[n/len(dos)%len(names)], sizes[n%len(sizes)]
				whose, id, method := fmt.Sprintf("w%dn%d", worker, i), "", http.MethodPost
				if n%3 > 0 {
					id = whose + ".id"
				}
				if size == 0 {
					method = http.MethodGet
				}
				ask := func() {
					c.ask(g.clients[rand.N(2)], g.front.URL, method, route, whose, do, id, size, n%5)
				}
				if route != "join" && route != "fresh" && route != "keyed" {
					if do != "anywhen" { // or it may leave before it is heard
						once.Store(id, true)
					}
					ask()
					continue
				}
				var equal sync.WaitGroup
				for range 4 {
					equal.Go(ask)
				}
				equal.Wait()
				ask() // which is held, kept, or begins anew
			}
		})
	}
	asking.Wait()
	g.over(&once)
}
