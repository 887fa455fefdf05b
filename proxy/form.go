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

// appendFormSum appends the hash of a form's bytes but its delimiters, and that
// of where those stood.
func (b *heldBody) appendFormSum(sum []byte, boundary string) []byte {
	delimiter := []byte("\r\n--" + boundary)
	text, places := sha256.New(), sha256.New()
	at := uint64(0)
	take := func(part []byte) {
		text.Write(part)
		at += uint64(len(part))
	}
	buffer := make([]byte, 0, min(b.size, lentChunk)+2*int64(len(delimiter)))
	rest := append(buffer, "\r\n"...) // the first delimiter may begin the body
	for _, chunk := range b.chunks {
		rest = append(rest, chunk...)
		for {
			before, after, found := bytes.Cut(rest, delimiter)
			if !found {
				break
			}
			take(before)
			places.Write(binary.BigEndian.AppendUint64(nil, at))
			rest = after
		}
		begun := min(len(rest), len(delimiter)-1) // the next chunk may go on with it
		take(rest[:len(rest)-begun])
		rest = append(buffer, rest[len(rest)-begun:]...)
	}
	take(rest)
	return places.Sum(text.Sum(sum))
}
