package main

import (
	"net"
	"strconv"
	"syscall"
)

// listenPrivate listens on a unix socket that only this user can open, from when it
// is there.
func listenPrivate(path string) (net.Listener, error) {
	before := syscall.Umask(0o177)
	defer syscall.Umask(before)
	return net.Listen("unix", path)
}

// peerOf names whose process has connected to a unix socket.
func peerOf(conn net.Conn) string {
	socket, ok := conn.(*net.UnixConn)
	if !ok {
		return ""
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return ""
	}
	peer := ""
	_ = raw.Control(func(fd uintptr) {
		if who, err := syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED); err == nil {
			peer = "uid " + strconv.FormatUint(uint64(who.Uid), 10)
		}
	})
	return peer
}
