package main

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"throttle-proxy/limiter"
	"throttle-proxy/proxy"
	"throttle-proxy/proxy/upstream"
)

// parseRates gives each route its budgets, and those of its pool.
func (f *flags) parseRates(p *parsing, c *config) {
	poolOf := f.parsePools(p, c)
	of := map[string][]proxy.Limit{} // by route or pool, "" for all routes; not nil for off
	candidates := map[string][]proxy.Limit{}
	p.each("rate", f.Rate, func(name, text string) error {
		limit, kind, err := parseRate(text)
		if err != nil {
			return p.unlessNoRoute(err, text, func(rest string) error { _, _, err := parseRate(rest); return err })
		}
		limits, given := of[name]
		off := kind == noRate
		switch {
		case kind == candidateRate:
			candidates[name] = append(candidates[name], limit)
		case given && (off || len(limits) == 0):
			return fmt.Errorf("off and a rate at once for %s: write one of them", orAll(name))
		case off:
			of[name] = []proxy.Limit{}
		default:
			of[name] = append(limits, limit)
		}
		return nil
	}, c.pools...)

	taken := names{}
	claim := func(tag string, limits []proxy.Limit) []proxy.Limit {
		for _, l := range limits {
			if !taken.take(tag, l.Name) {
				p.fail("rate", "two budgets of %s are called %s: give one of them another name=", tag, l.Name)
			}
		}
		return limits
	}
	c.shared, c.tried = map[string][]proxy.Limit{}, map[string][]proxy.Limit{}
	for _, pool := range c.pools {
		if len(of[pool]) == 0 {
			p.fail("pool", "pool %s has no budget: add --rate %[1]s=N/PERIOD", pool)
		}
		c.shared[pool] = claim(pool, named(of[pool], pool))
		c.tried[pool] = claim(pool, named(candidates[pool], pool+"-candidate"))
	}
	for i := range c.routes {
		route := &c.routes[i]
		route.Pool = poolOf[route.Name]
		own, ok := mostSpecific(of, route.Name)
		if !ok {
			own = builtinRates(route.Upstream)
		}
		tag := cmp.Or(route.Pool, route.Name)
		tried, _ := mostSpecific(candidates, route.Name)
		route.Limits = append(claim(tag, named(own, route.Name)), c.shared[route.Pool]...)
		route.Candidates = append(claim(tag, named(tried, route.Name+"-candidate")), c.tried[route.Pool]...)
	}
}

// names are those of limits, each after the route or pool in whose keys it is.
type names map[[2]string]bool

// take reports whether no other has the name.
func (n names) take(tag, name string) bool {
	free := !n[[2]string{tag, name}]
	n[[2]string{tag, name}] = true
	return free
}

// parseConcurrency gives each route its concurrency limits, and those of its pool.
func (f *flags) parseConcurrency(p *parsing, c *config) {
	of := map[string][]proxy.Concurrency{} // by route or pool, "" for all routes; not nil for off
	p.each("concurrency", f.Concurrency, func(name, text string) error {
		limit, off, err := parseConcurrency(text)
		if err != nil {
			return p.unlessNoRoute(err, text, func(rest string) error { _, _, err := parseConcurrency(rest); return err })
		}
		limits, given := of[name]
		switch {
		case given && (off || len(limits) == 0):
			return fmt.Errorf("off and a number at once for %s: write one of them", orAll(name))
		case off:
			of[name] = []proxy.Concurrency{}
		default:
			of[name] = append(limits, limit)
		}
		return nil
	}, c.pools...)
	taken := names{}
	claim := func(tag string, limits []proxy.Concurrency) []proxy.Concurrency {
		for _, l := range limits {
			if !taken.take(tag, l.Name) {
				p.fail("concurrency", "two limits of %s are called %s: give one of them another name=", tag, l.Name)
			}
		}
		return limits
	}
	for _, r := range c.routes { // which tell clients of both kinds by their names
		for _, l := range r.Limits {
			taken.take(cmp.Or(r.Pool, r.Name), l.Name)
		}
	}
	c.atOnce = map[string][]proxy.Concurrency{}
	for _, pool := range c.pools {
		c.atOnce[pool] = claim(pool, namedConcurrency(of[pool], pool))
	}
	for i := range c.routes {
		route := &c.routes[i]
		own, _ := mostSpecific(of, route.Name)
		route.Concurrency = append(claim(cmp.Or(route.Pool, route.Name), namedConcurrency(own, route.Name)), c.atOnce[route.Pool]...)
	}
}

// namedConcurrency returns limits of a route or pool, with a name for each that has
// none.
func namedConcurrency(limits []proxy.Concurrency, of string) []proxy.Concurrency {
	limits = slices.Clone(limits)
	for i := range limits {
		if limits[i].Name == "" {
			limits[i].Name = nthName(of+"-concurrency", i)
		}
	}
	return limits
}

// nthName is the name of the i-th limit of a name.
func nthName(name string, i int) string {
	if i > 0 {
		name += "-" + strconv.Itoa(i+1)
	}
	return name
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

// builtinRates are the budgets of a route for which none is given.
func builtinRates(u *upstream.URL) (limits []proxy.Limit) {
	for _, l := range proxy.PresetOf(u).Limits {
		limits = append(limits, proxy.Limit{Limit: l})
	}
	if limits == nil {
		limits = []proxy.Limit{{Limit: limiter.Limit{Rate: 10, Period: time.Second, Burst: 20}}}
	}
	return limits
}

// named returns limits with a name for each that has none.
func named(limits []proxy.Limit, name string) []proxy.Limit {
	limits = slices.Clone(limits)
	for i := range limits {
		if limits[i].Name == "" {
			limits[i].Name = nthName(name, i)
		}
	}
	return limits
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
var rateText = regexp.MustCompile(`^[-0-9.]{1,20}/[0-9.]{0,10}[a-z]{0,7}(,burst=[-0-9]{0,20}|,strict){0,2}$`)

// rateKind is what a value of --rate is.
type rateKind int

const (
	enforcedRate  rateKind = iota
	candidateRate          // is only reported
	noRate                 // off
)

// parseRate reads N/PERIOD[,burst=B][,by=client[/PREFIX]|header:NAME][,name=X], and strict
// and candidate after it; or off.
func parseRate(text string) (l proxy.Limit, kind rateKind, err error) {
	if text == "off" {
		return l, noRate, nil
	}
	rate := ""
	given := map[string]bool{}
	errRate := errors.New("not a rate: write requests/period, as in 10/s or 100/10m,burst=20, or off")
	for i, option := range strings.Split(text, ",") {
		if i == 0 && !strings.Contains(option, "/") {
			return l, kind, errRate
		}
		key, value, _ := strings.Cut(option, "=")
		if given[key] {
			return l, kind, fmt.Errorf("%s= is given twice: write one", key)
		}
		given[key] = i > 0
		switch {
		case i == 0:
			rate = option
			if count, period, ok := strings.Cut(option, "/"); ok {
				rate = count + "/" + parsePeriod(period)
			}
		case key == "by":
			if l.By, err = parseBy(value); err != nil {
				return l, kind, err
			}
		case key == "name":
			if l.Name, err = parseName(value); err != nil {
				return l, kind, err
			}
		case key == "burst" && strings.ContainsFunc(strings.TrimPrefix(value, "-"), notDigit) || option == "burst":
			return l, kind, errors.New("burst= is no number: write a whole number of at least 1, as in 1/s,burst=20")
		case key == "burst", option == "strict":
			rate += "," + option
		case option == "candidate":
			kind = candidateRate
		default:
			return l, kind, errors.New("unknown option: write burst=B, by=client, by=header:NAME, name=X, strict or candidate")
		}
	}
	if !rateText.MatchString(rate) {
		return l, kind, errRate
	}
	l.Limit, err = limiter.Parse(rate)
	return l, kind, err
}

// maxConcurrency is the most exchanges that a limit counts.
const maxConcurrency = 100_000

// parseConcurrency reads N[,by=client[/PREFIX]|header:NAME][,name=X] or off.
func parseConcurrency(text string) (l proxy.Concurrency, off bool, err error) {
	if text == "off" {
		return l, true, nil
	}
	count, options, more := strings.Cut(text, ",")
	if l.Most, err = number("exchanges at once", maxConcurrency)(count); err != nil {
		return l, false, err
	}
	for more {
		var option string
		option, options, more = strings.Cut(options, ",")
		key, value, _ := strings.Cut(option, "=")
		switch {
		case key == "by" && l.By == (proxy.By{}):
			l.By, err = parseBy(value)
		case key == "name" && l.Name == "":
			l.Name, err = parseName(value)
		case key == "by", key == "name":
			err = fmt.Errorf("%s= is given twice: write one", key)
		default:
			err = errors.New("unknown option: write by=client, by=header:NAME or name=X")
		}
		if err != nil {
			return l, false, err
		}
	}
	return l, false, nil
}

func parseName(value string) (string, error) {
	if !proxy.ValidName(value) {
		return "", errors.New("name= cannot name a limit: write up to 63 of a-z, 0-9, dot, dash and underscore")
	}
	return value, nil
}
