package integration

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"throttle-proxy/integration/redistest"
)

var cutsInAll = flag.Int("cuts", 300, "how many clients are cut in TestALostReplyIsGotByRepeating")

const orderKey = "Idempotency-Key: order-17"

func replayed(t *testing.T, what string, a answer, status int, body string) {
	t.Helper()
	if a.status != status || a.body != body || a.header.Get("Idempotent-Replayed") != "true" {
		t.Errorf("%s: got %v %q, replayed %q, want %d %q replayed", what, a, a.body, a.header.Get("Idempotent-Replayed"), status, body)
	}
}

func TestAnswersAreKeptForAllReplicas(t *testing.T) {
	t.Parallel()
	u := newUpstream(t)
	defer u.open()
	f := startFleet(t, 2, "--register", "pay="+u.URL, "--register", "other="+u.URL, "--rate", "1/d", "--rate", "other=off", "--hold", "1h", "--idempotency", "24h")
	expect(t, "the first", post(t, f.replicas[0].url+"/pay", "5", orderKey, answersOwn), "202")
	for i, r := range append(f.replicas, startReplicas(t, f.server.URL(), 1, "--register", "pay="+u.URL, "--rate", "1/d", "--idempotency", "24h")...) {
		what := fmt.Sprint("replica ", i)
		again := post(t, r.url+"/pay", "5", `X-Idempotency-Key: "order-17"`, answersOwn)
		replayed(t, what, again, 202, "its own words")
		if got := fmt.Sprint(again.header["X-Own"], again.header.Get("Content-Type"), again.header.Get("Cache-Status")); got != "[a b]text/x-ownthrottle-proxy; hit" {
			t.Errorf("%s: got %s, want the fields of the first", what, got)
		}
		expect(t, what+", another content", post(t, r.url+"/pay", "6", orderKey, answersOwn), "422 key-reused")
		expect(t, what+", a refreshed token", post(t, r.url+"/pay", "5", orderKey, answersOwn, "Authorization: Bearer 2"), "422 key-reused")
		expect(t, what+", malformed", post(t, r.url+"/pay", "5", `Idempotency-Key: "order`), "400 bad-key")
	}
	expect(t, "another key", post(t, f.replicas[1].url+"/pay", "5", "Idempotency-Key: order-18"), "429 limited")
	expect(t, "another route", post(t, f.replicas[1].url+"/other", "6", orderKey), "200")
	if calls := u.all(); len(calls) != 2 {
		t.Errorf("%d requests reached the upstream, want 2", len(calls))
	}
}

func TestAKeyInFlight(t *testing.T) {
	t.Parallel()
	u := newUpstream(t)
	defer u.open()
	f := startFleet(t, 2, "--register", "pay="+u.URL, "--rate", "off", "--idempotency", "24h")
	first := u.await(t, func() answer { return post(t, f.replicas[0].url+"/pay", "5", orderKey, blocks) })
	for _, r := range f.replicas {
		expect(t, "the same", post(t, r.url+"/pay", "5", orderKey, blocks), "409 duplicate")
		expect(t, "another content", post(t, r.url+"/pay", "6", orderKey, blocks), "422 key-reused")
	}
	u.open()
	expect(t, "the first", <-first, "200")
	replayed(t, "at once", post(t, f.replicas[1].url+"/pay", "5", orderKey, blocks), 200, "")
}

// A replica that dies leaves an outcome that nobody knows, and never a second send.
func TestAKeyWhoseReplicaDiedIsUnknown(t *testing.T) {
	t.Parallel()
	u := newUpstream(t)
	defer u.open()
	f := startFleet(t, 2, "--register", "pay="+u.URL, "--rate", "off", "--idempotency", "24h", "--lock-ttl", "2s", "--store-timeout", "200ms")
	go func() {
		_, _ = try(context.Background(), client, http.MethodPost, f.replicas[0].url+"/pay", "5", orderKey, blocks)
	}()
	eventually(t, "it is under way", func() bool { return len(u.all()) == 1 })
	f.replicas[0].signal(t, syscall.SIGKILL)
	eventually(t, "its lock is gone", func() bool {
		return post(t, f.replicas[1].url+"/pay", "5", orderKey, blocks).String() == "409 outcome-unknown"
	})
	expect(t, "another content", post(t, f.replicas[1].url+"/pay", "6", orderKey, blocks), "422 key-reused")
	if calls := u.all(); len(calls) != 1 {
		t.Errorf("%d requests reached the upstream, want 1", len(calls))
	}
}

func TestKeysWithoutTheirStore(t *testing.T) {
	t.Parallel()
	u := newUpstream(t)
	defer u.open()
	server := redistest.Start(t, "--appendonly", "yes", "--appendfsync", "always", "--dir", t.TempDir())
	r := startReplicas(t, server.URL(), 1, "--register", "pay="+u.URL, "--register", "open="+u.URL, "--rate", "off", "--hold", "0s,unknown=0s",
		"--idempotency", "24h", "--when-undecided", "open=open", "--store-timeout", "200ms")[0]
	expect(t, "the first", post(t, r.url+"/pay", "5", orderKey, answersOwn), "202")
	expect(t, "the first", post(t, r.url+"/open", "5", orderKey, answersOwn), "202")
	server.Kill()
	away := post(t, r.url+"/pay", "5", orderKey, answersOwn)
	expect(t, "away", away, "503 undecided")
	if away.header.Get("Retry-After") == "" {
		t.Error("no Retry-After, want one")
	}
	expect(t, "away, and open", post(t, r.url+"/open", "5", orderKey, answersOwn), "202")
	expect(t, "away, without a key", post(t, r.url+"/pay", "5", answersOwn), "202")
	server.Restart()
	again := decided(func() answer { return post(t, r.url+"/pay", "5", orderKey, answersOwn) })
	replayed(t, "restarted with its data", again, 202, "its own words")
	if err := server.Client().FlushAll(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	if a := post(t, r.url+"/pay", "5", orderKey, answersOwn); a.String() != "202" || a.header.Get("Idempotent-Replayed") != "" {
		t.Errorf("got %v, want it sent again where the store has lost it", a)
	}
}

// A Redis that is full refuses answers: they are not kept, and locks end all the same.
func TestAFullStoreKeepsNoAnswer(t *testing.T) {
	t.Parallel()
	u := newUpstream(t)
	defer u.open()
	f := startFleet(t, 1, "--register", "pay="+u.URL, "--rate", "off", "--idempotency", "24h")
	first := u.await(t, func() answer { return post(t, f.replicas[0].url+"/pay", "5", orderKey, blocks) })
	f.redis.ConfigSet(t.Context(), "maxmemory", "1")
	u.open()
	expect(t, "the first", <-first, "200")
	if locks := f.locks(t); len(locks) != 0 {
		t.Errorf("got locks %v, want none", locks)
	}
	f.redis.ConfigSet(t.Context(), "maxmemory", "0")
	expect(t, "again", decided(func() answer { return post(t, f.replicas[0].url+"/pay", "5", orderKey, blocks) }), "409 answer-not-kept")
}

// Clients are cut at random instants, and ask again on another replica: each request
// is executed once, and its client gets that very answer, or is told that its outcome
// is not known.
func TestALostReplyIsGotByRepeating(t *testing.T) {
	t.Parallel()
	u := newUpstream(t)
	defer u.open()
	var mu sync.Mutex
	made := map[string][]string{} // by the key, the answers
	u.does["makes"] = func(w http.ResponseWriter, r *http.Request) {
		order := r.Header.Get("Idempotency-Key")
		time.Sleep(rand.N(3 * time.Millisecond))
		answer := fmt.Sprint(order, " ", rand.Int64(), strings.Repeat("x", rand.IntN(20<<10)))
		mu.Lock()
		made[order] = append(made[order], answer)
		mu.Unlock()
		w.WriteHeader(http.StatusCreated)
		_, _ = io.WriteString(w, answer[:len(answer)/2])
		if rand.IntN(2) == 0 {
			_ = http.NewResponseController(w).Flush()
			time.Sleep(rand.N(time.Millisecond))
		}
		_, _ = io.WriteString(w, answer[len(answer)/2:])
	}
	const makes = doesField + ": makes"
	f := startFleet(t, 3, "--register", "pay="+u.URL, "--rate", "off", "--idempotency", "24h")
	replays, unknown := 0, 0
	each(*cutsInAll, 16, func(i int) {
		body := fmt.Sprint("order ", i)
		cut, other := f.replicas[rand.IntN(3)], f.replicas[rand.IntN(3)]
		if conn, err := net.Dial("tcp", cut.addr); err == nil {
			_, _ = fmt.Fprintf(conn, "POST /pay HTTP/1.1\r\nHost: pay\r\n%s\r\nIdempotency-Key: %d\r\nContent-Length: %d\r\n\r\n%s", makes, i, len(body), body)
			if rand.IntN(2) == 0 { // by a reset
				_ = conn.(*net.TCPConn).SetLinger(0)
			}
			time.Sleep(rand.N(8 * time.Millisecond))
			_ = conn.Close()
		}
		var a answer
		for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
			a = post(t, other.url+"/pay", body, makes, fmt.Sprint("Idempotency-Key: ", i))
			if a.Reason != "duplicate" {
				break
			}
		}
		mu.Lock()
		defer mu.Unlock()
		got := made[fmt.Sprint(i)]
		if len(got) != 1 {
			t.Errorf("order %d: executed %d times, want once", i, len(got))
			return
		}
		switch {
		case a.Reason == "outcome-unknown":
			unknown++
		case a.status != http.StatusCreated || a.body != got[0]:
			t.Errorf("order %d: got %v with %d bytes, want its answer of %d", i, a, len(a.body), len(got[0]))
		case a.header.Get("Idempotent-Replayed") == "true":
			replays++
		}
	})
	t.Logf("%d cut: %d answers replayed, %d outcomes unknown", *cutsInAll, replays, unknown)
	if replays == 0 {
		t.Error("no answer was replayed: the test has shown nothing")
	}
}

// What is written of a request with a key, of one that is followed on another replica,
// and of an answer that is kept for a hold, is sealed.
func TestKeptAnswersAreSealed(t *testing.T) {
	t.Parallel()
	const mark = "PLANTED"
	u := newUpstream(t)
	defer u.open()
	u.does["mark"] = func(w http.ResponseWriter, r *http.Request) {
		u.does["block"](w, r)
		w.Header().Set("X-Own", mark)
		_, _ = io.WriteString(w, strings.Repeat(mark, 100))
	}
	dir := t.TempDir()
	server := redistest.Start(t, "--appendonly", "yes", "--appendfsync", "always", "--rdbcompression", "no", "--dir", dir)
	monitor, messages := record(t, server, "MONITOR"), record(t, server, "PSUBSCRIBE *")
	replicas := startReplicas(t, server.URL(), 2, "--register", "pay="+u.URL, "--idempotency", "pay=24h,by=header:X-By",
		"--register", "shared="+u.URL, "--on-duplicate", "shared=join", "--hold", "shared=1h", "--rate", "off")
	gets := func(replica int, path string) answer {
		return post(t, replicas[replica].url+path, mark, "Idempotency-Key: "+mark, doesField+": mark", "Authorization: "+mark, "X-By: "+mark)
	}
	leader := u.await(t, func() answer { return gets(0, "/shared") })
	follower := inBackground(func() answer { return gets(1, "/shared") })
	awaitWanted(t, server.Client())
	eventually(t, "it listens", func() bool { return len(server.Client().PubSubChannels(t.Context(), "*:flights").Val()) > 0 })
	u.open()
	for i, a := range []answer{<-leader, <-follower, gets(0, "/shared"), gets(1, "/shared"), gets(0, "/pay"), gets(1, "/pay")} {
		if a.status != http.StatusOK || !strings.Contains(a.body, mark) {
			t.Errorf("answer %d: got %v, want the mark", i, a)
		}
	}
	if calls := u.all(); len(calls) != 2 {
		t.Errorf("%d requests reached the upstream, want one of each route", len(calls))
	}
	if err := server.Client().Save(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	places := map[string]string{"MONITOR": monitor(), "messages": messages()}
	_ = filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			content, _ := os.ReadFile(path)
			places[path] = string(content)
		}
		return nil
	})
	found := map[string]int{}
	for place, text := range places {
		if strings.Contains(text, mark) {
			t.Errorf("%s tells the mark", place)
		}
		for _, kind := range []string{":key:", ":answer:"} {
			if strings.Contains(text, kind) {
				found[kind]++
			}
		}
	}
	if found[":key:"] < 3 || found[":answer:"] < 3 {
		t.Errorf("a kept key is in %d of %d places, and an answer in %d, want MONITOR, AOF and RDB", found[":key:"], len(places), found[":answer:"])
	}
	if !strings.Contains(places["messages"], ":flights") {
		t.Errorf("got messages %q, want that of a flight", places["messages"])
	}
}

// record sends a server a command, and returns what stops it and tells all that the
// server has said since.
func record(t *testing.T, server *redistest.Server, command string) (stop func() string) {
	t.Helper()
	conn, err := net.Dial("tcp", server.Addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	begun := make([]byte, 1)
	_, _ = io.WriteString(conn, command+"\r\n")
	if _, err := io.ReadFull(conn, begun); err != nil || begun[0] == '-' {
		t.Fatalf("%s: got %q, %v", command, begun, err)
	}
	var said bytes.Buffer
	var reading sync.WaitGroup
	reading.Go(func() { _, _ = io.Copy(&said, conn) })
	return func() string {
		// All that was said before has come by then.
		_, _ = io.WriteString(conn, "QUIT\r\n")
		reading.Wait()
		return said.String()
	}
}
