package proxy

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"mime"
	"net/http"
	"strings"
)

// formOf returns the boundary of a multipart/form-data, which clients make up
// anew for each, and its Content-Type without. Both are empty for any other
// body.
func formOf(h http.Header) (kind, boundary string) {
	types := h["Content-Type"]
	const form = "multipart/form-data"
	if len(types) != 1 || len(types[0]) < len(form) || !strings.EqualFold(types[0][:len(form)], form) {
		return "", ""
	}
	kind, params, err := mime.ParseMediaType(types[0])
	boundary = params["boundary"]
	if err != nil || kind != form || len(boundary) > 70 { // RFC 2046 5.1.1
		return "", ""
	}
	delete(params, "boundary")
	return mime.FormatMediaType(kind, params), boundary
}

// appendFormSum appends the hash of a form's bytes but the boundary in its
// delimiters, and that of where those stood. What only begins like a delimiter is
// a part's content: it is compared as it is.
func (b *heldBody) appendFormSum(sum []byte, boundary string) []byte {
	delimiter := []byte("\r\n--" + boundary)
	text, places := sha256.New(), sha256.New()
	at := uint64(0)
	take := func(part []byte) {
		text.Write(part)
		at += uint64(len(part))
	}
	keep := len(delimiter) + endOfDelimiter - 1 // bytes with which the next chunk may go on
	buffer := make([]byte, 0, min(b.size, lentChunk)+2*int64(keep+1))
	rest := append(buffer, "\r\n"...) // the first delimiter may begin the body
	for i := range len(b.chunks) + 1 {
		last := i == len(b.chunks)
		if !last {
			rest = append(rest, b.chunks[i]...)
		}
		for {
			n := bytes.Index(rest, delimiter)
			if n < 0 {
				break
			}
			after := rest[n+len(delimiter):]
			if !last && len(after) < endOfDelimiter {
				break
			}
			if endsDelimiter(after) {
				take(rest[:n])
				places.Write(binary.BigEndian.AppendUint64(nil, at))
				rest = after
			} else {
				n += len("\r\n")
				take(rest[:n])
				rest = rest[n:]
			}
		}
		if !last {
			begun := min(len(rest), keep)
			take(rest[:len(rest)-begun])
			rest = append(buffer, rest[len(rest)-begun:]...)
		}
	}
	take(rest)
	return places.Sum(text.Sum(sum))
}

// endOfDelimiter is how many bytes behind a boundary tell whether it was one.
const endOfDelimiter = len("--\r\n")

// endsDelimiter reports whether a delimiter ends where after begins: with its line,
// or with the form.
func endsDelimiter(after []byte) bool {
	rest, _ := bytes.CutPrefix(after, []byte("--"))
	return bytes.HasPrefix(rest, []byte("\r\n")) || len(rest) == 0 && len(after) > 0
}
