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

// writeNow writes what a socket takes at once of parts, of which none is empty.
// Where a write would wait, the error is [os.ErrDeadlineExceeded].
func writeNow(fd uintptr, parts [][]byte) (int, error) {
	const most = 64 // parts in one call: systems have bounds of at least 1024
	for {
		n, err := writev(int(fd), parts[:min(most, len(parts))])
		switch {
		case err == syscall.EINTR:
		case err == syscall.EAGAIN:
			return 0, os.ErrDeadlineExceeded
		default:
			return max(n, 0), err
		}
	}
}
