package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"
	"golang.org/x/sys/unix"
)

const (
	product   = "bin/throttle-proxy" // of make build
	largePath = "/large"
)

// bed is where one workload runs: its processes end with it.
type bed struct {
	ctx      context.Context
	dir      string
	cleanups []func()
	held     chan struct{} // tells that a request to be held has reached the upstream
	runs     int           // samples so far: no two send equal bodies
}

func newBed(ctx context.Context) (*bed, error) {
	dir, err := os.MkdirTemp("", "bench-")
	if err != nil {
		return nil, err
	}
	b := &bed{ctx: ctx, dir: dir, cleanups: []func(){func() { _ = os.RemoveAll(dir) }}, held: make(chan struct{}, 1)}
	return b, b.certify()
}

func (b *bed) end() {
	for i := range b.cleanups {
		b.cleanups[len(b.cleanups)-1-i]()
	}
}

// start starts a process and returns its id once it accepts connections. It
// ends with the bed or, whatever becomes of that, with this process.
func (b *bed) start(addr, name string, args ...string) (pid int, err error) {
	cmd := exec.CommandContext(b.ctx, name, args...)
	cmd.Env = append(os.Environ(), "SSL_CERT_FILE="+b.certificate())
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("%w (make bench installs what is missing)", err)
	}
	b.cleanups = append(b.cleanups, func() { _, _ = cmd.Process.Kill(), cmd.Wait() })
	for deadline := time.Now().Add(20 * time.Second); b.ctx.Err() == nil; time.Sleep(time.Millisecond) {
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			return cmd.Process.Pid, conn.Close()
		}
		if time.Now().After(deadline) {
			return 0, fmt.Errorf("does not listen: %.300s", cmd)
		}
	}
	return 0, b.ctx.Err()
}

// freeAddr returns an address below the range that the system takes ports for
// outgoing connections from.
func freeAddr() string {
	for {
		addr := fmt.Sprint("127.0.0.1:", 10000+rand.IntN(20000))
		if listener, err := net.Listen("tcp", addr); err == nil {
			_ = listener.Close()
			return addr
		}
	}
}

// system is what is measured.
type system struct {
	name   string
	pids   []int    // whose CPU time counts
	addrs  []string // that the load goes to
	holder string   // address of the replica that has the lock of the load's requests
	redis  *redis.Client
	pid    int // of Redis
	routes int
}

func (b *bed) system(name string, w workload, upstream string) (*system, error) {
	s := &system{name: name, routes: max(w.routes, 1)}
	addr := freeAddr()
	switch name {
	case direct:
		s.addrs = []string{upstream}
		return s, nil
	case bare:
		self, err := os.Executable()
		if err != nil {
			return nil, err
		}
		return s, b.add(s, addr, w, self, "bare-proxy", addr, w.scheme()+upstream)
	case nginx:
		budget := w.budget
		if budget == 0 {
			budget = 1_000_000
		}
		pid, err := b.startNginx(addr, fmt.Sprintf(nginxProxy, upstream, budget, addr))
		s.pids, s.addrs = []int{pid}, []string{addr}
		return s, err
	}
	form := forms[name]
	args := slices.Clone(form.flags)
	if form.redis {
		if err := b.startRedis(s, addr); err != nil {
			return nil, err
		}
		args = append(args, "--redis", "redis://"+addr)
	}
	for i := range s.routes {
		args = append(args, "--register", fmt.Sprintf("v%d=%s%s/v%[1]d", i+1, w.scheme(), upstream))
	}
	for i := range max(w.budgets, 1) {
		rate := fmt.Sprintf("1000000/s,burst=%d", 1_000_000-i)
		if w.budget != 0 {
			rate = fmt.Sprint(w.budget, "/s")
		}
		args = append(args, "--rate", rate)
	}
	args = append(args, w.flags...)
	replicas := max(w.replicas, 1)
	if form.elsewhere {
		replicas = 2
	}
	binary := product
	if form.older {
		binary = w.older
	}
	for range replicas {
		addr := freeAddr()
		if err := b.add(s, addr, w, binary, append([]string{"--listen", addr, "--admin", freeAddr()}, args...)...); err != nil {
			return nil, err
		}
	}
	if form.elsewhere {
		if w.load.equal {
			s.holder = s.addrs[0]
		}
		s.addrs, s.pids = s.addrs[1:], s.pids[1:]
	}
	return s, nil
}

func (b *bed) add(s *system, addr string, w workload, name string, args ...string) error {
	if w.cores > 0 {
		name, args = "env", append([]string{fmt.Sprint("GOMAXPROCS=", w.cores), name}, args...)
	}
	pid, err := b.start(addr, name, args...)
	s.pids, s.addrs = append(s.pids, pid), append(s.addrs, addr)
	return err
}

func (b *bed) startRedis(s *system, addr string) (err error) {
	_, port, _ := net.SplitHostPort(addr)
	s.pid, err = b.start(addr, "redis-server", "--bind", "127.0.0.1", "--port", port, "--save", "", "--appendonly", "no", "--dir", b.dir)
	s.redis = redis.NewClient(&redis.Options{Addr: addr, PoolSize: 1})
	b.cleanups = append(b.cleanups, func() { _ = s.redis.Close() })
	return err
}

// bareProxy is what the ratios are to: the standard library's proxy with
// connections that are kept, and no checks.
func bareProxy(addr, upstream string) error {
	target, err := url.Parse(upstream)
	if err != nil {
		return err
	}
	return http.ListenAndServe(addr, &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.SetXForwarded()
		},
		Transport: &http.Transport{MaxIdleConnsPerHost: 4096, DisableCompression: true}, // by https it takes the HTTP/2 that is offered
		ErrorLog:  log.New(io.Discard, "", 0),
	})
}

// allowConnections lets children open as many files as the system allows.
func allowConnections() error {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return err
	}
	limit.Cur = limit.Max
	return syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit)
}

// usage is what a system has used so far.
type usage struct {
	cpu, redisCPU   time.Duration
	reads, commands float64 // of Redis
}

func (s *system) usage(ctx context.Context) (u usage, err error) {
	for _, pid := range s.pids {
		used, err := cpuTime(pid)
		if err != nil {
			return u, err
		}
		u.cpu += used
	}
	if s.redis == nil {
		return u, nil
	}
	if u.redisCPU, err = cpuTime(s.pid); err != nil {
		return u, err
	}
	info, err := s.redis.Info(ctx, "stats").Result()
	for line := range strings.Lines(info) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		switch n, _ := strconv.ParseFloat(value, 64); name {
		case "total_reads_processed":
			u.reads = n
		case "total_commands_processed":
			u.commands = n
		}
	}
	return u, err
}

// cpuTime returns the time that a process has run, by its own clock: what /proc
// tells is rounded to 10 ms.
func cpuTime(pid int) (time.Duration, error) {
	const scheduled = 2 // of the kernel's names for such clocks
	var t unix.Timespec
	err := unix.ClockGettime(int32(^pid<<3|scheduled), &t)
	return time.Duration(t.Nano()), err
}

// memory returns the resident memory of the system's processes in MiB.
func (s *system) memory() (mib float64) {
	for _, pid := range s.pids {
		statm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
		if fields := bytes.Fields(statm); len(fields) > 1 {
			pages, _ := strconv.Atoi(string(fields[1]))
			mib += float64(pages*os.Getpagesize()) / (1 << 20)
		}
	}
	return mib
}
