//go:build unix

package proxy

import "syscall"

// silent reports whether nothing has come since the last answer: neither the
// end of the connection, nor bytes that would be taken for the next answer.
func (c *directConn) silent() bool {
	if c.raw == nil {
		return true // a write will tell
	}
	silent := false
	err := c.raw.Control(func(fd uintptr) {
		var surplus [1]byte
		_, err := syscall.Read(int(fd), surplus[:])
		silent = err == syscall.EAGAIN
	})
	return err == nil && silent
}
