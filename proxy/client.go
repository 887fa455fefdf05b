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
	closes bool // the connection ends with this answer
}

// reusable is the longest declared body that is read, after its request was
// answered, so that the connection can be used again.
const reusable = 256 << 10

// inform passes an informational answer on. HTTP/1.0 has none.
func (c *client) inform(status int, header http.Header) {
	if !c.in.ProtoAtLeast(1, 1) || c.began {
		return
	}
	h := c.Header()
	maps.Copy(h, header)
	removeHopByHop(h)
	c.ResponseWriter.WriteHeader(status)
	clear(h)
}

// begin sends the header of the answer.
func (c *client) begin(status int) {
	c.began = true
	if unread := c.body.unread(); c.in.ProtoMajor == 1 {
		// The rest of a body is not to be read as another request.
		c.closes = c.closes || unread && (c.in.ContentLength < 0 || c.in.ContentLength > reusable)
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

// flush sends what was written.
func (c *client) flush() {
	_ = c.body.control.Flush() // the next write tells
}
