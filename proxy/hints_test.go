package proxy

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// stream is an HTTP/2 connection of a client that writes what it likes.
type stream struct {
	*http2.Framer
	net.Conn
}

// openStream sends a request of the header fields, and reads nothing.
func openStream(t *testing.T, to *httptest.Server, fields ...string) stream {
	t.Helper()
	conn, err := net.Dial("tcp", to.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	s := stream{http2.NewFramer(conn, conn), conn}
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	for _, field := range append([]string{":method GET", ":scheme http", ":authority gateway", ":path /hook"}, fields...) {
		name, value, _ := strings.Cut(field, " ")
		_ = encoder.WriteField(hpack.HeaderField{Name: name, Value: value})
	}
	_, _ = io.WriteString(conn, http2.ClientPreface)
	_ = s.WriteSettings()
	if err := s.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndStream: true, EndHeaders: true}); err != nil {
		t.Fatal(err)
	}
	return s
}

// informing is a ResponseWriter that tells when an informational answer begins.
type informing struct {
	http.ResponseWriter
	begun func()
}

func (w informing) Unwrap() http.ResponseWriter { return w.ResponseWriter }
func (w informing) WriteHeader(status int) {
	if status < 200 {
		w.begun()
	}
	w.ResponseWriter.WriteHeader(status)
}

// TestClientThatLeavesWhileItIsInformed: net/http's HTTP/2 goes on reading the header
// that an informational answer was made of, which must not be changed meanwhile.
func TestClientThatLeavesWhileItIsInformed(t *testing.T) {
	var hints strings.Builder
	for i := range 20_000 { // to be read for some milliseconds
		hints.WriteString("X-Hint-" + strconv.Itoa(i) + ": a\r\n")
	}
	r := newRig(t, nil, upstreamURL(t, listen(t, func(conn net.Conn, _ *bufio.Reader, _ *http.Request) {
		_, _ = io.WriteString(conn, "HTTP/1.1 103 Early Hints\r\n"+hints.String()+"\r\nHTTP/1.1 204 No Content\r\n\r\n")
	})))
	var leave atomic.Pointer[func()]
	front := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, in *http.Request) {
		r.ServeHTTP(informing{w, *leave.Load()}, in)
	}))
	front.Config.Protocols = new(http.Protocols)
	front.Config.Protocols.SetUnencryptedHTTP2(true)
	front.Start()
	t.Cleanup(front.Close)
	for after := range 4 {
		opened := make(chan stream, 1)
		left := func() {
			go func() {
				time.Sleep(time.Duration(after) * time.Millisecond)
				s := <-opened
				_ = s.WriteRSTStream(1, http2.ErrCodeCancel)
			}()
		}
		leave.Store(&left)
		opened <- openStream(t, front)
		next(t, r.events)
	}
}

// TestClientThatDoesNotReadHoldsUpNobodyElse: of HTTP/2 one connection to an upstream
// has many requests.
func TestClientThatDoesNotReadHoldsUpNobodyElse(t *testing.T) {
	up := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.RawQuery == "hints" {
			w.WriteHeader(http.StatusEarlyHints)
		}
	}))
	up.Config.Protocols = bothInClear()
	up.Start()
	t.Cleanup(up.Close)
	r := newRig(t, nil, upstreamURL(t, "h2c"+strings.TrimPrefix(up.URL, "http")))
	blocked, goOn, over := make(chan bool), make(chan bool), make(chan bool)
	go func() {
		defer close(over)
		client := informing{httptest.NewRecorder(), func() { close(blocked); <-goOn }}
		r.serveTo(client, request(http.MethodGet, "/hook?hints", ""))
	}()
	next(t, blocked)
	go r.do(request(http.MethodGet, "/hook", ""))
	wantFine := func() {
		t.Helper()
		if e := next(t, r.events); e.Status != http.StatusOK {
			t.Errorf("got %d, %s, want 200", e.Status, e.Fault)
		}
	}
	wantFine() // the other one
	close(goOn)
	wantFine()
	next(t, over)
}

// TestInformationIsBounded, since some of it waits for the client: what is more than
// that is no answer, on any way.
func TestInformationIsBounded(t *testing.T) {
	for name, way := range map[string]struct {
		mode Dedupe
		body string
	}{"directly": {DedupeOn, ""}, "as it streams": {DedupeOff, "body"}} {
		for size, want := range map[int]string{200_000: "200", 600_000: string(ReasonUpstreamRefused)} {
			hint := "HTTP/1.1 103 Early Hints\r\nLink: <" + strings.Repeat("a", size) + ">\r\n\r\n"
			r := newRig(t, nil, dedupe(way.mode), upstreamURL(t, says(t, hint+hint+"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")))
			server := serve(t, r)
			client := dial(t, server, "POST /hook HTTP/1.1\r\nHost: x\r\nContent-Length: "+strconv.Itoa(len(way.body))+"\r\n\r\n"+way.body)
			res := client.response(t, http.MethodPost)
			for res.StatusCode == http.StatusEarlyHints {
				res = client.response(t, http.MethodPost)
			}
			if got := result(t, res); got != want {
				t.Errorf("twice %d bytes, %s: got %s, want %s", size, name, got, want)
			}
		}
	}
}
