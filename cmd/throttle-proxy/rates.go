package main

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"

	"throttle-proxy/limiter"
	"throttle-proxy/proxy"
	"throttle-proxy/proxy/upstream"
)

// parseRates gives each route its budgets, and those of its pool.
func (f *flags) parseRates(p *parsing, c *config) {
	poolOf := f.parsePools(p, c)
	of := map[string][]proxy.Limit{} // by route or pool, "" for all routes; not nil for off
	p.each("rate", f.Rate, func(name, text string) error {
		limit, off, err := parseRate(text)
		if err != nil {
			return p.unlessNoRoute(err, text, func(rest string) error { _, _, err := parseRate(rest); return err })
		}
		limits, given := of[name]
		switch {
		case given && (off || len(limits) == 0):
			return fmt.Errorf("off and a rate at once for %s: write one of them", orAll(name))
		case off:
			of[name] = []proxy.Limit{}
		default:
			of[name] = append(limits, limit)
		}
		return nil
	}, c.pools...)

	taken := map[string]bool{} // names of limits, each after what shares them
	claim := func(tag string, limits []proxy.Limit) []proxy.Limit {
		for _, l := range limits {
			if taken[tag+" "+l.Name] {
				p.fail("rate", "two budgets of %s are called %s: give one of them another name=", tag, l.Name)
			}
			taken[tag+" "+l.Name] = true
		}
		return limits
	}
	c.shared = map[string][]proxy.Limit{}
	for _, pool := range c.pools {
		if len(of[pool]) == 0 {
			p.fail("pool", "pool %s has no budget: add --rate %[1]s=N/PERIOD", pool)
		}
		c.shared[pool] = claim(pool, named(of[pool], pool))
	}
	for i := range c.routes {
		route := &c.routes[i]
		route.Pool = poolOf[route.Name]
		own, ok := mostSpecific(of, route.Name)
		if !ok {
			own = []proxy.Limit{builtinRate(route.Upstream)}
		}
		tag := route.Name
		if route.Pool != "" {
			tag = route.Pool
		}
		route.Limits = append(claim(tag, named(own, route.Name)), c.shared[route.Pool]...)
	}
}

// parsePools reads NAME=ROUTE,ROUTE, and returns the pool of each route.
func (f *flags) parsePools(p *parsing, c *config) (of map[string]string) {
	of = map[string]string{}
	for i, value := range f.Pool {
		fail := func(format string, args ...any) { p.fail("pool", nth(f.Pool, i)+format, args...) }
		name, members, ok := strings.Cut(value, "=")
		switch {
		case !ok || !proxy.ValidName(name):
			fail("not a pool: write NAME=ROUTE,ROUTE, the name in lower case")
			continue
		case slices.Contains(c.pools, name):
			fail("pool %s is defined twice: write all its routes in one", name)
			continue
		case p.names[name]:
			fail("%s is a route: give the pool another name", name)
			continue
		}
		c.pools = append(c.pools, name)
		for member := range strings.SplitSeq(members, ",") {
			switch {
			case !p.names[member]:
				near := ""
				if names := nearest(member, slices.Sorted(maps.Keys(p.names))); len(names) > 0 {
					near = "write " + names[0] + " if that is meant; else "
				}
				fail("pool %s: %s is no route: %sregister it, or take it out", name, quote(member), near)
			case of[member] == name:
				fail("pool %s: route %s stands there twice: write it once", name, member)
			case of[member] != "":
				fail("route %s is in pool %s and pool %s: a route can be in one, take it out of the other", member, of[member], name)
			}
			of[member] = name
		}
	}
	return of
}

// builtinRate is the budget of a route for which none is given.
func builtinRate(u *upstream.URL) proxy.Limit {
	if u.Slack() {
		return proxy.Limit{Limit: limiter.Limit{Rate: 1, Period: time.Second, Burst: 5}}
	}
	return proxy.Limit{Limit: limiter.Limit{Rate: 10, Period: time.Second, Burst: 20}}
}

// named returns limits with a name for each that has none.
func named(limits []proxy.Limit, name string) []proxy.Limit {
	out := make([]proxy.Limit, len(limits))
	for i, l := range limits {
		if l.Name == "" {
			if l.Name = name; i > 0 {
				l.Name = name + "-" + strconv.Itoa(i+1)
			}
		}
		out[i] = l
	}
	return out
}

// parsePeriod returns the period of a rate in units that [limiter.Parse] knows.
func parsePeriod(s string) string {
	s = inUnits(s)
	if days, err := strconv.ParseUint(strings.TrimSuffix(s, "d"), 10, 16); err == nil && strings.HasSuffix(s, "d") {
		return strconv.FormatUint(24*days, 10) + "h"
	}
	return s
}

// rateText is what looks like a rate, and can be quoted.
var rateText = regexp.MustCompile(`^[-0-9.]{1,20}/[0-9.]{0,10}[a-z]{0,7}(,burst=[-0-9]{0,20})?$`)

// parseRate reads N/PERIOD[,burst=B][,by=client|header:NAME][,name=X] or off.
func parseRate(text string) (l proxy.Limit, off bool, err error) {
	if text == "off" {
		return l, true, nil
	}
	rate := ""
	given := map[string]bool{}
	errRate := errors.New("not a rate: write requests/period, as in 10/s or 100/10m,burst=20, or off")
	for i, option := range strings.Split(text, ",") {
		if i == 0 && !strings.Contains(option, "/") {
			return l, false, errRate
		}
		key, value, _ := strings.Cut(option, "=")
		if given[key] {
			return l, false, fmt.Errorf("%s= is given twice: write one", key)
		}
		given[key] = i > 0
		switch {
		case i == 0:
			rate = option
			if count, period, ok := strings.Cut(option, "/"); ok {
				rate = count + "/" + parsePeriod(period)
			}
		case key == "by" && value == "client":
			l.By = proxy.By{Client: true}
		case key == "by":
			header, ok := strings.CutPrefix(value, "header:")
			if !ok || !httpguts.ValidHeaderFieldName(header) {
				return l, false, errors.New("unknown by=: write by=client or by=header:NAME")
			}
			l.By = proxy.By{Header: header}
		case key == "name":
			if !proxy.ValidName(value) {
				return l, false, errors.New("name= cannot name a budget: write up to 63 of a-z, 0-9, dot, dash and underscore")
			}
			l.Name = value
		case key == "burst" && strings.ContainsFunc(strings.TrimPrefix(value, "-"), notDigit) || option == "burst":
			return l, false, errors.New("burst= is no number: write a whole number of at least 1, as in 1/s,burst=20")
		case key == "burst":
			rate += "," + option
		default:
			return l, false, errors.New("unknown option: write burst=B, by=client, by=header:NAME or name=X")
		}
	}
	if !rateText.MatchString(rate) {
		return l, false, errRate
	}
	l.Limit, err = limiter.Parse(rate)
	return l, false, err
}
