package main

import (
	"net"
	"syscall"
)

// listenPrivate listens on a unix socket that only this user can open, from when it
// is there.
func listenPrivate(path string) (net.Listener, error) {
	before := syscall.Umask(0o177)
	defer syscall.Umask(before)
	return net.Listen("unix", path)
}

// peerOf tells whose process has connected to a unix socket.
func peerOf(conn net.Conn) (p peer) {
	socket, ok := conn.(*net.UnixConn)
	if !ok {
		return p
	}
	p = peer{known: true, uid: -1} // nobody, if that cannot be told
	raw, err := socket.SyscallConn()
	if err != nil {
		return p
	}
	_ = raw.Control(func(fd uintptr) {
		if who, err := syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED); err == nil {
			p.uid = int(who.Uid)
		}
	})
	return p
}
