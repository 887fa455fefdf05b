//go:build !unix

package proxy

// silent reports false: nothing can be known of a connection here without
// reading from it, so each is used once.
func (c *directConn) silent() bool { return false }
