package integration

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// activate starts the binary as systemd does: with a socket that is there before
// it, as descriptor 3.
func activate(t *testing.T, socket *os.File, env []string, words ...string) *process {
	t.Helper()
	path, err := build()
	if err != nil {
		t.Fatal(err)
	}
	// LISTEN_PID is the process itself, which only its shell knows.
	cmd := exec.Command("sh", append([]string{"-c", `LISTEN_PID=$$ exec "$0" "$@"`, path}, words...)...)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "GORACE=atexit_sleep_ms=0", "LISTEN_FDS=1"}, env...)
	cmd.ExtraFiles = []*os.File{socket}
	return launch(t, cmd)
}

// A replica that is restarted again and again loses no request where its socket
// stays: connections wait in that for the next process.
func TestRestartWithASocketOfSystemdLosesNothing(t *testing.T) {
	t.Parallel()
	const requests, clients, restarts = 10_000, 8, 3
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") }))
	defer upstream.Close()
	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) {
			address := "127.0.0.1:0"
			if network == "unix" {
				address = filepath.Join(t.TempDir(), "s")
			}
			listener, err := net.Listen(network, address)
			if err != nil {
				t.Fatal(err)
			}
			defer listener.Close()
			socket, err := listener.(interface{ File() (*os.File, error) }).File()
			if err != nil {
				t.Fatal(err)
			}
			defer socket.Close()
			address = listener.Addr().String()
			start := func() *process {
				return activate(t, socket, nil, "--register", "hook="+upstream.URL, "--rate", "off", "--log-level", "warn")
			}
			p := start()
			eventually(t, "it says whose socket it is", func() bool {
				return strings.Contains(p.stderr.String(), "listening on "+address+" (a socket of systemd's)")
			})
			transport := &http.Transport{MaxIdleConnsPerHost: clients, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, network, address)
			}}
			defer transport.CloseIdleConnections()
			client := &http.Client{Transport: transport, Timeout: patience}
			var sent, lost atomic.Int64
			var load sync.WaitGroup
			for c := range clients {
				load.Go(func() {
					for i := range requests / clients {
						sent.Add(1)
						res, err := client.Post("http://replica/hook", "text/plain", strings.NewReader(fmt.Sprint(c, i)))
						if err != nil {
							lost.Add(1)
							t.Errorf("request %d of client %d: %v", i, c, err)
							return
						}
						body, _ := io.ReadAll(res.Body)
						_ = res.Body.Close()
						if string(body) != "ok" {
							lost.Add(1)
							t.Errorf("request %d of client %d: %d %s", i, c, res.StatusCode, body)
						}
					}
				})
			}
			for i := range restarts {
				eventually(t, "load goes on", func() bool { return sent.Load() > int64((i+1)*requests/(restarts+1)) || lost.Load() > 0 })
				p.signal(t, syscall.SIGTERM)
				if status := p.wait(t); status != 0 {
					t.Errorf("exit status %d", status)
				}
				p = start()
			}
			load.Wait()
			if sent.Load() != requests || lost.Load() > 0 {
				t.Errorf("lost %d of %d", lost.Load(), sent.Load())
			}
			if network == "unix" {
				if _, err := os.Stat(address); err != nil {
					t.Error("the socket's path is gone: ", err)
				}
			}
		})
	}
}

// systemd is told when the replica serves, that it lives, and that it ends.
func TestSystemdIsTold(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	told := make(chan string, 1000)
	go func() {
		defer close(told)
		for buffer := make([]byte, 4096); ; {
			n, err := conn.Read(buffer)
			if err != nil {
				return
			}
			told <- string(buffer[:n])
		}
	}()
	next := func() string {
		select {
		case text := <-told:
			return text
		case <-time.After(patience):
			t.Fatal("nothing is told")
			return ""
		}
	}
	r := startReplica(t, "NOTIFY_SOCKET="+path, "WATCHDOG_USEC=300000", "--register", "hook=http://127.0.0.1:1")
	var seen []string
	for count := 0; count < 5; count++ {
		seen = append(seen, next())
	}
	if !slices.Contains(seen, "READY=1") || slices.Contains(seen, "STOPPING=1") || !slices.Contains(seen, "WATCHDOG=1") {
		t.Errorf("got %q, want READY and WATCHDOG", seen)
	}
	r.signal(t, syscall.SIGTERM)
	for next() != "STOPPING=1" {
	}
	if status := r.wait(t); status != 0 {
		t.Errorf("exit status %d", status)
	}
}

// What cannot be listened on is told, and what there is too much of.
func TestSocketsOfSystemdThatCannotBeUsed(t *testing.T) {
	t.Parallel()
	file, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	p := activate(t, file, nil, "--register", "hook=http://127.0.0.1:1")
	if status := p.wait(t); status != 1 || !strings.Contains(p.stderr.String(), "write ListenStream= in the .socket") {
		t.Errorf("got %d, %s", status, p.stderr.String())
	}
}
