package upstream

import (
	"net/http"
	"sync"
)

// hints passes informational answers on for a Transport, which is not to wait for the
// client that gets them: the connection may have other requests. There are never more
// than an informer lets pass. The zero hints, with its to set, has none.
type hints struct {
	to interface {
		Inform(status int, header http.Header)
	}
	waiting chan hint // nil before the first
	passing sync.WaitGroup
}

type hint struct {
	status int
	header http.Header
}

// Inform returns before the client has been told.
func (h *hints) Inform(status int, header http.Header) {
	if h.waiting == nil {
		h.waiting = make(chan hint, maxInformational)
		h.passing.Go(func() {
			for one := range h.waiting {
				h.to.Inform(one.status, one.header)
			}
		})
	}
	h.waiting <- hint{status, header}
}

// end returns when the client has been told all.
func (h *hints) end() {
	if h.waiting != nil {
		close(h.waiting)
		h.passing.Wait()
	}
}
