package integration

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"throttle-proxy/integration/redistest"
)

// following is a flight of a request, with followers on other replicas.
type following struct {
	method, target string
	leader         <-chan answer
	followers      []<-chan answer
}

// Fails if the followers of a flight during which Redis loses its master wait to their
// deadline or get another flight's answer, if a POST is sent again while they do, or a
// GET more than once a replica, or if nobody listens to the new master.
func TestFollowersWhoseRedisFailsOver(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"Sentinel, master killed", "Cluster, master killed"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			u := newUpstream(t)
			defer u.open()
			names := func(r *http.Request) string { return r.RequestURI + " of " + r.Header.Get(nonceField) }
			sent := func(target string) (n int) {
				for _, call := range u.all() {
					if call.target == target {
						n++
					}
				}
				return n
			}
			ends := map[string]chan struct{}{"outage": make(chan struct{}), "after": make(chan struct{}), "lost": make(chan struct{}), "leader dies": nil}
			for name, ended := range ends {
				u.does[name] = func(w http.ResponseWriter, r *http.Request) {
					if ended != nil {
						select {
						case <-ended:
						case <-r.Context().Done():
						}
					} else if sent(r.RequestURI) == 1 {
						<-r.Context().Done() // with its replica
					}
					_, _ = io.WriteString(w, names(r))
				}
			}
			u.does["load"] = func(w http.ResponseWriter, r *http.Request) {
				time.Sleep(30 * time.Millisecond)
				_, _ = io.WriteString(w, names(r))
			}
			c := changes[name](t)
			var fleet []*replica
			for range 3 {
				fleet = append(fleet, startReplica(t, append(c.words, "--register", "hook="+u.URL, "--rate", "off", "--hold", "0s,unknown=0s",
					"--dedupe", "all", "--on-duplicate", "join", "--store-timeout", "500ms", "--lock-ttl", "5s", "--timeout", "50s")...))
			}
			send := func(method, target, does string, on int) answer {
				a, err := try(t.Context(), client, method, fleet[on].url+"/hook"+target, "", doesField+": "+does)
				if err != nil && on != 0 && t.Context().Err() == nil { // else the test has ended, and says why
					t.Errorf("%s: no answer: %v", target, err)
				}
				return a
			}
			follow := func(method, target, does string, on int) <-chan answer {
				return inBackground(func() answer { return send(method, target, does, on) })
			}
			flights := map[string][]following{}
			for _, does := range slices.Sorted(maps.Keys(ends)) {
				for _, method := range []string{"POST", "GET"} {
					f := following{method: method, target: "/?" + method + "-" + strings.ReplaceAll(does, " ", "-")}
					leads := 1
					if does == "leader dies" {
						leads = 0
					}
					f.leader = u.await(t, func() answer { return send(method, f.target, does, leads) })
					for i := range 4 {
						f.followers = append(f.followers, follow(method, f.target, does, 1+i%2))
					}
					flights[does] = append(flights[does], f)
				}
			}
			eventually(t, "all are followed, as the servers that are left know", func() bool {
				return wanted(t, c.left) == 2*len(ends)
			})

			var next, joined, refused atomic.Int64
			stop := constantly(t, 3, func() {
				i := next.Add(1)
				method := []string{"POST", "GET"}[i%2]
				target := fmt.Sprint("/?", method, "-order-", i)
				for _, one := range []<-chan answer{follow(method, target, "load", 1), follow(method, target, "load", 2), follow(method, target, "load", 1)} {
					a := <-one
					if t.Context().Err() != nil {
						return // the test has ended, and says why
					}
					switch a.String() {
					case "200":
						if !strings.HasPrefix(a.body, target+" of ") {
							t.Errorf("%s: got the answer %q", target, a.body)
						}
						if strings.Contains(a.header.Get("Cache-Status"), "collapsed") {
							joined.Add(1)
						}
					case "409 held", "409 duplicate", "503 undecided":
						refused.Add(1)
					default:
						t.Errorf("%s: got %v", target, a)
					}
				}
			})
			grows := func(n int64) {
				enough := joined.Load() + n
				eventually(t, "answers are shared", func() bool { return joined.Load() >= enough })
			}
			kinds := map[string]int{}
			collect := func(does string) {
				for _, f := range flights[does] {
					leads := <-f.leader
					if does != "leader dies" {
						expect(t, f.target+", the leader", leads, "200")
					}
					for _, follower := range f.followers {
						a := <-follower
						kinds[does+" "+f.method+" "+a.String()]++
						switch {
						case a.String() == "200" && a.body == leads.body && does != "leader dies":
						case a.String() == "200" && f.method == "GET" && strings.HasPrefix(a.body, f.target+" of "): // asked again
						case a.String() == "409 held": // what nobody knows
						default:
							t.Errorf("%s: got %v %q", f.target, a, a.body)
						}
					}
				}
			}
			grows(30)
			fleet[0].signal(t, syscall.SIGKILL)
			c.begin()
			close(ends["outage"])
			c.over(t)
			for _, r := range fleet[1:] {
				eventually(t, "the replicas are well again", func() bool { return r.ready(t) == "ok\n" })
				eventually(t, "they listen to the new master", func() bool { return listeners(t, c.left) >= 2 })
			}
			close(ends["after"])
			collect("outage")
			collect("after")
			for _, s := range c.left {
				s.Client().FlushAll(t.Context()) // the replicas among them refuse it
			}
			close(ends["lost"])
			collect("lost")
			collect("leader dies")
			grows(30)
			stop()
			for _, all := range flights {
				for _, f := range all {
					if n := sent(f.target); n > 3 || n > 1 && f.method == "POST" {
						t.Errorf("%s: sent %d times, want once, or a GET once more a replica", f.target, n)
					}
				}
			}
			t.Logf("%d shared, %d refused of %d flights; %v", joined.Load(), refused.Load(), next.Load(), kinds)
		})
	}
}

// wanted is how many flights have followers on other replicas, as servers know that may
// be replicas of others.
func wanted(t *testing.T, servers []*redistest.Server) (n int) {
	for _, s := range servers {
		conn := s.Client().Conn()
		conn.ReadOnly(t.Context()) // which Redis refuses outside of a Cluster, and needs in one
		for _, key := range conn.Keys(t.Context(), "*:lock:*").Val() {
			if strings.Contains(conn.Get(t.Context(), key).Val(), " wanted") {
				n++
			}
		}
		_ = conn.Close()
	}
	return n
}

// listeners is how many connections hear of flights on servers.
func listeners(t *testing.T, servers []*redistest.Server) (n int64) {
	for _, s := range servers {
		for _, ask := range [][2]string{{"channels", "numsub"}, {"shardchannels", "shardnumsub"}} {
			channels, _ := s.Client().Do(t.Context(), "pubsub", ask[0], "*:flights").StringSlice()
			for _, channel := range channels {
				found, _ := s.Client().Do(t.Context(), "pubsub", ask[1], channel).Slice()
				if len(found) == 2 {
					one, _ := found[1].(int64)
					n += one
				}
			}
		}
	}
	return n
}
