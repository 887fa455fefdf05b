package deploy

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// build builds the product for t.
func build(t *testing.T) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "throttle-proxy")
	cmd := exec.Command("go", "build", "-o", path, "./cmd/throttle-proxy")
	cmd.Dir = "../.."
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return path
}

// serves starts a replica by args, which must come to listen, and ends it.
func serves(t *testing.T, path string, args ...string) {
	t.Helper()
	cmd := exec.Command(path, append(args, "--listen=127.0.0.1:0")...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	giveUp := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() })
	defer giveUp.Stop()
	listening := false
	var said []string
	for lines := bufio.NewScanner(stderr); !listening && lines.Scan(); said = append(said, lines.Text()) {
		listening = strings.Contains(lines.Text(), "listening on")
	}
	if !listening {
		t.Errorf("%s does not listen:\n%s", strings.Join(args, " "), strings.Join(said, "\n"))
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
}

// The flags of the Kubernetes manifest and of the unit are those that there
// are. Only files and addresses are this test's.
func TestFlagsAreUnderstood(t *testing.T) {
	path, dir := build(t), t.TempDir()
	for name, url := range map[string]string{"webhook-url": "http://127.0.0.1:1/hook", "redis-url": "redis://127.0.0.1:1"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(url), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	here := strings.NewReplacer("/etc/throttle-proxy", dir, "%d", dir, "%t/throttle-proxy", dir, ":9090", "127.0.0.1:0")
	t.Run("Kubernetes", func(t *testing.T) {
		var args []string
		for _, arg := range readManifest(t).container().Args {
			args = append(args, here.Replace(arg))
		}
		serves(t, path, args...)
	})
	t.Run("systemd", func(t *testing.T) {
		_, command, _ := strings.Cut(strings.ReplaceAll(unit(t), "\\\n", ""), "\nExecStart=")
		command, _, _ = strings.Cut(command, "\n")
		serves(t, path, strings.Fields(here.Replace(command))[1:]...)
	})
}

func unit(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../../deploy/throttle-proxy.service")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// systemd-analyze also fails for what systemd itself would only warn of.
func TestUnitIsVerified(t *testing.T) {
	path := filepath.Join(t.TempDir(), "throttle-proxy.service")
	text := strings.Replace(unit(t), "/usr/local/bin/throttle-proxy", build(t), 1)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	socket, err := os.ReadFile("../../deploy/throttle-proxy.socket")
	if err != nil {
		t.Fatal(err)
	}
	socketPath := filepath.Join(filepath.Dir(path), "throttle-proxy.socket")
	if err := os.WriteFile(socketPath, socket, 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("systemd-analyze", "verify", "--man=no", path, socketPath).CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
}
