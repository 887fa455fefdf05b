package proxy

import (
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"testing"
)

// trust returns a Trust of networks, each with its field after a space.
func trust(networks ...string) (t Trust) {
	for _, n := range networks {
		network, header, _ := strings.Cut(n, " ")
		by := TrustedProxy{Header: header}
		if network != "unix" {
			by.Prefix = netip.MustParsePrefix(network)
		}
		t = append(t, by)
	}
	return t
}

func TestClient(t *testing.T) {
	private := trust("10.0.0.0/8", "2001:db8:ffff::/48")
	forwarded := trust("10.0.0.0/8 Forwarded")
	real := trust("10.0.0.0/8 X-Real-Ip")
	cloud := trust("10.0.0.0/8", "172.64.0.0/13 Cf-Connecting-Ip")
	for _, tt := range []struct {
		trust  Trust
		peer   string
		fields string // that the request has, each on a line
		want   string // the client, with a question mark where the proxy is not understood
	}{
		// Nobody else's word counts.
		{nil, "192.0.2.1:1234", "", "192.0.2.1"},
		{nil, "192.0.2.1:1234", "X-Forwarded-For: 198.51.100.1", "192.0.2.1"},
		{private, "192.0.2.1:1234", "X-Forwarded-For: 198.51.100.1", "192.0.2.1"},
		{real, "192.0.2.1:1234", "X-Real-IP: 198.51.100.1", "192.0.2.1"},
		{nil, "[2001:db8:1:2:3:4:5:6]:1234", "", "2001:db8:1:2:3:4:5:6"},
		{nil, "[fe80::1%eth0]:1234", "", "fe80::1"},
		{nil, "[::ffff:192.0.2.1]:1234", "", "192.0.2.1"},
		{nil, "@", "X-Forwarded-For: 198.51.100.1", "unix"},
		{private, "@", "X-Forwarded-For: 198.51.100.1", "unix"},
		{private, "", "", "unix"},
		// A trusted peer tells whom it speaks for.
		{private, "10.1.1.1:1234", "", "10.1.1.1"},
		{private, "10.1.1.1:1234", "X-Forwarded-For: 198.51.100.1", "198.51.100.1"},
		{private, "10.1.1.1:1234", "X-Forwarded-For: 203.0.113.9, 198.51.100.1", "198.51.100.1"},
		{private, "10.1.1.1:1234", "X-Forwarded-For: 203.0.113.9\nX-Forwarded-For: 198.51.100.1", "198.51.100.1"},
		{private, "10.1.1.1:1234", "X-Forwarded-For: 198.51.100.1, 10.2.2.2", "198.51.100.1"},
		{private, "10.1.1.1:1234", "X-Forwarded-For: 198.51.100.1,10.2.2.2 ,\t10.3.3.3", "198.51.100.1"},
		{private, "10.1.1.1:1234", "X-Forwarded-For: 10.9.9.9, 10.2.2.2", "10.9.9.9"},
		{private, "10.1.1.1:1234", "X-Forwarded-For: ::ffff:198.51.100.1", "198.51.100.1"},
		{private, "10.1.1.1:1234", "X-Forwarded-For: 2001:db8:1:2:3::4", "2001:db8:1:2:3::4"},
		{private, "[2001:db8:ffff::1]:1234", "X-Forwarded-For: 198.51.100.1", "198.51.100.1"},
		{private, "[::ffff:10.1.1.1]:1234", "X-Forwarded-For: 198.51.100.1", "198.51.100.1"},
		{trust("unix"), "@", "X-Forwarded-For: 198.51.100.1", "198.51.100.1"},
		{trust("unix"), "@", "", "unix"},
		{trust("unix"), "192.0.2.1:1234", "X-Forwarded-For: 198.51.100.1", "192.0.2.1"},
		// As gateways write addresses.
		{private, "10.1.1.1:1234", "X-Forwarded-For: 203.0.113.1:1111", "203.0.113.1"},
		{private, "10.1.1.1:1234", "X-Forwarded-For: [2001:db8::1]:443", "2001:db8::1"},
		{private, "10.1.1.1:1234", "X-Forwarded-For: [2001:db8::1]", "2001:db8::1"},
		{private, "10.1.1.1:1234", `X-Forwarded-For: "203.0.113.7"`, "203.0.113.7"},
		{private, "10.1.1.1:1234", `X-Forwarded-For: "[2001:db8::1]:443"`, "2001:db8::1"},
		{private, "10.1.1.1:1234", "X-Forwarded-For: fe80::9%eth0", "fe80::9"},
		{private, "10.1.1.1:1234", "X-Forwarded-For: [fe80::9%25eth0]:80", "fe80::9"},
		{private, "10.1.1.1:1234", "X-Forwarded-For: 198.51.100.1,", "198.51.100.1"},
		{private, "10.1.1.1:1234", "X-Forwarded-For: 198.51.100.1, , 10.2.2.2", "198.51.100.1"},
		{private, "10.1.1.1:1234", "X-Forwarded-For: 198.51.100.1\nX-Forwarded-For:", "198.51.100.1"},
		{private, "10.1.1.1:1234", "X-Forwarded-For:", "10.1.1.1"},
		{private, "10.1.1.1:1234", "X-Forwarded-For: 198.51.100.1, 10.2.2.2:555", "198.51.100.1"},
		{trust("fe80::/10"), "[fe80::1%eth0]:1234", "X-Forwarded-For: 198.51.100.1", "198.51.100.1"},
		{private, "10.1.1.1:1234", "X-Forwarded-For: 198.51.100.1, fe80::1%eth0", "fe80::1"},
		// Who writes nonsense is not believed beyond it.
		{private, "10.1.1.1:1234", "X-Forwarded-For: unknown", "10.1.1.1?"},
		{private, "10.1.1.1:1234", "X-Forwarded-For: 198.51.100.1, unknown", "10.1.1.1?"},
		{private, "10.1.1.1:1234", "X-Forwarded-For: 198.51.100.1, unknown, 10.2.2.2", "10.2.2.2?"},
		{private, "10.1.1.1:1234", "X-Forwarded-For: 198.51.100.256", "10.1.1.1?"},
		{private, "10.1.1.1:1234", "X-Forwarded-For: 198.51.100.1:port", "10.1.1.1?"},
		{private, "10.1.1.1:1234", "X-Forwarded-For: 198.51.100.1:70000", "10.1.1.1?"},
		{private, "10.1.1.1:1234", "X-Forwarded-For: [198.51.100.1]", "10.1.1.1?"},
		{private, "10.1.1.1:1234", "X-Forwarded-For: [2001:db8::1]443", "10.1.1.1?"},
		{private, "10.1.1.1:1234", "X-Forwarded-For: [2001:db8::1", "10.1.1.1?"},
		{private, "10.1.1.1:1234", `X-Forwarded-For: "`, "10.1.1.1?"},
		{trust("unix"), "@", "X-Forwarded-For: unknown", "unix?"},
		// A client's quotation mark takes nothing away from what a proxy adds.
		{private, "10.1.1.1:1234", `X-Forwarded-For: ", 198.51.100.1`, "198.51.100.1"},
		{forwarded, "10.1.1.1:1234", `Forwarded: for=", for=198.51.100.1`, "198.51.100.1"},
		// Forwarded, for those who ask for it.
		{private, "10.1.1.1:1234", "Forwarded: for=198.51.100.1", "10.1.1.1"},
		{forwarded, "10.1.1.1:1234", "Forwarded: for=198.51.100.1", "198.51.100.1"},
		{forwarded, "10.1.1.1:1234", "X-Forwarded-For: 203.0.113.9\nForwarded: for=198.51.100.1", "198.51.100.1"},
		{forwarded, "10.1.1.1:1234", "X-Forwarded-For: 203.0.113.9", "10.1.1.1"},
		{forwarded, "10.1.1.1:1234", `Forwarded: for=203.0.113.9, proto=http;For="[2001:db8::1]:4711" ;by=10.2.2.2`, "2001:db8::1"},
		{forwarded, "10.1.1.1:1234", "Forwarded: for=203.0.113.9\nForwarded: for=198.51.100.1:_port, , for=10.2.2.2", "198.51.100.1"},
		{forwarded, "10.1.1.1:1234", "Forwarded: for=198.51.100.1, for=_hidden", "10.1.1.1?"},
		{forwarded, "10.1.1.1:1234", "Forwarded: proto=https", "10.1.1.1?"},
		{forwarded, "10.1.1.1:1234", "Forwarded: for=198.51.100.1;for=198.51.100.2", "10.1.1.1?"},
		// A field with one address.
		{real, "10.1.1.1:1234", "X-Real-IP: 198.51.100.1\nX-Forwarded-For: 203.0.113.9", "198.51.100.1"},
		{real, "10.1.1.1:1234", "X-Real-IP: 10.2.2.2\nX-Forwarded-For: 203.0.113.9", "10.2.2.2"},
		{real, "10.1.1.1:1234", "X-Real-IP: 198.51.100.1:80", "198.51.100.1"},
		{real, "10.1.1.1:1234", "X-Forwarded-For: 203.0.113.9", "10.1.1.1?"},
		{real, "10.1.1.1:1234", "X-Real-IP: 198.51.100.1\nX-Real-IP: 198.51.100.2", "10.1.1.1?"},
		{trust("unix X-Real-Ip"), "@", "X-Real-IP: 198.51.100.1", "198.51.100.1"},
		{trust("10.0.0.0/8", "10.1.0.0/16 X-Real-Ip"), "10.1.1.1:1234", "X-Real-IP: 198.51.100.1", "198.51.100.1"},
		{trust("10.1.0.0/16 X-Real-Ip", "10.0.0.0/8"), "10.1.1.1:1234", "X-Real-IP: 198.51.100.1", "198.51.100.1"},
		// Only where the proxy that sends it has been passed.
		{cloud, "10.1.1.1:1234", "X-Forwarded-For: 198.51.100.1, 172.64.0.1\nCF-Connecting-IP: 198.51.100.1", "198.51.100.1"},
		{cloud, "10.1.1.1:1234", "X-Forwarded-For: 198.51.100.1\nCF-Connecting-IP: 203.0.113.9", "198.51.100.1"},
		{cloud, "10.1.1.1:1234", "X-Forwarded-For: 172.64.0.1", "172.64.0.1?"},
	} {
		r := &http.Request{RemoteAddr: tt.peer, Header: http.Header{}}
		for line := range strings.SplitSeq(tt.fields, "\n") {
			if name, value, ok := strings.Cut(line, ":"); ok {
				r.Header.Add(name, strings.TrimSpace(value))
			}
		}
		client, said := tt.trust.client(r)
		got := client.String()
		if !client.IsValid() {
			got = "unix"
		}
		if said != nil {
			got += "?"
		}
		if got != tt.want {
			t.Errorf("peer %s, %q: got %s, want %s", tt.peer, tt.fields, got, tt.want)
		}
	}
}

func TestNonsenseIsToldEscapedAndShortened(t *testing.T) {
	proxy := netip.MustParseAddr("10.1.1.1")
	for _, tt := range []struct {
		said nonsense
		want string
	}{
		{nonsense{proxy, "X-Forwarded-For", "un\x1b[31mknown\xff"}, `the proxy 10.1.1.1 is trusted, and its X-Forwarded-For has no address but "un\x1b[31mknown\xff": it is taken for the client itself`},
		{nonsense{proxy, "X-Real-Ip", ""}, "the proxy 10.1.1.1 is trusted, and sent no X-Real-Ip: it is taken for the client itself"},
		{nonsense{netip.Addr{}, "Forwarded", "_hidden"}, `the proxy at the unix socket is trusted, and its Forwarded has no address but "_hidden": it is taken for the client itself`},
	} {
		if got := tt.said.String(); got != tt.want {
			t.Errorf("got %s, want %s", got, tt.want)
		}
	}
	long := nonsense{proxy, "X-Forwarded-For", strings.Repeat("é", 1<<10)}
	if n := len(fmt.Sprint(&long)); n > 400 {
		t.Errorf("%d bytes are told of it", n)
	}
}

func FuzzParseNode(f *testing.F) {
	for _, seed := range []string{"203.0.113.1:1111", "[2001:db8::1]:443", `"203.0.113.7"`, "fe80::1%eth0", "[", `"`, ":", "[]:"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		addr, ok := parseNode(text)
		if ok && (!addr.IsValid() || addr.Zone() != "" || addr.Is4In6()) {
			t.Errorf("%q: got %v", text, addr)
		}
		if again, _ := parseNode(addr.String()); ok && again != addr {
			t.Errorf("%q: got %v, and of that %v", text, addr, again)
		}
	})
}
