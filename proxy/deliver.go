package proxy

import (
	"io"
	"net/http"

	"throttle-proxy/proxy/upstream"
)

// deliver passes an answer on.
func (x *exchange) deliver(a *upstream.Answer) {
	header := x.client.Header()
	removeHopByHop(a.Header)
	x.mapPlaces(a.Header)
	for name, values := range a.Header {
		if header[name] != nil {
			values = append(header[name], values...)
		}
		header[name] = values
	}
	if header["Content-Type"] == nil {
		header["Content-Type"] = nil // or net/http guesses one
	}
	a.Trailer = allowedTrailers(a.Trailer)
	records := x.records(a)
	if x.record != nil {
		x.record.begin(a)
	}
	if !records {
		x.shareNothing()
	}
	announced := len(a.Trailer)
	for name := range a.Trailer {
		header.Add("Trailer", name)
	}
	x.event.Status = a.StatusCode
	x.addRateLimit(x.decisions, x.used)
	bodyless := x.in.Method == http.MethodHead || a.StatusCode == http.StatusNoContent || a.StatusCode == http.StatusNotModified
	if bodyless || a.ContentLength == 0 {
		if records {
			x.record.whole = true
			if !bodyless {
				x.record.header.Set("Content-Length", "0") // as net/http says where the upstream's frames alone do
			}
		}
		x.settle() // there is no later part
	}
	x.client.begin(a.StatusCode)
	if a.ContentLength < 0 {
		x.client.flush() // the first part may come late
	}
	if !bodyless {
		if records && a.ContentLength != 0 {
			x.record.run(a, x.settle, x.shareNothing)
		}
		x.copyBody(a)
		x.sendTrailers(a, announced)
	}
	x.client.ended = true
}

// Inform passes an informational answer on.
func (x *exchange) Inform(status int, header http.Header) {
	x.mapPlaces(header)
	x.client.inform(status, header)
}

// copyBody copies an answer's body. Before the last part of one whose length is
// known the lock is released: a client that repeats its request as soon as it has
// its answer is no duplicate. The end of any other is sent by the server, after
// [exchange.forward].
func (x *exchange) copyBody(a *upstream.Answer) {
	left := a.ContentLength // -1 if unknown
	buffer := copyBuffers.Get()
	defer copyBuffers.Put(buffer)
	for {
		n, err := a.Body.Read(buffer)
		if left > 0 {
			if left -= int64(n); left <= 0 {
				x.settle()
			}
		}
		if n > 0 {
			if _, err := x.client.Write(buffer[:n]); err != nil {
				x.record.wait()
				x.breakOff()
			}
			if left != 0 {
				x.client.flush() // more is to come, maybe late: what is there is not kept waiting for it
			}
		}
		if err == io.EOF {
			return
		} else if err != nil {
			x.cutAnswer(err)
		}
	}
}

// cutAnswer ends an answer whose body breaks off.
func (x *exchange) cutAnswer(err error) {
	if failure, ok := err.(*upstream.Failure); ok {
		x.event.Fault = failure.Fault
	}
	x.breakOff()
}

// breakOff cuts an answer that has begun.
func (x *exchange) breakOff() {
	x.lose()
	x.client.abort()
}

// sendTrailers ends an answer that has trailers, of which some were announced.
func (x *exchange) sendTrailers(a *upstream.Answer, announced int) {
	trailers := allowedTrailers(a.Trailer)
	if len(trailers) == 0 {
		return
	}
	x.client.flush() // trailers follow chunks only
	prefix := http.TrailerPrefix
	if len(trailers) == announced {
		prefix = ""
	}
	header := x.client.Header()
	for name, values := range trailers {
		if len(values) > 0 { // or it was announced alone, and net/http's HTTP/2 never ends an answer with an empty one
			header[prefix+name] = append(header[prefix+name], values...)
		}
	}
}
