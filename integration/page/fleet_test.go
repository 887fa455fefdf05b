package page

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

const patience = time.Minute

var binary string // of the product, built by TestMain

func TestMain(m *testing.M) {
	flag.Parse()
	dir, err := os.MkdirTemp("", "page-")
	if err != nil {
		panic(err)
	}
	binary = filepath.Join(dir, "throttle-proxy")
	build := exec.Command("go", "build", "-o", binary, "./cmd/throttle-proxy")
	build.Dir = "../.."
	if out, err := build.CombinedOutput(); err != nil {
		panic(fmt.Sprintf("go build: %v\n%s", err, out))
	}
	status := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(status)
}

// replica is the binary as it serves. It ends with the test.
type replica struct {
	name, url, page string
	cmd             *exec.Cmd
	exited          chan struct{}
	stderr          output
}

// output collects what a process writes.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

var (
	listening = regexp.MustCompile(`listening on ([^\s"]+)`)
	adminAt   = regexp.MustCompile(`admin on (127[^\s"]+)`)
)

// startReplica starts one that says where its page is.
func startReplica(t *testing.T, name string, words ...string) *replica {
	t.Helper()
	r := &replica{name: name, exited: make(chan struct{})}
	words = append(words, "--replica-name", name, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0")
	r.cmd = exec.Command(binary, words...)
	r.cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	r.cmd.Stderr = &r.stderr
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(r.exited)
		_ = r.cmd.Wait()
	}()
	t.Cleanup(func() { r.end(syscall.SIGTERM) })
	eventually(t, name+" listens", func() bool {
		select {
		case <-r.exited:
			t.Fatalf("%s ended: %s", name, r.stderr.String())
		default:
		}
		at, admin := listening.FindStringSubmatch(r.stderr.String()), adminAt.FindStringSubmatch(r.stderr.String())
		if at == nil || admin == nil {
			return false
		}
		r.url, r.page = "http://"+at[1], "http://"+admin[1]+"/"
		return true
	})
	return r
}

// end ends it by a signal, and by force if that does not help.
func (r *replica) end(by syscall.Signal) {
	_ = r.cmd.Process.Signal(by) // or it has ended
	select {
	case <-r.exited:
	case <-time.After(patience):
		_ = r.cmd.Process.Kill()
		<-r.exited
	}
}

// startUpstream starts what answers all, and says how slowly it should: whoever
// sends X-Takes waits that long.
func startUpstream(t *testing.T) (url string) {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		takes, _ := time.ParseDuration(r.Header.Get("X-Takes"))
		select {
		case <-time.After(takes):
			_, _ = io.WriteString(w, "ok")
		case <-r.Context().Done():
		}
	}))
	t.Cleanup(server.Close)
	return server.URL
}

// nobody returns an address at which nothing listens.
func nobody(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

var client = &http.Client{Timeout: patience, Transport: &http.Transport{MaxIdleConnsPerHost: 64}}

// post sends a request and returns its status, 0 without an answer.
func post(url, body string, fields ...string) int {
	request, err := http.NewRequest(http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		return 0
	}
	for _, field := range fields {
		name, value, _ := strings.Cut(field, ": ")
		request.Header.Set(name, value)
	}
	response, err := client.Do(request)
	if err != nil {
		return 0
	}
	defer response.Body.Close()
	_, _ = io.Copy(io.Discard, response.Body)
	return response.StatusCode
}

// load sends to each of the fleet in turn, so often, until the test ends it.
type load struct {
	stop chan struct{}
	all  sync.WaitGroup
}

func (l *load) send(fleet []*replica, every time.Duration, route string, body func(n int64) string, fields ...string) {
	var n atomic.Int64
	l.all.Go(func() {
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-l.stop:
				return
			case <-tick.C:
			}
			i := n.Add(1)
			l.all.Go(func() { post(fleet[int(i)%len(fleet)].url+route, body(i), fields...) })
		}
	})
}

func (l *load) end() {
	close(l.stop)
	l.all.Wait()
}
