//go:build unix

package proxy

import "syscall"

// canLook tells whether nothingToRead can be asked here.
const canLook = true

// nothingToRead reports whether a read of a socket would wait.
func nothingToRead(fd uintptr) bool {
	var b [1]byte
	_, err := syscall.Read(int(fd), b[:])
	return err == syscall.EAGAIN
}
