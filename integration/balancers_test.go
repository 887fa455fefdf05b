package integration

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"throttle-proxy/integration/redistest"
)

// Each configuration of deploy/balancers, with addresses of this machine in
// place of those in it, before two replicas. Traefik's cannot be run: Traefik
// is neither one of the system's packages nor a Go module that can be built.

// balancers are started with the text of their file, and where to listen. They
// end by a signal that is theirs.
var balancers = map[string]struct {
	file  string
	stop  os.Signal
	start func(t *testing.T, text, addr string) *exec.Cmd
}{
	"HAProxy": {"haproxy.cfg", syscall.SIGUSR1, func(t *testing.T, text, addr string) *exec.Cmd {
		config := write(t, strings.ReplaceAll(text, "bind :80", "bind "+addr))
		return exec.Command(systemPath("haproxy"), "-db", "-f", config)
	}},
	"nginx": {"nginx.conf", syscall.SIGTERM, func(t *testing.T, text, addr string) *exec.Cmd {
		text = strings.ReplaceAll(text, "listen 80;", "listen "+addr+";")
		config := write(t, "daemon off; master_process off; pid nginx.pid; error_log stderr warn; events {} http { access_log off;"+
			"client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;\n"+text+"}")
		return exec.Command(systemPath("nginx"), "-p", filepath.Dir(config), "-c", config)
	}},
	"Caddy": {"Caddyfile", syscall.SIGTERM, func(t *testing.T, text, addr string) *exec.Cmd {
		config := write(t, "{\nadmin off\nauto_https off\n}\n"+strings.ReplaceAll(text, ":80 {", "http://"+addr+" {"))
		cmd := exec.Command(systemPath("caddy"), "run", "--adapter", "caddyfile", "--config", config)
		cmd.Env = append(os.Environ(), "HOME="+filepath.Dir(config))
		return cmd
	}},
}

// systemPath returns where a server of the system's is: few PATHs lead there.
func systemPath(name string) string {
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	return "/usr/sbin/" + name
}

func write(t *testing.T, text string) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "config")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestBalancersInFront(t *testing.T) {
	t.Parallel()
	for name, balancer := range balancers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			u := newUpstream(t)
			defer u.open()
			store := redistest.Start(t)
			replicas := startReplicas(t, store.URL(), 2, "--register", "slack="+u.URL, "--register", "each="+u.URL, "--rate", "off",
				"--rate", "each=1/h,by=client", "--trusted-proxy", "127.0.0.1", "--drain-delay", "5s")
			text, err := os.ReadFile(filepath.Join("..", "deploy", "balancers", balancer.file))
			if err != nil {
				t.Fatal(err)
			}
			addr := net.JoinHostPort("127.0.0.1", redistest.FreePort(t))
			p := launch(t, balancer.start(t, strings.NewReplacer(
				"replica-1:44444", replicas[0].addr, "replica-2:44444", replicas[1].addr).Replace(string(text)), addr))
			t.Cleanup(func() {
				client.CloseIdleConnections()
				if p.running() {
					p.signal(t, balancer.stop)
					p.wait(t)
				}
			})
			eventually(t, name+" has both replicas", func() bool {
				if !p.running() {
					t.Fatal(name + " ended")
				}
				return listens(addr) && do(t, http.MethodGet, "http://"+addr+"/-/ready", "").status == http.StatusOK
			})
			url := "http://" + addr

			// Two clients of their own addresses, whatever they claim.
			for _, own := range []string{"127.0.0.8", "127.0.0.9"} {
				c := newClient(&net.TCPAddr{IP: net.ParseIP(own)})
				for _, want := range []string{"200", "429 limited"} {
					a, err := try(t.Context(), c, http.MethodPost, url+"/each", own+want, "X-Forwarded-For: 203.0.113.7")
					if err != nil {
						t.Fatal(err)
					}
					expect(t, own, a, want)
				}
				if got := u.last().header.Get("X-Forwarded-For"); !strings.HasPrefix(got, own) || strings.Contains(got, "203.0.113.7") {
					t.Errorf("the upstream is told of %q, want %s first, and not what the client claims", got, own)
				}
				c.CloseIdleConnections()
			}

			first := u.occupy(t, url+"/slack", "hello")
			expect(t, "the duplicate", post(t, url+"/slack", "hello"), "409 duplicate")
			eventually(t, "the refusal is logged", func() bool { return logged(replicas, "status=409") > 0 })
			u.open()
			expect(t, "the first", <-first, "200")

			replicaLeavesWithoutLoss(t, url+"/slack", u, replicas[0])
			if n := logged(replicas, "status=409"); n != 1 {
				t.Errorf("the replicas refused %d duplicates, one was sent", n)
			}
		})
	}
}

func logged(replicas []*replica, text string) (n int) {
	for _, r := range replicas {
		n += strings.Count(r.stderr.String(), text)
	}
	return n
}

// replicaLeavesWithoutLoss stops a replica while requests come, of which each
// must succeed and reach the upstream once.
func replicaLeavesWithoutLoss(t *testing.T, url string, u *upstream, leaving *replica) {
	t.Helper()
	var clients sync.WaitGroup
	left := make(chan struct{})
	for i := range 4 {
		clients.Go(func() {
			for n := 0; ; n++ {
				a, err := try(t.Context(), client, http.MethodPost, url, fmt.Sprint("client ", i, " request ", n))
				if err != nil || a.status != http.StatusOK || u.arrivals(a.nonce) != 1 {
					t.Errorf("request %d: got %v, %v, and it reached the upstream %d times", n, a, err, u.arrivals(a.nonce))
				}
				select {
				case <-left:
					return
				default:
				}
			}
		})
	}
	leaving.signal(t, syscall.SIGTERM)
	if status := leaving.wait(t); status != 0 {
		t.Errorf("exit status %d", status)
	}
	close(left)
	clients.Wait()
}
