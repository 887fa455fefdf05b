package proxy

import (
	"cmp"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
)

// defaultPrefix is what one customer gets of IPv6.
const defaultPrefix = 64

// Network returns what addr counts as: an IPv6 address stands for its network.
func (b By) Network(addr netip.Addr) string {
	switch {
	case !addr.IsValid():
		return "unix"
	case addr.Is4():
		return addr.String()
	}
	bits := b.Prefix
	if bits == 0 {
		bits = defaultPrefix
	}
	return netip.PrefixFrom(addr, bits).Masked().String()
}

// caller is the digest of who asks, as by says.
func (x *exchange) caller(by By) string {
	if by.Client {
		return digest(by.Network(x.clientAddr()))
	}
	return digest(fieldOf(x.in, http.CanonicalHeaderKey(by.Header))...)
}

// knownAs returns what [Event] has as the caller of the request.
func (x *exchange) knownAs() string {
	known := ""
	if pauses := x.asked.Pauses; len(pauses) > 1 && pauses[1] != x.route.pauses[1] {
		known = pauses[1][strings.LastIndexByte(pauses[1], ':')+1:]
	}
	if x.event.Reason != ReasonCoolingDown || known == "" {
		known = cmp.Or(x.byLimit(), known)
	}
	const told = 8 // of its hexadecimal digits
	return known[:min(told, len(known))]
}

// byLimit returns by what the limit that refused, or else the first one with a
// budget or slots for each caller, knows who asks.
func (x *exchange) byLimit() (known string) {
	better := func(name, caller string) {
		if caller != "" && (known == "" || slices.Contains(x.event.Limits, name)) {
			known = caller
		}
	}
	for _, c := range x.asked.Charges {
		better(c.Name, c.Caller)
	}
	for _, s := range x.asked.Slots {
		better(s.Name, s.Caller)
	}
	return known
}

// clientAddr returns the address that the request comes from, and warns of what
// makes many callers one.
func (x *exchange) clientAddr() netip.Addr {
	client := x.event.Client
	if x.looked {
		return client
	}
	x.looked = true
	if said := x.nonsense; said != nil {
		x.proxy.warnings.once(said.proxy, said.String)
	}
	if x.route.origin.single(client) {
		x.proxy.warnings.once(x.route.Name, func() string {
			from := "a unix socket"
			if client.IsValid() {
				from = client.String()
			}
			return fmt.Sprintf("route %s: budgets go by client, and each of its first %d requests came from %s: is --trusted-proxy missing?", x.route.Name, soleOrigin, from)
		})
	}
	return client
}

// soleOrigin is how many requests of a route may come from one private address
// before that looks like a proxy's.
const soleOrigin = 100

// origin watches whether the first requests of a route all come from one private
// address.
type origin struct {
	decided atomic.Bool
	mu      sync.Mutex
	addr    netip.Addr
	seen    int
}

// single reports, once, that they did.
func (o *origin) single(addr netip.Addr) bool {
	if o.decided.Load() {
		return false
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.seen == 0 {
		o.addr = addr
	}
	o.seen++
	alone := o.addr == addr && isPrivate(addr)
	if alone && o.seen < soleOrigin {
		return false
	}
	return !o.decided.Swap(true) && alone
}

var sharedSpace = netip.MustParsePrefix("100.64.0.0/10") // of carriers and of clouds (RFC 6598)

// isPrivate reports whether addr is of a network's inside. So is a unix socket.
func isPrivate(addr netip.Addr) bool {
	return !addr.IsValid() || addr.IsPrivate() || addr.IsLoopback() || addr.IsLinkLocalUnicast() || sharedSpace.Contains(addr)
}

// warnings are what an operator is told of once, about one route or proxy.
type warnings struct {
	tell func(text string) // nil to tell nothing
	told sync.Map          // key → struct{}
	many atomic.Int32
}

// maxWarnings bounds what is told, and remembered.
const maxWarnings = 1000

// once tells text, unless something was told of key.
func (w *warnings) once(key any, text func() string) {
	if w.tell == nil || w.many.Load() >= maxWarnings {
		return
	}
	if _, told := w.told.LoadOrStore(key, struct{}{}); told || w.many.Add(1) > maxWarnings {
		return
	}
	w.tell(text())
}

// ambiguous returns the first field by which budgets go and which comes in
// several lines, of which the upstream may believe another one than we do. Those
// of Cookie are one field (RFC 9113 8.2.3).
func (rt *route) ambiguous(h http.Header) string {
	for _, l := range rt.Limits {
		if l.By.ambiguous(h) {
			return http.CanonicalHeaderKey(l.By.Header)
		}
	}
	for _, c := range rt.Concurrency {
		if c.By.ambiguous(h) {
			return http.CanonicalHeaderKey(c.By.Header)
		}
	}
	if rt.Idempotency.By.ambiguous(h) {
		return http.CanonicalHeaderKey(rt.Idempotency.By.Header)
	}
	return ""
}

func (b By) ambiguous(h http.Header) bool {
	name := http.CanonicalHeaderKey(b.Header)
	return name != "Cookie" && len(h[name]) > 1
}

// refuseAmbiguous answers a request of which the field name says several things.
func (x *exchange) refuseAmbiguous(name string) {
	x.reply(problem{reason: ReasonAmbiguousField, detail: name + " says whose budget is spent, and comes in several lines: send one." + wasNotSent})
}

// fieldOf returns what r says in a field, given by its canonical name, by which
// requests and callers are told apart. What means the same is the same: the
// scheme of Authorization has no case (RFC 9110 11.1), Cookie may be divided, and
// a host is a name without case, port and final dot.
func fieldOf(r *http.Request, name string) []string {
	values := r.Header[name]
	switch {
	case name == "Host":
		return []string{hostOf(r.Host)}
	case name == "Cookie" && len(values) > 1:
		return []string{strings.Join(values, "; ")}
	case name == "Authorization":
		return withScheme(values)
	}
	return values
}

// withScheme returns credentials with their scheme in the case of a field's name,
// which most are in: then they are values themselves.
func withScheme(values []string) []string {
	for i, v := range values {
		scheme, rest, ok := strings.Cut(v, " ")
		if usual := http.CanonicalHeaderKey(scheme); ok && usual != scheme {
			values = slices.Clone(values)
			values[i] = usual + " " + rest
		}
	}
	return values
}

// hostOf returns a Host or :authority as hosts are compared: without port, final
// dot and capital letters.
func hostOf(host string) string {
	if i := strings.LastIndexByte(host, ':'); i > strings.LastIndexByte(host, ']') && (i == strings.IndexByte(host, ':') || host[0] == '[') {
		host = host[:i]
	}
	return strings.ToLower(strings.TrimSuffix(strings.Trim(host, "[]"), "."))
}
