//go:build !linux

package main

import "net"

// ignoreConnects can only be done on Linux.
func ignoreConnects(*net.TCPListener) (pending func() bool) {
	return func() bool { return false }
}
