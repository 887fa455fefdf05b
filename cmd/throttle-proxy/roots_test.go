package main

import (
	"crypto/x509"
	"os"
	"os/exec"
	"testing"

	"golang.org/x/crypto/x509roots/fallback/bundle"
)

// An https upstream can be verified where the file system is empty, as the
// image's is. The system's certificates are read once, so it takes a process
// of its own.
func TestRootsAreThereWithoutTheSystems(t *testing.T) {
	const inner = "THROTTLE_PROXY_TEST_ROOTS"
	if os.Getenv(inner) == "" {
		cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.count=1")
		cmd.Env = append(os.Environ(), inner+"=1", "SSL_CERT_FILE=/nonexistent", "SSL_CERT_DIR=/nonexistent")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	verified := 0
	for root := range bundle.Roots() {
		certificate, err := x509.ParseCertificate(root.Certificate)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := certificate.Verify(x509.VerifyOptions{KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err == nil {
			verified++
		}
	}
	if verified < 50 {
		t.Errorf("%d certificate authorities are trusted, want those of the web", verified)
	}
}
