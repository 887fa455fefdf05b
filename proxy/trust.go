package proxy

import (
	"fmt"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
)

// Trust says whose word counts on whom a request comes from.
type Trust []TrustedProxy

// TrustedProxy is a network of proxies that speak for their clients.
type TrustedProxy struct {
	Prefix netip.Prefix // the zero Prefix is whoever connects to a unix socket

	// Header is the field, by its canonical name, that has the client's address
	// alone. Forwarded and X-Forwarded-For have a list of them, to which each
	// proxy adds whom it has met; empty means X-Forwarded-For.
	Header string
}

// forwardedField is that of RFC 7239.
const forwardedField = "Forwarded"

// lists reports whether p tells of all hops before it, and not of the client
// alone.
func (p *TrustedProxy) lists() bool {
	return p.Header == "" || p.Header == "X-Forwarded-For" || p.Header == forwardedField
}

// of returns the proxy that has addr, or nil; of several the one that says most
// exactly which it is. An address that is not valid is that of a unix socket.
func (t Trust) of(addr netip.Addr) (by *TrustedProxy) {
	for i := range t {
		p := &t[i]
		if p.Prefix.Contains(addr) || !p.Prefix.IsValid() && !addr.IsValid() {
			if by == nil || p.Prefix.Bits() > by.Prefix.Bits() {
				by = p
			}
		}
	}
	return by
}

// nonsense is what a trusted proxy said in place of an address.
type nonsense struct {
	proxy       netip.Addr
	field, text string
}

// client returns the address that r comes from: the peer, or whom the peer
// speaks for, as far as it is trusted, and whom that one speaks for in turn. It
// is not valid if that is a unix socket. Who does not tell an address is taken
// for the client, and what it told is returned too.
func (t Trust) client(r *http.Request) (netip.Addr, *nonsense) {
	client := peer(r)
	by := t.of(client)
	if by == nil {
		return client, nil
	}
	field, hops := by.hops(r.Header)
	for ; by != nil; by = t.of(client) {
		text := ""
		switch {
		case !by.lists():
			field, text = by.Header, strings.Join(r.Header[by.Header], ",")
		case len(hops) == 0:
			return client, nil
		default:
			text, hops = hops[len(hops)-1], hops[:len(hops)-1]
		}
		next, ok := parseNode(text)
		if !ok {
			return client, &nonsense{client, field, text}
		}
		if client = next; !by.lists() {
			break
		}
	}
	return client, nil
}

// hops returns the field in which p tells of the hops before it, and what it says
// of each. Empty elements are none (RFC 9110 5.6.1). What a client sent is
// to the left of what a proxy adds, so that no quotation mark of a client's can
// have a part in that.
func (p *TrustedProxy) hops(h http.Header) (field string, hops []string) {
	field = "X-Forwarded-For"
	if p.Header == forwardedField {
		field = forwardedField
	}
	for _, line := range h[field] {
		for hop := range strings.SplitSeq(line, ",") {
			if hop = strings.Trim(hop, " \t"); hop == "" {
				continue
			}
			if field == forwardedField {
				hop = forwardedFor(hop)
			}
			hops = append(hops, hop)
		}
	}
	return field, hops
}

// forwardedFor returns the for parameter of an element of Forwarded (RFC 7239),
// or all of an element that has not just one.
func forwardedFor(element string) string {
	node, found := "", 0
	for pair := range strings.SplitSeq(element, ";") {
		if name, value, _ := strings.Cut(pair, "="); strings.EqualFold(strings.Trim(name, " \t"), "for") {
			node, found = strings.Trim(value, " \t"), found+1
		}
	}
	if found != 1 {
		return element
	}
	return node
}

// parseNode reads an address as proxies write them: with a port or without, in
// quotation marks, an IPv6 one in brackets, with a zone.
func parseNode(text string) (netip.Addr, bool) {
	if n := len(text); n >= 2 && text[0] == '"' && text[n-1] == '"' {
		text = text[1 : n-1]
	}
	if inner, ok := strings.CutPrefix(text, "["); ok {
		var port string
		if text, port, ok = strings.Cut(inner, "]"); !ok || port != "" && !isPort(port) || !strings.Contains(text, ":") {
			return netip.Addr{}, false
		}
	} else if i := strings.LastIndexByte(text, ':'); i >= 0 && i == strings.IndexByte(text, ':') && isPort(text[i:]) {
		text = text[:i] // of an IPv4 address
	}
	addr, err := netip.ParseAddr(text)
	return addr.Unmap().WithZone(""), err == nil
}

// isPort reports whether s is a colon and a port, or what stands for one (RFC
// 7239 6.2).
func isPort(s string) bool {
	port, ok := strings.CutPrefix(s, ":")
	if !ok {
		return false
	}
	if _, err := strconv.ParseUint(port, 10, 16); err == nil {
		return true
	}
	return len(port) > 1 && port[0] == '_' && strings.IndexFunc(port, func(r rune) bool {
		return r != '.' && r != '_' && r != '-' && (r < '0' || r > '9') && (r|0x20 < 'a' || r|0x20 > 'z')
	}) < 0
}

// peer returns the address at the other end of the connection, which is not
// valid if that is a unix socket. Its zone is dropped: networks have none.
func peer(r *http.Request) netip.Addr {
	ap, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap().WithZone("")
}

// String tells an operator what a trusted proxy sends. It is escaped and
// shortened.
func (n *nonsense) String() string {
	who := "the proxy at the unix socket"
	if n.proxy.IsValid() {
		who = "the proxy " + n.proxy.String()
	}
	if n.text == "" {
		return fmt.Sprintf("%s is trusted, and sent no %s: it is taken for the client itself", who, n.field)
	}
	const longest = 40
	text := n.text
	if len(text) > longest {
		text = text[:longest] + "…"
	}
	return fmt.Sprintf("%s is trusted, and its %s has no address but %s: it is taken for the client itself", who, n.field, strconv.QuoteToASCII(text))
}
