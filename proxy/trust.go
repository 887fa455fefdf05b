package proxy

import (
	"net/http"
	"net/netip"
	"strings"
)

// Trust says from whom X-Forwarded-* is believed.
type Trust struct {
	Prefixes []netip.Prefix
	Unix     bool // whoever connects to a unix socket
}

// believes reports whether the peer of r may speak for others.
func (t Trust) believes(r *http.Request) bool {
	addr, ok := peer(r)
	if !ok {
		return t.Unix
	}
	return t.contains(addr)
}

func (t Trust) contains(addr netip.Addr) bool {
	for _, p := range t.Prefixes {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}

// client returns the address that r comes from: the peer, or, as far as the
// peer is trusted, the rightmost address of X-Forwarded-For outside the
// trusted ones. An IPv6 address stands for its /64, which is what one
// customer gets.
func (t Trust) client(r *http.Request) string {
	client, known := peer(r)
	if t.believes(r) {
		hops := strings.Split(strings.Join(r.Header["X-Forwarded-For"], ","), ",")
		for i := len(hops) - 1; i >= 0; i-- {
			addr, err := netip.ParseAddr(strings.TrimSpace(hops[i]))
			if err != nil {
				break
			}
			if client, known = addr.Unmap(), true; !t.contains(client) {
				break
			}
		}
	}
	switch {
	case !known:
		return "unix"
	case client.Is6():
		return netip.PrefixFrom(client.WithZone(""), 64).Masked().String()
	}
	return client.String()
}

// peer returns the address at the other end of the connection; it has none if
// that is a unix socket.
func peer(r *http.Request) (addr netip.Addr, ok bool) {
	ap, err := netip.ParseAddrPort(r.RemoteAddr)
	return ap.Addr().Unmap(), err == nil
}
