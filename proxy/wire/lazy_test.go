package wire

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

// TestLazyConn moves the deadline in each way that net/http does.
func TestLazyConn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		defer far.Close()
		c := &lazyConn{Conn: near, writeIdle: time.Minute}
		defer c.Close()
		var b [1]byte
		readUntil := func(want time.Time) {
			t.Helper()
			if !aborts(c.until) {
				want = want.Add(grace)
			}
			if n, err := c.Read(b[:]); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) || !time.Now().Equal(want) {
				t.Fatalf("got %d and %v at %v, want %v at %v", n, err, time.Now(), os.ErrDeadlineExceeded, want)
			}
		}
		in := func(d time.Duration) time.Time {
			until := time.Now().Add(d)
			if err := c.SetReadDeadline(until); err != nil {
				t.Fatal(err)
			}
			return until
		}
		readUntil(in(time.Second))
		in(time.Second)
		readUntil(in(time.Minute)) // later than the one before it
		in(time.Hour)
		readUntil(in(time.Second)) // sooner
		readUntil(in(0))
		in(0)
		go func() { _, _ = far.Write([]byte("x")) }() // what has come counts
		synctest.Wait()
		if _, err := c.Read(b[:]); err != nil {
			t.Fatal(err)
		}
		in(time.Second)
		_ = c.SetReadDeadline(time.Time{})
		time.AfterFunc(time.Hour, func() { _ = c.SetReadDeadline(time.Unix(1, 0)) }) // while it waits
		readUntil(time.Now().Add(time.Hour))
		readUntil(time.Now()) // and it stays
		_ = c.SetDeadline(time.Time{})
		time.AfterFunc(time.Hour, func() { _, _ = far.Write([]byte("x")) })
		if _, err := io.ReadFull(c, b[:]); err != nil {
			t.Fatal(err)
		}

		begun := time.Now()
		if _, err := c.Write(b[:]); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(begun) != time.Minute {
			t.Errorf("got %v after %s, want %v after a minute", err, time.Since(begun), os.ErrDeadlineExceeded)
		}
		go func() { _, _ = io.Copy(io.Discard, far) }()
		for range 10 {
			if _, err := c.Write(b[:]); err != nil {
				t.Fatal(err)
			}
			time.Sleep(20 * time.Second)
		}
	})
}

// TestConn_WriteIsBoundInLaterRequests: net/http takes the deadline of writes away
// after each.
func TestConn_WriteIsBoundInLaterRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stuck := make(chan error)
		client := serve(t, Timeouts{Write: time.Minute}, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/stuck" {
				_, err := w.Write(make([]byte, 1<<20))
				stuck <- err
			}
		})
		in := bufio.NewReader(client)
		for range 2 {
			say(t, client, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
			wantStatus(t, in, http.StatusOK)
		}
		begun := time.Now()
		say(t, client, "GET /stuck HTTP/1.1\r\nHost: a\r\n\r\n")
		select {
		case err := <-stuck:
			if took := time.Since(begun); !errors.Is(err, os.ErrDeadlineExceeded) || took != time.Minute {
				t.Errorf("got %v after %s, want %v after a minute", err, took, os.ErrDeadlineExceeded)
			}
		case <-time.After(time.Hour):
			t.Error("the write has not ended after an hour, want a minute")
			_ = client.Close()
			<-stuck
		}
	})
}
