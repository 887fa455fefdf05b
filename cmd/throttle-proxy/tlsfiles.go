package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
)

// tlsFiles say how the other side of a connection is verified, and who we are to
// it. Each is the path of a PEM file, and may be empty.
type tlsFiles struct {
	ca         string // certificates to trust, in place of the system's
	cert, key  string // ours; both or neither
	serverName string // that the other side's certificate is for, in place of the host's
}

// parseTLSFiles reads ca=FILE,cert=FILE,key=FILE,server-name=HOST, of which any
// part may be left out. The files are tried: what cannot be used is an error,
// which quotes no path.
func parseTLSFiles(text string) (f tlsFiles, err error) {
	for part := range strings.SplitSeq(text, ",") {
		name, value, _ := strings.Cut(part, "=")
		field, ok := map[string]*string{"ca": &f.ca, "cert": &f.cert, "key": &f.key, "server-name": &f.serverName}[name]
		switch {
		case !ok || value == "":
			return f, fmt.Errorf("%s is no part of it: write ca=FILE, cert=FILE and key=FILE, or server-name=HOST, separated by commas", quote(part))
		case *field != "":
			return f, fmt.Errorf("%s= is given twice: write one", name)
		}
		*field = value
	}
	_, err = f.config()
	return f, err
}

// config returns the files' content. A client certificate is read again for each
// connection; one that cannot be used leaves the last that could.
func (f tlsFiles) config() (*tls.Config, error) {
	c := &tls.Config{ServerName: f.serverName}
	if strings.ContainsAny(f.serverName, ":/*@ ") {
		return nil, errors.New("server-name: not the name of a host: write one without scheme and port")
	}
	if f.ca != "" {
		pem, err := os.ReadFile(f.ca)
		if err != nil {
			return nil, fmt.Errorf("ca: %w: write the path of a PEM file", cause(err))
		}
		if c.RootCAs = x509.NewCertPool(); !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, errors.New("ca: no PEM certificate in it: write the path of a PEM file")
		}
	}
	if (f.cert == "") != (f.key == "") {
		return nil, errors.New("a client certificate and its key go together: write cert=FILE,key=FILE, or neither")
	}
	if f.cert != "" {
		pair, err := tls.LoadX509KeyPair(f.cert, f.key)
		if err != nil {
			return nil, fmt.Errorf("cert: %w: write the PEM files of a certificate and its key", cause(err))
		}
		var last atomic.Pointer[tls.Certificate]
		last.Store(&pair)
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			if pair, err := tls.LoadX509KeyPair(f.cert, f.key); err == nil {
				last.Store(&pair)
			}
			return last.Load(), nil
		}
	}
	return c, nil
}
