// Package upstream answers one question: how does a request get to an upstream,
// and its answer back?
//
// A [Client] has the connections of one route. It sends small requests by a
// sender of its own and all others by net/http's Transport; both hold to the
// same rules, which are stated once: what may be sent again ([Request]), how
// long is waited for what (watch), what an answer may be (checked), and what a
// failure means ([Failure]).
package upstream

import (
	"context"
	"crypto/x509"
	"io"
	"net/http"
	"strings"
	"time"
)

// Options configure a [Client]. Its times are longer than 0.
type Options struct {
	Timeout    time.Duration  // longest that the upstream takes for a part of a request, and from its last byte until the answer begins
	AnswerIdle time.Duration  // and for a part of an answer's body
	RootCAs    *x509.CertPool // whom to trust; nil for the system's
}

// Request is what is sent. It is sent again only where none of it can have
// reached the upstream, or where the upstream says so, or, small and without a
// body, where its method is safe and the connection was closed without a word.
type Request struct {
	Method string
	Target string      // path and query, to the byte
	Host   string      // in place of the URL's; may be empty
	Header http.Header // what stands in it is sent as it is spelt; it may be used after Send has returned, unless Recycle is called
	Length int64       // of the body, in bytes; -1 if that is not known before its end

	// Body opens the body, and is nil where there is none. A body that is Held
	// can be opened again; its readers need not be closed for another to be read.
	Body func() io.ReadCloser
	Held bool
	// Trailer follows a body of unknown length. Its values may come until the
	// body has been read to its end.
	Trailer http.Header

	// Inform is told of informational answers, one at a time, and never after
	// Send has returned.
	Inform func(status int, header http.Header)
	// Recycle is told that Header is not used any more. It may not be called.
	Recycle func()
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
	direct    *direct // nil where it cannot be used
	transport *transport
}

// New returns a Client that connects to u when it is asked to.
func New(u *URL, o Options) *Client {
	// An error is told by the Transport, to each request.
	via, err := http.ProxyFromEnvironment(&http.Request{URL: u.url})
	c := Over(newTransport(u, o), u, o)
	c.transport.proxied = via != nil && u.url.Scheme == "http"
	if via == nil && err == nil {
		c.direct = newDirect(u, o)
	}
	return c
}

// Over returns a Client that sends everything to u by rt.
func Over(rt http.RoundTripper, u *URL, o Options) *Client {
	return &Client{transport: &transport{RoundTripper: rt, url: u, options: o}}
}

// Send sends req, directly where that can be done, and returns when the header of its answer has come. ctx ends
// it, and the answer; end ends ctx, which Send does itself where the upstream
// lets it wait too long. The error is a [*Failure].
func (c *Client) Send(ctx context.Context, end context.CancelCauseFunc, req *Request) (*Answer, error) {
	if c.direct != nil && c.direct.speaks(req) {
		answer, err := c.direct.send(ctx, end, req)
		if err != errNotSpoken {
			if req.Recycle != nil {
				req.Recycle()
			}
			return answer, err
		}
	}
	return c.transport.send(ctx, end, req)
}

// CloseIdleConnections closes those that are not in use.
func (c *Client) CloseIdleConnections() {
	if c.direct != nil {
		c.direct.closeIdle(0)
	}
	c.transport.closeIdle()
}

// maxInformational is how many informational answers one request may get.
const maxInformational = 64

// informer passes informational answers on, as far as they are few.
type informer struct {
	tell func(status int, header http.Header)
	told int
}

// inform reports whether the upstream may go on. The interim answer to Expect is
// not the client's, who gets one when its body is asked for.
func (i *informer) inform(status int, header http.Header) bool {
	if i.told++; i.told > maxInformational || status < 100 {
		return false
	}
	if status != http.StatusContinue && i.tell != nil {
		i.tell(status, header)
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
