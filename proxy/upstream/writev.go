//go:build linux || darwin || openbsd

package upstream

import "golang.org/x/sys/unix"

func writev(fd int, parts [][]byte) (int, error) { return unix.Writev(fd, parts) }
