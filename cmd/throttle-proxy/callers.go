package main

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/net/http/httpguts"

	"throttle-proxy/proxy"
)

// parseTrust reads whose word counts on whom a request comes from.
func (f *flags) parseTrust(p *parsing, c *config) {
	for i, value := range f.TrustedProxy {
		trusted, err := parseTrustedProxy(value)
		if err == nil && slices.ContainsFunc(c.trust, func(t proxy.TrustedProxy) bool { return t.Prefix == trusted.Prefix }) {
			err = errors.New("this network is given twice: write it once")
		}
		if err != nil {
			p.fail("trusted-proxy", "%s%w", nth(f.TrustedProxy, i), err)
			continue
		}
		if trusted.Prefix.Bits() == 0 {
			c.warnings = append(c.warnings, fmt.Sprintf("--trusted-proxy: %s is everybody, and each client can say that it is another: write the network of the proxies in front", trusted.Prefix))
		}
		c.trust = append(c.trust, trusted)
	}
}

// credentials are fields whose values are nobody's address, and not to be
// quoted where an address is missing.
var credentials = []string{"Authorization", "Cookie", "X-Api-Key", "Api-Key"}

// parseTrustedProxy reads CIDR|unix[,header=NAME].
func parseTrustedProxy(value string) (t proxy.TrustedProxy, err error) {
	network, option, more := strings.Cut(value, ",")
	if more {
		name, ok := strings.CutPrefix(option, "header=")
		if t.Header, err = seenField(name); !ok || err != nil || t.Header == "Host" || slices.Contains(credentials, t.Header) {
			return t, errors.New("unknown option: write header=NAME, the field in which this proxy sends the client's address, as in header=CF-Connecting-IP; each network needs a --trusted-proxy of its own")
		}
	}
	if network == "unix" {
		return t, nil
	}
	prefix, err := netip.ParsePrefix(network)
	if addr, addrErr := netip.ParseAddr(network); addrErr == nil {
		addr = addr.WithZone("") // peers are compared without
		prefix, err = addr.Prefix(addr.BitLen())
	}
	if err != nil || prefix.Addr().Is4In6() { // peers are never 4in6
		return t, fmt.Errorf("%s is not a network: write CIDR as in 10.0.0.0/8, an address, or unix", quote(network))
	}
	t.Prefix = prefix.Masked()
	return t, nil
}

// parseBy reads client, client/PREFIX or header:NAME.
func parseBy(value string) (by proxy.By, err error) {
	unknown := errors.New("unknown by=: write by=client, by=client/PREFIX or by=header:NAME")
	if name, ok := strings.CutPrefix(value, "header:"); ok {
		if by.Header, err = seenField(name); err == errNoField {
			err = unknown
		}
		return by, err
	}
	kind, prefix, divided := strings.Cut(value, "/")
	if kind != "client" {
		return by, unknown
	}
	by.Client = true
	if divided {
		by.Prefix, err = strconv.Atoi(prefix)
		if err != nil || by.Prefix < 1 || by.Prefix > 128 {
			return by, errors.New("by=client/ has no prefix of an IPv6 address: write a number from 1 to 128, as in by=client/56")
		}
		if by.Prefix == 64 {
			by.Prefix = 0 // which is the same
		}
	}
	return by, nil
}

var errNoField = errors.New("not a header field")

// unseen are fields, besides those that frame a message, that belong to one
// connection.
var unseen = append([]string{"Http2-Settings", "Keep-Alive", "Proxy-Connection"}, framing...)

// seenField returns the canonical name of a field by which requests can be told
// apart.
func seenField(name string) (string, error) {
	if !httpguts.ValidHeaderFieldName(name) {
		return "", errNoField
	}
	canonical := http.CanonicalHeaderKey(name)
	if slices.Contains(unseen, canonical) {
		return "", fmt.Errorf("%s belongs to a connection and is never compared: take it out", canonical)
	}
	return canonical, nil
}

// parseHeaders reads NAME,… or none.
func parseHeaders(s string) ([]string, error) {
	if s == "none" {
		return nil, nil
	}
	var names []string
	for text := range strings.SplitSeq(s, ",") {
		name, err := seenField(text)
		if err == errNoField {
			err = errors.New("not a list of header fields: write names separated by commas, or none")
		}
		if err != nil {
			return nil, err
		}
		names = append(names, name)
	}
	return names, nil
}

// parseJSONPaths reads PATH,… or none.
func parseJSONPaths(s string) ([]string, error) {
	if s == "none" {
		return nil, nil
	}
	return proxy.ParseJSONPaths(s)
}
