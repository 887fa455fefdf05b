package proxy

import "net/http"

// Trace follows one request for whoever sees it as a part of something larger. Its
// methods are called by one goroutine at a time.
type Trace interface {
	// Sending is called when the request is about to be sent on with header, in which
	// it may tell the upstream what the request is a part of.
	Sending(header http.Header)
	// End is called when the request has ended, with its Event.
	End(*Event)
}
