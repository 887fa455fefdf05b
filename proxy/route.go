package proxy

import (
	"crypto/tls"
	"fmt"
	"math"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/dunglas/httpsfv"

	"throttle-proxy/cluster"
	"throttle-proxy/limiter"
	"throttle-proxy/proxy/upstream"
)

var routeName = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)

// ValidName reports whether s can name a route, a pool or a limit.
func ValidName(s string) bool { return routeName.MatchString(s) }

// Route is a registered name, its upstream and its policy.
type Route struct {
	Name     string
	Upstream *upstream.URL
	Hosts    []string // whose requests are its own, beside those below /NAME: see [ParseHost]
	Pool     string   // whose budgets it shares; empty for none
	Limits   []Limit  // its own and its pool's, each with another name

	Candidates  []Limit       // budgets that refuse nobody: what they would have refused is reported
	Concurrency []Concurrency // exchanges at once: its own and its pool's, each with another name than all limits
	Idempotency Idempotency
	OnDuplicate OnDuplicate
	Wait        time.Duration // longest that a request waits for its budgets and slots; 0 to refuse it at once

	Dedupe          Dedupe
	DedupeHeaders   []string // request headers that are part of the fingerprint, beside those that always are
	DedupeJSON      []string // paths of what JSON bodies are compared by, as ParseJSONPaths returns them; nil for all bytes
	Hold            Hold
	DuplicateStatus int // of the answer to a duplicate, as a rule 409

	WhenUndecided cluster.WhenUndecided
	CoolDown      CoolDown
	SecretURL     bool // the registered URL is a credential, which all callers have in common

	Timeout      time.Duration // from the request's last byte sent until the answer begins
	ClosedStatus int           // of the answer when the upstream cut the connection before answering, as a rule 499
	ClientGone   ClientGone
	Shadow       bool // decide and report, but refuse nothing

	AnswerIdle time.Duration // longest pause in the upstream's body
	Forwarded  bool          // send X-Forwarded-* and Via
	SetHeaders []Field       // sent upstream, in place of the client's
	PassHost   bool          // the upstream gets the client's Host

	AllowPrivate bool               // hosts that clients name may have private addresses, and loopback ones
	TLS          *tls.Config        `json:"-"` // how the upstream is verified, and who we are to it; nil for the system's way
	KeepAlive    upstream.KeepAlive // of connections to the upstream
}

// Field is a header field, its name canonical. Its value may be a secret.
type Field struct{ Name, Value string }

// Limit is a budget of a route or pool.
type Limit struct {
	limiter.Limit
	Name string
	By   By
}

// Concurrency is how many exchanges of a route or pool there may be at once, over
// all replicas.
type Concurrency struct {
	Most int
	Name string
	By   By
}

// By says who has a budget of their own: the zero By is one budget for all.
type By struct {
	Client bool   // each client address
	Prefix int    // bits of an IPv6 address that are one client's; 0 for defaultPrefix
	Header string // each value of this header
}

// String returns b as it is written on the command line, or "".
func (b By) String() string {
	switch {
	case b.Client && b.Prefix != 0:
		return "client/" + strconv.Itoa(b.Prefix)
	case b.Client:
		return "client"
	case b.Header != "":
		return "header:" + b.Header
	}
	return ""
}

// Dedupe says which requests of a route are refused as duplicates. Upgrades,
// gRPC and preflights never are.
type Dedupe string

// The values of a Dedupe.
const (
	DedupeOn  Dedupe = "on"  // every method but GET, HEAD, OPTIONS and TRACE
	DedupeOff Dedupe = "off" // none: bodies of any size stream through
	DedupeAll Dedupe = "all" // every method
	DedupeKey Dedupe = "key" // those with an Idempotency-Key, which they always agree in
)

// ClientGone says what becomes of an exchange whose client has left.
type ClientGone string

// The values of a ClientGone.
const (
	Finish ClientGone = "finish" // with a lock it goes on until the answer's header has arrived, and its lock with it
	Cancel ClientGone = "cancel" // it is cancelled at once
)

// route is a Route with all that can be prepared before a request comes.
type route struct {
	Route
	tag        string
	pause      string   // name of its cool-down within the tag
	pauses     []string // that, and that of callers without credentials
	oneCaller  bool     // its cool-downs are for all callers: to the upstream they are one
	alike      bool     // equal requests are of callers with the same credentials
	preset     Preset
	renewed    atomic.Pointer[route] // what stands in its place by now; nil for itself
	sender     sender                // nil if there are hosts
	hosts      *upstream.Hosts       // that clients name; nil if the URL has no *
	prefix     []string              // X-Forwarded-Prefix, which is its first
	origin     origin
	json       *selection       // of JSON bodies; nil for all of their bytes
	charges    []cluster.Charge // with the callers still to be filled in, as in
	candidates []cluster.Charge
	slots      []cluster.Slot
	headers    []string     // of the fingerprint, canonical and sorted
	keyHeaders []string     // of what a request with a key says
	policy     []string     // RateLimit-Policy
	alone      atomic.Int64 // until when its answers are taken for their leaders' alone, in Unix nanoseconds
	items      []string     // of RateLimit, one a limit and then one a concurrency limit, as far as its name
}

// sender sends requests to an upstream: an [upstream.Client].
type sender interface {
	Send(life *upstream.Life, req *upstream.Request) (*upstream.Answer, error)
}

func (r Route) options() upstream.Options {
	o := upstream.Options{Timeout: r.Timeout, AnswerIdle: r.AnswerIdle, KeepAlive: r.KeepAlive, TLS: r.TLS}
	switch {
	case r.Upstream.Wild() && r.AllowPrivate:
		o.Addresses = upstream.LocalAddress
	case r.Upstream.Wild():
		o.Addresses = upstream.PublicAddress
	}
	return o
}

func newRoute(r Route) (*route, error) {
	rt := &route{Route: r, tag: r.Name, prefix: []string{"/" + r.Name}}
	if r.Upstream.Wild() {
		rt.hosts = upstream.NewHosts(r.Upstream, r.options())
	} else {
		rt.sender = upstream.New(r.Upstream, r.options())
	}
	if r.Pool != "" {
		rt.tag, rt.pause = r.Pool, r.Name // each upstream of a pool cools down by itself
	}
	rt.pauses = []string{rt.pause, rt.pauseOf()}
	rt.oneCaller, rt.preset = r.sendsCredentials(), PresetOf(r.Upstream)
	headers := append([]string{"Content-Type", "Content-Encoding"}, r.DedupeHeaders...)
	if r.OnDuplicate.shares() {
		headers = append(headers, sharedFields...)
	}
	if r.Dedupe == DedupeKey {
		headers = append(headers, "Idempotency-Key")
	}
	for _, l := range r.Limits {
		rt.charges = append(rt.charges, cluster.Charge{Name: l.Name, Limit: l.Limit})
		headers = append(headers, l.By.headers()...)
	}
	for _, l := range r.Candidates {
		rt.candidates = append(rt.candidates, cluster.Charge{Name: l.Name, Limit: l.Limit})
		headers = append(headers, l.By.headers()...)
	}
	for _, c := range r.Concurrency {
		rt.slots = append(rt.slots, cluster.Slot{Name: c.Name, Most: c.Most})
		headers = append(headers, c.By.headers()...)
	}
	policies := r.policies()
	for _, policy := range policies {
		item, err := httpsfv.Marshal(httpsfv.NewItem(policy.(httpsfv.Item).Value))
		if err != nil {
			return nil, fmt.Errorf("route %s: limit %q: %w", r.Name, policy.(httpsfv.Item).Value, err)
		}
		rt.items = append(rt.items, item)
	}
	if len(policies) > 0 {
		policy, err := httpsfv.Marshal(policies)
		if err != nil {
			return nil, fmt.Errorf("route %s: %w", r.Name, err)
		}
		rt.policy = []string{policy}
	}
	for i, h := range headers {
		headers[i] = http.CanonicalHeaderKey(h)
	}
	slices.Sort(headers)
	rt.headers = slices.Compact(headers)
	rt.keyHeaders = keyHeaders(rt.headers)
	rt.json = selects(r.DedupeJSON)
	rt.alike = !slices.ContainsFunc(callerFields, func(name string) bool { return !slices.Contains(rt.headers, name) })
	return rt, nil
}

// policies are those that clients are told of.
func (r Route) policies() (policies httpsfv.List) {
	for _, l := range r.Limits {
		policies = append(policies, l.policy())
	}
	for _, c := range r.Concurrency {
		policies = append(policies, c.policy())
	}
	return policies
}

// policyUnder is RateLimit-Policy where operators have set limits in place of the
// route's; nil where they have not.
func (rt *route) policyUnder(limits []limiter.Limit) []string {
	if len(limits) != len(rt.Limits) || limits == nil {
		return rt.policy
	}
	changed := rt.Route
	changed.Limits = slices.Clone(rt.Limits)
	for i := range limits {
		changed.Limits[i].Limit = limits[i]
	}
	policy, err := httpsfv.Marshal(changed.policies())
	if err != nil {
		return rt.policy
	}
	return []string{policy}
}

// policy is the limit as an item of RateLimit-Policy: q requests in any w
// seconds (draft-ietf-httpapi-ratelimit-headers-10). The window is the time in
// which the burst is earned again, in whole seconds.
func (l Limit) policy() httpsfv.Item {
	if l.Strict { // in any period
		w := max(1, math.Ceil(l.Period.Seconds()))
		item := httpsfv.NewItem(l.Name)
		item.Params.Add("q", int64(l.Rate))
		item.Params.Add("w", int64(w))
		return item
	}
	// In nanoseconds, which are whole numbers: 1.1 has no exact float64.
	rate, period, burst := float64(l.Rate), float64(l.Period), float64(l.Burst)
	w := max(1, math.Ceil(burst*period/(rate*1e9)))
	q := max(burst, math.Floor(rate*w*1e9/period))
	item := httpsfv.NewItem(l.Name)
	item.Params.Add("q", int64(q))
	item.Params.Add("w", int64(w))
	return item
}

// policy is the limit as an item of RateLimit-Policy.
func (c Concurrency) policy() httpsfv.Item {
	item := httpsfv.NewItem(c.Name)
	item.Params.Add("q", int64(c.Most))
	item.Params.Add("qu", "concurrent-requests")
	return item
}

// headers are those by which callers are told apart: one or none.
func (b By) headers() []string {
	if b.Header == "" {
		return nil
	}
	return []string{b.Header}
}

// dedupes reports whether r is refused while an equal request has the lock.
func (rt *route) dedupes(r *http.Request) bool {
	if isUpgrade(r) || isGRPC(r.Header) || isPreflight(r) {
		return false
	}
	switch rt.Dedupe {
	case DedupeAll:
		return true
	case DedupeKey:
		return r.Header.Get("Idempotency-Key") != ""
	case DedupeOn:
		return changes(r.Method)
	}
	return false
}

// isPreflight reports whether a browser asks by r what a page may send. It costs
// no budget: refused, it would hide the answer to the request that follows from
// the page. A browser's has no body and no other method within: with one it would
// be a way around the budget, and is a request like any other.
func isPreflight(r *http.Request) bool {
	if r.Method != http.MethodOptions || r.Header["Origin"] == nil || r.Header["Access-Control-Request-Method"] == nil || r.ContentLength != 0 {
		return false
	}
	return !slices.ContainsFunc(otherMethods, func(name string) bool { return r.Header[name] != nil })
}

// otherMethods are the fields by which upstreams take a request for one of another
// method.
var otherMethods = []string{"X-Http-Method-Override", "X-Http-Method", "X-Method-Override"}

// isUpgrade reports whether a request asks for another protocol, as WebSocket
// does: by an Upgrade that its Connection names. Only HTTP/1.1 has that.
func isUpgrade(r *http.Request) bool {
	protocols := strings.ToLower(r.Header.Get("Upgrade"))
	if protocols == "" || strings.Contains(protocols, "h2c") || r.ProtoMajor != 1 || r.ProtoMinor == 0 {
		return false // HTTP/2 without TLS would be a tunnel around every decision
	}
	for option := range members(r.Header["Connection"]) {
		if strings.EqualFold(option, "Upgrade") {
			return true
		}
	}
	return false
}
