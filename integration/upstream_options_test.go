package integration

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/coder/websocket"
)

// TestUpstreamOnASocket gets small and large requests, and upgrades.
func TestUpstreamOnASocket(t *testing.T) {
	t.Parallel()
	u, _ := echoes(t)
	path := filepath.Join(t.TempDir(), "s")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	on := httptest.NewUnstartedServer(u.Config.Handler)
	on.Listener, on.Config.Protocols = listener, new(http.Protocols)
	on.Config.Protocols.SetHTTP1(true)
	on.Config.Protocols.SetUnencryptedHTTP2(true)
	on.Start()
	t.Cleanup(on.Close)
	r := startReplica(t, "--register", "a=http+unix:"+path, "--register", "b=h2c+unix:"+path, "--host", "a=a.example", "--rate", "off", "--dedupe", "off")
	for _, target := range []string{"/a/x", "/b/x"} {
		for _, body := range []string{"", strings.Repeat("b", 20<<10)} {
			if got := post(t, r.url+target, body); got.body != "localhost /x "+target[:2] {
				t.Errorf("%s, %d bytes: got %v %q", target, len(body), got, got.body)
			}
		}
	}
	conn := dial(t, r.addr)
	conn.say("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n")
	if res, text, _ := conn.hear(t, http.MethodGet); res.StatusCode != 200 || text != "localhost / " {
		t.Errorf("by a host: got %d %q", res.StatusCode, text)
	}
	c := run(t, "check", "--register", "a=http+unix:"+path, "--register", "b=http+unix:"+path+"x")
	c.wait(t)
	if got := c.stdout.String(); !strings.Contains(got, "upstream of a: ok\n") || strings.Contains(got, "upstream of b: ok\n") || strings.Contains(got, path) {
		t.Errorf("check: got %q", got)
	}
}

// TestUpstreamTLS: whom the upstream trusts, and whom we trust, by every sender.
func TestUpstreamTLS(t *testing.T) {
	t.Parallel()
	ours, cert, key := newKeyPair(t, "client.test")
	theirs, ca, _ := newKeyPair(t, "upstream.test")
	u := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(w, r.TLS.PeerCertificates[0].Subject.CommonName)
	}))
	u.EnableHTTP2, u.TLS = true, tlsConfig(theirs)
	u.TLS.ClientAuth, u.TLS.ClientCAs = tls.RequireAndVerifyClientCert, trusting(ours).RootCAs
	u.StartTLS()
	t.Cleanup(u.Close)
	files := "ca=" + writeFile(t, "ca.pem", ca) + ",cert=" + writeFile(t, "cert.pem", cert) + ",key=" + writeFile(t, "key.pem", key)
	words := []string{"--rate", "off", "--register", "known=" + u.URL, "--register", "unknown=" + u.URL, "--register", "named=" + u.URL, "--register", "misnamed=" + u.URL,
		"--upstream-tls", "known=" + files, "--upstream-tls", "unknown=" + strings.Split(files, ",")[0],
		"--upstream-tls", "named=" + files + ",server-name=upstream.test", "--upstream-tls", "misnamed=" + files + ",server-name=other.test"}
	r := startReplica(t, words...)
	for _, body := range []string{"", strings.Repeat("b", 20<<10)} {
		for route, want := range map[string]string{"known": "200 client.test", "unknown": "502", "named": "200 client.test", "misnamed": "502"} {
			got := post(t, r.url+"/"+route, body)
			if text := fmt.Sprint(got.status, " ", got.body); !strings.HasPrefix(text, want) {
				t.Errorf("%s, %d bytes: got %.200s, want %s", route, len(body), text, want)
			}
		}
	}
	c := run(t, append([]string{"check"}, words...)...)
	c.wait(t)
	if got := c.stdout.String(); !strings.Contains(got, "upstream of known: ok\n") || !strings.Contains(got, "upstream of misnamed: tls_certificate_error") {
		t.Errorf("check: got %q", got)
	}
}

// TestWebSocketToAnH2CUpstream goes by HTTP/1.1, to the same address.
func TestWebSocketToAnH2CUpstream(t *testing.T) {
	t.Parallel()
	url := "h2c" + strings.TrimPrefix(startWebSocket(t, echo), "http")
	r := startReplica(t, "--register", "hook="+url, "--rate", "off")
	expectEcho(t, dialWebSocket(t, r), websocket.MessageText, []byte("hello"))

	onlyHTTP2 := httptest.NewUnstartedServer(http.NotFoundHandler())
	onlyHTTP2.Config.Protocols = new(http.Protocols)
	onlyHTTP2.Config.Protocols.SetUnencryptedHTTP2(true)
	onlyHTTP2.Start()
	t.Cleanup(onlyHTTP2.Close)
	r = startReplica(t, "--register", "hook=h2c"+strings.TrimPrefix(onlyHTTP2.URL, "http"), "--rate", "off")
	conn, in := sendRaw(t, r.addr, handshake)
	defer conn.Close()
	res, err := http.ReadResponse(bufio.NewReader(in), nil)
	if err != nil || res.StatusCode < 400 {
		t.Errorf("where there is no HTTP/1.1: got %v, %v", res, err)
	}
}
