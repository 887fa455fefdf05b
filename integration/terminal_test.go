package integration

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"unicode/utf8"

	"github.com/creack/pty"
)

// watched is a replica whose standard error is a terminal.
type watched struct {
	cmd    *exec.Cmd
	shown  output
	client *http.Client
	read   sync.WaitGroup
}

func watch(t *testing.T, columns uint16, env string, words ...string) *watched {
	t.Helper()
	path, err := build()
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ours.Close() })
	if err := pty.Setsize(theirs, &pty.Winsize{Rows: 24, Cols: columns}); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(t.TempDir(), "s")
	w := &watched{cmd: exec.Command(path, append(words, "--listen", "unix:"+socket)...), client: onSocket(socket, 1)}
	w.cmd.Env = []string{"GORACE=atexit_sleep_ms=0", env}
	w.cmd.Stderr = theirs
	w.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := w.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.cmd.Process.Kill() })
	_ = theirs.Close()
	w.read.Go(func() { _, _ = io.Copy(&w.shown, ours) })
	eventually(t, "the replica listens", func() bool { return strings.Contains(w.shown.String(), "listening on") })
	return w
}

// stop returns all that was shown.
func (w *watched) stop(t *testing.T, signals ...syscall.Signal) (status int, shown string) {
	t.Helper()
	for _, s := range signals {
		_ = w.cmd.Process.Signal(s)
		eventually(t, "the signal is seen", func() bool {
			return strings.Contains(w.shown.String(), "draining") || strings.Contains(w.shown.String(), "stopped")
		})
	}
	_ = w.cmd.Wait()
	w.read.Wait()
	return w.cmd.ProcessState.ExitCode(), strings.ReplaceAll(w.shown.String(), "\r\n", "\n")
}

var colour = regexp.MustCompile("\x1b\\[[0-9]*m")

// At a terminal the log is for a person: short lines, colours, floods folded and
// a summary.
func TestLogAtATerminal(t *testing.T) {
	t.Parallel()
	upstream := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(upstream.Close)
	for _, test := range []struct {
		env, words string
		columns    int
		colours    bool
	}{
		{env: "TERM=xterm", columns: 60, colours: true},
		{env: "TERM=dumb", columns: 100},
		{env: "NO_COLOR=1", columns: 80},
	} {
		t.Run(test.env, func(t *testing.T) {
			t.Parallel()
			w := watch(t, uint16(test.columns), test.env, "--register", "hook="+upstream.URL, "--rate", "hook=1/d")
			const requests = 10
			for range requests {
				res, err := w.client.Get("http://replica/hook/")
				if err != nil {
					t.Fatal(err)
				}
				_ = res.Body.Close()
			}
			status, shown := w.stop(t, syscall.SIGTERM)
			if got := colour.MatchString(shown); got != test.colours {
				t.Errorf("colours: got %v, want %v", got, test.colours)
			}
			shown = colour.ReplaceAllString(shown, "")
			for line := range strings.Lines(shown) {
				if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > test.columns {
					t.Errorf("%d columns: %s", n, line)
				}
			}
			whole := strings.Join(strings.Fields(shown), " ")
			for _, want := range []string{
				`\d\d:\d\d:\d\d hook GET 404 forwarded`, `\d\d:\d\d:\d\d hook GET 429 limited`,
				`… [0-9]+ more refusals of hook in 1s: limited, limit hook`, `served 10 in \d s: 9 limited, 1 forwarded`, `stopped status 0 requests 10 uptime_ms`,
			} {
				if !regexp.MustCompile(want).MatchString(whole) {
					t.Errorf("no %s", want)
				}
			}
			if status != 0 || t.Failed() {
				t.Errorf("exit status %d after\n%s", status, shown)
			}
		})
	}
}

// With --log-format given a terminal gets what machines read.
func TestLogFormatThatIsGivenHoldsAtATerminal(t *testing.T) {
	t.Parallel()
	w := watch(t, 80, "TERM=xterm", "--register", "hook=http://127.0.0.1:1", "--log-format", "text")
	if _, shown := w.stop(t, syscall.SIGTERM); !strings.Contains(shown, "level=INFO msg=stopped status=0 requests=0 uptime_ms=") {
		t.Errorf("got %s", shown)
	}
}

// What a user is told is in the log under the same name: of the request, and of
// the one that it repeats, also while that runs.
func TestIDsOfARefusalAreInTheLog(t *testing.T) {
	t.Parallel()
	for _, format := range []string{"text", "json"} {
		u := newUpstream(t)
		defer u.open()
		r := startReplica(t, "--register", "hook="+u.URL, "--admin", "127.0.0.1:0", "--log-format", format, "--log-level", "debug", "--rate", "hook=100/s,by=header:Authorization", "--trusted-proxy", "127.0.0.1")
		logged := func(name, value string) *regexp.Regexp {
			if format == "json" {
				return regexp.MustCompile(fmt.Sprintf(`(?m)^{.*"%s":"?%s[",}].*$`, name, value))
			}
			return regexp.MustCompile(fmt.Sprintf(`(?m)^.* %s=%s( .*)?$`, name, value))
		}
		first := u.occupy(t, r.url+"/hook", format, "X-Forwarded-For: 203.0.113.7", "Authorization: Bearer canary")
		refused := do(t, http.MethodPost, r.url+"/hook", format, "X-Request-Id: theirs", "X-Forwarded-For: 203.0.113.7", "Authorization: Bearer canary")
		var told struct {
			RequestID string `json:"request_id"`
			Holder    struct {
				RequestID string `json:"request_id"`
			}
		}
		if err := json.Unmarshal([]byte(refused.body), &told); err != nil {
			t.Fatal(err)
		}
		if told.RequestID == "" || told.RequestID == "theirs" || told.Holder.RequestID == "" {
			t.Fatalf("got %s", refused.body)
		}
		running := logged("request_id", told.Holder.RequestID)
		eventually(t, "the holder is in the log while it runs", func() bool {
			line := running.FindString(r.stderr.String())
			return strings.Contains(line, "sent") && strings.Contains(line, "203.0.113.7")
		})
		if status := do(t, http.MethodGet, r.admin(t)+"/-/status", "").body; !strings.Contains(status, told.Holder.RequestID) {
			t.Errorf("no holder in %s", status)
		}
		line := ""
		eventually(t, "the refusal is in the log", func() bool {
			line = logged("request_id", told.RequestID).FindString(r.stderr.String())
			return line != ""
		})
		for name, value := range map[string]string{
			"client_request_id": "theirs", "holder_request_id": told.Holder.RequestID, "client": `203\.0\.113\.7`, "caller": "[0-9a-f]{8}",
			"duration_ms": `\d+(\.\d+)?`, "verdict_ms": `\d+(\.\d+)?`, "outcome": "duplicate",
		} {
			if !logged(name, value).MatchString(line) {
				t.Errorf("no %s of %s in %s", name, value, line)
			}
		}
		u.open()
		<-first
		if log := r.stderr.String(); strings.Contains(log, "canary") {
			t.Errorf("a credential in %s", log)
		}
	}
}

// A second signal is the end, and the log says so.
func TestForcedEndIsLogged(t *testing.T) {
	t.Parallel()
	p := startReplica(t, "--register", "hook=http://127.0.0.1:1", "--drain-delay", "1h")
	p.signal(t, syscall.SIGTERM)
	eventually(t, "it drains", func() bool { return strings.Contains(p.stderr.String(), "draining") })
	p.signal(t, syscall.SIGTERM)
	if status := p.wait(t); status != 1 {
		t.Errorf("exit status %d, want 1", status)
	}
	if log := p.stderr.String(); !strings.Contains(log, "msg=stopped status=1 requests=0 uptime_ms=") {
		t.Errorf("got %s", log)
	}
}
