package main

import (
	"net"

	"golang.org/x/sys/unix"
)

// ignoreConnects lets no client begin to connect: its SYN is ignored, and sent
// again by its system a second later, when the listener is closed and refuses
// it. Handshakes that have begun go on. pending reports whether a connection
// waits to be accepted.
func ignoreConnects(l *net.TCPListener) (pending func() bool) {
	const flags, syn = 13, 0x02 // in a TCP header
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: flags},
		{Code: unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K, K: syn, Jt: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: 1 << 31}, // bytes to let through
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
	}
	raw, err := l.SyscallConn()
	if err != nil {
		return func() bool { return false }
	}
	_ = raw.Control(func(fd uintptr) {
		// Without it, connections that are made meanwhile may be reset.
		_ = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
			&unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]})
	})
	return func() (waits bool) {
		_ = raw.Control(func(fd uintptr) {
			info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
			waits = err == nil && info.Unacked > 0 // what a listener has of it
		})
		return waits
	}
}
