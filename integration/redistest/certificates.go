package redistest

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TLSFiles are the PEM files of one side of TLS.
type TLSFiles struct {
	CA        string // who vouches for the other side
	Cert, Key string // what to show to it
}

// newTLSFiles makes an authority and what a server on 127.0.0.1 and its clients
// need: an authority's own certificate is no good for either.
func newTLSFiles(tb testing.TB) (server, client TLSFiles, config *tls.Config) {
	tb.Helper()
	must := func(err error) {
		tb.Helper()
		if err != nil {
			tb.Fatal(err)
		}
	}
	dir := tb.TempDir()
	write := func(name, kind string, der []byte) string {
		path := filepath.Join(dir, name)
		must(os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
		return path
	}
	newKey := func() *ecdsa.PrivateKey {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		must(err)
		return key
	}
	template := func(serial int64, name string) *x509.Certificate {
		return &x509.Certificate{
			SerialNumber: big.NewInt(serial),
			Subject:      pkix.Name{CommonName: name},
			NotBefore:    time.Now().Add(-time.Hour),
			NotAfter:     time.Now().Add(time.Hour),
		}
	}

	authority, authorityKey := template(1, "authority"), newKey()
	authority.IsCA, authority.BasicConstraintsValid, authority.KeyUsage = true, true, x509.KeyUsageCertSign
	der, err := x509.CreateCertificate(rand.Reader, authority, authority, authorityKey.Public(), authorityKey)
	must(err)
	authority, err = x509.ParseCertificate(der)
	must(err)
	ca := write("ca.pem", "CERTIFICATE", der)

	sign := func(c *x509.Certificate, usage x509.ExtKeyUsage) TLSFiles {
		name, key := c.Subject.CommonName, newKey()
		c.ExtKeyUsage = []x509.ExtKeyUsage{usage}
		der, err := x509.CreateCertificate(rand.Reader, c, authority, key.Public(), authorityKey)
		must(err)
		keyDER, err := x509.MarshalPKCS8PrivateKey(key)
		must(err)
		return TLSFiles{
			CA:   ca,
			Cert: write(name+".pem", "CERTIFICATE", der),
			Key:  write(name+"-key.pem", "PRIVATE KEY", keyDER),
		}
	}
	own := template(2, "server")
	own.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)}
	server = sign(own, x509.ExtKeyUsageServerAuth)
	client = sign(template(3, "client"), x509.ExtKeyUsageClientAuth)

	pair, err := tls.LoadX509KeyPair(client.Cert, client.Key)
	must(err)
	config = &tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: x509.NewCertPool()}
	config.RootCAs.AddCert(authority)
	return server, client, config
}

// RenewTLS gives a server that was started by [StartTLS] a certificate of another
// authority, cuts all connections, and returns what a client needs from now on.
func (s *Server) RenewTLS() TLSFiles {
	s.tb.Helper()
	server, client, config := newTLSFiles(s.tb)
	ctx, own := context.Background(), s.Client()
	if err := own.Do(ctx, "config", "set", "tls-ca-cert-file", server.CA, "tls-cert-file", server.Cert, "tls-key-file", server.Key).Err(); err != nil {
		s.tb.Fatal(err)
	}
	if err := own.Do(ctx, "client", "kill", "type", "normal", "skipme", "yes").Err(); err != nil {
		s.tb.Fatal(err)
	}
	s.tls = config
	return client
}
