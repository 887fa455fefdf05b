package proxy

import (
	"cmp"
	"encoding/json"
	"math"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"throttle-proxy/cluster"
)

// problem is an answer of our own: a reason, and what is not said by that alone.
// Its body is a problem of RFC 9457 that has besides what the libraries of
// well-known APIs look for in an error.
type problem struct {
	reason   Reason
	status   int            // in place of the reason's; 0 for that
	title    string         // likewise
	detail   string         // in place of the reason's, and of whether the request was sent
	cause    string         // error type of RFC 9209, in place of the reason's
	openEnd  bool           // coming back cannot help until somebody says so
	wait     time.Duration  // until coming back can help; 0 if nobody knows
	holder   cluster.Holder // of the lock that stands in the way
	violated []string       // names of the limits that refused
	degraded bool           // decided without the store
	share    int            // of each budget, which is one of so many; 0 for all of it

	route     string // empty if unknown
	requestID string
	sent      bool // something of the request may have reached the upstream

	about telling // the reason's own, when it is complete
	text  *object // the body, which is lent; nil if there is none
}

// telling is what answers for a reason have in common, prepared.
type telling struct {
	about
	unsent, acted string   // details, by whether the request may have been sent
	field         []string // Proxy-Status
}

var tellings = func() map[Reason]telling {
	all := make(map[Reason]telling, len(reasons))
	for reason, a := range reasons {
		all[reason] = telling{a, a.detail + wasNotSent, a.detail + mayHaveActed, proxyStatus(a.proxyStatus)}
	}
	return all
}()

func proxyStatus(cause string) []string { return []string{"throttle-proxy; error=" + cause} }

// unknownWait is what who may come back is told to wait where nobody knows how long.
const unknownWait = time.Second

// complete fills in what is the reason's own.
func (p *problem) complete() {
	p.about = tellings[p.reason]
	p.status = cmp.Or(p.status, p.about.status)
	p.title = cmp.Or(p.title, p.about.title)
	p.cause = cmp.Or(p.cause, p.about.proxyStatus)
	p.wait = cmp.Or(p.wait, unknownWait)
	if p.detail == "" {
		p.detail = p.about.unsent
		if p.sent {
			p.detail = p.about.acted
		}
	}
}

// The last sentence of a detail.
const (
	wasNotSent   = " This request was not sent."
	mayHaveActed = " The upstream may have acted on this request."
)

// again reports whether the client is to send the request again, after the wait.
// What the upstream may have acted on never is, and a refusal of what stays as it
// is cannot be helped by that.
func (p *problem) again() bool {
	return !p.sent && !p.openEnd && (p.about.again || p.status == http.StatusRequestTimeout)
}

// answer makes the answer to in: its fields, which it sets in h, its status and
// its body, which may be empty and is p's until [problem.done]. own is room for what
// fields say that no two answers have in common, and theirs from here on.
func (p *problem) answer(h http.Header, in *http.Request, own *[3]string) (status int, body []byte) {
	p.complete()
	h["Cache-Control"], h["X-Content-Type-Options"] = noStore, noSniff
	h["Proxy-Status"], h["Via"] = p.about.field, via(in)
	if p.cause != p.about.proxyStatus {
		h["Proxy-Status"] = proxyStatus(p.cause)
	}
	if in.Header["Origin"] != nil {
		// Whatever the origin, so that caches, which are not to keep it, need no Vary.
		h["Access-Control-Allow-Origin"], h["Access-Control-Expose-Headers"] = anyOrigin, exposed
	}
	switch {
	case isGRPC(in.Header):
		p.tellNumbers(h, own, 0)
		p.tellGRPC(h, in)
		return http.StatusOK, nil
	case p.status == http.StatusNoContent, p.status == http.StatusResetContent:
		p.tellNumbers(h, own, 0)
		return p.status, nil
	case isSuccess(p.status):
		h["Content-Type"], body = plainJSON, p.success()
	default:
		h["Content-Type"], body = problemJSON, p.body()
	}
	p.tellNumbers(h, own, len(body))
	return p.status, body
}

// done ends the use of the body.
func (p *problem) done() {
	const longest = 2 << 10 // of what net/http copies: it may be sending a longer one yet
	if p.text != nil && len(*p.text) <= longest {
		texts.Put(p.text)
	}
	p.text = nil
}

// texts lends what bodies are written to.
var texts = sync.Pool{New: func() any { return new(make(object, 0, 768)) }}

// begin returns the room for a body, which begins as an object.
func (p *problem) begin() object {
	p.text = texts.Get().(*object)
	return append((*p.text)[:0], '{')
}

// end ends the body, which is an object.
func (p *problem) end(o object) []byte {
	*p.text = append(o, "}\n"...)
	return *p.text
}

// AnswerPanic answers r, in whose handler something panicked before an answer
// began. sent says whether the upstream may have got it.
func AnswerPanic(w http.ResponseWriter, r *http.Request, sent bool) {
	p := problem{reason: ReasonInternal, sent: sent}
	status, body := p.answer(w.Header(), r, new([3]string))
	w.WriteHeader(status)
	_, _ = w.Write(body) // a client that has left needs no answer
}

// tellNumbers tells the client whether to come back, and when, and the length of
// the body, unless that is 0. Some SDKs retry by themselves what nobody has told
// them not to. All digits are one string, and its parts the elements of own.
func (p *problem) tellNumbers(h http.Header, own *[3]string, length int) {
	var room [48]byte // on the stack
	digits := strconv.AppendInt(room[:0], int64(wholeSeconds(p.wait)), 10)
	seconds := len(digits)
	digits = strconv.AppendInt(digits, milliseconds(p.wait), 10)
	both := len(digits)
	all := string(strconv.AppendInt(digits, int64(length), 10))
	*own = [...]string{all[:seconds], all[seconds:both], all[both:]}
	switch {
	case p.again():
		h["Retry-After"], h["Retry-After-Ms"], h["X-Amz-Retry-After"] = own[:1:1], own[1:2:2], own[1:2:2]
		h["X-Should-Retry"], h["Stripe-Should-Retry"] = yes, yes
	case !isSuccess(p.status):
		h["X-Should-Retry"], h["Stripe-Should-Retry"] = no, no
	}
	if length > 0 {
		h["Content-Length"] = own[2:]
	}
}

// tellGRPC sets what gRPC is told of an error by: a call without messages ends
// with these fields.
func (p *problem) tellGRPC(h http.Header, in *http.Request) {
	pushback := int64(-1) // is never
	if p.again() {
		pushback = min(milliseconds(p.wait), math.MaxInt32)
	}
	h["Content-Type"] = in.Header["Content-Type"][:1:1]
	h["Grpc-Status"] = []string{strconv.Itoa(p.about.grpc)}
	h["Grpc-Message"] = []string{string(p.reason)}
	h["Grpc-Retry-Pushback-Ms"] = []string{strconv.FormatInt(pushback, 10)} // gRFC A6
}

// body is the problem on one line.
func (p *problem) body() []byte {
	o := p.begin()
	o = o.text("type", p.reason.problemType(p.status)).text("title", p.title).number("status", int64(p.status)).name("detail")
	at := len(o)
	o = o.quote(p.detail)
	detail := o[at:] // which is said three times
	o = p.members(o)
	if p.again() {
		o = o.decimal("retry_after", float64(milliseconds(p.wait))/1000)
	}
	if len(p.violated) > 0 {
		o = append(o.name("violated-policies"), '[')
		for _, limit := range p.violated {
			o = o.element(limit)
		}
		o = append(o, ']')
	}
	if p.degraded {
		o = append(o.name("degraded"), "true"...)
	}
	if p.share > 0 {
		o = o.text("share", "1/"+strconv.Itoa(p.share))
	}
	o = append(append(o.name("message"), detail...).name("error"), '{')
	o = append(o.name("message"), detail...)
	o = o.text("type", p.errorType()).text("code", string(p.reason))
	return p.end(append(o, '}'))
}

// success is the body where a duplicate is told so by a status of success.
func (p *problem) success() []byte {
	return p.end(p.members(p.begin().text("status", "duplicate").text("message", p.detail)))
}

// members adds what every body has.
func (p *problem) members(o object) object {
	if p.route != "" {
		o = o.text("route", p.route)
	}
	o = o.text("reason", string(p.reason))
	if p.requestID != "" {
		o = o.text("request_id", p.requestID)
	}
	if p.sent {
		o = o.text("sent", "maybe")
	} else {
		o = o.text("sent", "no")
	}
	if p.holder != (cluster.Holder{}) {
		o = append(o.name("holder"), '{')
		o = o.text("request_id", p.holder.RequestID).text("replica", p.holder.Replica)
		o = append(o.decimal("age", math.Round(p.holder.Age.Seconds()*1000)/1000), '}')
	}
	return o
}

// errorType is the kind of an error in the words that the SDKs of OpenAI,
// Anthropic and Stripe have for it.
func (p *problem) errorType() string {
	switch {
	case p.reason.OfDuplicate():
		return "idempotency_error"
	case p.status == http.StatusTooManyRequests:
		return "rate_limit_error"
	case p.status >= StatusClientGone:
		return "api_error"
	}
	return "invalid_request_error"
}

// Values that many answers have in common. Nobody changes what is in them.
var (
	yes, no                = []string{"true"}, []string{"false"}
	noStore, noSniff       = []string{"no-store"}, []string{"nosniff"}
	problemJSON, plainJSON = []string{"application/problem+json"}, []string{"application/json"}
	anyOrigin              = []string{"*"}

	// exposed are the fields of our answers that a page may read, beside those
	// that any may.
	exposed = []string{"Retry-After, Retry-After-Ms, X-Amz-Retry-After, X-Should-Retry, Stripe-Should-Retry, RateLimit, RateLimit-Policy, " +
		"Proxy-Status, Via, Idempotent-Replayed, Cache-Status, Grpc-Status, Grpc-Message, Grpc-Retry-Pushback-Ms"}
)

func isSuccess(status int) bool { return status >= 200 && status < 300 }

// wholeSeconds rounds up: a client that comes back earlier is refused again.
func wholeSeconds(d time.Duration) int {
	return int((d + time.Second - 1) / time.Second)
}

// milliseconds rounds up, too.
func milliseconds(d time.Duration) int64 {
	return int64((d + time.Millisecond - 1) / time.Millisecond)
}

// object is a JSON object as it is being written. Refusals are many where there
// are some, and this costs them a third of what reflection does.
type object []byte

// name begins a member.
func (o object) name(name string) object {
	return append(append(append(o.next(), '"'), name...), `":`...)
}

// next begins a member or an element after others.
func (o object) next() object {
	if last := o[len(o)-1]; last != '{' && last != '[' {
		return append(o, ',')
	}
	return o
}

func (o object) text(name, value string) object { return o.name(name).quote(value) }

func (o object) element(value string) object { return o.next().quote(value) }

func (o object) number(name string, n int64) object { return strconv.AppendInt(o.name(name), n, 10) }

func (o object) decimal(name string, n float64) object {
	return strconv.AppendFloat(o.name(name), n, 'f', -1, 64)
}

// quote writes a string. Ours need no escapes; what is written by others may.
func (o object) quote(s string) object {
	for i := range len(s) {
		if !plain[s[i]] {
			quoted, _ := json.Marshal(s) // which cannot fail for a string
			return append(o, quoted...)
		}
	}
	return append(append(append(o, '"'), s...), '"')
}

// plain are the bytes that a JSON string has as they are.
var plain = func() (is [256]bool) {
	for c := ' '; c <= '~'; c++ {
		is[c] = !strings.ContainsRune(`"\<>&`, c)
	}
	return is
}()
