package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

func TestAddressesThatClientsMayName(t *testing.T) {
	const public, private, refused = "public", "private", "refused"
	for text, want := range map[string]string{
		"8.8.8.8": public, "1.1.1.1": public, "172.15.0.1": public, "172.32.0.1": public, "100.63.0.1": public, "169.253.0.1": public, "223.255.255.255": public,
		"2606:4700::1111": public, "2001:4860:4860::8888": public, "64:ff9b::8.8.8.8": public, "::ffff:8.8.8.8": public,

		"127.0.0.1": private, "127.255.0.1": private, "::1": private, "::ffff:127.0.0.1": private, "10.0.0.1": private, "172.16.0.1": private, "192.168.1.1": private,
		"100.64.0.1": private, "198.18.0.1": private, "fd00::1": private, "fc00::1": private, "::ffff:10.0.0.1": private, "64:ff9b::10.0.0.1": private, "64:ff9b::7f00:1": private,
		"192.0.2.1": private, "2001:db8::1": private,

		"0.0.0.0": refused, "0.1.2.3": refused, "::": refused, "169.254.169.254": refused, "::ffff:169.254.169.254": refused, "64:ff9b::a9fe:a9fe": refused,
		"::169.254.169.254": refused, "::127.0.0.1": refused, "::ffff:0:169.254.169.254": refused, "64:ff9b:1::a9fe:a9fe": refused, "2002:a9fe:a9fe::1": refused,
		"2001::1": refused, "fe80::1": refused, "fe80::1%lo": refused, "fec0::1": refused, "ff02::1": refused, "224.0.0.1": refused, "255.255.255.255": refused, "240.0.0.1": refused,
		"192.0.0.192": refused, "100.100.100.200": refused, "168.63.129.16": refused, "fd00:ec2::254": refused, "::ffff:100.100.100.200": refused, "::ffff:0.0.0.0": refused,
	} {
		got := refused
		switch addr := netip.MustParseAddr(text); {
		case PublicAddress.allows(addr):
			got = public
		case LocalAddress.allows(addr):
			got = private
		}
		if got != want {
			t.Errorf("%s: got %s, want %s", text, got, want)
		}
		if addr := netip.MustParseAddr(text); got == public && !LocalAddress.allows(addr) || !AnyAddress.allows(addr) {
			t.Errorf("%s: refused where more is allowed", text)
		}
	}
}

// names is a DNS server of a test's own: it answers what answer says for a name,
// each time anew.
type names struct {
	*net.Resolver
	asked atomic.Int64
}

func newNames(t *testing.T, answer func(name string, asked int64) string) *names {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n := &names{}
	var serving sync.WaitGroup
	serving.Go(func() {
		buffer := make([]byte, 512)
		for {
			size, from, err := conn.ReadFrom(buffer)
			if err != nil {
				return
			}
			var m dnsmessage.Message
			if m.Unpack(buffer[:size]) != nil || len(m.Questions) != 1 {
				continue
			}
			q := m.Questions[0]
			m.Response, m.Additionals = true, nil
			header := dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: 0}
			if q.Type == dnsmessage.TypeA {
				n.asked.Add(1)
			}
			addr := netip.MustParseAddr(answer(strings.TrimSuffix(q.Name.String(), "."), n.asked.Load()))
			if q.Type == dnsmessage.TypeA && addr.Is4() {
				m.Answers = []dnsmessage.Resource{{Header: header, Body: &dnsmessage.AResource{A: addr.As4()}}}
			} else if q.Type == dnsmessage.TypeAAAA && addr.Is6() {
				m.Answers = []dnsmessage.Resource{{Header: header, Body: &dnsmessage.AAAAResource{AAAA: addr.As16()}}}
			}
			if packed, err := m.Pack(); err == nil {
				_, _ = conn.WriteTo(packed, from)
			}
		}
	})
	t.Cleanup(func() {
		_ = conn.Close()
		serving.Wait()
	})
	n.Resolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp", conn.LocalAddr().String())
	}}
	return n
}

// bySenders are requests for each way to an upstream, and upgrades.
func bySenders(t *testing.T, ask func(t *testing.T, scheme string, req *Request)) {
	t.Helper()
	upgrade := held(http.MethodGet, "/", "")
	upgrade.Header = http.Header{"Connection": {"Upgrade"}, "Upgrade": {"x"}}
	for name, by := range ways {
		t.Run(name, func(t *testing.T) { ask(t, by.scheme, by.post("/")) })
	}
	t.Run("upgrade", func(t *testing.T) { ask(t, "http", upgrade) })
	t.Run("h2c upgrade", func(t *testing.T) { ask(t, "h2c", upgrade) })
}

// speaksAll is an upstream of HTTP/1 and HTTP/2 without TLS that tells how many
// connections it has got.
func speaksAll(t *testing.T, address string, handler http.HandlerFunc) (port string, made *atomic.Int64) {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	made = &atomic.Int64{}
	up := httptest.NewUnstartedServer(handler)
	up.Listener = l
	up.Config.Protocols = new(http.Protocols)
	up.Config.Protocols.SetHTTP1(true)
	up.Config.Protocols.SetUnencryptedHTTP2(true)
	up.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			made.Add(1)
		}
	}
	up.Start()
	t.Cleanup(up.Close)
	_, port, _ = net.SplitHostPort(l.Addr().String())
	return port, made
}

func says(text string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(w, text)
	}
}

// TestHostsThatClientsNameLeadToPublicAddressesAlone, by every sender, whatever
// their names resolve to, and at no port.
func TestHostsThatClientsNameLeadToPublicAddressesAlone(t *testing.T) {
	port, made := speaksAll(t, "127.0.0.1:0", says("reached"))
	resolver := newNames(t, func(name string, _ int64) string {
		return map[string]string{
			"metadata": "169.254.169.254", "loopback": "127.0.0.1", "mapped": "::ffff:127.0.0.1", "nat64": "64:ff9b::7f00:1", "six": "::1", "any": "0.0.0.0",
		}[strings.TrimSuffix(name, ".example.com")]
	})
	bySenders(t, func(t *testing.T, scheme string, req *Request) {
		o := patient
		o.Resolver, o.Addresses = resolver.Resolver, PublicAddress
		hosts := NewHosts(mustParse(t, scheme+"://*.example.com:"+port), o)
		for _, label := range []string{"metadata", "loopback", "mapped", "nat64", "six", "any"} {
			wantOutcome(t, send(t, hosts.At(label), req), "refused: destination_ip_prohibited")
		}
		if got := hosts.open.Load(); got != 0 {
			t.Errorf("got %d connections open", got)
		}
	})
	if got := made.Load(); got != 0 {
		t.Errorf("the upstream got %d connections", got)
	}
}

// TestRebinding: a name's second answer is looked at as the first one was, for it
// is the address that is dialled that counts, and not one that was looked up
// before.
func TestRebinding(t *testing.T) {
	port, made := speaksAll(t, "127.0.0.1:0", says("reached"))
	// The first address is a public one where nobody listens; a check that resolved
	// by itself would be content with it, and the dial would get the second.
	resolver := newNames(t, func(_ string, asked int64) string {
		if asked <= 1 {
			return "198.41.0.4"
		}
		return "127.0.0.1"
	})
	dialled := make(chan string, 10)
	o := patient
	o.Resolver, o.Addresses = resolver.Resolver, PublicAddress
	u := mustParse(t, "http://*.example.com:"+port).At("rebinds")
	dialer := &net.Dialer{Resolver: o.Resolver, Control: func(network, address string, raw syscall.RawConn) error {
		dialled <- address
		if err := o.Addresses.control(network, address, raw); err != nil {
			return err
		}
		return errors.New("not dialled by the test")
	}}
	address, _, _ := u.address()
	for range 2 {
		_, _ = dialer.DialContext(t.Context(), "tcp", address)
	}
	if first, second := <-dialled, <-dialled; first != "198.41.0.4:"+port || second != "127.0.0.1:"+port {
		t.Errorf("looked at %s and %s: the server of names does not rebind", first, second)
	}
	bySenders(t, func(t *testing.T, scheme string, req *Request) {
		hosts := NewHosts(mustParse(t, scheme+"://*.example.com:"+port), o)
		wantOutcome(t, send(t, hosts.At("rebinds"), req), "refused: destination_ip_prohibited")
	})
	if got := made.Load(); got != 0 {
		t.Errorf("the upstream got %d connections", got)
	}
}

func TestPrivateAddressesWhereTheyAreAllowed(t *testing.T) {
	port, _ := speaksAll(t, "127.0.0.1:0", says("reached"))
	resolver := newNames(t, func(name string, _ int64) string {
		return map[string]string{"metadata.example.com": "169.254.169.254", "a.b.example.com": "127.0.0.1", "a.example.com": "::ffff:127.0.0.1"}[name]
	})
	o := patient
	o.Resolver, o.Addresses = resolver.Resolver, LocalAddress
	hosts := NewHosts(mustParse(t, "http://*.example.com:"+port), o)
	t.Cleanup(hosts.CloseIdleConnections)
	wantOutcome(t, send(t, hosts.At("a.b"), held(http.MethodGet, "/", "")), "200 reached")
	wantOutcome(t, send(t, hosts.At("metadata"), held(http.MethodGet, "/", "")), "refused: destination_ip_prohibited")
}

// TestHostsKeepTheirConnectionsApart, reuse them, and close those of hosts long
// unused where there are too many hosts.
func TestHostsKeepTheirConnections(t *testing.T) {
	port, made := speaksAll(t, "127.0.0.1:0", func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.Host) })
	resolver := newNames(t, func(string, int64) string { return "127.0.0.1" })
	o := patient
	o.Resolver, o.Addresses = resolver.Resolver, LocalAddress
	for _, scheme := range []string{"http", "h2c"} {
		hosts := NewHosts(mustParse(t, scheme+"://*.example.com:"+port), o)
		t.Cleanup(hosts.CloseIdleConnections)
		made.Store(0)
		for range 100 {
			for _, label := range []string{"a", "b"} {
				wantOutcome(t, send(t, hosts.At(label), held(http.MethodGet, "/", "")), "200 "+label+".example.com:"+port)
			}
		}
		if got := made.Load(); got != 2 {
			t.Errorf("%s: got %d connections for 100 requests to each of 2 hosts, want 2", scheme, got)
		}
		for i := range maxHosts {
			hosts.At(fmt.Sprint("other", i))
		}
		if got := len(hosts.clients); got != maxHosts || got != hosts.recent.Len() {
			t.Errorf("got %d hosts, and %d in their order, want %d", got, hosts.recent.Len(), maxHosts)
		}
		waitFor(t, "the forgotten hosts' connections are closed", func() bool { return hosts.open.Load() == 0 })
	}
}

// waitFor returns when what must come has.
func waitFor(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !condition(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not in 20s: %s", what)
		}
	}
}

// TestRoomIsMade where too many connections are open, of the host that was not
// asked for the longest time.
func TestRoomIsMade(t *testing.T) {
	port, _ := speaksAll(t, "127.0.0.1:0", says("ok"))
	resolver := newNames(t, func(string, int64) string { return "127.0.0.1" })
	o := patient
	o.Resolver, o.Addresses = resolver.Resolver, LocalAddress
	hosts := NewHosts(mustParse(t, "http://*.example.com:"+port), o)
	t.Cleanup(hosts.CloseIdleConnections)
	for _, label := range []string{"a", "b"} {
		wantOutcome(t, send(t, hosts.At(label), held(http.MethodGet, "/", "")), "200 ok")
	}
	hosts.open.Add(maxConns - 2) // as if so many were
	wantOutcome(t, send(t, hosts.At("c"), held(http.MethodGet, "/", "")), "200 ok")
	_, a := hosts.clients["a"]
	_, b := hosts.clients["b"]
	if got := hosts.open.Load(); a || !b || got != maxConns {
		t.Errorf("a is known: %v, b is: %v, %d connections, want b alone and %d", a, b, got, maxConns)
	}
}
