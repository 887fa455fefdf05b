package main

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"throttle-proxy/proxy"
	"throttle-proxy/proxy/upstream"
)

// parseHosts reads ROUTE=HOST,HOST: which hosts are a route's.
func (f *flags) parseHosts(p *parsing, c *config) {
	of := map[string]string{}  // the route of each host
	given := map[string]bool{} // routes that have some
	for i, value := range f.Host {
		fail := func(format string, args ...any) { p.fail("host", nth(f.Host, i)+format, args...) }
		name, list, ok := strings.Cut(value, "=")
		given[name] = true
		at := slices.IndexFunc(c.routes, func(r proxy.Route) bool { return r.Name == name })
		switch {
		case !ok:
			fail("no route in it: write ROUTE=HOST, as in api=api.example.com, or ROUTE=*")
			continue
		case !p.names[name]:
			fail("no route %s is registered: write --register NAME=URL, or correct the name", quote(name))
			continue
		case at < 0: // its URL was told to be wrong
			continue
		}
		route := &c.routes[at]
		for text := range strings.SplitSeq(list, ",") {
			host, err := proxy.ParseHost(text)
			switch {
			case err != nil:
				fail("%w", err)
			case of[host] != "" && of[host] != name:
				fail("%s is a host of route %s too: give it to one of them", host, of[host])
			case route.Upstream.Wild() && (host == "*" || !strings.HasPrefix(host, "*.")):
				fail("route %s: its URL has a *, for which each of its hosts must have one: write *.SUFFIX", name)
			case of[host] == "":
				of[host] = name
				route.Hosts = append(route.Hosts, host)
			}
		}
	}
	for _, r := range c.routes {
		if r.Upstream.Wild() && !given[r.Name] {
			p.fail("register", "route %s: its URL has a *, and no host says what for: write --host %[1]s=*.SUFFIX", r.Name)
		}
	}
}

// defaultKeepAlive is long enough for a pause, and short enough for an upstream
// that moves.
var defaultKeepAlive = upstream.KeepAlive{Idle: 90 * time.Second, Age: 5 * time.Minute}

// parseKeepAlive reads IDLE,age=AGE, of which either may be left out, or off.
func parseKeepAlive(text string) (k upstream.KeepAlive, err error) {
	if text == "off" {
		return k, nil
	}
	const instead = "write a time, as in 90s, 90s,age=5m, or off"
	for part := range strings.SplitSeq(text, ",") {
		value, isAge := strings.CutPrefix(part, "age=")
		field := &k.Idle
		if isAge {
			field = &k.Age
		}
		if *field != 0 {
			return k, errors.New("given twice: " + instead)
		}
		if *field, err = parseTime(value); err != nil {
			return k, fmt.Errorf("%s is not a time: %s", quote(value), instead)
		}
	}
	k.Idle, k.Age = cmp.Or(k.Idle, defaultKeepAlive.Idle), cmp.Or(k.Age, defaultKeepAlive.Age)
	return k, nil
}

// describeHosts says which requests are a route's, and how they go on, as far as
// that is not as usual.
func describeHosts(r proxy.Route) (text string) {
	for _, host := range r.Hosts {
		switch {
		case text == "":
			text = "; hosts "
		default:
			text += ", "
		}
		if host == "*" {
			host = "* (whatever names no other route)"
		}
		text += host
	}
	switch {
	case r.Upstream.Wild() && r.AllowPrivate:
		text += ", forwarded by name, to private addresses too"
	case r.Upstream.Wild():
		text += ", forwarded by name, to public addresses alone"
	}
	if r.PassHost {
		text += "; the client's Host is passed on"
	}
	if r.KeepAlive == (upstream.KeepAlive{}) {
		text += "; a connection for each request"
	}
	return text
}
