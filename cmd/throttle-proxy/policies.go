package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"

	"throttle-proxy/cluster"
	"throttle-proxy/proxy"
	"throttle-proxy/proxy/upstream"
)

// defaultDedupeHeaders are those by which clients and intents differ: who asks,
// which attempt or part of something larger it is, and what is meant by it.
const defaultDedupeHeaders = "Authorization,Cookie,X-Api-Key,Api-Key,Idempotency-Key,X-Idempotency-Key," +
	"Content-Range,Upload-Offset,Range,If-Match,If-None-Match,SOAPAction,X-HTTP-Method-Override"

// defaultHold is of a minute where the outcome is unknown: clients' own retries
// come after up to 8 s, and several of them.
var defaultHold = proxy.Hold{Success: time.Second, Unknown: time.Minute}

// policies is the table of the flags [R=]VALUE: the flag and its values, what
// counts without one, how a value is read, and what it sets of a route. A new
// one is a row here and a field of flags; tests ask for the rest of it. Budgets
// (--rate) are in rates.go, since pools have them too.
func (f *flags) policies(p *parsing) []policy {
	maxCoolDown := read(p, "max-cool-down", f.MaxCoolDown, parseTime)
	coolDown := func(s string) (proxy.CoolDown, error) {
		when, err := oneOf("on", "off", "learn")(s)
		if when == "off" || err != nil {
			return proxy.CoolDown{}, err
		}
		return proxy.CoolDown{Longest: maxCoolDown, Learn: when == "learn"}, nil
	}
	return []policy{
		one(p, "dedupe", f.Dedupe, proxy.DedupeOn, oneOf(proxy.DedupeOn, proxy.DedupeOff, proxy.DedupeAll, proxy.DedupeKey), func(r *proxy.Route) *proxy.Dedupe { return &r.Dedupe }),
		one(p, "dedupe-header", f.DedupeHeader, strings.Split(defaultDedupeHeaders, ","), parseHeaders, func(r *proxy.Route) *[]string { return &r.DedupeHeaders }),
		one(p, "dedupe-json", f.DedupeJSON, nil, parseJSONPaths, func(r *proxy.Route) *[]string { return &r.DedupeJSON }),
		one(p, "wait", f.Wait, 0, parseWait, func(r *proxy.Route) *time.Duration { return &r.Wait }),
		one(p, "hold", f.Hold, defaultHold, parseHold, func(r *proxy.Route) *proxy.Hold { return &r.Hold }),
		one(p, "on-duplicate", f.OnDuplicate, proxy.Refuse, oneOf(proxy.Refuse, proxy.Join, proxy.Fresh), func(r *proxy.Route) *proxy.OnDuplicate { return &r.OnDuplicate }),
		f.shares(p),
		one(p, "idempotency", f.Idempotency, proxy.Idempotency{}, parseIdempotency, func(r *proxy.Route) *proxy.Idempotency { return &r.Idempotency }),
		one(p, "duplicate-status", f.DuplicateStatus, http.StatusConflict, parseDuplicateStatus, func(r *proxy.Route) *int { return &r.DuplicateStatus }),
		one(p, "timeout", f.Timeout, time.Minute, parseTime, func(r *proxy.Route) *time.Duration { return &r.Timeout }),
		one(p, "client-gone", f.ClientGone, proxy.Finish, oneOf(proxy.Finish, proxy.Cancel), func(r *proxy.Route) *proxy.ClientGone { return &r.ClientGone }),
		one(p, "upstream-closed-status", f.UpstreamClosedStatus, proxy.StatusClientGone, parseStatus, func(r *proxy.Route) *int { return &r.ClosedStatus }),
		one(p, "answer-idle", f.AnswerIdle, 5*time.Minute, parseTime, func(r *proxy.Route) *time.Duration { return &r.AnswerIdle }),
		one(p, "forwarded", f.Forwarded, true, parseSwitch, func(r *proxy.Route) *bool { return &r.Forwarded }),
		all(p, "set-header", f.SetHeader, p.parseField, func(r *proxy.Route) *[]proxy.Field { return &r.SetHeaders }),
		one(p, "pass-host", f.PassHost, false, parseSwitch, func(r *proxy.Route) *bool { return &r.PassHost }),
		one(p, "allow-private", f.AllowPrivate, false, parseSwitch, func(r *proxy.Route) *bool { return &r.AllowPrivate }),
		one(p, "upstream-tls", f.UpstreamTLS, nil, parseUpstreamTLS, func(r *proxy.Route) **tls.Config { return &r.TLS }),
		one(p, "upstream-keepalive", f.UpstreamKeepalive, defaultKeepAlive, parseKeepAlive, func(r *proxy.Route) *upstream.KeepAlive { return &r.KeepAlive }),
		one(p, "shadow", f.Shadow, false, parseSwitch, func(r *proxy.Route) *bool { return &r.Shadow }),
		one(p, "when-undecided", f.WhenUndecided, cluster.Local, oneOf(cluster.Local, cluster.Open, cluster.Closed), func(r *proxy.Route) *cluster.WhenUndecided { return &r.WhenUndecided }),
		one(p, "cool-down", f.CoolDown, proxy.CoolDown{Longest: maxCoolDown}, coolDown, func(r *proxy.Route) *proxy.CoolDown { return &r.CoolDown }),
	}
}

// policy sets what one flag says of a route.
type policy func(*proxy.Route)

// one is the policy of a flag of which each route has one value.
func one[T any](p *parsing, flag string, values []string, fallback T, read func(string) (T, error), field func(*proxy.Route) *T) policy {
	of := map[string]T{}
	p.each(flag, values, func(route, text string) error {
		value, err := read(text)
		if err != nil {
			return p.unlessNoRoute(err, text, func(rest string) error { _, err := read(rest); return err })
		}
		if _, twice := of[route]; twice {
			return fmt.Errorf("given twice for %s: write one value", orAll(route))
		}
		of[route] = value
		return nil
	})
	return func(r *proxy.Route) {
		var ok bool
		if *field(r), ok = mostSpecific(of, r.Name); !ok {
			*field(r) = fallback
		}
	}
}

// all is the policy of a flag of which each route can have several values.
func all[T any](p *parsing, flag string, values []string, read func(route, text string) (T, error), field func(*proxy.Route) *[]T) policy {
	of := map[string][]T{}
	p.each(flag, values, func(route, text string) error {
		value, err := read(route, text)
		of[route] = append(of[route], value)
		return err
	})
	return func(r *proxy.Route) { *field(r), _ = mostSpecific(of, r.Name) }
}

// mostSpecific returns what a route has itself, or else what all routes have.
func mostSpecific[T any](of map[string]T, route string) (T, bool) {
	if own, ok := of[route]; ok {
		return own, true
	}
	common, ok := of[""]
	return common, ok
}

func orAll(route string) string {
	if route == "" {
		return "all routes"
	}
	return route
}

// each hands the values [R=]VALUE of a flag to read: the route, "" for all of
// them, and the rest. What stands before = is a route only if it is a route's
// name, or that of a pool, where the flag knows pools.
func (p *parsing) each(flag string, values []string, read func(route, text string) error, pools ...string) {
	for i, value := range values {
		route, text, ok := strings.Cut(value, "=")
		if !ok || !p.names[route] && !slices.Contains(pools, route) {
			route, text = "", value
		}
		err := read(route, text)
		if before, _, ok := strings.Cut(value, ":"); err != nil && ok && p.names[before] {
			err = fmt.Errorf("a route and its value stand apart by =: write %s=VALUE", before)
		}
		if err != nil {
			p.fail(flag, "%s%w", nth(values, i), err)
		}
	}
}

// unlessNoRoute returns err, which is why text cannot be read, unless the
// reason is that text begins with a route that is not registered.
func (p *parsing) unlessNoRoute(err error, text string, read func(rest string) error) error {
	name, rest, ok := strings.Cut(text, "=")
	switch lower := strings.ToLower(name); {
	case !ok || p.names[name] || read(rest) != nil:
		return err
	case lower != name && p.names[lower]:
		return fmt.Errorf("routes are written in small letters: write %s=VALUE", lower)
	case !proxy.ValidName(name):
		return err
	}
	return p.noRoute(name, "write --register "+name+"=URL, or correct the name")
}

// noRoute is the error about a name that no route has: to write the one that is
// like it, or what else there is to do.
func (p *parsing) noRoute(name, otherwise string) error {
	if near := nearest(name, slices.Sorted(maps.Keys(p.names))); len(near) > 0 {
		otherwise = fmt.Sprintf("write %q if that is meant; else %s", near[0], otherwise)
	}
	return fmt.Errorf("no route %q is registered: %s", name, otherwise)
}

// framing are the fields that say where a message ends, or how it is sent.
var framing = []string{"Connection", "Content-Length", "Te", "Trailer", "Transfer-Encoding", "Upgrade"}

// parseField reads NAME=VALUE of --set-header. All of it may be a secret, also
// what looks like a name: a variable is split at white space, and base64 ends
// with =.
func (p *parsing) parseField(route, text string) (proxy.Field, error) {
	name, reference, ok := strings.Cut(text, "=")
	inner, rest, nested := strings.Cut(reference, "=")
	switch {
	case !ok || !httpguts.ValidHeaderFieldName(name):
		return proxy.Field{}, errors.New("not a header field: write NAME=VALUE or ROUTE=NAME=VALUE, and NAME=env:VARIABLE for a value with spaces")
	case route == "" && proxy.ValidName(name) && nested && httpguts.ValidHeaderFieldName(inner) && strings.Trim(rest, "=") != "":
		return proxy.Field{}, p.noRoute(name, "correct the name, or begin it with a capital letter if it is a header field's")
	case strings.Trim(reference, "=") == "":
		return proxy.Field{}, errors.New("the value is empty: is the variable set? Write NAME=VALUE or NAME=env:VARIABLE")
	}
	name = http.CanonicalHeaderKey(name)
	value, err := p.environment.reference(reference)
	switch {
	case err != nil:
		return proxy.Field{}, err
	case !httpguts.ValidHeaderFieldValue(value):
		return proxy.Field{}, errors.New("the value has characters that no header field can have: take out line ends and the like")
	case slices.Contains(framing, name):
		return proxy.Field{}, fmt.Errorf("%s frames the message and cannot be set: take it out", name)
	}
	return proxy.Field{Name: name, Value: value}, nil
}
