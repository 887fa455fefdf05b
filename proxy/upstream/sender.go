// Package upstream answers one question: how does a request get to an upstream,
// and its answer back?
//
// A [Client] has the connections of one route. It sends requests that are
// held in memory by a sender of its own and all others by net/http's Transport; both hold to the
// same rules, which are stated once: what may be sent again ([Request]), how
// long is waited for what (watch), what an answer may be (checked), and what a
// failure means ([Failure]).
package upstream

import (
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Options configure a [Client]. Its times are longer than 0, but where it says
// what 0 means.
type Options struct {
	Timeout    time.Duration // longest that the upstream takes for a part of a request, and from its last byte until the answer begins
	AnswerIdle time.Duration // and for a part of an answer's body
	KeepAlive
	TLS       *tls.Config // how the upstream is verified, and who we are to it; nil for the system's way
	Addresses Addresses
	Resolver  *net.Resolver // of its host; nil for the system's

	count func(dialFunc) dialFunc // counts what is dialled; nil for nobody
}

// KeepAlive says how long connections are used.
type KeepAlive struct {
	Idle time.Duration // longest that an unused one is kept; 0 if each request has one of its own
	Age  time.Duration // longest that one is used for new requests; 0 for ever
}

// Request is what is sent. It is sent again only where none of it can have
// reached the upstream, or where the upstream says so, or, small and without a
// body, where its method is safe and the connection was closed without a word.
type Request struct {
	Method string
	Target string      // path and query, to the byte
	Host   string      // in place of the URL's; may be empty
	Header http.Header // what stands in it is sent as it is spelt
	Length int64       // of the body, in bytes; -1 if that is not known before its end

	// Held is the body where that is in memory, and Stream where it passes as it
	// comes. Both are nil where there is none.
	Held   Held
	Stream io.ReadCloser
	// Trailer follows a body of unknown length. Its values may come until the
	// body has been read to its end.
	Trailer http.Header

	// Informed is told of informational answers, one at a time, and never after
	// Send has returned. It may be nil.
	Informed interface {
		Inform(status int, header http.Header)
	}

	// Over is set by Send where nothing of the request is used any more when the
	// Body of its answer, if it has one, is closed. Else that may be for longer.
	Over bool
}

// Held is a body of a [Request] that is in memory, as long as that is used.
type Held interface {
	// Open returns a reader of all of it. It may be called again; readers need not be
	// closed for another to be read.
	Open() io.ReadCloser
	// Parts returns all of it.
	Parts() [][]byte
}

// Answer is what the upstream answered. Its Body is to be closed, which ends the
// exchange with the upstream; a Read of it fails by a [Failure]. That of a 101
// is an [io.ReadWriteCloser].
type Answer struct {
	*http.Response
	Whole bool // all of the body is here: reading it does not wait
}

// Client has the connections to one upstream. It is safe for concurrent use.
type Client struct {
	url     *URL
	connect func() *connections

	renewing sync.Mutex
	current  atomic.Pointer[connections]
}

// connections are those that a Client makes until they are of age. Then it makes
// others, and these take no more requests: so an upstream whose name leads
// elsewhere is followed, by every sender, without a request that fails for it.
type connections struct {
	until     time.Time // zero for ever
	direct    *direct   // nil where it cannot be used
	transport *transport
	upgrades  *transport // which are of HTTP/1.1 alone
}

// New returns a Client that connects to u when it is asked to.
func New(u *URL, o Options) *Client {
	var via *url.URL
	var err error // which the Transport tells, to each request
	if o.proxies(u) {
		via, err = http.ProxyFromEnvironment(&http.Request{URL: u.url})
	}
	proxied := via != nil && u.url.Scheme == "http"
	return newClient(u, func() *connections {
		c := &connections{transport: newTransport(u, o, u.protocols()), upgrades: newTransport(u, o, http1Only())}
		c.transport.proxied, c.upgrades.proxied = proxied, proxied
		if via == nil && err == nil {
			c.direct = newDirect(u, o)
		}
		if o.Age > 0 {
			c.until = time.Now().Add(o.Age)
		}
		return c
	})
}

// proxies reports whether requests may go to another proxy, which resolves the
// host by itself.
func (o Options) proxies(u *URL) bool { return u.socket == "" && o.Addresses != PublicAddress }

// Over returns a Client that sends everything to u by rt.
func Over(rt http.RoundTripper, u *URL, o Options) *Client {
	t := &transport{RoundTripper: rt, url: u, options: o, h2c: u.h2c}
	return newClient(u, func() *connections { return &connections{transport: t, upgrades: t} })
}

func newClient(u *URL, connect func() *connections) *Client {
	c := &Client{url: u, connect: connect}
	c.current.Store(connect())
	return c
}

// URL returns where requests go.
func (c *Client) URL() *URL { return c.url }

// Send sends req, directly where that can be done, and returns when the header of its answer has come. The
// end of life ends it, and the answer; Send ends it by itself where the upstream
// lets it wait too long. The error is a [*Failure].
func (c *Client) Send(life *Life, req *Request) (*Answer, error) {
	by := c.connections()
	if req.Header["Upgrade"] != nil {
		return by.upgrades.send(life, req)
	}
	if by.direct != nil && by.direct.speaks(req) {
		answer, err := by.direct.send(life, req)
		if err != errNotSpoken {
			req.Over = true
			return answer, err
		}
	}
	return by.transport.send(life, req)
}

// connections returns those for a new request.
func (c *Client) connections() *connections {
	last := c.current.Load()
	if last.until.IsZero() || time.Now().Before(last.until) {
		return last
	}
	c.renewing.Lock()
	defer c.renewing.Unlock()
	if current := c.current.Load(); current != last {
		return current // another request was first
	}
	current := c.connect()
	c.current.Store(current)
	last.retire()
	return current
}

// retire closes the connections that are not in use, and each other one when it
// is not any more.
func (c *connections) retire() {
	if c.direct != nil {
		c.direct.retire()
	}
	c.transport.retire()
	c.upgrades.retire()
}

// CloseIdleConnections closes those that are not in use.
func (c *Client) CloseIdleConnections() {
	by := c.current.Load()
	if by.direct != nil {
		by.direct.closeIdle(0)
	}
	by.transport.closeIdle()
	by.upgrades.closeIdle()
}

const (
	maxInformational = 64      // informational answers to one request
	maxInformation   = 1 << 20 // bytes of all that they say
)

// informer passes informational answers on, as far as they are few and short.
type informer struct {
	tell interface {
		Inform(status int, header http.Header)
	}
	told, bytes int
}

// inform reports whether the upstream may go on. The interim answer to Expect is
// not the client's, who gets one when its body is asked for.
func (i *informer) inform(status int, header http.Header) bool {
	i.told++
	for name, values := range header {
		for _, value := range values {
			i.bytes += len(name) + len(value)
		}
	}
	if i.told > maxInformational || i.bytes > maxInformation || status < 100 {
		return false
	}
	if status != http.StatusContinue && i.tell != nil {
		i.tell.Inform(status, header)
	}
	return true
}

// checked reports whether an answer is one: it has a status that can be passed
// on, and switches to another protocol only where that was asked for.
func checked(req *Request, res *http.Response) bool {
	if res.StatusCode == http.StatusSwitchingProtocols {
		_, writable := res.Body.(io.ReadWriteCloser)
		asked := req.Header["Upgrade"]
		return writable && len(asked) == 1 && strings.EqualFold(asked[0], res.Header.Get("Upgrade"))
	}
	return res.StatusCode >= 200 && res.StatusCode <= 999
}
