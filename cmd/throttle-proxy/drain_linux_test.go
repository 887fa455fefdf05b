package main

import (
	"net"
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
	before, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer before.Close()

	pending := ignoreConnects(listener.(*net.TCPListener))
	if conn, err := net.DialTimeout("tcp", listener.Addr().String(), 200*time.Millisecond); err == nil {
		t.Error("a client got in")
		_ = conn.Close()
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
}
