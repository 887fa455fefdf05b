package proxy

import (
	"fmt"
	"reflect"
	"slices"
)

// now returns the route as requests from here on get it.
func (rt *route) now() *route {
	if rt == nil {
		return nil
	}
	if renewed := rt.renewed.Load(); renewed != nil {
		return renewed
	}
	return rt
}

// Renew gives routes that the Proxy has other upstream URLs and other fields to
// set, which is where secrets are; the rest of them stays. It returns the names
// of those that were others before. Requests under way keep what they began
// with. It is not to be called concurrently.
func (p *Proxy) Renew(routes []Route) (changed []string, err error) {
	renewed := map[string]*route{}
	for _, r := range routes {
		start := p.routes[r.Name]
		if start == nil {
			return nil, fmt.Errorf("route %s: not registered", r.Name)
		}
		old := start.now()
		if reflect.DeepEqual(r.Upstream, old.Upstream) && slices.Equal(r.SetHeaders, old.SetHeaders) {
			continue
		}
		if !reflect.DeepEqual(r.Upstream, old.Upstream) && (r.Upstream.Wild() || old.Upstream.Wild()) {
			return nil, fmt.Errorf("route %s: a URL with a * is read at start only: restart", r.Name)
		}
		next := old.Route
		next.Upstream, next.SetHeaders = r.Upstream, r.SetHeaders
		if renewed[r.Name], err = newRoute(next); err != nil {
			return nil, err
		}
		changed = append(changed, r.Name)
	}
	for name, next := range renewed {
		old := p.routes[name].now()
		p.routes[name].renewed.Store(next)
		if c, ok := old.sender.(interface{ CloseIdleConnections() }); ok {
			c.CloseIdleConnections()
		}
	}
	return changed, nil
}
