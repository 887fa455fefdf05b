package proxy

import (
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// pauses returns the names of the cool-downs that a request must not be under:
// the route's, and that of its caller's credentials if it sends some.
func (x *exchange) pauses() []string {
	rt := x.route
	if rt.MaxCoolDown == 0 {
		return nil
	}
	pause := x.pause()
	if caller := rt.callerPause(pause, x.in); caller != "" {
		return []string{pause, caller}
	}
	if pause != rt.pause {
		return []string{pause}
	}
	return rt.pauses
}

// pause names the cool-down of the upstream: each host that clients name has its
// own.
func (x *exchange) pause() string {
	if x.labels == "" {
		return x.route.pause
	}
	return strings.TrimPrefix(x.route.pause+":"+digest(x.labels), ":")
}

// callerPause names the cool-down of r's credentials; it is empty for a request
// without, and where the upstream gets those of the route. pause is the
// upstream's.
func (rt *route) callerPause(pause string, r *http.Request) string {
	var credentials []string
	for _, name := range rt.credentials {
		if values := r.Header[name]; strings.Join(values, "") != "" {
			credentials = append(append(credentials, name), values...)
		}
	}
	if credentials == nil {
		return ""
	}
	if pause == "" {
		return digest(credentials...)
	}
	return pause + ":" + digest(credentials...)
}

// coolDown lets the route rest, for this caller, if its upstream asks for that.
func (x *exchange) coolDown(res *http.Response) {
	if x.route.MaxCoolDown == 0 || res.StatusCode != http.StatusTooManyRequests && res.StatusCode != http.StatusServiceUnavailable {
		return
	}
	wait := min(retryAfter(res.Header), x.route.MaxCoolDown)
	if wait <= 0 {
		return
	}
	pause := x.pause()
	name := x.route.callerPause(pause, x.in)
	if name == "" {
		name = pause
	}
	x.event.CoolDown = wait
	x.proxy.options.Cluster.Pause(x.route.tag, name, wait)
}

// retryAfter reads Retry-After (RFC 9110 10.2.3): seconds, or a date, which is
// read against the Date of the same answer, so that neither clock has to be
// right. It is 0 if there is none that can be read.
func retryAfter(h http.Header) time.Duration {
	text := h.Get("Retry-After")
	seconds, err := strconv.ParseUint(text, 10, 32)
	if err == nil || errors.Is(err, strconv.ErrRange) { // which comes with the largest that is in range
		return time.Duration(seconds) * time.Second
	}
	until, err := http.ParseTime(text)
	if err != nil {
		return 0
	}
	now, err := http.ParseTime(h.Get("Date"))
	if err != nil {
		now = time.Now()
	}
	return max(0, until.Sub(now))
}
