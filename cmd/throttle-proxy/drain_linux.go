package main

import (
	"net"

	"golang.org/x/sys/unix"
)

// ignoreConnects lets no client begin to connect: its SYN is ignored, and sent
// again by its system a second later, when the listener is closed and refuses
// it. Handshakes that have begun go on. Where it is not possible, connections
// that are made while the listener is closed are reset.
func ignoreConnects(l *net.TCPListener) {
	const (
		flags   = 13 // where they are in a TCP header
		syn     = 0x02
		all     = 0xffffffff
		nothing = 0
	)
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: flags},
		{Code: unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K, K: syn, Jt: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: all},
		{Code: unix.BPF_RET | unix.BPF_K, K: nothing},
	}
	if raw, err := l.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) {
			_ = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
				&unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]})
		})
	}
}
