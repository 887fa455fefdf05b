package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"
)

// One process, and none of nginx's own limits.
const nginxConfig = `
daemon off;
master_process off;
pid nginx.pid;
error_log stderr crit;
events { worker_connections 8192; }
http {
	access_log off;
	client_body_temp_path body;
	proxy_temp_path proxy;
	fastcgi_temp_path fastcgi;
	uwsgi_temp_path uwsgi;
	scgi_temp_path scgi;
	sendfile on;
	keepalive_timeout 300s;
	keepalive_requests 1000000000;
	client_max_body_size 0;
	%s
}
`

// Given the address, "" or "ssl" with or without "http2", the certificate's file
// and its key's, and the large file's path and file.
const nginxUpstream = `
	ssl_certificate %[3]s;
	ssl_certificate_key %[4]s;
	server {
		listen %[1]s %[2]s backlog=4096;
		location / { return 200 "ok"; }
		location %[5]s { alias %[6]s; }
	}
`

const nginxProxy = `
	upstream u {
		server %s;
		keepalive 512;
		keepalive_requests 1000000000;
	}
	limit_req_zone $server_name zone=limit:1m rate=%dr/s;
	limit_req_status 429;
	server {
		listen %s backlog=4096;
		location / {
			limit_req zone=limit burst=%[2]d nodelay;
			proxy_pass http://u;
			proxy_http_version 1.1;
			proxy_set_header Connection "";
			proxy_set_header Host $host;
			proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
		}
	}
`

func (b *bed) startNginx(addr, config string) (pid int, err error) {
	dir, err := os.MkdirTemp(b.dir, "nginx")
	if err != nil {
		return 0, err
	}
	path := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(path, fmt.Appendf(nil, nginxConfig, config), 0o600); err != nil {
		return 0, err
	}
	return b.start(addr, "nginx", "-p", dir, "-c", path)
}

// upstream starts the workload's upstream and returns its address.
func (b *bed) upstream(w workload) (addr string, err error) {
	addr = freeAddr()
	if !w.goUpstream {
		large := filepath.Join(b.dir, "large")
		if err := os.WriteFile(large, make([]byte, 1<<20), 0o644); err != nil {
			return "", err
		}
		speaks := map[string]string{overTLS1: "ssl", overTLS2: "ssl http2"}[w.over]
		_, err = b.startNginx(addr, fmt.Sprintf(nginxUpstream, addr, speaks, b.certificate(), b.certificate()+".key", "/v1"+largePath, large))
		return addr, err
	}
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return "", err
	}
	server := &http.Server{Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		delay := w.delay
		if hold, err := time.ParseDuration(r.Header.Get(holdField)); err == nil {
			delay = hold
			b.held <- struct{}{}
		}
		time.Sleep(delay)
		_, _ = io.WriteString(rw, "ok")
	})}
	go func() { _ = server.Serve(listener) }()
	b.cleanups = append(b.cleanups, func() { _ = server.Close() })
	return addr, nil
}

// certificate is the file of the https upstream's, which all systems trust.
func (b *bed) certificate() string { return filepath.Join(b.dir, "upstream.pem") }

// certify writes the certificate, and its key beside it.
func (b *bed) certify() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "bench"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(b.certificate(), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600),
		os.WriteFile(b.certificate()+".key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600))
}
