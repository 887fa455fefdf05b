package engine

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The production Compose file, as it is, but for the budget.

const overrides = `
services:
  replica:
    environment: {THROTTLE_PROXY_RATE: "off"}
`

// project is a copy of deploy/ whose services run.
type project struct {
	dir string
	env []string
}

func startProject(t *testing.T, webhookURL, listen string) *project {
	t.Helper()
	p := &project{dir: t.TempDir(), env: append(os.Environ(), "LISTEN="+listen)}
	for name, text := range map[string]string{
		"compose.yaml":        read(t, "compose.yaml"),
		"haproxy.cfg":         read(t, "haproxy.cfg"),
		"test.yaml":           overrides,
		"secrets/webhook-url": webhookURL + "\n",
	} {
		path := filepath.Join(p.dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if t.Failed() {
			out, _ := p.command("logs", "--tail", "20", "--no-color").CombinedOutput()
			t.Logf("%s", out)
		}
		p.compose(t, "down", "--volumes", "--timeout", "40")
	})
	p.compose(t, "up", "-d", "--wait", "--quiet-pull")
	return p
}

func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("../../../deploy", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func (p *project) command(args ...string) *exec.Cmd {
	cmd := exec.Command("docker", append([]string{"compose", "-p", "throttle-test", "-f", "compose.yaml", "-f", "test.yaml"}, args...)...)
	cmd.Dir, cmd.Env = p.dir, p.env
	return cmd
}

func (p *project) compose(t *testing.T, args ...string) string {
	t.Helper()
	out, err := p.command(args...).CombinedOutput()
	if err != nil {
		t.Fatalf("docker compose %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// replicas returns the containers that run.
func (p *project) replicas(t *testing.T) []string {
	t.Helper()
	return strings.Fields(p.compose(t, "ps", "-q", "replica"))
}

func (p *project) scale(t *testing.T, n int) {
	t.Helper()
	p.compose(t, "up", "-d", "--wait", "--no-recreate", "--scale", fmt.Sprint("replica=", n))
	if got := len(p.replicas(t)); got != n {
		t.Errorf("%d replicas run, want %d", got, n)
	}
}

// served waits until each of the replicas has been given requests.
func (p *project) served(t *testing.T, n int) {
	t.Helper()
	eventually(t, fmt.Sprint("the balancer uses ", n, " replicas"), func() bool {
		used := 0
		for _, id := range p.replicas(t) {
			if strings.Contains(docker(t, "logs", "--tail", "50", id), `"msg":"request"`) {
				used++
			}
		}
		return used == n
	})
}

func TestComposeScalesAndRestartsWithoutLoss(t *testing.T) {
	u := newUpstream(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	listen := listener.Addr().String()
	_ = listener.Close()
	p := startProject(t, u.url, listen)
	for _, id := range strings.Fields(p.compose(t, "ps", "-q")) {
		if got := docker(t, "inspect", id, "--format", "{{.State.Health.Status}} {{.HostConfig.RestartPolicy.Name}}"); got != "healthy unless-stopped" {
			t.Errorf("%s: %s, want healthy, and a restart", docker(t, "inspect", id, "--format", "{{.Name}}"), got)
		}
	}
	l := startLoad(u, "http://"+listen+"/slack")
	p.served(t, 2)
	p.scale(t, 5)
	p.served(t, 5)
	p.scale(t, 2)
	for _, id := range p.replicas(t) { // one after the other, each when the one before is healthy
		docker(t, "restart", id)
		eventually(t, "the replica is healthy again", func() bool {
			return docker(t, "inspect", id, "--format", "{{.State.Health.Status}}") == "healthy"
		})
		if got := docker(t, "inspect", id, "--format", "{{.State.ExitCode}} {{.State.OOMKilled}}"); got != "0 false" {
			t.Errorf("a replica ended with %s", got)
		}
	}
	l.end(t)
	if !strings.Contains(u.lastFrom, ".") || strings.Contains(u.lastFrom, "unknown") {
		t.Errorf("the upstream is told of the client %q", u.lastFrom)
	}

	for _, id := range p.replicas(t) {
		if strings.Contains(docker(t, "inspect", id), u.url) {
			t.Error("the webhook's URL is in the container's configuration")
		}
	}
}

// A new image, or new flags: new replicas come before the old ones leave.
func TestComposeReplacesReplicasWithoutLoss(t *testing.T) {
	u := newUpstream(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	listen := listener.Addr().String()
	_ = listener.Close()
	p := startProject(t, u.url, listen)
	old := p.replicas(t)
	l := startLoad(u, "http://"+listen+"/slack")
	p.served(t, 2)

	changed := filepath.Join(p.dir, "test.yaml")
	if err := os.WriteFile(changed, []byte(strings.Replace(overrides, "}", `, THROTTLE_PROXY_LOG_LEVEL: info}`, 1)), 0o644); err != nil {
		t.Fatal(err)
	}
	p.scale(t, 4)
	p.served(t, 4)
	docker(t, append([]string{"stop"}, old...)...)
	docker(t, append([]string{"rm"}, old...)...)
	l.end(t)
	if got := len(p.replicas(t)); got != 2 {
		t.Errorf("%d replicas are left, want the 2 new ones", got)
	}
}
