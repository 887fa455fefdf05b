//go:build !linux

package main

import (
	"net"
	"os"
)

// listenPrivate listens on a unix socket that only this user can open.
func listenPrivate(path string) (net.Listener, error) {
	listener, err := net.Listen("unix", path)
	if err == nil {
		err = os.Chmod(path, 0o600)
	}
	return listener, err
}

// peerOf is only known on Linux.
func peerOf(net.Conn) peer { return peer{} }
