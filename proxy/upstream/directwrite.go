package upstream

import (
	"cmp"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"time"
)

// header begins what [http.Request.Write] would write, but for the order of
// fields, which has no meaning. What it has was valid when it was read, from the
// client or at the start.
func (c *directConn) header(req *Request) {
	host := req.Host
	if host == "" {
		host = c.direct.host
	}
	out := c.out[:0]
	for _, s := range [...]string{req.Method, " ", req.Target, " HTTP/1.1\r\nHost: ", host, "\r\n"} {
		out = append(out, s...)
	}
	for name, values := range req.Header {
		switch name {
		case "Host", "Content-Length", "Transfer-Encoding", "Trailer":
			continue // said otherwise, or not at all
		}
		for _, value := range values {
			if name != "User-Agent" || value != "" {
				out = appendField(out, name, value)
			}
		}
	}
	switch {
	case req.Held != nil:
		out = append(strconv.AppendInt(append(out, "Content-Length: "...), req.Length, 10), "\r\n"...)
	case req.Method == http.MethodPost || req.Method == http.MethodPut || req.Method == http.MethodPatch:
		out = appendField(out, "Content-Length", "0")
	}
	if c.direct.options.Idle == 0 {
		out = appendField(out, "Connection", "close")
	}
	c.out = append(out, "\r\n"...)
}

func appendField(out []byte, name, value string) []byte {
	return append(append(append(append(out, name...), ": "...), value...), "\r\n"...)
}

// write writes the request. From its end on the answer is awaited. Where nothing
// could be written there will be none, and the connection is closed.
func (c *directConn) write(req *Request) error {
	err := c.writeParts(req)
	if err != nil && c.written == 0 {
		_ = c.Close()
	}
	if cap(c.out) > keptOut {
		c.out = nil
	}
	c.moved(0)
	return err
}

// writeParts writes what is short at once. Where a system call takes all parts of
// a body nothing is copied.
func (c *directConn) writeParts(req *Request) error {
	var parts [][]byte
	if req.Held != nil {
		parts = req.Held.Parts()
	}
	if len(parts) > 1 && c.Conn == net.Conn(c.look) && c.look.raw != nil {
		c.moved(0)
		return c.look.writeParts(append([][]byte{c.out}, parts...), c.moved)
	}
	if req.Length <= bufferedBody {
		for _, part := range parts {
			c.out = append(c.out, part...)
		}
		_, err := c.Write(c.out)
		return err
	}
	if _, err := c.Write(c.out); err != nil {
		return err
	}
	body := req.Held.Open()
	defer body.Close()
	_, err := io.Copy(c, body)
	return err
}

// Write writes one part, which has a time of its own.
func (c *directConn) Write(p []byte) (int, error) {
	c.moved(0)
	n, err := c.Conn.Write(p)
	c.written += int64(n)
	return n, err
}

// moved counts what is written, and lets the time of what follows begin.
func (c *directConn) moved(n int) {
	c.written += int64(n)
	c.watch.await(sending, c.direct.options.Timeout, errTimeout)
}

// wrote reports whether all of the request has been written, or is in a moment.
func (c *directConn) wrote() bool {
	if c.writer == nil {
		return c.unwrote == nil
	}
	late := time.NewTimer(lateWrite)
	defer late.Stop()
	select {
	case c.unwrote = <-c.writer:
		c.writer = nil
		return c.unwrote == nil
	case <-late.C:
		return false
	}
}

// join waits for the writer of a connection that is closed.
func (c *directConn) join() {
	if c.writer != nil {
		c.unwrote, c.writer = <-c.writer, nil
	}
}

// writeParts writes parts in as few calls as the system takes them, each of which
// moved is told of.
func (c *lookConn) writeParts(parts [][]byte, moved func(n int)) (err error) {
	closed := c.raw.Write(func(fd uintptr) bool {
		for len(parts) > 0 {
			var n int
			if n, err = writeNow(fd, parts); err == os.ErrDeadlineExceeded {
				err = nil
				return false // it waits, and calls again
			} else if err != nil {
				return true
			}
			moved(n)
			parts = dropBytes(parts, n)
		}
		return true
	})
	return cmp.Or(err, closed)
}

// dropBytes returns what is left of parts behind the first n bytes.
func dropBytes(parts [][]byte, n int) [][]byte {
	for len(parts) > 0 && n >= len(parts[0]) {
		n -= len(parts[0])
		parts = parts[1:]
	}
	if n > 0 {
		parts[0] = parts[0][n:]
	}
	return parts
}
