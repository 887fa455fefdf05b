package integration

import (
	"bufio"
	"context"
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
	"syscall"
	"testing"
	"time"
)

// The log is a pipe that nobody reads: more requests are served than the pipe
// and the replica's buffer have room for, and the replica says that it lives.
// When the pipe is read again, a line says how many are missing.
func TestUnreadLogDoesNotStopAReplica(t *testing.T) {
	t.Parallel()
	const requests, clients = 24_000, 16 // of some 200 bytes in the log each
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") }))
	defer upstream.Close()
	path, err := build()
	if err != nil {
		t.Fatal(err)
	}
	log, theirs, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	dir := t.TempDir()
	public, admin := filepath.Join(dir, "public"), filepath.Join(dir, "admin")
	cmd := exec.Command(path, "--register", "hook="+upstream.URL, "--rate", "off", "--listen", "unix:"+public, "--admin", "unix:"+admin)
	cmd.Env = []string{"GORACE=atexit_sleep_ms=0"}
	cmd.Stderr = theirs
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = theirs.Close()
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	defer cmd.Process.Kill()

	get := func(client *http.Client, path string) string {
		res, err := client.Get("http://replica" + path)
		if err != nil {
			return err.Error()
		}
		defer res.Body.Close()
		body, _ := io.ReadAll(res.Body)
		return fmt.Sprintf("%d %s", res.StatusCode, body)
	}
	client, operator := onSocket(public, clients), onSocket(admin, 1)
	eventually(t, "the replica listens", func() bool { return get(client, "/-/ready") == "200 ok\n" })
	answers := make(chan string)
	for range clients {
		go func() {
			for range requests / clients {
				answers <- get(client, "/hook")
			}
		}()
	}
	for i := range requests {
		select {
		case got := <-answers:
			if got != "200 ok" {
				t.Fatalf("request %d: got %q, want 200 ok", i, got)
			}
		case <-time.After(patience):
			t.Fatalf("no answer after %d requests", i)
		}
	}
	if got := get(client, "/-/healthy"); got != "200 ok\n" {
		t.Errorf("got %q, want a healthy replica", got)
	}
	dropped := regexp.MustCompile(`(?m)^throttle_proxy_log_lines_dropped_total ([1-9].*)$`)
	if metrics := get(operator, "/metrics"); !dropped.MatchString(metrics) {
		t.Errorf("no dropped lines in\n%s", metrics)
	}

	lines, told := 0, 0
	reader := bufio.NewReader(log)
	_ = log.SetReadDeadline(time.Now().Add(patience))
	for told == 0 || lines+told < requests {
		line, err := reader.ReadString('\n')
		if err != nil {
			t.Fatalf("after %d lines and %d that were told as dropped, of %d: %v", lines, told, requests, err)
		}
		if _, n, ok := strings.Cut(line, `msg="lines of the log were dropped: they were not read in time" lines=`); ok {
			_, _ = fmt.Sscan(n, &told)
		} else if strings.Contains(line, "msg=request") {
			lines++
		}
	}
	if lines+told != requests {
		t.Errorf("got %d lines and %d that were told as dropped, want %d requests", lines, told, requests)
	}
	go func() { _, _ = io.Copy(io.Discard, reader) }()
	_ = cmd.Process.Signal(syscall.SIGTERM)
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("the replica ended with %v", err)
		}
	case <-time.After(patience):
		t.Error("the replica still runs")
	}
}

// A log whose reader has left is no reason to end.
func TestLogWithoutAReaderDoesNotEndAReplica(t *testing.T) {
	t.Parallel()
	path, err := build()
	if err != nil {
		t.Fatal(err)
	}
	log, theirs, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	_ = log.Close()
	socket := filepath.Join(t.TempDir(), "s")
	cmd := exec.Command(path, "--register", "hook=http://127.0.0.1:1", "--listen", "unix:"+socket)
	cmd.Stderr = theirs
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = theirs.Close()
	client := onSocket(socket, 1)
	for range 3 { // each with a line of the log
		eventually(t, "a request is answered", func() bool {
			res, err := client.Get("http://replica/nowhere")
			if err != nil {
				return false
			}
			_ = res.Body.Close()
			return res.StatusCode == http.StatusNotFound
		})
	}
	_ = cmd.Process.Signal(syscall.SIGTERM)
	if err := cmd.Wait(); err != nil {
		t.Errorf("the replica ended with %v", err)
	}
}

// onSocket returns a client of what listens on a unix socket.
func onSocket(path string, conns int) *http.Client {
	return &http.Client{Timeout: patience, Transport: &http.Transport{
		MaxIdleConnsPerHost: conns,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", path)
		},
	}}
}
