package main

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
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

// peerKey is the key under which a context has who connected.
type peerKey struct{}

// withPeer notes whose a connection is, for the log of what operators change.
func withPeer(ctx context.Context, conn net.Conn) context.Context {
	return context.WithValue(ctx, peerKey{}, peerOf(conn))
}

// peerIn returns who connected.
func peerIn(ctx context.Context) string {
	peer, _ := ctx.Value(peerKey{}).(string)
	return peer
}
