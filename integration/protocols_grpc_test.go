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

// grpcCases are those of gRPC's own client, but for those that need credentials of
// Google's, and pick_first_unary, which its own server fails without a proxy.
var grpcCases = []string{
	"empty_unary", "large_unary", "client_streaming", "server_streaming", "ping_pong", "empty_stream", "timeout_on_sleeping_server",
	"cancel_after_begin", "cancel_after_first_response", "status_code_and_message", "special_status_message", "custom_metadata",
	"unimplemented_method", "unimplemented_service", "orca_per_rpc", "orca_oob", "rpc_soak", "channel_soak",
}

// backendMetrics lets a client look at the load that servers report.
const backendMetrics = `{"loadBalancingConfig":[{"test_backend_metrics_load_balancer":{}}]}`

// gRPC's own client and server, as they are published, know nothing of a proxy
// between them. Fails if any case does not end as without it.
func TestGRPCByAHost(t *testing.T) {
	t.Parallel()
	const rounds = 5
	client, server := buildTool(t, "google.golang.org/grpc/interop/client"), buildTool(t, "google.golang.org/grpc/interop/server")
	_, cert, key := newKeyPair(t, "replica.test")
	certFile, keyFile := writeFile(t, "cert.pem", cert), writeFile(t, "key.pem", key)
	for name, secure := range map[string]bool{"in clear": false, "over TLS": true} {
		port := redistest.FreePort(t)
		words := []string{"-port", port}
		upstream, flags, asks := "h2c://127.0.0.1:", []string(nil), []string(nil)
		if secure {
			words = append(words, "-use_tls", "-tls_cert_file", certFile, "-tls_key_file", keyFile)
			upstream = "https://127.0.0.1:"
			flags = []string{"--tls-cert", certFile, "--tls-key", keyFile, "--upstream-tls", "server-name=replica.test,ca=" + certFile, "--host", "hook=replica.test"}
			asks = []string{"-use_tls", "-use_test_ca", "-ca_file", certFile, "-server_host_override", "replica.test"}
		} else {
			flags = []string{"--host", "hook=*"}
		}
		served := launch(t, exec.Command(server, words...))
		t.Cleanup(func() { // it knows no end in order
			_ = served.cmd.Process.Kill()
			<-served.exited
		})
		eventually(t, "the service listens", func() bool { return listens("127.0.0.1:" + port) })
		r := startReplica(t, append(flags, "--register", "hook="+upstream+port, "--rate", "off")...)
		host, port, _ := strings.Cut(r.addr, ":")
		each(rounds*len(grpcCases), 4, func(i int) {
			which := grpcCases[i%len(grpcCases)]
			p := launch(t, exec.Command(client, append(asks, "-server_host", host, "-server_port", port, "-test_case", which,
				"-service_config_json", backendMetrics,
				"-soak_iterations", "50", "-soak_per_iteration_max_acceptable_latency_ms", "60000", "-soak_overall_timeout_seconds", "60")...))
			if status := p.wait(t); status != 0 {
				t.Errorf("%s, %s: exit status %d: %s", name, which, status, p.stderr.String())
			}
		})
		t.Logf("%s: %d rounds of %d cases", name, rounds, len(grpcCases))
	}
}

// Fails if what grpcurl asks first is not answered.
func TestGRPCReflectionPasses(t *testing.T) {
	t.Parallel()
	tool := buildTool(t, "./interop")
	r := startReplica(t, "--register", "hook=h2c://"+serveGRPC(t, tool), "--host", "hook=*")
	p := launch(t, exec.Command(tool, "list", r.addr))
	status := p.wait(t)
	if got := p.stdout.String(); status != 0 || !strings.Contains(got, "grpc.testing.TestService\n") || !strings.Contains(got, "grpc.reflection.v1.ServerReflection\n") {
		t.Errorf("got status %d and %q: %s", status, got, p.stderr.String())
	}
}

// gRPC tells errors in its own fields of an answer that is 200.
func TestGRPCIsRefusedInItsOwnWords(t *testing.T) {
	t.Parallel()
	tool := buildTool(t, "./interop")
	addr := serveGRPC(t, tool)
	r := startReplica(t, "--register", "limited=h2c://"+addr, "--rate", "off", "--rate", "limited=1/h,burst=1",
		"--register", "gone=h2c://127.0.0.1:"+redistest.FreePort(t))
	byHost := startReplica(t, "--register", "hook=h2c://"+addr, "--rate", "1/h", "--host", "hook=*")
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
	for _, want := range []string{"OK", "ResourceExhausted limited"} {
		p := launch(t, exec.Command(tool, "call", byHost.addr, ""))
		p.wait(t)
		if got := strings.TrimSpace(p.stdout.String()); got != want {
			t.Errorf("by a host: gRPC's client tells %q, want %q", got, want)
		}
	}
}
