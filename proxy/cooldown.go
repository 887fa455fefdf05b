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
	if x.callerPause = rt.callerPause(x.in); x.callerPause != "" {
		return []string{rt.pause, x.callerPause}
	}
	return rt.pauses
}

// callerPause names the cool-down of r's credentials; it is empty for a request
// without, and where the upstream gets those of the route.
func (rt *route) callerPause(r *http.Request) string {
	var credentials []string
	for _, name := range rt.credentials {
		if values := fieldOf(r, name); strings.Join(values, "") != "" {
			credentials = append(append(credentials, name), values...)
		}
	}
	if credentials == nil {
		return ""
	}
	if rt.pause == "" {
		return digest(credentials...)
	}
	return rt.pause + ":" + digest(credentials...)
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
	name := x.callerPause
	if name == "" {
		name = x.route.pause
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
