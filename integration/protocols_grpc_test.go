package integration

import (
	"net/http"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"throttle-proxy/integration/redistest"
)

const grpcPath = "/grpc.testing.TestService/EmptyCall"

// serveGRPC starts gRPC's test service.
func serveGRPC(t *testing.T, tool string) (addr string) {
	t.Helper()
	cmd := exec.Command(tool, "serve")
	server := launch(t, cmd)
	t.Cleanup(func() { // it knows no end in order
		_ = cmd.Process.Kill()
		<-server.exited
	})
	eventually(t, "the service listens", func() bool {
		if !server.running() {
			t.Fatal("the service ended: ", server.stderr.String())
		}
		addr = strings.TrimSpace(server.stdout.String())
		return strings.HasSuffix(server.stdout.String(), "\n")
	})
	return addr
}

// Fails if a status, a trailer or a half-close is lost, and if a call that is
// cancelled midway leads to anything else than its own end.
func TestGRPC(t *testing.T) {
	t.Parallel()
	const rounds, cases = 5, 14
	tool := buildTool(t, "./interop")
	r := startReplica(t, "--register", "hook=h2c://"+serveGRPC(t, tool), "--rate", "off")
	p := launch(t, exec.Command(tool, "test", r.addr, "/hook", strconv.Itoa(rounds)))
	status, out := p.wait(t), p.stdout.String()
	if n := strings.Count(out, ": ok\n"); status != 0 || n != rounds*cases+1 {
		t.Errorf("exit status %d after %d cases: %s\n%s", status, n, out, p.stderr.String())
	}
}

// gRPC tells errors in its own fields of an answer that is 200.
func TestGRPCIsRefusedInItsOwnWords(t *testing.T) {
	t.Parallel()
	tool := buildTool(t, "./interop")
	addr := serveGRPC(t, tool)
	r := startReplica(t, "--register", "limited=h2c://"+addr, "--rate", "off", "--rate", "limited=1/h,burst=1",
		"--register", "gone=h2c://127.0.0.1:"+redistest.FreePort(t))
	h2c := protoClient(t, &http.Transport{}, func(p *http.Protocols) { p.SetUnencryptedHTTP2(true) })
	for _, c := range []struct{ route, status, pushback, want string }{
		{"limited", "0", "", "OK"},
		{"limited", "8", `3\d{6}`, "ResourceExhausted limited"},
		{"nowhere", "12", "-1", "Unimplemented unknown-route"},
		{"gone", "14", "1000", "Unavailable upstream-refused"},
	} {
		if c.status != "0" {
			const fields = "Content-Type: application/grpc+proto"
			a, err := try(t.Context(), h2c, http.MethodPost, r.url+"/"+c.route+grpcPath, "\x00\x00\x00\x00\x00", fields, "TE: trailers")
			if err != nil {
				t.Fatal(err)
			}
			got := []string{a.header.Get("Grpc-Status"), a.header.Get("Content-Type"), a.body}
			if a.status != http.StatusOK || strings.Join(got, " ") != c.status+" application/grpc+proto " {
				t.Errorf("%s: got %d, %q, want status %s", c.route, a.status, got, c.status)
			}
			if got := a.header.Get("Grpc-Retry-Pushback-Ms"); !regexp.MustCompile("^" + c.pushback + "$").MatchString(got) {
				t.Errorf("%s: told to come back after %q ms, want %s", c.route, got, c.pushback)
			}
		}
		p := launch(t, exec.Command(tool, "call", r.addr, "/"+c.route))
		p.wait(t)
		if got := strings.TrimSpace(p.stdout.String()); got != c.want {
			t.Errorf("%s: gRPC's client tells %q, want %q", c.route, got, c.want)
		}
	}
}
