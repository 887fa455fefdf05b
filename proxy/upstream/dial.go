package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/net/http/httpguts"
)

// dialTimeout is the longest that a connection to an upstream may take, and
// again the longest that its TLS may.
const dialTimeout = 10 * time.Second

// Addresses says which addresses an upstream may have. It is looked at when a
// name has been resolved, and each address that is dialled is: no other answer
// of the name's servers can come in between.
type Addresses int

// The values of an Addresses.
const (
	AnyAddress    Addresses = iota // of a host that the operator has named
	PublicAddress                  // one that is the same for everybody
	LocalAddress                   // that, and private and loopback ones
)

var errAddress = errors.New("an address that is not allowed")

// dialFunc makes a connection to an upstream; network and address are those of
// its URL, unless it has a socket.
type dialFunc func(ctx context.Context, network, address string) (net.Conn, error)

// dialer is how every sender connects to u.
func (u *URL) dialer(o Options) dialFunc {
	dialer := &net.Dialer{Timeout: min(dialTimeout, o.Timeout), Resolver: o.Resolver}
	if o.Addresses != AnyAddress {
		dialer.Control = o.Addresses.control
	}
	switch {
	case u.socket != "":
		return func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, "unix", u.socket)
		}
	case o.count != nil:
		return o.count(dialer.DialContext)
	}
	return dialer.DialContext
}

// address returns what is dialled for u, and the name that its certificate is
// for.
func (u *URL) address() (address, name string, err error) {
	_, host, port := u.Address()
	if address, err = httpguts.PunycodeHostPort(net.JoinHostPort(host, port)); err != nil {
		return "", "", err
	}
	name, _, err = net.SplitHostPort(address)
	return address, name, err
}

// tlsConfig is how every sender speaks TLS to the host called name.
func (o Options) tlsConfig(name string, protocols ...string) *tls.Config {
	config := &tls.Config{}
	if o.TLS != nil {
		config = o.TLS.Clone()
	}
	if config.ServerName == "" {
		config.ServerName = name
	}
	config.NextProtos, config.MinVersion = protocols, tls.VersionTLS12
	return config
}

// Reach connects to u as a request would be, by TLS if it has it, and sends
// nothing. [ConnectFault] says what its error means.
func Reach(ctx context.Context, u *URL, o Options) error {
	address, name, err := u.address()
	if err != nil {
		return err
	}
	conn, err := u.dialer(o)(ctx, "tcp", address)
	if err != nil {
		return err
	}
	defer conn.Close()
	if u.url.Scheme != "https" {
		return nil
	}
	return tls.Client(conn, o.tlsConfig(name, "h2", "http/1.1")).HandshakeContext(ctx)
}

// control is a [net.Dialer]'s, called with each address just before it is
// connected to.
func (a Addresses) control(_, address string, _ syscall.RawConn) error {
	to, err := netip.ParseAddrPort(address)
	if err != nil || !a.allows(to.Addr()) {
		return errAddress
	}
	return nil
}

// allows reports whether addr may be dialled, also as another writes it: mapped
// into IPv6, or by a translator.
func (a Addresses) allows(addr netip.Addr) bool {
	addr = addr.Unmap().WithZone("")
	if nat64.Contains(addr) {
		bytes := addr.As16()
		addr = netip.AddrFrom4([4]byte(bytes[12:]))
	}
	switch {
	case a == AnyAddress:
		return true
	case compatible.Contains(addr) && addr != netip.IPv6Loopback():
		return false
	}
	return !within(never, addr) && (a == LocalAddress || !within(local, addr))
}

func within(networks []netip.Prefix, addr netip.Addr) bool {
	for _, network := range networks {
		if network.Contains(addr) {
			return true
		}
	}
	return false
}

func networks(texts ...string) (n []netip.Prefix) {
	for _, text := range texts {
		n = append(n, netip.MustParsePrefix(text))
	}
	return n
}

// The addresses that are not the same for everybody, by IANA's registries of
// special addresses for IPv4 and IPv6.
var (
	// The last 4 bytes of these are an address of IPv4; nobody uses the second kind,
	// but that ::1 is one of them.
	nat64      = netip.MustParsePrefix("64:ff9b::/96")
	compatible = netip.MustParsePrefix("::/96")

	// never is dialled by a host that clients name: this host by no address, a
	// link's own addresses, where clouds keep credentials, groups, tunnels to an
	// address within the address, and those that lead nowhere.
	never = networks("0.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "240.0.0.0/4", "192.0.0.0/24",
		"100.100.100.200/32", "168.63.129.16/32", "fd00:ec2::254/128", // metadata outside of a link
		"fe80::/10", "fec0::/10", "ff00::/8", "100::/64",
		"::ffff:0:0:0/96", "64:ff9b:1::/48", "2001::/32", "2002::/16")

	local = networks("127.0.0.0/8", "::1/128", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10",
		"198.18.0.0/15", "192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "fc00::/7", "2001:db8::/32", "3fff::/20", "5f00::/16")
)
