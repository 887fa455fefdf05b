package proxy

import (
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/dunglas/httpsfv"

	"throttle-proxy/cluster"
)

// Idempotency is how long the answers to requests with an idempotency key are kept
// (draft-ietf-httpapi-idempotency-key-header-07). The zero value is not to look at
// keys. What asks for an upgrade, gRPC and preflights have none, and in shadow, where
// nothing is refused, nothing is kept.
type Idempotency struct {
	Keep     time.Duration
	Required bool // requests that change something must have one
	By       By   // whose values of a header have keys of their own; of a By no more than that
}

const (
	maxKey = 255 // characters
	// keySays is what one key at most is made of.
	keySays = "send Idempotency-Key: \"…\" or X-Idempotency-Key, once, with up to 255 printable ASCII characters"
)

// keyFields are the request's fields that may have its key.
var keyFields = []string{"Idempotency-Key", "X-Idempotency-Key"}

// CredentialFields are those that show who may see an answer, whatever else a route
// compares.
var CredentialFields = []string{"Authorization", "Cookie", "X-Api-Key", "Api-Key"}

// keyHeaders are the request's fields that are part of what it says under a key,
// canonical and sorted.
func keyHeaders(compared []string) []string {
	headers := slices.Concat(compared, CredentialFields)
	headers = slices.DeleteFunc(headers, func(name string) bool { return slices.Contains(keyFields, name) })
	slices.Sort(headers)
	return slices.Compact(headers)
}

// key returns the idempotency key of r, or "" if it has none. complaint says why it
// cannot be used, or what is missing.
func (rt *route) key(r *http.Request) (key, complaint string) {
	if rt.Idempotency.Keep == 0 || isUpgrade(r) || isGRPC(r.Header) || isPreflight(r) {
		return "", ""
	}
	said := false
	for _, name := range keyFields {
		for _, value := range r.Header[name] {
			one, ok := parseKey(value)
			switch {
			case !ok:
				return "", "The " + name + " is malformed: " + keySays + "."
			case said && one != key:
				return "", "The request has two idempotency keys: " + keySays + "."
			}
			key, said = one, true
		}
	}
	if key == "" && rt.Idempotency.Required && changes(r.Method) {
		return "", "This route wants an idempotency key: " + keySays + "."
	}
	return key, ""
}

// parseKey reads a structured String (RFC 9651), or the bare text that most clients
// send. Both may be of the same key. Parameters of a String are ignored.
func parseKey(value string) (key string, ok bool) {
	key = strings.Trim(value, " \t")
	if strings.HasPrefix(key, `"`) {
		item, err := httpsfv.UnmarshalItem([]string{key})
		if err != nil {
			return "", false
		}
		key, ok = item.Value.(string)
		return key, ok && key != "" && len(key) <= maxKey
	}
	unusable := func(c rune) bool { return c <= ' ' || c > '~' || c == '"' || c == '\\' || c == ',' }
	return key, key != "" && len(key) <= maxKey && !strings.ContainsFunc(key, unusable)
}

// changes reports whether requests with the method may change something.
func changes(method string) bool {
	return !slices.Contains([]string{http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace}, method)
}

// askByKey has ask be that of a request with a key, whose body is held: what it is
// known by is its route and its key, and never its credentials.
func (x *exchange) askByKey(ask *cluster.Ask, key string) {
	h := newHasher()
	h.part("idempotency key") // no method
	h.part(x.route.Name)
	h.part(key)
	if name := x.route.Idempotency.By.Header; name != "" {
		h.list(fieldOf(x.in, name))
	}
	fingerprint := cluster.Fingerprint(h.sum())
	content := x.route.compare(x.in, x.route.keyHeaders, x.compared(), x.body.held)
	ask.Fingerprint = &fingerprint
	ask.Key = &cluster.Key{Content: *content, Keep: x.route.Idempotency.Keep}
}

// refuseKey answers a request whose key cannot be used.
func (x *exchange) refuseKey(complaint string) {
	x.reply(problem{reason: ReasonBadKey, detail: complaint + wasNotSent})
}

// replay answers a request with the answer to its key.
func (x *exchange) replay(v cluster.Verdict) {
	a, ok := readKept(v.Answer)
	if !ok { // another version's
		x.refuse(ReasonNotKept)
		return
	}
	a.header.Set("Idempotent-Replayed", "true") // whatever the upstream had said of that
	x.event.Replayed = true
	x.pass(a, "hit", v.Age)
}
