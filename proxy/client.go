package proxy

import (
	"maps"
	"net/http"
)

// client is where answers go. Nobody else writes to the one who asked.
type client struct {
	http.ResponseWriter
	in     *http.Request
	body   *clientBody
	began  bool // a final header has been sent
	ended  bool // all of the answer has
	cut    bool // it breaks off
	closes bool // the connection ends with this answer
}

// reusable is the longest declared body that is read, after its request was
// answered, so that the connection can be used again.
const reusable = 256 << 10

// inform passes an informational answer on. HTTP/1.0 has none.
func (c *client) inform(status int, header http.Header) {
	// Nor has a client one that is yet to be told to go on: net/http does that when
	// its body is read, which a sender may do at the same time.
	if !c.in.ProtoAtLeast(1, 1) || c.began || c.in.Header["Expect"] != nil && c.body.unread() {
		return
	}
	h := c.Header()
	maps.Copy(h, header)
	removeHopByHop(h)
	// This is not sent, but has net/http's HTTP/2 take a copy: of a client that leaves
	// it may read the header when WriteHeader has returned.
	h["Content-Length"] = nil
	c.ResponseWriter.WriteHeader(status)
	clear(h)
}

// begin sends the header of the answer.
func (c *client) begin(status int) {
	c.began = true
	if unread := c.body.unread(); c.in.ProtoMajor == 1 {
		// The rest of a body is not to be read as another request, and where a sender
		// waits for it the wait ends the connection.
		keeps := !c.body.streams && c.in.ContentLength >= 0 && c.in.ContentLength <= reusable && c.in.Header["Expect"] == nil
		c.closes = c.closes || unread && !keeps
		if c.closes {
			c.Header().Set("Connection", "close")
		} else if unread {
			// Or net/http would wait for it before it lets the answer out.
			_ = c.body.control.EnableFullDuplex()
		}
	}
	if types, ok := c.Header()["Content-Type"]; ok && status == http.StatusNotModified && types != nil {
		// net/http takes it out by its canonical name.
		delete(c.Header(), "Content-Type")
		c.Header()["content-type"] = types
	}
	c.ResponseWriter.WriteHeader(status)
}

// abort cuts the answer: the client must not take a part for the whole.
func (c *client) abort() {
	c.cut = true
	panic(http.ErrAbortHandler)
}

// flush sends what was written.
func (c *client) flush() {
	_ = c.body.control.Flush() // the next write tells
}
