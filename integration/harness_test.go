// Package integration tests the built binary from outside: real processes, a
// real Redis, a real load balancer, and an upstream that records what reaches
// it. No test is about speed: what must happen may take up to patience.
package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"throttle-proxy/integration/redistest"
)

const patience = time.Minute

// What keys of the store begin with, where no flag says otherwise.
const (
	keyFormat = "2" // the version of what is in them
	keyPrefix = "throttle:" + keyFormat + ":"
)

var buildDir string // set by TestMain

func TestMain(m *testing.M) {
	flag.Parse()
	if testing.Short() {
		fmt.Println("skipped with -short")
		return
	}
	var err error
	if buildDir, err = os.MkdirTemp("", "throttle-proxy-"); err != nil {
		panic(err)
	}
	status := m.Run()
	_ = os.RemoveAll(buildDir)
	os.Exit(status)
}

var build = sync.OnceValues(func() (string, error) {
	path := filepath.Join(buildDir, "throttle-proxy")
	out, err := exec.Command("go", "build", "-race", "-o", path, "throttle-proxy/cmd/throttle-proxy").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return path, nil
})

// eventually returns once condition holds.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !condition(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not in %s: %s", patience, what)
		}
	}
}

// process is a child that ends with the test.
type process struct {
	stdout, stderr output
	cmd            *exec.Cmd
	exited         chan struct{}
}

// run starts the binary by a command line as in a shell, variables first.
func run(t *testing.T, words ...string) *process {
	t.Helper()
	return runBuilt(t, build, words...)
}

func runBuilt(t *testing.T, build func() (path string, err error), words ...string) *process {
	t.Helper()
	path, err := build()
	if err != nil {
		t.Fatal(err)
	}
	env := []string{"PATH=" + os.Getenv("PATH"), "GORACE=atexit_sleep_ms=0"}
	for len(words) > 0 && assignment.MatchString(words[0]) {
		env, words = append(env, words[0]), words[1:]
	}
	cmd := exec.Command(path, words...)
	cmd.Env = env
	return launch(t, cmd)
}

var assignment = regexp.MustCompile(`^[A-Z0-9_]+=`)

func launch(t *testing.T, cmd *exec.Cmd) *process {
	t.Helper()
	p := &process{cmd: cmd, exited: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = &p.stdout, &p.stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatalf("%v (make test installs what is missing)", err)
	}
	go func() {
		defer close(p.exited)
		_ = cmd.Wait()
	}()
	t.Cleanup(func() { p.end(t) })
	return p
}

// end asks a process that still runs to end, which it must do in order.
func (p *process) end(t *testing.T) {
	running := p.running()
	if running {
		p.signal(t, syscall.SIGTERM)
	}
	status := p.wait(t)
	if running && status != 0 {
		t.Errorf("%s: exit status %d", p.cmd.Path, status)
	}
	stderr := p.stderr.String()
	if strings.Contains(stderr, "DATA RACE") {
		t.Error("a data race in the process")
	}
	if t.Failed() {
		t.Logf("%s: end of its standard error:\n%s", p.cmd.Path, stderr[max(0, len(stderr)-2<<10):])
	}
}

func (p *process) running() bool {
	select {
	case <-p.exited:
		return false
	default:
		return true
	}
}

func (p *process) signal(t *testing.T, sig os.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(sig); err != nil {
		t.Errorf("signal %v: %v", sig, err)
	}
}

// wait returns the exit status of a process that ends, -1 if by a signal.
func (p *process) wait(t *testing.T) int {
	t.Helper()
	select {
	case <-p.exited:
	case <-time.After(patience):
		t.Errorf("%s still runs after %s", p.cmd.Path, patience)
		_ = p.cmd.Process.Kill()
		<-p.exited
	}
	return p.cmd.ProcessState.ExitCode()
}

// output collects what a process writes.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// replica is the binary as it serves.
type replica struct {
	*process
	addr, url string
}

var listening = regexp.MustCompile(`(?m)listening on ([^\s"]+)`)

func startReplica(t *testing.T, words ...string) *replica {
	t.Helper()
	return startReplicaOn(t, "127.0.0.1:0", words...)
}

func startReplicaOn(t *testing.T, addr string, words ...string) *replica {
	t.Helper()
	return startBuilt(t, build, addr, words...)
}

// startBuilt starts a replica of a certain build.
func startBuilt(t *testing.T, build func() (path string, err error), addr string, words ...string) *replica {
	t.Helper()
	r := &replica{process: runBuilt(t, build, append(slices.Clone(words), "--listen", addr)...)}
	eventually(t, "the replica listens", func() bool {
		match := listening.FindStringSubmatch(r.stderr.String())
		if match == nil {
			if !r.running() {
				t.Fatal("the replica ended")
			}
			return false
		}
		r.addr, r.url = match[1], "http://"+match[1]
		return true
	})
	return r
}

// ready returns what the replica tells of itself.
func (r *replica) ready(t *testing.T) string {
	t.Helper()
	return do(t, http.MethodGet, r.url+"/-/ready", "").body
}

// fleet is replicas that share a Redis, behind a load balancer.
type fleet struct {
	url      string // of the load balancer
	replicas []*replica
	server   *redistest.Server
	redis    *redis.Client
}

func startFleet(t *testing.T, size int, words ...string) *fleet {
	t.Helper()
	server := redistest.Start(t, "--slowlog-log-slower-than", "0", "--slowlog-max-len", "10000") // all commands: see asked
	replicas := startReplicas(t, server.URL(), size, words...)
	return &fleet{url: startBalancer(t, replicas), replicas: replicas, server: server, redis: server.Client()}
}

// startReplicas starts replicas that share a Redis. Unless words say otherwise
// no verdict is missed on a busy machine, and no lock that was left behind
// goes by itself.
func startReplicas(t *testing.T, redisURL string, size int, words ...string) []*replica {
	t.Helper()
	words = append([]string{
		"THROTTLE_PROXY_REDIS=" + redisURL, "THROTTLE_PROXY_STORE_TIMEOUT=5s", "THROTTLE_PROXY_LOCK_TTL=10m",
	}, words...)
	var replicas []*replica
	for range size {
		replicas = append(replicas, startReplica(t, words...))
	}
	return replicas
}

const balancerConfig = `
daemon off;
master_process off; # one process, which the test can end
pid nginx.pid;
error_log stderr warn;
events { worker_connections 1024; }
http {
	access_log off;
	client_body_temp_path body;
	proxy_temp_path proxy;
	fastcgi_temp_path fastcgi;
	uwsgi_temp_path uwsgi;
	scgi_temp_path scgi;
	keepalive_requests 1000000;
	client_max_body_size 0;
	upstream replicas {
		%s
		keepalive 64;
		keepalive_requests 1000000;
	}
	server {
		listen %s;
		location / {
			proxy_pass http://replicas;
			proxy_http_version 1.1;
			proxy_next_upstream off; # it would send a POST twice
			proxy_read_timeout 300s;
			proxy_set_header Host $http_host;
			proxy_set_header Connection "";
			proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
		}
	}
}
`

// startBalancer starts nginx, which deals requests to replicas in turn. changes
// of its configuration are pairs of what is there and what is to be.
func startBalancer(t *testing.T, replicas []*replica, changes ...string) (url string) {
	t.Helper()
	path, err := exec.LookPath("nginx")
	if err != nil {
		path = "/usr/sbin/nginx" // where few PATHs lead
	}
	var servers strings.Builder
	for _, r := range replicas {
		fmt.Fprintf(&servers, "server %s max_fails=0;\n", r.addr)
	}
	addr := net.JoinHostPort("127.0.0.1", redistest.FreePort(t))
	dir := t.TempDir()
	config := filepath.Join(dir, "nginx.conf")
	text := strings.NewReplacer(changes...).Replace(fmt.Sprintf(balancerConfig, servers.String(), addr))
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	p := launch(t, exec.Command(path, "-p", dir, "-c", config))
	eventually(t, "nginx listens", func() bool {
		if !p.running() {
			t.Fatal("nginx ended")
		}
		return listens(addr)
	})
	return "http://" + addr
}

func listens(addr string) bool {
	conn, err := net.Dial("tcp", addr)
	if err == nil {
		_ = conn.Close()
	}
	return err == nil
}

// client is that of all requests, but for those of a certain address.
var client = newClient(nil)

func newClient(from net.Addr) *http.Client {
	return &http.Client{
		Timeout: patience,
		Transport: &http.Transport{
			DialContext:         (&net.Dialer{LocalAddr: from}).DialContext,
			MaxIdleConnsPerHost: 256,
			DisableCompression:  true,
		},
	}
}

// answer is what a client got for a request.
type answer struct {
	nonce  string    // that the request carried
	sent   time.Time // shortly before it was
	status int
	header http.Header
	body   string

	Reason   string // what follows is in the body of an answer of the proxy's own
	Route    string
	Detail   string
	Violated []string `json:"violated-policies"`
	Holder   struct {
		RequestID string `json:"request_id"`
		Replica   string
	}
}

func (a answer) String() string {
	return strings.TrimSpace(fmt.Sprint(a.status, " ", a.Reason))
}

// remaining returns the r of a budget in the answer's RateLimit.
func (a answer) remaining(t *testing.T, name string) int {
	t.Helper()
	match := regexp.MustCompile(strconv.Quote(name) + `;r=(\d+)`).FindStringSubmatch(a.header.Get("RateLimit"))
	if match == nil {
		t.Fatalf("%v: no budget %s in RateLimit: %s", a, name, a.header.Get("RateLimit"))
	}
	n, _ := strconv.Atoi(match[1])
	return n
}

var nonces atomic.Int64

// try sends a request with fields, each as in "Name: value", and, if they have
// none, a nonce of its own.
func try(ctx context.Context, c *http.Client, method, url, body string, fields ...string) (answer, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	for _, field := range fields {
		name, value, _ := strings.Cut(field, ": ")
		req.Header.Add(name, value)
	}
	req.Host = req.Header.Get("Host")
	if req.Header.Get("Transfer-Encoding") == "chunked" {
		req.Header.Del("Transfer-Encoding")
		req.ContentLength = -1
	}
	a := answer{nonce: req.Header.Get(nonceField), sent: time.Now()}
	if a.nonce == "" {
		a.nonce = strconv.FormatInt(nonces.Add(1), 10)
		req.Header.Set(nonceField, a.nonce)
	}
	res, err := c.Do(req)
	if err != nil {
		return a, err
	}
	defer res.Body.Close()
	a.status, a.header = res.StatusCode, res.Header
	content, err := io.ReadAll(res.Body)
	a.body = string(content)
	if err == nil && res.Header.Get("Content-Type") == "application/problem+json" {
		err = json.Unmarshal(content, &a)
	}
	return a, err
}

// do sends a request that is answered, whatever the answer.
func do(t *testing.T, method, url, body string, fields ...string) answer {
	t.Helper()
	a, err := try(t.Context(), client, method, url, body, fields...)
	if err != nil {
		t.Errorf("no answer: %v", err)
	}
	return a
}

func post(t *testing.T, url, body string, fields ...string) answer {
	t.Helper()
	return do(t, http.MethodPost, url, body, fields...)
}

// decided repeats a request until the store has decided it.
func decided(request func() answer) answer {
	for deadline := time.Now().Add(patience); ; {
		a := request()
		if a.status != http.StatusServiceUnavailable || time.Now().After(deadline) {
			return a
		}
	}
}

// inBackground returns where the answer to a request will be.
func inBackground(request func() answer) <-chan answer {
	answers := make(chan answer, 1)
	go func() { answers <- request() }()
	return answers
}

// each calls f(0) to f(n-1), workers of them at a time.
func each(n, workers int, f func(i int)) {
	var next atomic.Int64
	var working sync.WaitGroup
	for range workers {
		working.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				f(i)
			}
		})
	}
	working.Wait()
}

// expect fails the test unless a has the status and, if it is the proxy's own,
// the reason.
func expect(t *testing.T, what string, a answer, want string) {
	t.Helper()
	if a.String() != want {
		t.Errorf("%s: got %v, want %s", what, a, want)
	}
}

// locks returns the values of all locks in Redis, by their keys.
func (f *fleet) locks(t *testing.T) map[string]string {
	t.Helper()
	locks := map[string]string{}
	keys := f.redis.Scan(t.Context(), 0, "*:lock:*", 1000).Iterator()
	for keys.Next(t.Context()) {
		if value, err := f.redis.Get(t.Context(), keys.Val()).Result(); err == nil {
			locks[keys.Val()] = value
		}
	}
	if err := keys.Err(); err != nil {
		t.Error(err)
	}
	return locks
}

// asked returns how many commands the replicas have sent to Redis about locks
// and budgets. Redis logs what scripts do as well, under an address of its own.
func (f *fleet) asked(t *testing.T) (n int) {
	t.Helper()
	commands, err := f.redis.SlowLogGet(t.Context(), -1).Result()
	if err != nil {
		t.Error(err)
	}
	for _, c := range commands {
		if args := strings.Join(c.Args, " "); c.ClientAddr != "?:0" && (strings.Contains(args, ":lock:") || strings.Contains(args, ":rate:")) {
			n++
		}
	}
	return n
}
