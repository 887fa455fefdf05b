package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"
)

// Fails if the listener is of a kind that has no filters.
func TestStoppingListenerLetsNobodyConnect(t *testing.T) {
	listener, err := (&config{network: "tcp", address: "127.0.0.1:0"}).listen(t.Context(), func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	addr := listener.Addr().(*net.TCPAddr)
	before, err := net.Dial("tcp", addr.String())
	if err != nil {
		t.Fatal(err)
	}
	defer before.Close()

	pending := ignoreConnects(listener.(*net.TCPListener))
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	connected := make(chan error, 1)
	go func() {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr.String())
		if err == nil {
			_ = conn.Close()
		}
		connected <- err
	}()
	for !connecting(t, addr.Port) {
		select {
		case err := <-connected:
			t.Fatalf("a client got in, or was refused: %v", err)
		case <-time.After(time.Millisecond):
		}
	}
	if !pending() {
		t.Error("the connection that was there before is not pending")
	}
	accepted, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	_ = accepted.Close()
	if pending() {
		t.Error("there is none, and one is pending")
	}
	leave()
	if err := <-connected; err == nil {
		t.Error("a client got in")
	}
}

// connecting reports whether a client has sent a SYN to a port of 127.0.0.1 that
// is not answered.
func connecting(t *testing.T, port int) bool {
	t.Helper()
	const synSent = "02"
	table, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Contains(string(table), fmt.Sprintf(" 0100007F:%04X %s ", port, synSent))
}
