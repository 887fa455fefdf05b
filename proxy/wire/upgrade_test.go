package wire

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"
)

const upgradeHead = "Host: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"

func TestConnAfterAnUpgrade(t *testing.T) {
	const ask = "GET /ws HTTP/1.1\r\n" + upgradeHead + "\r\n"
	for _, test := range []struct{ answer, then, want string }{
		{"HTTP/1.1 101 Switching Protocols\r\n\r\n", "\x81\x00\n\n", "\x81\x00\n\n"},
		{"HTTP/1.1 103 Early Hints\r\n\r\n", "\n", ""}, // still undecided
		{"HTTP/1.1 200 OK\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\n\r\n"},
		{"HTTP/1.1 200 OK\r\n\r\n", "GET / HTTP/1.1\n\n", string(malformed.request())},
	} {
		s := &script{pieces: [][]byte{[]byte(ask)}, Conn: discardConn{}}
		w := NewConn(s, Timeouts{})
		if _, err := io.ReadFull(w, make([]byte, len(ask))); err != nil {
			t.Fatal(err)
		}
		_, _ = w.Write([]byte(test.answer))
		s.pieces = [][]byte{[]byte(test.then)}
		got, _ := io.ReadAll(w)
		if string(got) != test.want {
			t.Errorf("after %.12q: got %q, want %q", test.answer, got, test.want)
		}
	}
}

type discardConn struct{ net.Conn }

func (discardConn) Write(p []byte) (int, error) { return len(p), nil }

// TestConn_UpgradeRefusedBeforeItsBody has come is refused all the same: the next
// request on the connection is one.
func TestConn_UpgradeRefusedBeforeItsBody(t *testing.T) {
	for name, tt := range map[string]struct{ length, body string }{
		"declared": {"Content-Length: 4\r\n\r\n", "body"},
		"chunked":  {"Transfer-Encoding: chunked\r\n\r\n", "4\r\nbody\r\n0\r\n\r\n"},
	} {
		synctestRun(t, name, func(t *testing.T) {
			client := serve(t, Timeouts{}, func(w http.ResponseWriter, r *http.Request) {
				_ = http.NewResponseController(w).EnableFullDuplex() // it answers before the body comes
				w.Header().Set("Content-Length", "0")
				w.WriteHeader(http.StatusNotFound)
				_ = http.NewResponseController(w).Flush()
				_, _ = io.Copy(io.Discard, r.Body)
			})
			_ = client.SetDeadline(time.Now().Add(time.Hour))
			in := bufio.NewReader(client)
			for range 2 {
				say(t, client, "POST /ws HTTP/1.1\r\n"+upgradeHead+tt.length)
				wantStatus(t, in, http.StatusNotFound)
				say(t, client, tt.body)
			}
			say(t, client, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
			wantStatus(t, in, http.StatusNotFound)
		})
	}
}

// TestConn_UpgradeBehindAnotherRequest in one segment is not answered by the
// answer to that.
func TestConn_UpgradeBehindAnotherRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const frame = "\x81\x05hello\n"
		got := make(chan string, 1)
		client := serve(t, Timeouts{}, func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Upgrade") == "" {
				return
			}
			conn, rw, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\n\r\n")
			p := make([]byte, len(frame))
			n, _ := io.ReadFull(rw, p)
			got <- string(p[:n])
		})
		_ = client.SetDeadline(time.Now().Add(time.Hour))
		in := bufio.NewReader(client)
		say(t, client, "GET / HTTP/1.1\r\nHost: a\r\n\r\n"+"GET /ws HTTP/1.1\r\n"+upgradeHead+"\r\n")
		wantStatus(t, in, http.StatusOK)
		wantStatus(t, in, http.StatusSwitchingProtocols)
		say(t, client, frame)
		if got := <-got; got != frame {
			t.Errorf("behind the 101 the server reads %q, want %q", got, frame)
		}
	})
}

// say does not wait until it is read.
func say(t *testing.T, client net.Conn, what string) {
	t.Helper()
	go func() { _, _ = io.WriteString(client, what) }()
	synctest.Wait()
}

func wantStatus(t *testing.T, in *bufio.Reader, want int) {
	t.Helper()
	res, err := http.ReadResponse(in, nil)
	if err != nil {
		t.Fatal(err)
	}
	if res.StatusCode != http.StatusSwitchingProtocols {
		_, _ = io.Copy(io.Discard, res.Body)
	}
	if res.StatusCode != want {
		t.Fatalf("got %d, want %d", res.StatusCode, want)
	}
}
