package integration

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"throttle-proxy/integration/redistest"
)

// What can go wrong while somebody is on call.

// The words with which somebody has sent a request to curl explain that request.
func TestExplainReadsWhatCurlSends(t *testing.T) {
	t.Parallel()
	u := newUpstream(t)
	socket := "unix:" + filepath.Join(t.TempDir(), "admin.sock")
	r := startReplica(t, "--register", "hook="+u.URL, "--hold", "1h", "--admin", socket)
	file := filepath.Join(t.TempDir(), "body")
	if err := os.WriteFile(file, []byte("a=1\r\nb=2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, words := range map[string][]string{
		"a body":            {"-d", "one"},
		"of a type":         {"-d", "two", "-H", "Content-Type: text/plain"},
		"of no type":        {"-d", "three", "-H", "Content-Type:"},
		"of a file":         {"-d", "@" + file},
		"with line ends":    {"--data-binary", "@" + file},
		"empty":             {"-d", ""},
		"of another method": {"-X", "PUT", "-d", "four"},
		"without":           {"-X", "POST", "-H", "Idempotency-Key: five"},
	} {
		explain := slices.Concat([]string{"explain", "hook"}, words, []string{"--admin", socket})
		done(t, "verdict    admitted", explain...)
		out, err := exec.CommandContext(t.Context(), "curl", slices.Concat([]string{"-sS", "-w", "%{http_code}", r.url + "/hook"}, words)...).CombinedOutput()
		if err != nil || !strings.HasSuffix(string(out), "200") {
			t.Fatalf("%s: %v: %s", name, err, out)
		}
		if _, said, _ := command(t, explain...); !strings.Contains(said, "verdict    held") {
			t.Errorf("%s: curl has sent it, and got %s", name, said)
		}
	}
}

// A replica that gives no word is named, and follows as soon as it looks again.
func TestReplicaThatGivesNoWordIsNamed(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	u := newUpstream(t)
	dir := t.TempDir()
	fleet := startOperated(t, server.URL(), dir, "--register", "hook="+u.URL, "--rate", "1000/s")
	admin := "--admin=unix:" + filepath.Join(dir, "0.sock")
	done(t, "on all 3 replicas", "limit", "hook", "100/s", admin)
	fleet[1].signal(t, syscall.SIGSTOP)
	status, stdout, stderr := command(t, "pause", "hook", admin)
	if status != 3 || !strings.Contains(stdout, "hook is paused, on 2 of 3 replicas") || !strings.Contains(stderr, "no word within 2s from web-1") {
		t.Errorf("got status %d, %q and %q, want it named", status, stdout, stderr)
	}
	for _, i := range []int{0, 2} {
		expect(t, "paused", post(t, fleet[i].url+"/hook", "x"), "503 paused")
	}
	fleet[1].signal(t, syscall.SIGCONT)
	eventually(t, "it follows", func() bool {
		return post(t, fleet[1].url+"/hook", strconv.FormatInt(nonces.Add(1), 10)).Reason == "paused"
	})
}

// What is set holds where the store is away, and cannot be changed meanwhile; a
// replica that starts by then decides by what is configured.
func TestWhatIsSetHoldsWithoutTheStore(t *testing.T) {
	t.Parallel()
	s := startStoreUnderTest(t)
	u := newUpstream(t)
	socket := "unix:" + filepath.Join(t.TempDir(), "admin.sock")
	r := startReplicas(t, s.link.URL(), 1, "--register", "hook="+u.URL, "--register", "paused="+u.URL, "--rate", "1000000/s", "--store-timeout", "300ms", "--lock-ttl", "1m", "--admin", socket)[0]
	done(t, "on 1 replica", "limit", "hook", "2/d", "--admin", socket)
	done(t, "on 1 replica", "pause", "paused", "--admin", socket)
	s.server.Kill()
	eventually(t, "the store is away", func() bool { return strings.HasPrefix(r.ready(t), "degraded") })
	expect(t, "paused", post(t, r.url+"/paused", "x"), "503 paused")
	admitted := 0
	for i := range 20 {
		if post(t, r.url+"/hook", fmt.Sprint(i)).status == http.StatusOK {
			admitted++
		}
	}
	if admitted > 2 {
		t.Errorf("%d were admitted, want what was set, of which at most 2", admitted)
	}
	status, stdout, stderr := command(t, "restore", "hook", "--admin", socket)
	if status != 1 || stdout != "" || !strings.Contains(stderr, "so that nothing was changed") {
		t.Errorf("got status %d, %q and %q, want that nothing was changed", status, stdout, stderr)
	}
	done(t, "changed by hand: limit hook 2/d", "status", "--admin", socket)
	s.server.Restart() // empty
	eventually(t, "it is told again", func() bool { return len(s.keys(keyPrefix+"{fleet}:control")) == 1 })
	eventually(t, "it can be changed", func() bool {
		status, _, _ := command(t, "restore", "hook", "--admin", socket)
		return status == 0
	})
	expect(t, "restored", post(t, r.url+"/hook", "restored"), "200")
}

// A limit is told under the name by which it is taken back, and from then on.
func TestWhatIsSetIsTakenBackByTheNameThatIsTold(t *testing.T) {
	t.Parallel()
	u := newUpstream(t)
	socket := "unix:" + filepath.Join(t.TempDir(), "admin.sock")
	admin := "--admin=" + socket
	startReplica(t, "--register", "a="+u.URL, "--register", "b="+u.URL+"/b", "--pool", "ab=a,b", "--rate", "ab=100/s,name=both", "--rate", "a=50/s", "--admin", socket)
	done(t, "limit both of a is 3/s", "limit", "a", "3/s,name=both", admin)
	done(t, "limit a of a is 2/s", "limit", "a", "2/s,name=a", admin)
	done(t, "changed by hand: limit ab 3/s,name=both by ", "status", admin)
	done(t, "changed by hand: limit a 2/s,name=a by ", "status", "a", admin)
	done(t, "budget a of ab: 2 left of 2/s\n", "status", "a", admin) // before any request
	if _, said, _ := command(t, "status", "b", admin); strings.Contains(said, "limit a ") {
		t.Errorf("got %s, want nothing of another route", said)
	}
	done(t, "ab is as it was configured", "restore", "ab", admin)
	if _, said, _ := command(t, "status", admin); strings.Contains(said, "limit ab 3/s,name=both by") || !strings.Contains(said, "changed by hand: limit a 2/s,name=a by ") {
		t.Errorf("got %s, want the pool's limit taken back alone", said)
	}
	done(t, "a is as it was configured", "restore", "a", admin)
	if _, said, _ := command(t, "status", admin); strings.Contains(said, "changed by hand: ") || !strings.Contains(said, "budget a of ab: 50 left of 50/s") {
		t.Errorf("got %s, want nothing changed", said)
	}
}
