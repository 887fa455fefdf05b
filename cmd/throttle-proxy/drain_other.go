//go:build !linux

package main

import "net"

func ignoreConnects(*net.TCPListener) {}
