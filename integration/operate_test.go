package integration

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"throttle-proxy/integration/redistest"
)

// What operators change while requests come.

// command runs the binary to its end, and returns its exit status and what it says.
func command(t *testing.T, words ...string) (status int, stdout, stderr string) {
	t.Helper()
	p := run(t, words...)
	status = p.wait(t)
	return status, p.stdout.String(), p.stderr.String()
}

// done runs a command that must do what it says.
func done(t *testing.T, want string, words ...string) {
	t.Helper()
	status, stdout, stderr := command(t, words...)
	if status != 0 || stderr != "" || !strings.Contains(stdout, want) {
		t.Errorf("%v: got status %d, %q and %q, want %q", words, status, stdout, stderr, want)
	}
}

// startOperated starts replicas that operators can change, each by a socket of its
// own in a directory.
func startOperated(t *testing.T, redisURL, dir string, words ...string) (fleet []*replica) {
	t.Helper()
	for i := range 3 {
		socket := "unix:" + filepath.Join(dir, fmt.Sprint(i, ".sock"))
		fleet = append(fleet, startReplicas(t, redisURL, 1, append(words, "--admin", socket, "--replica-name", fmt.Sprint("web-", i))...)...)
	}
	return fleet
}

// Under load, through the balancer: the limit is obeyed exactly from when the
// command returns, and no request is without its answer.
func TestLimitIsObeyedFromWhenTheCommandReturns(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	u := newUpstream(t)
	dir := t.TempDir()
	words := []string{"--register", "hook=" + u.URL, "--rate", "100000/s", "--hold", "0s,unknown=0s"}
	fleet := startOperated(t, server.URL(), dir, words...)
	url := startBalancer(t, fleet) + "/hook"
	admin := func(i int) string { return "--admin=unix:" + filepath.Join(dir, fmt.Sprint(i, ".sock")) }

	var stop atomic.Bool
	var mu sync.Mutex
	var answers []answer
	var load sync.WaitGroup
	for range 6 {
		load.Go(func() {
			for !stop.Load() {
				a := post(t, url, strconv.FormatInt(nonces.Add(1), 10))
				mu.Lock()
				answers = append(answers, a)
				mu.Unlock()
			}
		})
	}
	admittedSince := func(since time.Time) (n int) {
		mu.Lock()
		defer mu.Unlock()
		for _, a := range answers {
			if a.sent.After(since) && a.status == http.StatusOK {
				n++
			}
		}
		return n
	}
	began := time.Now()
	eventually(t, "much is admitted", func() bool { return admittedSince(began) > 200 })
	done(t, "limit hook of hook is 2/s, burst 2, on all 3 replicas", "limit", "hook", "2/s", admin(0))
	returned := time.Now()
	eventually(t, "a few are admitted", func() bool { return admittedSince(returned) >= 6 })
	if n, most := admittedSince(returned), 2+2*time.Since(returned).Seconds(); float64(n) > most {
		t.Errorf("%d were admitted, want at most %.1f", n, most)
	}
	done(t, "hook is as it was configured, on all 3 replicas", "restore", "hook", admin(1))
	restored := time.Now()
	eventually(t, "much is admitted again", func() bool { return admittedSince(restored) > 200 })
	done(t, "hook is paused for 1h, on all 3 replicas", "pause", "hook", "--for", "1h", "--message", "back soon", admin(2))
	paused := time.Now()
	eventually(t, "some are refused", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return answers[len(answers)-1].sent.Sub(paused) > 200*time.Millisecond
	})
	if n := admittedSince(paused); n > 0 {
		t.Errorf("%d were admitted by a paused route", n)
	}
	stop.Store(true)
	load.Wait()
	u.expectAgreement(t, answers)
	for kind := range count(answers) {
		if kind != "200" && kind != "429 limited" && kind != "503 paused" {
			t.Errorf("answers: %v", count(answers))
			break
		}
	}

	// What is set outlives all replicas and what is in Redis.
	for _, r := range fleet {
		r.end(t)
	}
	fleet = startOperated(t, server.URL(), dir, words...)
	a := post(t, fleet[1].url+"/hook", "after the restart")
	expect(t, "after a restart", a, "503 paused")
	if !strings.Contains(a.Detail, "back soon") || a.header.Get("Retry-After") == "" {
		t.Errorf("got %q and %q, want the message and a time", a.Detail, a.header.Get("Retry-After"))
	}
	client := server.Client()
	client.FlushAll(t.Context())
	eventually(t, "Redis is told again", func() bool { return client.Exists(t.Context(), keyPrefix+"{fleet}:control").Val() == 1 })
	done(t, "changed by hand: pause hook (back soon) for another ", "status", admin(0))
	done(t, "hook is as it was configured, on all 3 replicas", "restore", "hook", admin(0))
	for _, r := range fleet {
		expect(t, "restored", post(t, r.url+"/hook", r.url), "200")
	}
}

func TestLockIsFreedByCommand(t *testing.T) {
	t.Parallel()
	for name, redis := range map[string]bool{"one process": false, "fleet": true} {
		t.Run(name, func(t *testing.T) {
			u := newUpstream(t)
			socket := "unix:" + filepath.Join(t.TempDir(), "admin.sock")
			words := []string{"--register", "hook=" + u.URL, "--rate", "2/d", "--admin", socket}
			var r *replica
			on := "1 replica"
			if !redis {
				r = startReplica(t, words...)
			} else {
				f := startFleet(t, 2, words[:4]...)
				r = startReplicas(t, f.server.URL(), 1, words...)[0]
				f.awaitBeats(t, 3)
				on = "all 3 replicas"
			}
			first := inBackground(func() answer { return post(t, r.url+"/hook", "same", blocks) })
			eventually(t, "it is in flight", func() bool { return len(u.all()) == 1 })
			status, said, _ := command(t, "explain", "hook", "-H", "Content-Type:", "-H", "Authorization: canary", "-d", "same", "--admin", socket)
			if status != 0 || !strings.Contains(said, "verdict    admitted") || !strings.Contains(said, "Authorization (sent)") || strings.Contains(said, "canary") {
				t.Errorf("got status %d and %s, want it admitted: it has other credentials", status, said)
			}
			duplicate := post(t, r.url+"/hook", "same")
			expect(t, "a duplicate", duplicate, "409 duplicate")
			id := duplicate.Holder.RequestID
			done(t, "verdict    duplicate", "explain", "hook", "-H", "Content-Type:", "-d", "same", "--admin", socket)
			done(t, "taken by "+id+" on ", "explain", "hook", "-H", "Content-Type:", "-d", "same", "--admin", socket)
			done(t, "budget     hook: 1 left of 2/d", "explain", "hook", "-d", "other", "--admin", socket)
			done(t, "lock of hook: "+id, "status", "hook", "--admin", socket)
			done(t, "the lock of "+id+" is free, on "+on, "unlock", "hook", id, "--admin", socket)
			expect(t, "by then", post(t, r.url+"/hook", "same", plain), "200")
			expect(t, "over the budget", post(t, r.url+"/hook", "other", plain), "429 limited")
			done(t, "nothing is spent of hook, on "+on, "reset", "hook", "--admin", socket)
			expect(t, "with a full budget", post(t, r.url+"/hook", "other", plain), "200")
			u.open()
			expect(t, "the first", <-first, "200")
		})
	}
}

// Tried as somebody would who may not: by TCP, and by a browser that an operator
// uses.
func TestOnlyTheSocketsUserChangesThings(t *testing.T) {
	t.Parallel()
	u := newUpstream(t)
	path := filepath.Join(t.TempDir(), "admin.sock")
	r := startReplica(t, "--register", "hook="+u.URL, "--admin", "127.0.0.1:0", "--admin", "unix:"+path, "--replica-name", "web-0")
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("got %v, %v, want a socket that only its user can open", info.Mode(), err)
	}
	order := `{"do":"pause","route":"hook"}`
	json := "Content-Type: application/json"
	for _, method := range []string{"POST", "PUT", "PATCH", "DELETE", "GET", "HEAD", "OPTIONS"} {
		for _, path := range []string{"/-/control", "/-/control/", "//-/control", "/%2d/control", "/-/status/../control", "/-/control?do=pause&route=hook", "/-/explain", "/debug/pprof/", "/debug/pprof/heap", "/debug/pprof/profile?seconds=1"} {
			a := do(t, method, r.admin(t)+path, order, json, "X-HTTP-Method-Override: POST", "Host: localhost")
			if a.status < 300 {
				t.Errorf("%s %s by TCP: got %v", method, path, a)
			}
		}
	}
	expect(t, "to read", do(t, http.MethodGet, r.admin(t)+"/-/status", ""), "200")

	socket := onSocket(path, 1)
	for name, fields := range map[string][]string{
		"another site":            {json, "Sec-Fetch-Site: cross-site"},
		"a site beside it":        {json, "Sec-Fetch-Site: same-site"},
		"another origin":          {json, "Origin: https://attacker.example"},
		"a form":                  {"Content-Type: application/x-www-form-urlencoded"},
		"a text, as forms can be": {"Content-Type: text/plain"},
		"nothing said":            nil,
	} {
		a, err := try(t.Context(), socket, http.MethodPost, "http://replica/-/control", order, fields...)
		if err != nil || a.status != http.StatusForbidden && a.status != http.StatusUnsupportedMediaType {
			t.Errorf("%s: got %v, %v, want it refused", name, a, err)
		}
	}
	// Its own name, which a web page has had lead here.
	for host, want := range map[string]int{"attacker.example": 421, "attacker.example:9090": 421, "127.0.0.1.attacker.example": 421, "localhost": 200, "127.0.0.1:1": 200} {
		for _, path := range []string{"/-/status", "/metrics"} {
			if a := do(t, http.MethodGet, r.admin(t)+path, "", "Host: "+host); a.status != want {
				t.Errorf("%s as %s: got %d, want %d", path, host, a.status, want)
			}
		}
	}
	// What is left out by a slip is not without end.
	for _, order := range []string{
		`{"do":"pause","route":"hook","for_seconds":1e-12}`, `{"do":"pause","route":"hook","for":600}`, `{"do":"pause","route":"hook"} {}`, `{"do":"pause","route":"hook"}]`,
		"", "{", `{"do":"pause"}`, `{"do":"pause","route":"other"}`, `{"do":"drop","route":"hook"}`, `{"do":"pause","route":"hook","for_seconds":-1}`,
		`{"do":"pause","route":"hook","for_seconds":1e300}`, `{"do":"pause","route":"hook","message":"a\nb"}`, `{"do":"limit","route":"hook","rate":"0/s"}`,
		`{"do":"limit","route":"hook","rate":"off"}`, `{"do":"limit","route":"hook","rate":"1/s,by=client"}`, `{"do":"limit","route":"hook","rate":"1/s,name=other"}`,
		`{"do":"unlock","route":"hook","request_id":"*"}`, `{"do":"reset","route":"hook","limit":"other"}`, `{"do":"reset","route":"hook","caller":"*"}`,
		`{"do":"reset","route":"hook","limit":"hook","caller":"0123456789abcdef0123456789abcdef"}`, `{"do":"pause","route":"hook","message":"` + strings.Repeat("x", 70_000) + `"}`,
	} {
		a, err := try(t.Context(), socket, http.MethodPost, "http://replica/-/control", order, json)
		if err != nil || a.status != http.StatusBadRequest || !strings.Contains(a.body, `"error": "`) {
			t.Errorf("%.80s: got %v, %v, want it to be told what is wrong", order, a, err)
		}
	}
	expect(t, "after all that", post(t, r.url+"/hook", "one"), "200")
	if log := r.stderr.String(); strings.Contains(log, "changed by hand") {
		t.Errorf("something was changed: %s", log)
	}

	done(t, "hook is paused, on 1 replica", "pause", "hook", "--admin", "unix:"+path)
	expect(t, "by its user", post(t, r.url+"/hook", "two"), "503 paused")
	if want := fmt.Sprintf(`"changed by hand: pause hook" by="uid %d" version=1`, os.Getuid()); !strings.Contains(r.stderr.String(), want) {
		t.Errorf("got log %s, want %s", r.stderr.String(), want)
	}
	for name, labels := range map[string][]string{"changed_by_hand": {"pause", "hook"}, "changes_by_hand_total": {"pause"}} {
		if got := r.metric(t, name, labels...); got != 1 {
			t.Errorf("%s: got %v, want 1", name, got)
		}
	}
	done(t, fmt.Sprintf("ago: pause hook by uid %d", os.Getuid()), "status", "hook", "--admin", "unix:"+path)
	if a := do(t, http.MethodGet, r.admin(t)+"/-/status?route=other-than-hook", ""); a.status != http.StatusBadRequest {
		t.Errorf("got %v, want that there is no such route", a)
	}
}

func TestCommandsSayWhatToWrite(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "admin.sock")
	socket := "unix:" + path
	for _, test := range []struct {
		words  string
		status int
		want   string
	}{
		{"pause hook", 2, "--admin: write the unix socket of a replica"},
		{"pause hook --admin 127.0.0.1:1", 2, "--admin: write the unix socket of a replica"},
		{"status", 2, "--admin: write the unix socket of a replica"},
		{"pause hook --admin " + socket, 1, "no replica answers there"},
		{"pause hook --for never --admin " + socket, 2, "--for: "},
		{"pause hook --for= --admin " + socket, 2, "--for: "}, // of a variable that is empty
		{"explain hook -d @/no/such/file --admin " + socket, 2, "-d: the file cannot be read: no such file"},
		{"explain hook --client nobody --admin " + socket, 2, "--client: not an address"},
		{"limit hook --admin " + socket, 2, "write throttle-proxy limit <route> <rate>"},
	} {
		if status, stdout, stderr := command(t, strings.Fields(test.words)...); status != test.status || stdout != "" || !strings.Contains(stderr, test.want) {
			t.Errorf("%s: got status %d, %q and %q, want %d and %q", test.words, status, stdout, stderr, test.status, test.want)
		}
	}
	u := newUpstream(t)
	r := startReplica(t, "--register", "hook="+u.URL, "--rate", "5/s,name=first", "--rate", "5/m,name=second", "--admin", socket)
	for words, want := range map[string]string{
		"limit hook 1/s":               "hook has several limits: write which, as in 1/s,name=first (first, second)",
		"limit huck 1/s":               `there is no route or pool "huck" here: write one of hook`,
		"status huck":                  `there is no route or pool "huck" here: write one of hook`,
		"limit hook 1/s,by=client":     "leave by= out",
		"limit hook nonsense":          "not a rate: write requests/period",
		"unlock hook nonsense":         "holder.request_id",
		"reset hook third":             "hook has no such budget: write one of first, second",
		"reset hook first --caller me": "--caller: write the 32 digits",
	} {
		if status, stdout, stderr := command(t, append(strings.Fields(words), "--admin", socket)...); status != 2 || stdout != "" || !strings.Contains(stderr, want) {
			t.Errorf("%s: got status %d, %q and %q, want 2 and %q", words, status, stdout, stderr, want)
		}
	}
	status, stdout, _ := command(t, "limit", "hook", "7/s,name=second", "--for", "1h", "--json", "--admin", socket)
	var answer struct {
		Done    string
		Holds   []string `json:"holds_on"`
		Missing []string
	}
	if err := json.Unmarshal([]byte(stdout), &answer); err != nil || status != 0 || len(answer.Holds) != 1 || answer.Missing == nil || !strings.Contains(answer.Done, "7/s") {
		t.Errorf("got status %d and %s, want it in JSON", status, stdout)
	}
	if got := post(t, r.url+"/hook", "one").header.Get("RateLimit-Policy"); !strings.Contains(got, `"second";q=7;w=1`) {
		t.Errorf("got RateLimit-Policy: %s, want the limit that was set", got)
	}
}
