package integration

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// SIGHUP reads files again: URL, fields to set. It is logged, and loses nothing;
// what cannot be used leaves everything as it was.
func TestHangupReadsSecretsAgain(t *testing.T) {
	t.Parallel()
	serve := func(name string) string {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, name+r.URL.Path+" "+r.Header.Get("Authorization"))
		}))
		t.Cleanup(s.Close)
		return s.URL
	}
	one, two := serve("one"), serve("two")
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		return "file:" + path
	}
	r := startReplica(t, "--register", "hook="+write("url", one+"/canary-1"), "--set-header", "hook=Authorization="+write("token", "canary-a"), "--rate", "off")
	says := func() string { return do(t, http.MethodGet, r.url+"/hook", "").body }
	if got, want := says(), "one/canary-1 canary-a"; got != want {
		t.Fatalf("got %q, want %q", got, want)
	}
	hangups := 0
	hangup := func(told string) {
		t.Helper()
		hangups++
		r.signal(t, syscall.SIGHUP)
		eventually(t, "it is logged", func() bool { return strings.Count(r.stderr.String(), `msg="SIGHUP: `) == hangups })
		lines := strings.Split(strings.TrimSpace(r.stderr.String()), "\n")
		for _, line := range lines {
			if strings.Contains(line, "SIGHUP") {
				lines[0] = line
			}
		}
		if !strings.Contains(lines[0], told) {
			t.Errorf("got %s, want %s", lines[0], told)
		}
	}
	write("url", two+"/canary-2")
	write("token", "canary-b")
	hangup(`changed=hook`)
	if got, want := says(), "two/canary-2 canary-b"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	hangup(`changed=""`)
	write("url", "canary not a url")
	hangup("level=WARN")
	if got, want := says(), "two/canary-2 canary-b"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if log := r.stderr.String(); strings.Contains(log, "canary") {
		t.Errorf("a secret in %s", log)
	}

	// Many of them under load lose no request.
	write("url", one+"/canary-3")
	var load sync.WaitGroup
	for range 4 {
		load.Go(func() {
			for range 50 {
				if a := do(t, http.MethodGet, r.url+"/hook", ""); a.status != http.StatusOK {
					t.Errorf("got %d %s", a.status, a.body)
				}
			}
		})
	}
	for range 20 {
		r.signal(t, syscall.SIGHUP)
		time.Sleep(5 * time.Millisecond) // among the requests
	}
	load.Wait()
	eventually(t, "the new URL holds", func() bool { return strings.HasPrefix(says(), "one/canary-3") })
}

// SIGHUP ends a replica neither before it listens nor while it drains.
func TestHangupNeverEndsAReplica(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	p := run(t, "--register", "hook=http://127.0.0.1:1", "--listen", taken.Addr().String(), "--drain-delay", "1s")
	eventually(t, "it waits for its port", func() bool { return strings.Contains(p.stderr.String(), "is taken") })
	p.signal(t, syscall.SIGHUP)
	_ = taken.Close()
	eventually(t, "it listens, and has read again", func() bool {
		return strings.Contains(p.stderr.String(), "listening on") && strings.Contains(p.stderr.String(), "SIGHUP: ")
	})
	p.signal(t, syscall.SIGTERM)
	eventually(t, "it drains", func() bool { return strings.Contains(p.stderr.String(), "draining") })
	p.signal(t, syscall.SIGHUP)
	if status := p.wait(t); status != 0 || !strings.Contains(p.stderr.String(), "msg=stopped status=0") {
		t.Errorf("exit status %d, %s", status, p.stderr.String())
	}
}
