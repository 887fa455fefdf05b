package upstream

import (
	"container/list"
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/net/http/httpguts"
	"golang.org/x/net/publicsuffix"
)

// What the hosts of one URL may have together.
const (
	maxHosts = 1024 // that are remembered
	maxConns = 4096 // connections, beyond which those of hosts long unused are closed
)

// Wild reports whether the URL's host has a *, so that it stands for many.
func (u *URL) Wild() bool { return strings.Contains(u.url.Host, "*") }

// At returns the URL of one host: with labels, separated by dots, in place of the
// *.
func (u *URL) At(labels string) *URL {
	at, one := *u, *u.url
	one.Host = strings.Replace(one.Host, "*", labels, 1)
	at.url = &one
	return &at
}

// starDomain returns whose the hosts are that a * in host stands for: what follows
// it must be somebody's, or a route would lead to everywhere.
func starDomain(host string) (string, error) {
	before, after, _ := strings.Cut(host, "*")
	after, whole := strings.CutPrefix(after, ".")
	if !whole || before != "" && !strings.HasSuffix(before, ".") || strings.Contains(after, "*") {
		return "", errors.New("the * of a host stands for whole labels, and once: write https://*.example.com")
	}
	domain, err := domainOf(after)
	if err != nil {
		return "", errors.New("what follows the * of a host must be a domain that somebody has registered: write https://*.example.com")
	}
	return domain, nil
}

// domainOf returns the part of host that somebody has registered.
func domainOf(host string) (string, error) {
	host, err := httpguts.PunycodeHostPort(strings.ToLower(host))
	if err != nil {
		return "", err
	}
	if top := host[strings.LastIndexByte(host, '.')+1:]; !strings.ContainsAny(top, "abcdefghijklmnopqrstuvwxyz") {
		return "", errors.New("an address")
	}
	return publicsuffix.EffectiveTLDPlusOne(host)
}

// Owns reports whether the host with labels in place of the * is of the one who
// has registered what follows: below some domains, others register theirs.
func (u *URL) Owns(labels string) bool {
	domain, err := domainOf(u.At(labels).url.Hostname())
	return err == nil && domain == u.domain
}

// Hosts has a [Client] for each host that a URL with a * stands for, as far as
// they are in use. It is safe for concurrent use.
type Hosts struct {
	url     *URL
	options Options
	open    atomic.Int64 // connections of all

	mu      sync.Mutex
	clients map[string]*list.Element // by what stands for the *
	recent  list.List                // of *host, the last asked first
}

type host struct {
	labels string
	*Client
}

// NewHosts returns the Hosts of u.
func NewHosts(u *URL, o Options) *Hosts {
	h := &Hosts{url: u, options: o, clients: map[string]*list.Element{}}
	h.options.count = h.count
	return h
}

// At returns the Client of one host. One that is forgotten meanwhile goes on
// with the requests that it has.
func (h *Hosts) At(labels string) *Client {
	h.mu.Lock()
	defer h.mu.Unlock()
	if known, ok := h.clients[labels]; ok {
		h.recent.MoveToFront(known)
		return known.Value.(*host).Client
	}
	if len(h.clients) >= maxHosts {
		h.forgetLocked()
	}
	client := New(h.url.At(labels), h.options)
	h.clients[labels] = h.recent.PushFront(&host{labels, client})
	return client
}

// CloseIdleConnections closes those that are not in use.
func (h *Hosts) CloseIdleConnections() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for known := h.recent.Front(); known != nil; known = known.Next() {
		known.Value.(*host).CloseIdleConnections()
	}
}

// forgetLocked forgets the host that has not been asked for the longest time.
func (h *Hosts) forgetLocked() {
	last := h.recent.Remove(h.recent.Back()).(*host)
	delete(h.clients, last.labels)
	last.current.Load().retire()
}

// count counts what dial connects, and makes room where there are too many.
func (h *Hosts) count(dial dialFunc) dialFunc {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		if h.open.Add(1) > maxConns {
			h.makeRoom()
		}
		conn, err := dial(ctx, network, address)
		if err != nil {
			h.open.Add(-1)
			return nil, err
		}
		return &countedConn{TCPConn: conn.(*net.TCPConn), open: &h.open}, nil
	}
}

// makeRoom closes connections that are not in use, of one host after the other,
// but for the one that was asked last.
func (h *Hosts) makeRoom() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for h.open.Load() > maxConns && len(h.clients) > 1 {
		h.forgetLocked()
	}
}

// countedConn is a connection that is counted while it is open.
type countedConn struct {
	*net.TCPConn
	open   *atomic.Int64
	closed atomic.Bool
}

// Close closes the connection.
func (c *countedConn) Close() error {
	if !c.closed.Swap(true) {
		c.open.Add(-1)
	}
	return c.TCPConn.Close()
}
