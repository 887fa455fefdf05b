package integration

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/textproto"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// clientKind is a way to speak to a replica.
type clientKind struct {
	name    string
	version string // as Via tells it
	tls     bool
}

var clientKinds = []clientKind{
	{"http10", "1.0", false}, {"http11", "1.1", false}, {"h2c", "2.0", false},
	{"tls-http11", "1.1", true}, {"tls-h2", "2.0", true},
}

func (k clientKind) http2() bool { return k.version == "2.0" }

// clientConn is a connection to a replica.
type clientConn interface {
	net.Conn
	// ask sends a request and returns its answer. The connection is not open if
	// it cannot be used for another.
	ask(asked) (got message, open bool, err error)
}

// asked is a request to the byte.
type asked struct {
	message
	after      string        // bytes that follow on HTTP/1
	halfClosed chan struct{} // closed when this half has been, which is done if it is not nil
}

var (
	errNothing = errors.New("nothing") // has come back
	errUnsent  = errors.New("unsent")  // since the connection takes no more requests, as HTTP/2 may say at any time
)

func (k clientKind) dial(addr string, trusted *tls.Config) (clientConn, error) {
	conn, err := net.DialTimeout("tcp", addr, patience)
	if err != nil {
		return nil, err
	}
	if k.tls {
		config := trusted.Clone()
		config.NextProtos = []string{"http/1.1"}
		if k.http2() {
			config.NextProtos = []string{"h2"}
		}
		config.ServerName = "127.0.0.1"
		conn = tls.Client(conn, config)
	}
	if !k.http2() {
		return &http1Client{conn, bufio.NewReader(conn), k.version}, nil
	}
	return newHTTP2Client(conn)
}

type http1Client struct {
	net.Conn
	in      *bufio.Reader
	version string
}

func (c *http1Client) ask(a asked) (got message, open bool, err error) {
	_ = c.SetDeadline(time.Now().Add(patience))
	method, target := a.request()
	head := method + " " + target + " HTTP/" + c.version + "\r\n"
	body, chunked := a.body, a.has("Transfer-Encoding")
	switch {
	case chunked && a.trailers != nil:
		body = fmt.Sprintf("%x;x=y\r\n%s\r\n0\r\n%s\r\n\r\n", len(body), body, strings.Join(a.trailers, "\r\n"))
	case chunked && body != "":
		body = fmt.Sprintf("1\r\n%s\r\n%x;x=y\r\n%s\r\n0\r\n\r\n", body[:1], len(body)-1, body[1:])
	case chunked:
		body = "0\r\n\r\n"
	case body != "":
		a.message = a.with("Content-Length", fmt.Sprint(len(body)))
	}
	if method == http.MethodPost && body == "" {
		a.message = a.with("Content-Length", "0")
	}
	for _, f := range a.fields {
		head += f + "\r\n"
	}
	if head += "\r\n"; a.has("Expect") {
		c.say(head)
		if got, err = c.hear(method); err != nil || got.first != "100" {
			return got, false, err
		}
		head = ""
	}
	c.say(head + body + a.after)
	if a.halfClosed != nil {
		_ = c.Conn.(interface{ CloseWrite() error }).CloseWrite()
		close(a.halfClosed)
	}
	var informs []string
	for {
		got, err = c.hear(method)
		switch {
		case err != nil:
			return got, false, err
		case got.first == "100" && c.version != "1.0":
			continue // whether one comes that was not asked for is nobody's business
		case got.first[0] == '1' && got.first != "101":
			informs = append(informs, strings.Join(append([]string{got.first}, got.fields...), "\n"))
			continue
		}
		got.informs = informs
		break
	}
	if c.version == "1.1" && got.ending == "" && !strings.EqualFold(got.value("Connection"), "close") {
		return got, true, nil
	}
	if got.ending == "" {
		_ = c.Conn.(interface{ CloseWrite() error }).CloseWrite()
		if rest, _ := io.ReadAll(c.in); len(rest) > 0 {
			return got, false, fmt.Errorf("after the answer: %q", rest)
		}
	}
	return got, false, nil
}

// say writes text, which the replica may have ceased to read.
func (c *http1Client) say(text string) { _, _ = io.WriteString(c, text) }

// hear reads one answer.
func (c *http1Client) hear(method string) (m message, err error) {
	res, err := http.ReadResponse(c.in, &http.Request{Method: method})
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return m, errNothing
	} else if err != nil {
		if opErr := (*net.OpError)(nil); errors.As(err, &opErr) && !opErr.Timeout() {
			return m, errNothing // a reset
		}
		return m, err
	}
	m.first = fmt.Sprintf("%03d", res.StatusCode)
	if res.StatusCode >= 200 {
		body, err := io.ReadAll(res.Body)
		if m.body = string(body); err != nil {
			m.ending = cut
		}
	}
	m.fields = fieldLines(res.Header)
	m.trailers = fieldLines(res.Trailer)
	if res.Close {
		m = m.with("Connection", "close")
	}
	return m, nil
}

func fieldLines(h map[string][]string) (lines []string) {
	for name, values := range h {
		for _, value := range values {
			lines = append(lines, name+": "+value)
		}
	}
	return lines
}

// http2Client has one stream at a time.
type http2Client struct {
	net.Conn
	*http2Writer
	last uint32 // stream
}

func newHTTP2Client(conn net.Conn) (*http2Client, error) {
	_ = conn.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		return nil, err
	}
	c := &http2Client{conn, newHTTP2Writer(conn), 0}
	c.last--
	return c, c.begin()
}

func (c *http2Client) ask(a asked) (got message, open bool, err error) {
	_ = c.SetDeadline(time.Now().Add(patience))
	c.last += 2
	method, target := a.request()
	fields := []string{":method: " + method, ":scheme: http", ":path: " + target}
	if _, ok := c.Conn.(*tls.Conn); ok {
		fields[1] = ":scheme: https"
	}
	if host := a.value("Host"); host != "" {
		fields = append(fields, ":authority: "+host)
	}
	if a.body != "" && !a.has("Transfer-Encoding") {
		a.message = a.with("Content-Length", fmt.Sprint(len(a.body)))
	}
	for _, f := range a.without("Host", "Transfer-Encoding").fields {
		name, value, _ := strings.Cut(f, ":")
		fields = append(fields, strings.ToLower(name)+": "+strings.Trim(value, " "))
	}
	end := a.body == "" && a.trailers == nil && !a.has("Transfer-Encoding")
	c.headers(c.last, fields, end)
	if a.has("Expect") {
		if got, open, err = c.hear(true); err != nil || got.first != "100" {
			return got, open, err
		}
	}
	if !end {
		c.data(c.last, a.body, a.trailers == nil)
	}
	if a.trailers != nil {
		c.headers(c.last, lowerNames(a.trailers), true)
	}
	return c.hear(false)
}

func lowerNames(fields []string) []string {
	fields = slices.Clone(fields)
	for i, f := range fields {
		name, value, _ := strings.Cut(f, ":")
		fields[i] = strings.ToLower(name) + ": " + strings.Trim(value, " ")
	}
	return fields
}

// hear reads frames until the stream has ended, or to the 100 that is expected.
func (c *http2Client) hear(expecting bool) (m message, open bool, err error) {
	open = true
	for {
		frame, err := c.ReadFrame()
		if err != nil {
			return m, false, err
		}
		if c.handle(frame) {
			continue
		}
		if f, ok := frame.(*http2.GoAwayFrame); ok {
			open = false
			switch {
			case f.ErrCode != http2.ErrCodeNo:
				return m, false, errNothing
			case f.LastStreamID < c.last:
				return m, false, errUnsent
			}
			continue
		}
		if frame.Header().StreamID != c.last {
			continue
		}
		ended := false
		switch f := frame.(type) {
		case *http2.MetaHeadersFrame:
			fields := make([]string, 0, len(f.Fields))
			for _, field := range f.RegularFields() {
				fields = append(fields, field.Name+": "+field.Value)
			}
			switch status := f.PseudoValue("status"); {
			case status == "100":
				if expecting {
					return message{first: "100"}, open, nil
				}
			case status == "":
				m.trailers = fields
			case status[0] == '1':
				m.informs = append(m.informs, strings.Join(append([]string{status}, fields...), "\n"))
			default:
				m.first, m.fields = status, fields
			}
			ended = f.StreamEnded()
		case *http2.DataFrame:
			m.body += string(f.Data())
			ended = f.StreamEnded()
		case *http2.RSTStreamFrame:
			if m.first == "" {
				return m, false, errNothing
			}
			m.ending = cut
			return m, false, nil
		}
		if ended {
			return m, open, nil
		}
	}
}

// http2Writer writes frames, and answers those that every peer answers.
type http2Writer struct {
	*http2.Framer
	block   bytes.Buffer
	encoder *hpack.Encoder
}

func newHTTP2Writer(conn io.ReadWriter) *http2Writer {
	w := &http2Writer{Framer: http2.NewFramer(conn, conn)}
	w.encoder = hpack.NewEncoder(&w.block)
	w.AllowIllegalWrites = true
	w.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	return w
}

// largeWindow is more than anybody sends here.
const largeWindow = 1 << 30

// begin sends what a connection begins with. The windows are never spent.
func (w *http2Writer) begin(settings ...http2.Setting) error {
	if settings == nil {
		settings = []http2.Setting{{ID: http2.SettingInitialWindowSize, Val: largeWindow}}
	}
	return errors.Join(w.WriteSettings(settings...), w.WriteWindowUpdate(0, largeWindow))
}

// handle reports whether a frame is about the connection alone.
func (w *http2Writer) handle(frame http2.Frame) bool {
	switch f := frame.(type) {
	case *http2.SettingsFrame:
		if !f.IsAck() {
			_ = w.WriteSettingsAck()
		}
		return true
	case *http2.PingFrame:
		if !f.IsAck() {
			_ = w.WritePing(true, f.Data)
		}
		return true
	case *http2.WindowUpdateFrame, *http2.PriorityFrame:
		return true
	}
	return false
}

func (w *http2Writer) headers(stream uint32, fields []string, end bool) {
	w.block.Reset()
	for _, f := range fields {
		from := 0
		if f[0] == ':' {
			from = 1
		}
		colon := from + strings.IndexByte(f[from:], ':')
		_ = w.encoder.WriteField(hpack.HeaderField{Name: f[:colon], Value: textproto.TrimString(f[colon+1:])})
	}
	block := w.block.Bytes()
	for first := true; first || len(block) > 0; first = false {
		n := min(len(block), 16<<10)
		part, last := block[:n], n == len(block)
		if block = block[n:]; first {
			_ = w.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: part, EndStream: end, EndHeaders: last})
		} else {
			_ = w.WriteContinuation(stream, last, part)
		}
	}
}

func (w *http2Writer) data(stream uint32, body string, end bool) {
	for first := true; first || body != ""; first = false {
		n := min(len(body), 16<<10)
		part := body[:n]
		body = body[n:]
		_ = w.WriteData(stream, end && body == "", []byte(part))
	}
}
