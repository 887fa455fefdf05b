package integration

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

func encodePEM(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// newKeyPair makes a certificate for a name and this host, signed by itself.
func newKeyPair(t *testing.T, name string) (pair tls.Certificate, certPEM, keyPEM []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(nonces.Add(1)),
		Subject:               pkix.Name{CommonName: name},
		DNSNames:              []string{name},
		IPAddresses:           []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(time.Hour),
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certPEM, keyPEM = encodePEM("CERTIFICATE", cert), encodePEM("PRIVATE KEY", der)
	if pair, err = tls.X509KeyPair(certPEM, keyPEM); err != nil {
		t.Fatal(err)
	}
	return pair, certPEM, keyPEM
}

func tlsConfig(pair tls.Certificate) *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{pair}}
}

// trusting returns a client's configuration that trusts pair alone.
func trusting(pair tls.Certificate) *tls.Config {
	pool := x509.NewCertPool()
	pool.AddCert(pair.Leaf)
	return &tls.Config{RootCAs: pool}
}

func TestClientsOverTLS(t *testing.T) {
	t.Parallel()
	u := newUpstream(t)
	defer u.open()
	pair, cert, key := newKeyPair(t, "replica.test")
	variables := []string{"THROTTLE_PROXY_TLS_CERT=" + writeFile(t, "cert.pem", cert), "THROTTLE_PROXY_TLS_KEY=" + writeFile(t, "key.pem", key)}
	r := startReplica(t, append(variables, "--register", "hook="+u.URL, "--rate", "off")...)
	url := "https://" + r.addr + "/hook"

	for name, c := range map[string]struct {
		set func(*http.Protocols)
		via string
	}{
		"http/1.1":       {func(p *http.Protocols) { p.SetHTTP1(true) }, "1.1 throttle-proxy"},
		"h2":             {func(p *http.Protocols) { p.SetHTTP2(true) }, "2.0 throttle-proxy"},
		"whatever there": {func(p *http.Protocols) { p.SetHTTP1(true); p.SetHTTP2(true) }, "2.0 throttle-proxy"},
	} {
		secure := protoClient(t, &http.Transport{TLSClientConfig: trusting(pair)}, c.set)
		for _, body := range []string{name, name + strings.Repeat("x", 1<<20)} {
			a, err := try(t.Context(), secure, http.MethodPost, url, body)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			expect(t, name, a, "200")
			got := u.last()
			if got.body != body || got.header.Get("X-Forwarded-Proto") != "https" || got.header.Get("Via") != c.via {
				t.Errorf("%s: the upstream got %d bytes, X-Forwarded-Proto %s, Via %s", name, len(got.body), got.header.Get("X-Forwarded-Proto"), got.header.Get("Via"))
			}
		}
	}

	before := len(u.all())
	for _, second := range []string{"6", "5"} { // net/http itself lets equal ones pass
		res, _ := overTLS(t, r.addr, pair, "POST /hook HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: "+second+"\r\n\r\nhelloX")
		if !strings.HasPrefix(res, "HTTP/1.1 400 ") || strings.Count(res, "HTTP/1.1 ") != 1 {
			t.Errorf("two lengths: got %q, want 400 and the end", res)
		}
	}
	if n := len(u.all()) - before; n != 0 {
		t.Errorf("%d requests of two lengths reached the upstream", n)
	}
	if a, err := try(t.Context(), client, http.MethodPost, r.url+"/hook", "no TLS"); err != nil || a.Reason != "bad-request" {
		t.Errorf("without TLS: got %v, %v, want bad-request", a, err)
	}

	p := run(t, append(variables, "THROTTLE_PROXY_LISTEN="+r.addr, "health")...)
	if status := p.wait(t); status != 0 || p.stdout.String() != "ok\n" || p.stderr.String() != "" {
		t.Errorf("health: got %d, %q, %q", status, p.stdout.String(), p.stderr.String())
	}
}

// overTLS sends bytes, and returns all that comes back, and by which
// certificate.
func overTLS(t *testing.T, addr string, trusted tls.Certificate, send string) (got string, leaf *x509.Certificate) {
	t.Helper()
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: patience}, "tcp", addr, trusting(trusted))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(conn, send); err != nil {
		t.Fatal(err)
	}
	all, err := io.ReadAll(conn)
	if err != nil {
		t.Errorf("the connection is not closed: %v", err)
	}
	return string(all), conn.ConnectionState().PeerCertificates[0]
}

func TestCertificateIsReadAgain(t *testing.T) {
	t.Parallel()
	u := newUpstream(t)
	first, cert, key := newKeyPair(t, "first.test")
	certFile, keyFile := writeFile(t, "cert.pem", cert), writeFile(t, "key.pem", key)
	r := startReplica(t, "--tls-cert", certFile, "--tls-key", keyFile, "--register", "hook="+u.URL, "--rate", "off")
	replace := func(path string, content []byte) {
		t.Helper()
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	served := func() string {
		t.Helper()
		conn, err := tls.DialWithDialer(&net.Dialer{Timeout: patience}, "tcp", r.addr, &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		return conn.ConnectionState().PeerCertificates[0].Subject.CommonName
	}
	becomes := func(name string) {
		t.Helper()
		eventually(t, "the certificate is that of "+name, func() bool { return served() == name })
	}
	becomes("first.test")
	kept, err := tls.DialWithDialer(&net.Dialer{Timeout: patience}, "tcp", r.addr, trusting(first))
	if err != nil {
		t.Fatal(err)
	}
	defer kept.Close()

	_, cert, key = newKeyPair(t, "second.test")
	replace(certFile, cert)
	replace(keyFile, key)
	becomes("second.test")

	// SIGHUP does not wait for a look at the files, and tells of them too.
	_, cert, key = newKeyPair(t, "reload.test")
	replace(keyFile, key)
	replace(certFile, cert)
	r.signal(t, syscall.SIGHUP)
	eventually(t, "SIGHUP is obeyed", func() bool { return strings.Contains(r.stderr.String(), "SIGHUP: ") })
	if got := served(); got != "reload.test" {
		t.Errorf("the certificate is that of %s, want reload.test", got)
	}
	replace(keyFile, nil)
	replace(certFile, nil)
	r.signal(t, syscall.SIGHUP)
	eventually(t, "SIGHUP is obeyed again", func() bool { return strings.Count(r.stderr.String(), "SIGHUP: ") == 2 })
	_, cert, key = newKeyPair(t, "second.test")
	replace(keyFile, key)
	replace(certFile, cert)
	becomes("second.test")

	const warning = "the new TLS certificate cannot be used"
	warned := strings.Count(r.stderr.String(), warning) // while only one of the files was new
	replace(certFile, []byte("no certificate"))
	eventually(t, "it warns", func() bool {
		if name := served(); name != "second.test" {
			t.Fatalf("the certificate is that of %s", name)
		}
		return strings.Count(r.stderr.String(), warning) > warned
	})
	if !strings.Contains(r.stderr.String(), "level=WARN") {
		t.Error("it is no warning")
	}

	_, cert, key = newKeyPair(t, "third.test")
	replace(keyFile, key)
	replace(certFile, cert)
	becomes("third.test")

	_ = kept.SetDeadline(time.Now().Add(patience))
	_, _ = fmt.Fprint(kept, "GET /hook HTTP/1.1\r\nHost: x\r\n\r\n")
	res, err := http.ReadResponse(bufio.NewReader(kept), nil)
	if err != nil || res.StatusCode != http.StatusOK {
		t.Errorf("a connection of the first certificate: %v", err)
	}
}

// Fails if a client that speaks no TLS to a port that does is not told so.
func TestPlainRequestToATLSPort(t *testing.T) {
	t.Parallel()
	_, cert, key := newKeyPair(t, "replica.test")
	r := startReplica(t, "--register", "hook=http://127.0.0.1:1", "--tls-cert", writeFile(t, "cert.pem", cert), "--tls-key", writeFile(t, "key.pem", key))
	conn, err := net.Dial("tcp", r.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, "POST /hook HTTP/1.1\r\nHost: replica\r\nContent-Length: 4\r\n\r\nbody")
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(res.Body)
	if res.StatusCode != http.StatusBadRequest || !strings.Contains(string(body), `"reason":"bad-request"`) || !strings.Contains(string(body), `"sent":"no"`) || res.Header.Get("X-Should-Retry") != "false" || !strings.Contains(string(body), "write https") {
		t.Errorf("got %d %s, want 400 bad-request that says to write https", res.StatusCode, body)
	}
	eventually(t, "the request is logged", func() bool { return strings.Contains(r.stderr.String(), "outcome=bad-request") })
}
