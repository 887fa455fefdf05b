//go:build !unix

package upstream

import "errors"

const canLook = false

func readNow(uintptr, []byte) (int, error) { return 0, errors.ErrUnsupported }

func writeNow(uintptr, [][]byte) (int, error) { return 0, errors.ErrUnsupported }
