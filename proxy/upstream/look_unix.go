//go:build unix

package upstream

import (
	"io"
	"os"
	"syscall"
)

// canLook tells whether readNow can be asked here.
const canLook = true

// readNow reads what has come on a socket. Where a read would wait, the error is
// [os.ErrDeadlineExceeded].
func readNow(fd uintptr, p []byte) (int, error) {
	for {
		n, err := syscall.Read(int(fd), p)
		switch {
		case err == syscall.EINTR:
		case err == syscall.EAGAIN:
			return 0, os.ErrDeadlineExceeded
		case err != nil:
			return 0, err
		case n == 0 && len(p) > 0:
			return 0, io.EOF
		default:
			return n, nil
		}
	}
}
