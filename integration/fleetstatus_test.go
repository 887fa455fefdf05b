package integration

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// /-/fleet of any replica has what all of them did, and no list that is null.
func TestFleetStatus(t *testing.T) {
	t.Parallel()
	type status struct {
		Asked    string
		Replicas []struct{ ID, State string }
		Routes   []struct {
			Name       string
			LastMinute struct{ Forwarded, Limited, Duplicates, Errors int } `json:"last_minute"`
			Series     struct{ Forwarded, Limited []int }
		}
		Budgets []struct{ Left, Most int }
		Locks   struct {
			Held   int
			Oldest []struct {
				Of, Replica string
				RequestID   string `json:"request_id"`
			}
		}
	}
	for size := range 3 {
		t.Run(fmt.Sprint(max(1, size), " replicas, store ", size > 0), func(t *testing.T) {
			u := newUpstream(t)
			words := []string{"--admin", "127.0.0.1:0", "--register", "hook=" + u.URL, "--register", "quiet=" + u.URL, "--rate", "hook=2/d", "--hold", "0s,unknown=0s"}
			var replicas []*replica
			if size == 0 {
				replicas = []*replica{startReplica(t, words...)}
			} else {
				replicas = startFleet(t, size, words...).replicas
			}
			last := replicas[len(replicas)-1]
			held := u.occupy(t, replicas[0].url+"/hook", fmt.Sprint("held ", size))
			defer func() { u.open(); <-held }()
			expect(t, "a duplicate", post(t, last.url+"/hook", fmt.Sprint("held ", size)), "409 duplicate")
			expect(t, "another", post(t, last.url+"/hook", "another"), "200")
			for i := range 3 {
				expect(t, "too many", post(t, replicas[i%len(replicas)].url+"/hook", fmt.Sprint(i)), "429 limited")
			}
			var text string
			var got status
			eventually(t, "all of it is told", func() bool {
				text = do(t, http.MethodGet, last.admin(t)+"/-/fleet", "").body
				got = status{}
				if err := json.Unmarshal([]byte(text), &got); err != nil {
					t.Fatalf("%v: %s", err, text)
				}
				m := got.Routes[0].LastMinute
				return m.Forwarded == 1 && m.Limited == 3 && m.Duplicates == 1
			})
			if strings.Contains(text, "null") || strings.Contains(text, u.URL) {
				t.Errorf("a list is null, or an upstream is told: %s", text)
			}
			if len(got.Replicas) != len(replicas) || len(got.Routes) != 2 || len(got.Routes[0].Series.Forwarded) != 60 || len(got.Routes[1].Series.Forwarded) != 0 {
				t.Errorf("got %+v, want all replicas and routes", got)
			}
			if len(got.Locks.Oldest) != 1 || got.Locks.Held != 1 || got.Locks.Oldest[0].Of != "hook" {
				t.Errorf("got locks %+v, want the one", got.Locks)
			}
			if len(got.Budgets) != 1 || got.Budgets[0].Left != 0 || got.Budgets[0].Most != 2 {
				t.Errorf("got budgets %+v, want the one that is spent", got.Budgets)
			}
			page := do(t, http.MethodGet, last.admin(t)+"/", "")
			if page.status != http.StatusOK || !strings.Contains(page.body, "All is well: ") || !strings.HasPrefix(page.header.Get("Content-Security-Policy"), "default-src 'none'; ") {
				t.Errorf("the page: got %d, %q", page.status, page.header.Get("Content-Security-Policy"))
			}
			if a := do(t, http.MethodGet, replicas[0].url+"/", ""); a.status != http.StatusNotFound {
				t.Errorf("clients get %d of the page", a.status)
			}
		})
	}
}
