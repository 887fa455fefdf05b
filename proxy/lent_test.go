package proxy

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestManyFieldsCostNobodyElse: a map keeps the room that one request has needed.
func TestManyFieldsCostNobodyElse(t *testing.T) {
	for fields, want := range map[int]bool{10: true, 10_000: false} {
		x := exchanges.New().(*exchange)
		x.in = post("")
		for i := range fields {
			x.in.Header["X-"+strconv.Itoa(i)] = []string{""}
		}
		header := x.out.Header
		x.giveBack()
		header["Probe"] = nil
		if _, got := x.out.Header["Probe"]; got != want {
			t.Errorf("%d fields: got a map that is used again: %v, want %v", fields, got, want)
		}
		delete(header, "Probe")
	}
}

// TestHugeFieldCostsNobodyElse: the room in which a fingerprint's parts are collected
// is kept as long as it is usual.
func TestHugeFieldCostsNobodyElse(t *testing.T) {
	for size, want := range map[int]bool{1000: true, 200_000: false} {
		h := newHasher()
		h.part(strings.Repeat("a", size))
		h.sum()
		if got := cap(h.parts) >= size; got != want {
			t.Errorf("a field of %d bytes: got that its room is kept: %v, want %v", size, got, want)
		}
	}
}

// TestNoRequestHasAnythingOfAnother, whatever becomes of it and of those beside it:
// exchanges, headers and bodies are lent to one after another.
func TestNoRequestHasAnythingOfAnother(t *testing.T) {
	c := newCrowd(t)
	plain := serve(t, http.HandlerFunc(c.upstream))

	gateway := c.gateway(plain.URL, map[string]func(*Route){
		"direct":  func(*Route) {},
		"cancels": func(r *Route) { r.ClientGone = Cancel },
		"streams": dedupe(DedupeOff),
		"http2":   c.overHTTP2(),
		"shares":  func(r *Route) { r.OnDuplicate = Join },
		"keyed":   keeps(time.Minute),
		"shadow":  func(r *Route) { r.Shadow, r.Limits = true, []Limit{limit(t, "few", "1/d")} },
		"limited": func(r *Route) { r.Limits = []Limit{limit(t, "few", "1/d")} },
		"closes":  func(r *Route) { r.KeepAlive.Idle = 0 },
	})

	dos := []string{"plain", "hints", "trailer", "early", "cut", "nothing", "close", "left", "leaves", "parts"}
	names := []string{"direct", "cancels", "streams", "http2", "shares", "keyed", "shadow", "limited", "closes", "nowhere"}
	sizes := []int{0, 10, 3000, 4096, 5001, 20_001, 300_000}
	const workers, each = 10, 40 // all pairs of what is done and where, a few times
	var asking sync.WaitGroup
	var once sync.Map
	for worker := range workers {
		asking.Go(func() {
			for i := range each {
				n := worker*each + i
				do, route, size, extra := dos[n%len(dos)], names[n/len(dos)%len(names)], sizes[n%len(sizes)], n%5
				whose, id := fmt.Sprintf("w%dn%d", worker, i), ""
				if n%3 > 0 {
					id = whose + ".id"
				}
				client := gateway.clients[n%7%2]
				switch {
				case n%23 == 0:
					c.upgrade(gateway.front, whose, whose+".up")
				case n%29 == 0:
					c.ask(client, gateway.front.URL, http.MethodTrace, route, whose, do, id, 0, extra)
				case route == "shares" || route == "keyed":
					if size == 0 {
						size = 10
					}
					if do == "left" || do == "leaves" || do == "hints" {
						do = "parts"
					}
					var both sync.WaitGroup
					for range 3 {
						both.Go(func() { c.ask(client, gateway.front.URL, http.MethodPost, route, whose, do, id, size, extra) })
					}
					both.Wait()
				default:
					once.Store(id, true)
					c.ask(client, gateway.front.URL, http.MethodPost, route, whose, do, id, size, extra)
				}
			}
		})
	}
	asking.Wait()
	gateway.over(&once)
}
