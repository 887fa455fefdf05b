// Package engine runs what make release and make image have built, and
// deploy/compose.yaml, in a Docker engine with Compose: make test-deploy.
package engine

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"
)

const image = "ko.local/throttle-proxy"

const patience = 2 * time.Minute

// docker returns what a command of Docker's says, which must succeed.
func docker(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command("docker", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("docker %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !condition(); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not in %s: %s", patience, what)
		}
	}
}

// upstream counts what reaches it from containers, by body.
type upstream struct {
	url string // as containers reach it

	mu       sync.Mutex
	arrived  map[string]int
	lastFrom string // X-Forwarded-For
}

func newUpstream(t *testing.T) *upstream {
	t.Helper()
	u := &upstream{arrived: map[string]int{}}
	listener, err := net.Listen("tcp", net.JoinHostPort(gateway(t), "0"))
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(u)
	server.Listener.Close()
	server.Listener = listener
	server.Start()
	t.Cleanup(server.Close)
	u.url = "http://" + listener.Addr().String()
	return u
}

// gateway returns this machine's address on the network that every engine has.
func gateway(t *testing.T) string {
	t.Helper()
	bridge, err := net.InterfaceByName(docker(t, "network", "inspect", "bridge", "--format", `{{index .Options "com.docker.network.bridge.name"}}`))
	if err != nil {
		t.Fatal(err)
	}
	addresses, err := bridge.Addrs()
	if err != nil || len(addresses) == 0 {
		t.Fatalf("%s has no address: %v", bridge.Name, err)
	}
	return addresses[0].(*net.IPNet).IP.String()
}

func (u *upstream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	u.mu.Lock()
	u.arrived[string(body)]++
	u.lastFrom = r.Header.Get("X-Forwarded-For")
	u.mu.Unlock()
	time.Sleep(20 * time.Millisecond) // so that requests are in flight whenever a replica ends
	_, _ = w.Write(body)
}

// load is requests that come one after another from several clients.
type load struct {
	upstream *upstream
	url      string
	stop     chan struct{}
	clients  sync.WaitGroup

	mu     sync.Mutex
	sent   []string
	failed []string
}

func startLoad(u *upstream, url string) *load {
	l := &load{upstream: u, url: url, stop: make(chan struct{})}
	for i := range 4 {
		l.clients.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-l.stop:
					return
				case <-time.After(10 * time.Millisecond):
					l.send(fmt.Sprintf("client %d request %d", i, n))
				}
			}
		})
	}
	return l
}

var client = &http.Client{Timeout: patience, Transport: &http.Transport{MaxIdleConnsPerHost: 16}}

func (l *load) send(body string) {
	failure := ""
	response, err := client.Post(l.url, "text/plain", strings.NewReader(body))
	if err == nil {
		answer, readErr := io.ReadAll(response.Body)
		_ = response.Body.Close()
		if readErr != nil || response.StatusCode != http.StatusOK || string(answer) != body {
			failure = fmt.Sprintf("%s %s: %d %q %v", time.Now().Format(time.TimeOnly), body, response.StatusCode, answer, readErr)
		}
	} else {
		failure = fmt.Sprintf("%s %s: %v", time.Now().Format(time.TimeOnly), body, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sent = append(l.sent, body)
	if failure != "" {
		l.failed = append(l.failed, failure)
	}
}

// end stops the load, of which nothing may be lost or doubled.
func (l *load) end(t *testing.T) {
	t.Helper()
	close(l.stop)
	l.clients.Wait()
	for _, failure := range l.failed[:min(10, len(l.failed))] {
		t.Error("lost: ", failure)
	}
	wrong := 0
	for _, body := range l.sent {
		if l.upstream.arrived[body] != 1 {
			wrong++
		}
	}
	t.Logf("%d requests, %d lost, %d not exactly once at the upstream", len(l.sent), len(l.failed), wrong)
	if wrong > 0 || len(l.failed) > 0 || len(l.sent) < 100 {
		t.Error("want more than 100 requests, none lost, none doubled")
	}
}
