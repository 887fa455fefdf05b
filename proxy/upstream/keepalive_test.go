package upstream

import (
	"context"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestAChangedAnswerOfDNSIsFollowed within its age by every sender, under
// constant load, without a request that fails.
func TestAChangedAnswerOfDNSIsFollowed(t *testing.T) {
	port, _ := speaksAll(t, "127.0.0.1:0", says("old"))
	_, _ = speaksAll(t, "127.0.0.2:"+port, says("new"))
	for name, by := range ways {
		t.Run(name, func(t *testing.T) {
			var moved atomic.Bool
			resolver := newNames(t, func(string, int64) string {
				if moved.Load() {
					return "127.0.0.2"
				}
				return "127.0.0.1"
			})
			o := patient
			o.Resolver, o.Age = resolver.Resolver, 200*time.Millisecond
			c := New(mustParse(t, by.scheme+"://upstream.example:"+port), o)
			t.Cleanup(c.CloseIdleConnections)
			var following atomic.Int64
			var load sync.WaitGroup
			for range 4 {
				load.Go(func() {
					for range 100_000 {
						switch got := send(t, c, by.post("/")); got {
						case "200 old":
							if !moved.Swap(true) {
								continue
							}
						case "200 new":
							if following.Add(1) > 200 {
								return
							}
						default:
							t.Errorf("got %s", got)
							return
						}
					}
					t.Error("the old address is still asked")
				})
			}
			load.Wait()
		})
	}
}

// TestConnectionsAreUsedUntilTheyAreOfAge, and no longer.
func TestConnectionsAreUsedUntilTheyAreOfAge(t *testing.T) {
	bySenders(t, func(t *testing.T, scheme string, req *Request) {
		if req.Header["Upgrade"] != nil {
			return // it uses its connection up
		}
		port, made := speaksAll(t, "127.0.0.1:0", func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.RemoteAddr) })
		o, counted := patient, &Hosts{}
		o.Age, o.count = time.Hour, counted.count
		c := New(mustParse(t, scheme+"://127.0.0.1:"+port), o)
		t.Cleanup(c.CloseIdleConnections)
		var used []string // connections that have carried requests
		use := func(want int) {
			t.Helper()
			for range 3 {
				if req.Stream != nil { // the one before has been read
					req.Stream = inMemory("body").Open()
				}
				if got := send(t, c, req); !slices.Contains(used, got) {
					used = append(used, got)
				}
			}
			if len(used) != want {
				t.Errorf("requests were sent on %d connections, want %d: %q", len(used), want, used)
			}
			// net/http lets the request have a new connection for which it was made, and
			// others a moment later: of HTTP/2 it may make one that carries nothing.
			if got := made.Load(); scheme != "h2c" && got != int64(want) {
				t.Errorf("got %d connections, want %d", got, want)
			}
		}
		use(1)
		before := made.Load()
		c.current.Load().until = time.Now() // an hour later
		use(2)
		waitFor(t, "the old connection is closed", func() bool { return counted.open.Load() <= made.Load()-before })
	})
}

// TestConnectionsThatAreNotKept: each request has one of its own, which ends with
// it.
func TestConnectionsThatAreNotKept(t *testing.T) {
	for name, by := range ways {
		t.Run(name, func(t *testing.T) {
			const together = 5
			var waiting sync.WaitGroup
			port, made := speaksAll(t, "127.0.0.1:0", func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				if r.ProtoMajor == 1 && !r.Close {
					t.Error("the upstream is not told that its connection ends")
				}
				if r.URL.Path == "/together" {
					waiting.Done()
					waiting.Wait()
				}
			})
			o, counted := patient, &Hosts{}
			o.Idle, o.count = 0, counted.count
			c := New(mustParse(t, by.scheme+"://127.0.0.1:"+port), o)
			for range together {
				wantOutcome(t, send(t, c, by.post("/")), "200")
			}
			waiting.Add(together)
			var asking sync.WaitGroup
			for range together {
				asking.Go(func() { wantOutcome(t, send(t, c, by.post("/together")), "200") })
			}
			asking.Wait()
			if got := made.Load(); got != 2*together {
				t.Errorf("got %d connections for %d requests", got, 2*together)
			}
			waitFor(t, "the connections are closed", func() bool { return counted.open.Load() == 0 })
		})
	}
}

// TestRequestsOutliveTheAgeOfTheirConnections: what is under way ends as it
// would, and its connection with it.
func TestRequestsOutliveTheAgeOfTheirConnections(t *testing.T) {
	for name, by := range ways {
		t.Run(name, func(t *testing.T) {
			arrived, goOn := make(chan bool), make(chan bool)
			port, made := speaksAll(t, "127.0.0.1:0", func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				if r.URL.Path == "/slow" {
					w.WriteHeader(200)
					_ = http.NewResponseController(w).Flush()
					arrived <- true
					<-goOn
					_, _ = io.WriteString(w, "slow")
				}
			})
			o, counted := patient, &Hosts{}
			o.Age, o.count = time.Hour, counted.count
			c := New(mustParse(t, by.scheme+"://127.0.0.1:"+port), o)
			t.Cleanup(c.CloseIdleConnections)
			slow := make(chan string, 1)
			go func() { slow <- send(t, c, by.post("/slow")) }()
			<-arrived
			c.current.Load().until = time.Now()
			wantOutcome(t, send(t, c, by.post("/")), "200")
			close(goOn)
			wantOutcome(t, <-slow, "200 slow")
			if got := made.Load(); got != 2 {
				t.Errorf("got %d connections, want 2", got)
			}
			waitFor(t, "the old connection ends with its request", func() bool { return counted.open.Load() == 1 })
		})
	}
}

// TestAnUnusedConnectionIsNotKept beyond its time, also between two looks.
func TestAnUnusedConnectionIsNotKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &direct{options: Options{KeepAlive: KeepAlive{Idle: time.Second}}}
		d.dial = func(context.Context, string, string) (net.Conn, error) { return nil, errFull }
		near, far := net.Pipe()
		defer far.Close()
		look := newLookConn(near)
		c := newDirectConn(d, look, look)
		d.put(c)
		time.Sleep(999 * time.Millisecond)
		got, reused, _ := d.take(new(Life))
		if got != c || !reused {
			t.Fatal("the connection was not kept for a second")
		}
		d.put(c)
		time.Sleep(time.Second)
		if _, reused, err := d.take(new(Life)); reused || err != errFull {
			t.Error("the connection was kept for longer")
		}
		d.closeIdle(0)
	})
}
