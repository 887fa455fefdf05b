package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync/atomic"

	"throttle-proxy/cluster"
)

// parseTLSFiles reads ca=FILE,cert=FILE,key=FILE,server-name=HOST, of which any
// part may be left out.
func parseTLSFiles(s string) (files cluster.TLSFiles, err error) {
	if s == "" {
		return files, nil
	}
	parts := map[string]*string{"ca": &files.CA, "cert": &files.Cert, "key": &files.Key, "server-name": &files.ServerName}
	for part := range strings.SplitSeq(s, ",") {
		name, value, _ := strings.Cut(part, "=")
		to := parts[name]
		switch {
		case to == nil:
			return files, fmt.Errorf("%s is no part of it: write ca=FILE,cert=FILE,key=FILE,server-name=HOST, or some of these", quote(name))
		case value == "" || *to != "":
			return files, fmt.Errorf("%s= is empty or there twice: write it once, with a value", name)
		}
		*to = value
		if _, err := os.Stat(value); name != "server-name" && err != nil {
			return files, fmt.Errorf("%s: %w: write the path of a PEM file", name, cause(err))
		}
	}
	if (files.Cert == "") != (files.Key == "") {
		return files, errors.New("a client certificate and its key go together: write cert=FILE,key=FILE, or neither")
	}
	return files, nil
}

// parseUpstreamTLS reads the same for an upstream, and the files. A client
// certificate is read again for each connection; one that cannot be used leaves
// the last that could.
func parseUpstreamTLS(s string) (*tls.Config, error) {
	f, err := parseTLSFiles(s)
	switch {
	case err != nil:
		return nil, err
	case s == "":
		return nil, errors.New("no files: write ca=FILE,cert=FILE,key=FILE,server-name=HOST, or some of these")
	case strings.ContainsAny(f.ServerName, ":/*@ "):
		return nil, errors.New("server-name: not the name of a host: write one without scheme and port")
	}
	c := &tls.Config{ServerName: f.ServerName}
	if f.CA != "" {
		pem, err := os.ReadFile(f.CA)
		if err != nil {
			return nil, fmt.Errorf("ca: %w: write the path of a PEM file", cause(err))
		}
		if c.RootCAs = x509.NewCertPool(); !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, errors.New("ca: no PEM certificate in it: write the path of a PEM file")
		}
	}
	if f.Cert != "" {
		pair, err := tls.LoadX509KeyPair(f.Cert, f.Key)
		if err != nil {
			return nil, fmt.Errorf("cert: %w: write the PEM files of a certificate and its key", cause(err))
		}
		var last atomic.Pointer[tls.Certificate]
		last.Store(&pair)
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			if pair, err := tls.LoadX509KeyPair(f.Cert, f.Key); err == nil {
				last.Store(&pair)
			}
			return last.Load(), nil
		}
	}
	return c, nil
}
