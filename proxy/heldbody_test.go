package proxy

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"testing"
	"testing/iotest"
)

// held returns a body that has come.
func held(s string) *heldBody {
	b := new(heldBody).begin()
	for len(s) > 0 {
		n := copy(b.space(int64(len(s))), s)
		b.grow(n)
		s = s[n:]
	}
	return b
}

func TestHeldBody(t *testing.T) {
	text := make([]byte, 300_000)
	for i := range text {
		text[i] = byte(rand.Uint32())
	}
	for _, size := range []int{0, 1, 200, 4095, 4096, 4097, 8192, 10_000, 65_536, 65_537, 100_000, 300_000} {
		b := held(string(text[:size]))
		if b.size != int64(size) {
			t.Errorf("%d bytes: got size %d", size, b.size)
		}
		room := 0
		for _, chunk := range b.chunks {
			room += cap(chunk)
		}
		if room > max(2*size, firstChunk) {
			t.Errorf("%d bytes: got %d bytes of memory, want at most as much again", size, room)
		}
		for range 2 { // a request may be sent again
			r := b.Open()
			if err := iotest.TestReader(r, text[:size]); err != nil {
				t.Errorf("%d bytes: %v", size, err)
			}
			r = b.Open()
			var out bytes.Buffer
			if _, err := io.Copy(&out, r); err != nil || !bytes.Equal(out.Bytes(), text[:size]) {
				t.Errorf("%d bytes: got %d, %v", size, out.Len(), err)
			}
		}
	}
}

// What a Transport still reads is nobody else's, though the exchange is over.
func TestHeldBody_IsKeptWhileItIsRead(t *testing.T) {
	text := string(bytes.Repeat([]byte("x"), 200_000))
	b := held(text)
	first, second := b.Open(), b.Open()
	b.done()
	head := make([]byte, 100_000)
	if _, err := io.ReadFull(first, head); err != nil {
		t.Fatal(err)
	}
	_ = second.Close()
	_ = second.Close()
	if rest, err := io.ReadAll(first); err != nil || string(head)+string(rest) != text {
		t.Errorf("got %d bytes, %v", len(rest), err)
	}
	if b.chunks == nil {
		t.Error("the body was given back before its last reader was closed")
	}
	_ = first.Close()
	if b.chunks != nil {
		t.Error("the body was not given back")
	}
	if n, err := first.Read(head); n != 0 || !errors.Is(err, http.ErrBodyReadAfterClose) {
		t.Errorf("read after close: got %d, %v", n, err)
	}
}

// The reader of a short body needs not be closed, so nobody else gets its memory.
func TestHeldBody_ShortIsNotLent(t *testing.T) {
	text := string(bytes.Repeat([]byte("x"), firstChunk))
	for range 20 {
		b := held(text)
		r := b.Open()
		b.done()
		other := lendChunk(firstChunk)
		copy(other[:cap(other)], bytes.Repeat([]byte("y"), firstChunk))
		if got, err := io.ReadAll(r); err != nil || string(got) != text {
			t.Fatalf("got %.10q and so on, %v", got, err)
		}
		returnChunk(other)
	}
}
