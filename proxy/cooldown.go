package proxy

import (
	"bytes"
	"encoding/json"
	"io"
	"math"
	"net/http"
	"slices"
	"strings"
	"time"

	"throttle-proxy/proxy/upstream"
)

// CoolDown says when a route pauses because its upstream asks for that.
type CoolDown struct {
	Longest time.Duration // pause; 0 for never any
	Learn   bool          // also where an answer, whatever its status, says that nothing is left
}

// pauses returns the names of the cool-downs that a request must not be under:
// the route's, and where callers are told apart that of its credentials, or of
// having none.
func (x *exchange) pauses() []string {
	rt := x.route
	switch {
	case rt.CoolDown.Longest == 0:
		return nil
	case rt.oneCaller && x.labels == "":
		return rt.pauses[:1]
	case rt.oneCaller:
		return []string{x.ofHost(rt.pause)}
	}
	caller := rt.callerPause(x.in)
	if caller == rt.pauses[1] && x.labels == "" {
		return rt.pauses
	}
	return []string{x.ofHost(rt.pause), x.ofHost(caller)}
}

// ofHost returns the name of a cool-down where clients name the host: each host
// has its own.
func (x *exchange) ofHost(pause string) string {
	if x.labels == "" {
		return pause
	}
	return strings.TrimPrefix(pause+":"+digest(x.labels), ":")
}

// callerFields are those by which callers have cool-downs of their own.
var callerFields = []string{"Authorization", "X-Api-Key"}

// callerPause names the cool-down of r's credentials: nobody else meets the same
// answer by the same right. Those without any share one.
func (rt *route) callerPause(r *http.Request) string {
	if rt.oneCaller {
		return rt.pause
	}
	var credentials []string
	for _, name := range callerFields {
		if values := fieldOf(r, name); strings.Join(values, "") != "" {
			credentials = append(append(credentials, name), values...)
		}
	}
	if credentials == nil {
		return rt.pauses[1]
	}
	return rt.pauseOf(credentials...)
}

// pauseOf names the cool-down of some credentials.
func (rt *route) pauseOf(credentials ...string) string {
	if rt.pause == "" {
		return digest(credentials...)
	}
	return rt.pause + ":" + digest(credentials...)
}

// sendsCredentials reports whether what the upstream gets names the route, and not
// its callers.
func (r Route) sendsCredentials() bool {
	return r.SecretURL || PresetOf(r.Upstream).secret || r.Upstream.Authorization() != "" ||
		slices.ContainsFunc(r.SetHeaders, func(f Field) bool { return isCredential(f.Name) })
}

// isCredential reports whether a field, whose name is canonical, is there to say
// who asks.
func isCredential(name string) bool {
	switch name {
	case "Authorization", "Cookie", "Proxy-Authorization":
		return true
	}
	for _, end := range []string{"Api-Key", "Apikey", "-Token", "-Secret"} {
		if strings.HasSuffix(name, end) {
			return true
		}
	}
	return false
}

// coolDown lets the route rest, for whom the answer is meant, if its upstream asks
// for that. What only the answer's body may say is read as it passes.
func (x *exchange) coolDown(a *upstream.Answer) {
	rt := x.route
	if rt.CoolDown.Longest == 0 {
		return
	}
	refused := a.StatusCode == http.StatusTooManyRequests || a.StatusCode == http.StatusServiceUnavailable || a.StatusCode == http.StatusForbidden
	var wait time.Duration
	if refused {
		wait = retryAfter(a.Header)
	}
	if rt.CoolDown.Learn || refused && rt.preset.fields {
		wait = max(wait, nothingLeft(a.Header))
	}
	if wait > 0 || a.StatusCode != http.StatusTooManyRequests {
		x.pause(wait, a.StatusCode)
		return
	}
	if rt.preset.member && isPlainJSON(a.Header) {
		x.readRefusal(a)
		return
	}
	x.pause(rt.preset.silent, a.StatusCode)
}

// readRefusal lets the route rest for as long as the body of a says, once it passes.
func (x *exchange) readRefusal(a *upstream.Answer) {
	a.Body = &refusalBody{ReadCloser: a.Body, length: a.ContentLength, read: func(body []byte) {
		wait := retryAfterMember(body)
		if wait == 0 {
			wait = x.route.preset.silent
		}
		x.pause(wait, a.StatusCode)
	}}
}

// pause begins a cool-down of the request's caller, if wait is more than 0.
func (x *exchange) pause(wait time.Duration, status int) {
	if wait = min(wait, x.route.CoolDown.Longest); wait <= 0 {
		return
	}
	if status != http.StatusServiceUnavailable {
		status = http.StatusTooManyRequests
	}
	x.event.CoolDown = wait
	x.proxy.options.Cluster.Pause(x.route.tag, x.ofHost(x.route.callerPause(x.in)), wait, status)
}

// refusalBody lets the body of a refusal pass and remembers how it begins.
type refusalBody struct {
	io.ReadCloser
	length int64 // -1 if unknown
	begins []byte
	read   func(begins []byte) // called once: before the last part is passed on, as far as that is known, or by Close
}

// refusalLength is the longest body that is read for what it says.
const refusalLength = 4 << 10

func (b *refusalBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.begins = append(b.begins, p[:min(n, refusalLength-len(b.begins))]...)
	if err != nil || int64(len(b.begins)) == b.length {
		b.end()
	}
	return n, err
}

func (b *refusalBody) Close() error {
	b.end()
	return b.ReadCloser.Close()
}

func (b *refusalBody) end() {
	if b.read != nil {
		b.read(b.begins)
		b.read = nil
	}
}

// isPlainJSON reports whether a body is JSON that can be read as it is.
func isPlainJSON(h http.Header) bool {
	return strings.HasPrefix(h.Get("Content-Type"), "application/json") && h.Get("Content-Encoding") == ""
}

// retryAfterMember returns the seconds that the member retry_after of a JSON object
// says, rounded up; 0 if there is none that can be read.
func retryAfterMember(body []byte) time.Duration {
	var refusal struct {
		RetryAfter float64 `json:"retry_after"`
	}
	if json.NewDecoder(bytes.NewReader(body)).Decode(&refusal) != nil {
		return 0
	}
	return time.Duration(min(max(0, math.Ceil(refusal.RetryAfter)), math.MaxInt32)) * time.Second
}
