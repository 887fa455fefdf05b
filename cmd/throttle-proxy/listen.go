package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const portPatience = 5 * time.Second // for a port that is taken

func (f *flags) parseListen(p *parsing, c *config) {
	c.network, c.listenFlag = "tcp", "--listen"
	c.tlsCert, c.tlsKey = f.TLSCert, f.TLSKey
	if (f.TLSCert == "") != (f.TLSKey == "") {
		p.fail("tls-cert", "a certificate needs its key: write both --tls-cert and --tls-key")
	} else if f.TLSCert != "" {
		if _, err := tls.LoadX509KeyPair(f.TLSCert, f.TLSKey); err != nil {
			p.fail("tls-cert", "%w: write the PEM files of a certificate and its key", cause(err))
		}
	}
	if f.Listen == "" {
		c.listenFlag = "--port"
		if _, err := strconv.ParseUint(f.Port, 10, 16); err != nil {
			p.fail("port", "%s is not a port: write a number from 0 to 65535 (0 takes a free one), or --listen host:port", quote(f.Port))
		}
		c.address = ":" + f.Port
		return
	}
	c.network, c.address = p.parseAddress("listen", f.Listen)
}

// parseAddress reads where to listen.
func (p *parsing) parseAddress(flag, value string) (network, address string) {
	if path, ok := strings.CutPrefix(value, "unix:"); ok {
		if path == "" {
			p.fail(flag, "no path after unix: write unix:/path/to/socket")
		}
		return "unix", path
	}
	_, port, err := net.SplitHostPort(value)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil {
		p.fail(flag, "%s is not an address: write host:port, :port or unix:/path", quote(value))
	}
	return "tcp", value
}

// listen takes the address. A port that is taken may become free: by a replica
// that ends, or, in the system's range for them, by an outgoing connection.
func (c *config) listen(ctx context.Context, announce func(string)) (net.Listener, error) {
	if listener, err := inherited(); listener != nil || err != nil {
		c.inherited = true
		return listener, err
	}
	if c.network == "unix" {
		if err := clearSocket(c.address); err != nil {
			return nil, fmt.Errorf("--listen: %w", err)
		}
	}
	var system net.ListenConfig
	system.SetMultipathTCP(false) // has no filters: see ignoreConnects
	listener, err := system.Listen(ctx, c.network, c.address)
	taken := c.network == "tcp" && errors.Is(err, syscall.EADDRINUSE)
	if taken {
		announce(fmt.Sprintf("%s is taken, trying again for %s", c.address, portPatience))
	}
	for deadline := time.Now().Add(portPatience); taken && time.Now().Before(deadline); taken = errors.Is(err, syscall.EADDRINUSE) {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
		listener, err = system.Listen(ctx, c.network, c.address)
	}
	switch {
	case taken:
		_, port, _ := net.SplitHostPort(c.address)
		return nil, fmt.Errorf("%s: cannot listen on %s: %w: end what listens there or choose another port; if it was an outgoing connection's, reserve it: sysctl -w net.ipv4.ip_local_reserved_ports=%s", c.listenFlag, c.address, cause(err), port)
	case errors.Is(err, syscall.EADDRINUSE): // a file, which is not ours to remove
		return nil, fmt.Errorf("%s: cannot listen on %s: %w: write another path, or remove what is there", c.listenFlag, c.address, cause(err))
	case err != nil:
		return nil, fmt.Errorf("%s: cannot listen: %w%s", c.listenFlag, cause(err), toListen(err))
	}
	return listener, nil
}

// clearSocket removes a unix socket that a killed process has left behind, which is
// in the way; a living one's is not ours to take.
func clearSocket(path string) error {
	if conn, err := net.Dial("unix", path); err == nil {
		_ = conn.Close()
		return fmt.Errorf("something else listens on %s", path)
	}
	if info, err := os.Lstat(path); err == nil && info.Mode()&os.ModeSocket != 0 {
		_ = os.Remove(path)
	}
	return nil
}

// toListen says what to write where err is why nothing can listen.
func toListen(err error) string {
	switch {
	case errors.Is(err, syscall.EACCES):
		return ": write a port above 1023, or a path where this user may write"
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return ": write an address that this host has, or none, as in :44444"
	case errors.Is(err, syscall.EADDRINUSE):
		return ": write another address, or end what listens there"
	case errors.Is(err, syscall.ENOENT):
		return ": write a path in a directory that exists"
	}
	if dns, ok := errors.AsType[*net.DNSError](err); ok && dns.IsNotFound {
		return ": write an address of this host in place of the name"
	}
	return ""
}
