package integration

import (
	"time"

	"golang.org/x/net/http2"
)

var (
	closedFault = want{back: "499 upstream-closed connection_terminated"}
	// What streams is gone once it has been sent.
	lostStream = but{both(streamed, toHTTP2), "a body that streams cannot be sent again", want{back: "502 upstream-refused", or: "499 upstream-closed"}}
)

// faultRows are what becomes of a request whose upstream fails it.
var faultRows = []row{
	{name: "refused", route: "gone", want: want{arrives: "nothing", back: "502 upstream-refused connection_refused"}},
	{name: "refused a POST", route: "gone", sends: "POST /x\n\nbody", want: want{arrives: "nothing", back: "502 upstream-refused connection_refused"}},
	{name: "silent", route: "brief", sends: "POST /x\n\nbody", does: func(c *turn) { c.read(); c.silence() },
		want: want{back: "504 upstream-timeout http_response_timeout"}},
	{name: "silent to a GET", route: "brief", does: func(c *turn) { c.read(); c.silence() },
		want: want{back: "504 upstream-timeout http_response_timeout"}},
	{name: "reads nothing", route: "brief", sends: "POST /x\n\nbody", does: func(c *turn) { c.silence() },
		want: want{back: "504 upstream-timeout http_response_timeout"}},
	{name: "silent behind a 103", route: "brief", sends: "POST /x\n\nbody",
		does: func(c *turn) { c.read(); c.send(message{informs: []string{"103"}}); c.silence() },
		want: want{back: "504 upstream-timeout http_response_timeout"}},
	{name: "informs without end", sends: "POST /x\n\nbody", want: garbled, does: func(c *turn) {
		c.read()
		for range 1000 {
			c.send(message{informs: []string{"103"}})
		}
		c.silence()
	}},
	{name: "closes when it has the header", sends: "POST /x\n\nbody", does: func(c *turn) { c.close() }, want: closedFault},
	{name: "closes when it has all", sends: "POST /x\n\nbody", does: func(c *turn) { c.read(); c.close() }, want: closedFault},
	{name: "closes behind a 103", sends: "POST /x\n\nbody",
		does: func(c *turn) { c.read(); c.send(message{informs: []string{"103"}}); c.close() }, want: closedFault},
	{name: "closes within the header", sends: "POST /x\n\nbody",
		does: func(c *turn) { c.read(); c.raw("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n"); c.close() }, want: closedFault, but: []but{onlyToHTTP1}},
	{name: "closes a request that has a key", sends: "POST /x\nIdempotency-Key: k\n\nbody", does: func(c *turn) { c.read(); c.close() }, want: closedFault},
	{name: "closes a request that has another key", sends: "POST /x\nX-Idempotency-Key: k\n\nbody", does: func(c *turn) { c.read(); c.close() }, want: closedFault},
	{name: "a route with a key of its own, for later", route: "keyed", sends: "POST /x\n\nbody", want: want{arrives: "POST /x\nIdempotency-Key: fixed\n\nbody"}},
	{name: "closes a request to which the route has set a key", route: "keyed", sends: "POST /x\n\nbody", does: func(c *turn) { c.read(); c.close() },
		want: want{arrives: "POST /x\nIdempotency-Key: fixed\n\nbody", back: "499 upstream-closed connection_terminated"}},

	{name: "refuses before it has read the body, and closes", sends: "POST /x\n\nbody",
		does: early("413\nContent-Length: 2\nConnection: close\n\nno"), want: want{back: "413\nContent-Length: 2\n\nno"}},
	{name: "refuses without a length before it has read the body", sends: "POST /x\n\nbody",
		does: early("401\nConnection: close\n\nno"), want: want{back: "401\n\nno"},
		but: []but{{both(streamed, func(l *lane) bool { return l.larger }), "the reset of what it has not read can overtake the end of its answer", want{back: "401\n\nno", or: "401\n\nno" + cut}}}},
	{name: "refuses chunks before it has read them, and closes", sends: "POST /x\nTransfer-Encoding: chunked\n\nbody", but: []but{noChunks},
		does: early("413\nContent-Length: 2\nConnection: close\n\nno"), want: want{back: "413\nContent-Length: 2\n\nno"}},
	{name: "answers before it has read the body", sends: "POST /x\n\nbody", want: want{back: okText},
		but: []but{
			{streamed, "what is left of a stream may be left", want{arrives: "something", back: okText}},
			{both(toHTTP2, func(l *lane) bool { return l.larger }), "nor need it be sent once the answer has ended", want{arrives: "something", back: okText}},
		},
		does: func(c *turn) { c.say(okText); c.read() }},

	{name: "closes while idle", sends: "POST /x\n\nbody", want: want{back: okText}, does: func(c *turn) { c.read(); c.say(okText); c.closeWrite() }},
	{name: "closes while idle behind a GET", want: want{back: okText}, does: func(c *turn) { c.read(); c.say(okText); c.closeWrite() }},
	{name: "closes while idle behind an answer without a length", want: want{back: "200\n\nok"}, does: func(c *turn) { c.read(); c.say("200\n\nok"); c.closeWrite() }},
}

// early answers a request whose body it does not read.
func early(text string) func(*turn) {
	return func(c *turn) {
		c.say(text)
		if c.upstream.http2 {
			c.reset(http2.ErrCodeNo)
		}
	}
}

// http2Rows are faults that only an HTTP/2 upstream has.
var http2Rows = []row{
	{name: "stream reset", sends: "POST /x\n\nbody", but: []but{onlyToHTTP2}, want: closedFault,
		does: func(c *turn) { c.read(); c.reset(http2.ErrCodeInternal) }},
	{name: "stream cancelled", sends: "POST /x\n\nbody", but: []but{onlyToHTTP2}, want: closedFault,
		does: func(c *turn) { c.read(); c.reset(http2.ErrCodeCancel) }},
	{name: "stream refused once", sends: "POST /x\n\nbody", want: want{times: 2}, but: []but{onlyToHTTP2, lostStream},
		does: func(c *turn) { c.refuse(1) }},
	{name: "stream refused always", sends: "POST /x\n\nbody", want: want{times: 2, back: "502 upstream-refused", or: "499 upstream-closed"},
		but: []but{onlyToHTTP2, lostStream}, does: func(c *turn) { c.refuse(1000) }},
	{name: "GET refused once", want: want{times: 2}, but: []but{onlyToHTTP2}, does: func(c *turn) { c.refuse(1) }},
	{name: "GET refused always", want: want{times: 2, back: "502 upstream-refused", or: "499 upstream-closed"}, but: []but{onlyToHTTP2},
		does: func(c *turn) { c.refuse(1000) }},
	{name: "GOAWAY to what was not taken", sends: "POST /x\n\nbody", want: want{times: 2}, but: []but{onlyToHTTP2, lostStream},
		does: func(c *turn) {
			if c.read(); c.time == 0 {
				c.disown()
				c.link.(*http2Link).goAway(false)
				return
			}
			c.say(okText)
		}},
	{name: "GOAWAY to a GET that was not taken, and the end", want: want{times: 2}, but: []but{onlyToHTTP2},
		does: func(c *turn) {
			if c.read(); c.time == 0 {
				c.disown()
				c.link.(*http2Link).goAway(false)
				c.close()
				return
			}
			c.say(okText)
		}},
	{name: "GOAWAY to what was taken, and the end", sends: "POST /x\n\nbody", want: closedFault, but: []but{onlyToHTTP2},
		does: func(c *turn) { c.read(); c.link.(*http2Link).goAway(true); c.close() }},
	{name: "GOAWAY to what was taken, and its answer", sends: "POST /x\n\nbody", want: want{back: okText}, but: []but{onlyToHTTP2},
		does: func(c *turn) { c.read(); c.link.(*http2Link).goAway(true); c.say(okText) }},
	{name: "GOAWAY behind an answer, and the end", sends: "POST /x\n\nbody", want: want{back: okText}, but: []but{onlyToHTTP2},
		does: func(c *turn) { c.read(); c.say(okText); c.link.(*http2Link).goAway(true); c.closeWrite() }},
	{name: "garbage among frames", sends: "POST /x\n\nbody", want: garbled, but: []but{onlyToHTTP2},
		does: func(c *turn) { c.read(); c.raw("HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n") }},
}

// refuse refuses the request's stream so often.
func (c *turn) refuse(times int) {
	if c.read(); c.time < times {
		c.disown()
		c.reset(http2.ErrCodeRefusedStream)
		return
	}
	c.say(okText)
}

// disown notes that the upstream says of what has arrived that it has not: it
// may be told to come again, like what was not sent.
func (c *turn) disown() {
	c.cell.mu.Lock()
	defer c.cell.mu.Unlock()
	c.cell.disowned++
}

// noticing is how long a sender has to notice that an idle connection is
// closed. One that looks only when it next sends is not waited for longer.
const noticing = 2 * time.Second
