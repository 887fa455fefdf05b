package integration

import (
	"fmt"
	"strings"
	"sync"
	"syscall"
	"testing"

	"throttle-proxy/integration/redistest"
)

// The process: how it starts, what its commands say, how it ends.

func TestCommands(t *testing.T) {
	t.Parallel()
	u := newUpstream(t)
	f := startFleet(t, 1, "--register", "hook="+u.URL)
	live := f.replicas[0].addr
	unused := "127.0.0.1:" + redistest.FreePort(t)
	register := []string{"--register", "hook=" + u.URL}
	for name, c := range map[string]struct {
		words          []string
		status         int
		stdout, stderr string // parts of what is printed
	}{
		"version":              {[]string{"version"}, 0, "throttle-proxy ", ""},
		"help":                 {[]string{"--help"}, 0, "--register", ""},
		"help of flags":        {[]string{"help", "flags"}, 0, "--upstream-closed-status", ""},
		"try":                  {[]string{"try", "hook", "--listen", live}, 0, "200 OK after ", ""},
		"try of no route":      {[]string{"try", "hok", "--listen", live}, 1, `no route "hok"`, "not taken"},
		"another's flag":       {append([]string{"--listen", unused, "--proxy-pass", "x"}, register...), 2, "", "write --register NAME=URL"},
		"health":               {[]string{"health", "--listen", live}, 0, "ok\n", ""},
		"health of nobody":     {[]string{"health", "--listen", unused}, 1, "", "does not answer"},
		"health by a variable": {[]string{"THROTTLE_PROXY_LISTEN=" + live, "health"}, 0, "ok\n", ""},
		"check":                {append([]string{"check", "--redis", f.server.URL()}, register...), 0, "redis redis://" + f.server.Addr + ": ok", ""},
		"check in vain":        {append([]string{"check", "--redis", "redis://" + unused}, register...), 1, "upstream of hook: ok", "not everything"},
		"bad flag":             {append([]string{"--listen", unused, "--rate", "often"}, register...), 2, "", "--rate"},
		"routes in a variable": {[]string{"THROTTLE_PROXY_REGISTER=a=" + u.URL + " b=" + u.URL, "check"}, 0, "upstream of b: ok", ""},
		"unknown variable":     {append([]string{"THROTTLE_PROXY_REGSTER=x", "check"}, register...), 0, "", "did you mean THROTTLE_PROXY_REGISTER?"},
		"unusable variable":    {append([]string{"THROTTLE_PROXY_PORT=often", "check"}, register...), 2, "", "--port"},
	} {
		t.Run(name, func(t *testing.T) {
			p := run(t, c.words...)
			status, stdout, stderr := p.wait(t), p.stdout.String(), p.stderr.String()
			if status != c.status || !strings.Contains(stdout, c.stdout) || !strings.Contains(stderr, c.stderr) {
				t.Errorf("got %d, %q, %q, want %d, %q, %q", status, stdout, stderr, c.status, c.stdout, c.stderr)
			}
			if strings.Contains(stderr, "listening on") {
				t.Error("it listened")
			}
		})
	}
}

// Kubernetes sets these for a Service of the proxy's name.
func TestVariablesOfKubernetesAreIgnored(t *testing.T) {
	t.Parallel()
	u := newUpstream(t)
	p := run(t, "THROTTLE_PROXY_PORT=tcp://10.0.0.1:80", "THROTTLE_PROXY_PORT_80_TCP_ADDR=10.0.0.1", "THROTTLE_PROXY_SERVICE_HOST=10.0.0.1",
		"check", "--register", "hook="+u.URL)
	if status := p.wait(t); status != 0 || p.stderr.String() != "" {
		t.Errorf("got %d, %q", status, p.stderr.String())
	}
}

// Laws 4 and 5 at shutdown: what is in flight gets its answer, and its lock ends.
func TestTermFinishesWhatIsInFlight(t *testing.T) {
	t.Parallel()
	u := newUpstream(t)
	defer u.open()
	f := startFleet(t, 2, "--register", "hook="+u.URL, "--register", "held="+u.URL+"/held", "--rate", "off", "--hold", "0s,unknown=0s", "--hold", "held=1h")
	r := f.replicas[0]
	first := u.occupy(t, r.url+"/hook", "hello")
	held := u.occupy(t, r.url+"/held", "hello")
	r.signal(t, syscall.SIGTERM)
	eventually(t, "nobody is let in any more", func() bool { return !listens(r.addr) })
	expect(t, "an equal request meanwhile", post(t, f.replicas[1].url+"/hook", "hello"), "409 duplicate")
	u.open()
	expect(t, "the request in flight", <-first, "200")
	expect(t, "the request in flight", <-held, "200")
	if status := r.wait(t); status != 0 {
		t.Errorf("exit status %d", status)
	}
	if locks := f.locks(t); len(locks) != 1 {
		t.Errorf("locks: %v, want one hold", locks)
	}
	expect(t, "the same request afterwards", post(t, f.replicas[1].url+"/hook", "hello"), "200")
	expect(t, "the one on hold", post(t, f.replicas[1].url+"/held", "hello"), "409 held")
}

// Law 4: whatever reached the upstream is answered to its client, while
// replicas end under load. Who finds nobody behind the load balancer gets 502
// from it, and was not sent on.
func TestReplicasEndUnderLoadWithoutALoss(t *testing.T) {
	t.Parallel()
	u := newUpstream(t)
	f := startFleet(t, 3, "--register", "hook="+u.URL, "--rate", "off")
	answers := make([]answer, 3000)
	var loaded sync.WaitGroup
	loaded.Go(func() {
		each(len(answers), 16, func(i int) { answers[i] = post(t, f.url+"/hook", fmt.Sprint(i), dawdles) })
	})
	for i, r := range f.replicas[:2] {
		eventually(t, "requests are on their way", func() bool { return len(u.all()) > 200*(i+1) })
		r.end(t)
	}
	loaded.Wait()
	u.expectAgreement(t, answers)
	kinds := count(answers)
	if kinds["200"]+kinds["502"] != len(answers) {
		t.Errorf("answers: %v", kinds)
	}
	t.Logf("answers: %v", kinds)
}
