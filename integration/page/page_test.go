// Package page looks at the operators' page with a real browser, while a real
// fleet behind it has load, differs, and loses its Redis.
package page

import (
	"testing"

	"throttle-proxy/integration/redistest"
)

func TestPage(t *testing.T) {
	_ = redistest.Start(t)
}
