package proxy

import (
	"net/http"
	"net/netip"
	"testing"
)

func trust(unix bool, prefixes ...string) Trust {
	t := Trust{Unix: unix}
	for _, p := range prefixes {
		t.Prefixes = append(t.Prefixes, netip.MustParsePrefix(p))
	}
	return t
}

func TestClient(t *testing.T) {
	private := trust(false, "10.0.0.0/8", "2001:db8:ffff::/48")
	for _, tt := range []struct {
		trust     Trust
		peer      string
		forwarded []string
		want      string
	}{
		// Nobody else's word counts.
		{Trust{}, "192.0.2.1:1234", nil, "192.0.2.1"},
		{Trust{}, "192.0.2.1:1234", []string{"198.51.100.1"}, "192.0.2.1"},
		{private, "192.0.2.1:1234", []string{"198.51.100.1"}, "192.0.2.1"},
		{Trust{}, "[2001:db8:1:2:3:4:5:6]:1234", nil, "2001:db8:1:2::/64"},
		{Trust{}, "[2001:db8:1:2:ffff::1]:1234", nil, "2001:db8:1:2::/64"},
		{Trust{}, "[2001:db8:1:3::1]:1234", nil, "2001:db8:1:3::/64"},
		{Trust{}, "[fe80::1%eth0]:1234", nil, "fe80::/64"},
		{Trust{}, "[::ffff:192.0.2.1]:1234", nil, "192.0.2.1"},
		{Trust{}, "@", []string{"198.51.100.1"}, "unix"},
		{private, "@", []string{"198.51.100.1"}, "unix"},
		{private, "", nil, "unix"},
		// A trusted peer tells whom it speaks for.
		{private, "10.1.1.1:1234", nil, "10.1.1.1"},
		{private, "10.1.1.1:1234", []string{"198.51.100.1"}, "198.51.100.1"},
		{private, "10.1.1.1:1234", []string{"203.0.113.9, 198.51.100.1"}, "198.51.100.1"},
		{private, "10.1.1.1:1234", []string{"203.0.113.9", "198.51.100.1"}, "198.51.100.1"},
		{private, "10.1.1.1:1234", []string{"198.51.100.1, 10.2.2.2"}, "198.51.100.1"},
		{private, "10.1.1.1:1234", []string{"198.51.100.1,10.2.2.2 , 10.3.3.3"}, "198.51.100.1"},
		{private, "10.1.1.1:1234", []string{"10.9.9.9, 10.2.2.2"}, "10.9.9.9"},
		{private, "10.1.1.1:1234", []string{"::ffff:198.51.100.1"}, "198.51.100.1"},
		{private, "10.1.1.1:1234", []string{"2001:db8:1:2:3::4"}, "2001:db8:1:2::/64"},
		{private, "[2001:db8:ffff::1]:1234", []string{"198.51.100.1"}, "198.51.100.1"},
		{private, "[::ffff:10.1.1.1]:1234", []string{"198.51.100.1"}, "198.51.100.1"},
		{trust(true), "@", []string{"198.51.100.1"}, "198.51.100.1"},
		{trust(true), "@", nil, "unix"},
		{trust(true), "192.0.2.1:1234", []string{"198.51.100.1"}, "192.0.2.1"},
		// Who writes nonsense is not believed beyond it.
		{private, "10.1.1.1:1234", []string{""}, "10.1.1.1"},
		{private, "10.1.1.1:1234", []string{"unknown"}, "10.1.1.1"},
		{private, "10.1.1.1:1234", []string{"198.51.100.1, unknown"}, "10.1.1.1"},
		{private, "10.1.1.1:1234", []string{"198.51.100.1, unknown, 10.2.2.2"}, "10.2.2.2"},
		{private, "10.1.1.1:1234", []string{"198.51.100.1, , 10.2.2.2"}, "10.2.2.2"},
		{private, "10.1.1.1:1234", []string{"198.51.100.256"}, "10.1.1.1"},
		{trust(true), "@", []string{"unknown"}, "unix"},
	} {
		r := &http.Request{RemoteAddr: tt.peer, Header: http.Header{"X-Forwarded-For": tt.forwarded}}
		if got := tt.trust.client(r); got != tt.want {
			t.Errorf("peer %s, X-Forwarded-For %q: got %s, want %s", tt.peer, tt.forwarded, got, tt.want)
		}
	}
}
