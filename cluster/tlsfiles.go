package cluster

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"os"
)

// TLSFiles are PEM files for connections to a Redis, and by which name it is
// known: each may be empty.
type TLSFiles struct {
	CA         string // certificates to trust in place of the system's
	Cert, Key  string // what to present to the server; both or neither
	ServerName string // that the server's certificate is to have, in place of the host's
}

// config reads the files.
func (f TLSFiles) config() (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: f.ServerName}
	if f.CA != "" {
		pem, err := os.ReadFile(f.CA)
		if err != nil {
			return nil, err
		}
		if c.RootCAs = x509.NewCertPool(); !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, errors.New("the file of certificates to trust has no PEM certificate in it: write the path of one that has")
		}
	}
	switch {
	case f.Cert == "" && f.Key == "":
		return c, nil
	case f.Cert == "" || f.Key == "":
		return nil, errors.New("a client certificate needs its key, and a key its certificate")
	}
	pair, err := tls.LoadX509KeyPair(f.Cert, f.Key)
	if err != nil {
		return nil, err
	}
	c.Certificates = []tls.Certificate{pair}
	return c, nil
}
