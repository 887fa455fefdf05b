//go:build unix && !linux && !darwin && !openbsd

package upstream

import "syscall"

// writev writes the first part, where package unix has no call for several.
func writev(fd int, parts [][]byte) (int, error) { return syscall.Write(fd, parts[0]) }
