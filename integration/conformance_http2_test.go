package integration

import (
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"golang.org/x/net/http2"
)

// http2Upstream is a connection of an upstream that speaks HTTP/2.
type http2Upstream struct {
	net.Conn
	mu sync.Mutex // guards all that follows
	*http2Writer
	streams map[uint32]*http2Link
	window  int64 // bytes that the connection may send
	initial int64 // and a new stream
	ended   bool
}

// http2Link is a stream.
type http2Link struct {
	conn     *http2Upstream
	id       uint32
	method   string
	window   int64      // bytes that it may send
	arrived  *sync.Cond // of conn.mu: more of the request or its end, or more of a window
	body     []byte
	trailers []string
	whole    bool // the request is
	gone     bool // the stream is
}

func (u *scriptedUpstream) serveHTTP2(conn net.Conn) {
	preface := make([]byte, len(http2.ClientPreface))
	if _, err := io.ReadFull(conn, preface); err != nil || string(preface) != http2.ClientPreface {
		return
	}
	const firstWindow = 64<<10 - 1
	c := &http2Upstream{Conn: conn, http2Writer: newHTTP2Writer(conn), streams: map[uint32]*http2Link{}, window: firstWindow, initial: firstWindow}
	var turns sync.WaitGroup
	defer turns.Wait()
	defer c.endAll()
	if u.stingy && c.WriteSettings() != nil || !u.stingy && c.begin() != nil {
		return
	}
	for {
		frame, err := c.ReadFrame()
		if err != nil {
			return
		}
		c.mu.Lock()
		c.widen(frame)
		if !c.handle(frame) {
			if begun := c.follow(u, frame); begun != nil {
				turns.Go(func() { u.script(begun) })
			}
		}
		c.mu.Unlock()
	}
}

// widen takes note of what may be sent.
func (c *http2Upstream) widen(frame http2.Frame) {
	by := int64(0)
	switch f := frame.(type) {
	case *http2.SettingsFrame:
		if initial, ok := f.Value(http2.SettingInitialWindowSize); ok {
			by, c.initial = int64(initial)-c.initial, int64(initial)
		}
	case *http2.WindowUpdateFrame:
		if l := c.streams[f.StreamID]; l != nil {
			l.window += int64(f.Increment)
			l.arrived.Broadcast()
			return
		}
		if f.StreamID == 0 {
			c.window += int64(f.Increment)
		}
	default:
		return
	}
	for _, l := range c.streams {
		l.window += by
		l.arrived.Broadcast()
	}
}

// data sends a body as windows allow.
func (l *http2Link) data(body string, end bool) {
	for {
		for body != "" && (l.window <= 0 || l.conn.window <= 0) && !l.gone {
			l.arrived.Wait()
		}
		n := int(min(int64(len(body)), 16<<10, l.window, l.conn.window))
		if l.gone {
			return
		}
		l.window, l.conn.window = l.window-int64(n), l.conn.window-int64(n)
		part := body[:n]
		body = body[n:]
		if _ = l.conn.WriteData(l.id, end && body == "", []byte(part)); body == "" {
			return
		}
	}
}

// follow takes a frame of a stream, and returns the turn that it begins, or
// nil.
func (c *http2Upstream) follow(u *scriptedUpstream, frame http2.Frame) (begun *turn) {
	id := frame.Header().StreamID
	l := c.streams[id]
	switch f := frame.(type) {
	case *http2.MetaHeadersFrame:
		var fields []string
		for _, field := range f.RegularFields() {
			fields = append(fields, field.Name+": "+field.Value)
		}
		if l != nil {
			l.trailers, l.whole = fields, true
			break
		}
		l = &http2Link{conn: c, id: id, arrived: sync.NewCond(&c.mu), window: c.initial, whole: f.StreamEnded(), method: f.PseudoValue("method")}
		c.streams[id] = l
		m := message{first: l.method + " " + f.PseudoValue("path"), fields: fields}
		if host := f.PseudoValue("authority"); host != u.addr {
			m = m.with("Wrong-Host", host)
		}
		return &turn{request: m, upstream: u, link: l}
	case *http2.DataFrame:
		if l != nil {
			l.body, l.whole = append(l.body, f.Data()...), f.StreamEnded()
		}
	case *http2.RSTStreamFrame:
		if l != nil {
			l.gone = true
		}
	}
	if l != nil {
		l.arrived.Broadcast()
	}
	return nil
}

func (c *http2Upstream) endAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
	for _, l := range c.streams {
		l.gone = true
		l.arrived.Broadcast()
	}
}

func (l *http2Link) readToEnd() (string, []string) {
	l.conn.mu.Lock()
	defer l.conn.mu.Unlock()
	for !l.whole && !l.gone {
		l.arrived.Wait()
	}
	if !l.whole {
		return string(l.body) + cut, nil
	}
	return string(l.body), l.trailers
}

func (l *http2Link) send(m message) {
	l.write(func(c *http2Upstream) {
		for _, inform := range m.informs {
			i := parseMessage(inform)
			c.headers(l.id, append([]string{":status: " + i.first}, lowerNames(i.fields)...), false)
		}
		if m.first == "" {
			return
		}
		open := m.ending != ""
		bodyless := m.body == "" || l.method == http.MethodHead
		c.headers(l.id, append([]string{":status: " + m.first}, lowerNames(m.without("Connection").fields)...), bodyless && !open && m.trailers == nil)
		if !bodyless {
			l.data(m.body, !open && m.trailers == nil)
		}
		if m.trailers != nil {
			c.headers(l.id, lowerNames(m.trailers), true)
		}
	})
	switch m.ending {
	case cut:
		l.reset(http2.ErrCodeInternal)
	case stopped:
		l.silence()
	}
}

// write writes unless the connection is gone.
func (l *http2Link) write(frames func(*http2Upstream)) {
	l.conn.mu.Lock()
	defer l.conn.mu.Unlock()
	if !l.conn.ended {
		frames(l.conn)
	}
}

func (l *http2Link) raw(text string) {
	l.write(func(c *http2Upstream) { _, _ = io.WriteString(c.Conn, text) })
}

func (l *http2Link) close() { _ = l.conn.Conn.Close() }

func (l *http2Link) closeWrite() {
	closeHalf(l.conn.Conn)
	_ = l.conn.SetReadDeadline(time.Now().Add(noticing)) // then the connection ends
	l.conn.mu.Lock()
	defer l.conn.mu.Unlock()
	for !l.conn.ended {
		l.arrived.Wait()
	}
}

func (l *http2Link) reset(code http2.ErrCode) {
	l.write(func(c *http2Upstream) { _ = c.WriteRSTStream(l.id, code) })
}

// goAway says that the connection takes no more requests, and that the last it
// took was this one, or the one before.
func (l *http2Link) goAway(this bool) {
	last := l.id
	if !this {
		last = max(last, 2) - 2
	}
	l.write(func(c *http2Upstream) { _ = c.WriteGoAway(last, http2.ErrCodeNo, nil) })
}

func (l *http2Link) silence() {
	l.conn.mu.Lock()
	defer l.conn.mu.Unlock()
	for !l.gone {
		l.arrived.Wait()
	}
}
