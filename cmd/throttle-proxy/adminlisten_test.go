package main

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"throttle-proxy/cluster"
)

// Fails if somebody else who can open the socket, since its mode was changed, changes
// things or profiles.
func TestAdmin_OthersOnlyRead(t *testing.T) {
	c := parse(t, "--register hook=http://host")
	store := cluster.NewMemory("replica")
	r, err := newReplica(c, store, &life{logger: slog.New(slog.DiscardHandler)}, &health{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	lines := newLogWriter(io.Discard)
	defer lines.close()
	a := &admin{config: c, metrics: newMetrics(c, r, store, lines), store: store, replica: r}
	handler := a.changing()
	for _, tt := range []struct {
		method, path string
		who          peer
		want         int
	}{
		{"POST", "/-/control", peer{known: true, uid: os.Geteuid()}, http.StatusOK},
		{"POST", "/-/control", peer{known: true, uid: 0}, http.StatusOK},
		{"POST", "/-/control", peer{known: true, uid: os.Geteuid() + 1}, http.StatusForbidden},
		{"POST", "/-/control", peer{known: true, uid: -1}, http.StatusForbidden},
		{"POST", "/-/explain", peer{known: true, uid: os.Geteuid() + 1}, http.StatusForbidden},
		{"GET", "/debug/pprof/heap", peer{known: true, uid: os.Geteuid() + 1}, http.StatusForbidden},
		{"GET", "/debug/pprof/symbol", peer{known: true, uid: os.Geteuid()}, http.StatusOK},
	} {
		r := httptest.NewRequest(tt.method, tt.path, strings.NewReader(`{"do":"pause","route":"hook"}`))
		r.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), peerKey{}, tt.who)))
		if w.Code != tt.want {
			t.Errorf("%s %s by %s: got %d %s, want %d", tt.method, tt.path, tt.who, w.Code, w.Body, tt.want)
		}
	}
}

func TestPeerOf_IsWhoConnected(t *testing.T) {
	path := filepath.Join(t.TempDir(), "admin.sock")
	l, err := listenPrivate(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if p := peerOf(conn); !p.mayChange() || p.known && p.uid != os.Geteuid() {
		t.Errorf("got %+v, want this user", p)
	}
}

// A page of another site that has its own name lead to this host reads nothing.
func TestIsLocalName(t *testing.T) {
	for host, want := range map[string]bool{
		"": true, "localhost": true, "LOCALHOST:9090": true, "127.0.0.1:9090": true, "[::1]:9090": true, "10.0.0.7": true, "a.localhost:1": true,
		"evil.example": false, "evil.example:9090": false, "127.0.0.1.evil.example": false, "localhost.evil.example:80": false, "notlocalhost": false,
	} {
		if got := isLocalName(host); got != want {
			t.Errorf("%q: got %v, want %v", host, got, want)
		}
	}
}
