package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
)

// adminAddress is where operators ask.
type adminAddress struct{ network, address string }

// parseAdmin reads where operators ask.
func (f *flags) parseAdmin(p *parsing, c *config) {
	for i, value := range f.Admin {
		if value == "off" {
			if len(f.Admin) > 1 {
				p.fail("admin", "off and an address at once: write one of them")
			}
			return
		}
		problems := len(p.problems)
		var a adminAddress
		a.network, a.address = p.parseAddress("admin", value)
		switch {
		case len(p.problems) > problems:
		case a.address == c.address && !strings.HasSuffix(c.address, ":0"):
			p.fail("admin", "%sthis is where clients connect: write another address", nth(f.Admin, i))
		case slices.Contains(c.admins, a):
			p.fail("admin", "%sthis address is given twice: write it once", nth(f.Admin, i))
		}
		c.admins = append(c.admins, a)
	}
}

// adminListener is one of them. Only who can open a unix socket may change things:
// the user of this process.
type adminListener struct {
	net.Listener
	changes bool
}

type adminListeners []adminListener

func (l adminListeners) close() {
	for _, listener := range l {
		_ = listener.Close()
	}
}

// listenAdmin takes the addresses of --admin.
func (c *config) listenAdmin() (listeners adminListeners, err error) {
	for _, a := range c.admins {
		l := adminListener{changes: a.network == "unix"}
		if l.changes {
			if err = clearSocket(a.address); err == nil {
				l.Listener, err = listenPrivate(a.address)
			}
		} else {
			l.Listener, err = net.Listen(a.network, a.address)
		}
		if err != nil {
			listeners.close()
			return nil, fmt.Errorf("--admin: cannot listen: %w%s", cause(err), toListen(err))
		}
		listeners = append(listeners, l)
	}
	return listeners, nil
}

// announcement says where it is, and what it tells to whom.
func (l adminListener) announcement() string {
	where := "admin on " + l.Addr().String()
	if l.changes {
		return where + " (of this user alone, who may change things)"
	}
	if at, err := netip.ParseAddrPort(l.Addr().String()); err == nil && !at.Addr().Unmap().IsLoopback() {
		return where + " (open to other hosts: they can read metrics and status, names of routes and request ids among them, and change nothing)"
	}
	return where + " (to read)"
}

// forLocalNames refuses what reaches this host's own address under another's name:
// a web page has had its name lead here, to read what its site may not see.
func forLocalNames(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if at, _ := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr); at != nil && at.IP.IsLoopback() && !isLocalName(r.Host) {
			http.Error(w, "another host's name does not lead here: write localhost, or an address", http.StatusMisdirectedRequest)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// isLocalName reports whether a Host is an address, which no page of another site
// is under, or a name of this host that no other can have.
func isLocalName(host string) bool {
	name := strings.ToLower((&url.URL{Host: host}).Hostname())
	_, err := netip.ParseAddr(name)
	return err == nil || name == "" || name == "localhost" || strings.HasSuffix(name, ".localhost")
}

// peer is whose process has connected to a unix socket.
type peer struct {
	known bool
	uid   int
}

// peerKey is the key under which a context has its peer.
type peerKey struct{}

// withPeer notes whose a connection is: who may change things, and for the log.
func withPeer(ctx context.Context, conn net.Conn) context.Context {
	return context.WithValue(ctx, peerKey{}, peerOf(conn))
}

// peerIn returns who connected.
func peerIn(ctx context.Context) peer {
	p, _ := ctx.Value(peerKey{}).(peer)
	return p
}

// mayChange reports whether p is the user of this process, or root. Where the system
// does not tell, the mode of the socket is what keeps others away.
func (p peer) mayChange() bool {
	return !p.known || p.uid == os.Geteuid() || p.uid == 0
}

// String is p for the log.
func (p peer) String() string {
	if !p.known {
		return "the socket's user"
	}
	return "uid " + strconv.Itoa(p.uid)
}
