package cluster

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"throttle-proxy/integration/redistest"
)

// secret stands in every URL below where a secret may, and nowhere else.
const secret = "hunter2"

// endpoint is what is read from a URL.
type endpoint struct {
	addrs              string
	db                 int
	user, password     string
	master             string
	sentinelUser       string
	sentinelPassword   string
	isCluster, withTLS bool
}

var goodURLs = []struct {
	url     string
	want    endpoint
	address string // as people may read it
}{
	{"redis://localhost", endpoint{addrs: "localhost:6379"}, "redis://localhost"},
	{"redis://localhost:7000/", endpoint{addrs: "localhost:7000"}, "redis://localhost:7000/"},
	{"redis://10.0.0.1/15", endpoint{addrs: "10.0.0.1:6379", db: 15}, "redis://10.0.0.1/15"},
	{"redis://[::1]", endpoint{addrs: "[::1]:6379"}, "redis://[::1]"},
	{"redis://[::1]:7000/1", endpoint{addrs: "[::1]:7000", db: 1}, "redis://[::1]:7000/1"},
	{"redis://:hunter2@localhost", endpoint{addrs: "localhost:6379", password: secret}, "redis://localhost"},
	{"redis://me:hunter2@localhost/2", endpoint{addrs: "localhost:6379", db: 2, user: "me", password: secret}, "redis://localhost/2"},
	{"redis://me:hunter2%40%2F%3F%23%3A@localhost", endpoint{addrs: "localhost:6379", user: "me", password: secret + "@/?#:"}, "redis://localhost"},
	{"redis://me:hunter2@hunter2@localhost", endpoint{addrs: "localhost:6379", user: "me", password: secret + "@" + secret}, "redis://localhost"},
	{"rediss://me:hunter2@localhost:7000", endpoint{addrs: "localhost:7000", user: "me", password: secret, withTLS: true}, "rediss://localhost:7000"},
	{"unix:///run/redis.sock", endpoint{addrs: "/run/redis.sock"}, "unix:///run/redis.sock"},
	{"unix://me:hunter2@/run/redis.sock?db=3", endpoint{addrs: "/run/redis.sock", db: 3, user: "me", password: secret}, "unix:///run/redis.sock"},
	{
		"redis+sentinel://a,b:7000,[::1]/4?master_name=m",
		endpoint{addrs: "a:26379 b:7000 [::1]:26379", db: 4, master: "m"},
		"redis+sentinel://a,b:7000,[::1]/4",
	},
	{
		"rediss+sentinel://me:hunter2@a,b?master_name=m&sentinel_username=you&sentinel_password=hunter2",
		endpoint{addrs: "a:26379 b:26379", user: "me", password: secret, master: "m", sentinelUser: "you", sentinelPassword: secret, withTLS: true},
		"rediss+sentinel://a,b",
	},
	{"redis+cluster://a", endpoint{addrs: "a:6379", isCluster: true}, "redis+cluster://a"},
	{"redis+cluster://:hunter2@a,b:7000,c/", endpoint{addrs: "a:6379 b:7000 c:6379", password: secret, isCluster: true}, "redis+cluster://a,b:7000,c/"},
	{"rediss+cluster://a,b", endpoint{addrs: "a:6379 b:6379", isCluster: true, withTLS: true}, "rediss+cluster://a,b"},
}

func TestParseURL(t *testing.T) {
	for _, test := range goodURLs {
		o, err := parseURL(test.url)
		if err != nil {
			t.Errorf("%s: %v", test.url, err)
			continue
		}
		got := endpoint{
			strings.Join(o.Addrs, " "), o.DB, o.Username, o.Password, o.MasterName, o.SentinelUsername, o.SentinelPassword,
			o.IsClusterMode, o.TLSConfig != nil,
		}
		if got != test.want {
			t.Errorf("%s: got %+v, want %+v", test.url, got, test.want)
		}
		if got := Address(test.url); got != test.address {
			t.Errorf("%s: got address %s, want %s", test.url, got, test.address)
		}
	}
}

func TestNewClient_RefusesBadURLs(t *testing.T) {
	for _, test := range []struct{ url, advice string }{
		{"", "write redis://host:port"},
		{"localhost:6379", "write redis://host:port"},
		{"http://localhost", "write redis, rediss, unix, redis+sentinel or redis+cluster"},
		{"redis+proxy://localhost", "write redis, rediss, unix, redis+sentinel or redis+cluster"},
		{"unix+cluster:///run/redis.sock", "write redis, rediss, unix, redis+sentinel or redis+cluster"},
		{"redis://", "write redis://host:port"},
		{"redis:///0", "write redis://host:port"},
		{"redis://me:hunter2@", "write redis://host:port"},
		{"redis+cluster://a,,b", "write redis://host:port"},
		{"redis+cluster://a, b", "write redis://host:port"},
		{"redis://me:hunter2@localhost:", "write a number from 1 to 65535"},
		{"redis://me:hunter2@localhost:0", "write a number from 1 to 65535"},
		{"redis://me:hunter2@localhost:65536", "write a number from 1 to 65535"},
		{"redis://me:hunter2@localhost:redis", "write a number from 1 to 65535"},
		{"redis://me:hunter2@a,b", "write redis+sentinel or redis+cluster"},
		{"rediss://me:hunter2@a,b", "write rediss+sentinel or rediss+cluster"},
		{"redis://me:hunter2@localhost/first", "write its number"},
		{"redis://me:hunter2@localhost/-1", "write its number"},
		{"unix://me:hunter2@/run/redis.sock?db=first", "write its number"},
		{"redis+cluster://me:hunter2@localhost/1", "nothing for a cluster"},
		{"redis+sentinel://me:hunter2@localhost", "add ?master_name=NAME"},
		{"redis://me:hunter2@localhost?master_name=m", "take it out"},
		{"redis://localhost?password=hunter2", "take it out"},
		{"redis+cluster://localhost?sentinel_password=hunter2", "take it out"},
		{"redis://localhost?password=hunter2%zz", "not a valid URL"},
		{"unix://", "write unix:///path/to/socket"},
		{"unix://me:hunter2@", "write unix:///path/to/socket"},
		{"unix://run/redis.sock", "write unix:///path/to/socket"},

		// Passwords that are not escaped end up as some other part of the URL.
		{"redis://me:hunter2%@localhost", "escape special characters"},
		{"redis://me:hunter2 @localhost", "escape special characters"},
		{"redis://me:hunter2\n@localhost", "escape special characters"},
		{"redis://me:hunter2/hunter2@localhost", "escape special characters"},
		{"redis://:hunter2/hunter2@localhost", "escape special characters"},
		{"redis://me:1/hunter2@localhost", "escape special characters"},
		{"redis://me:1?hunter2@localhost", "escape special characters"},
		{"redis://me:1#hunter2@localhost", "escape special characters"},
		{"redis://me:1@a/hunter2@localhost", "escape special characters"},
		{"redis://me:hunter2#@localhost", "escape special characters"},
		{"me:hunter2@localhost://", "write redis"},
		{"redis:me:hunter2://@localhost", "write redis"},
	} {
		_, err := NewClient(test.url, TLSFiles{}, time.Second)
		if err == nil || !strings.Contains(err.Error(), test.advice) {
			t.Errorf("%s: got %v, want an error with %q", test.url, err, test.advice)
		}
		if err != nil && strings.Contains(err.Error(), secret) {
			t.Errorf("%s: the password is in %q", test.url, err)
		}
	}
}

func FuzzParseURL(f *testing.F) {
	for _, test := range goodURLs {
		f.Add(test.url)
	}
	f.Fuzz(func(t *testing.T, url string) {
		o, err := parseURL(url)
		if err != nil {
			return
		}
		// Short ones may stand in the rest of the URL by chance.
		address := Address(url)
		for _, password := range []string{o.Password, o.SentinelPassword} {
			if len(password) > 4 && strings.Contains(address, password) && strings.Count(url, password) == 1 {
				t.Errorf("%q: a password is in %q", url, address)
			}
		}
		if len(o.Addrs) == 0 || slices.Contains(o.Addrs, "") || o.DB < 0 {
			t.Errorf("%q: got %q, database %d", url, o.Addrs, o.DB)
		}
	})
}

func TestNewClient_NeverRetriesAndAlwaysTimesOut(t *testing.T) {
	const timeout = 123 * time.Millisecond
	for _, test := range goodURLs {
		client, err := NewClient(test.url, TLSFiles{}, timeout)
		if err != nil {
			t.Errorf("%s: %v", test.url, err)
			continue
		}
		var retries int
		var timeouts []time.Duration
		var obeysContext bool
		switch client := client.(type) {
		case *redis.Client:
			o := client.Options()
			retries, obeysContext = o.MaxRetries, o.ContextTimeoutEnabled
			timeouts = []time.Duration{o.ReadTimeout, o.WriteTimeout, o.PoolTimeout}
		case *redis.ClusterClient:
			o := client.Options()
			retries, obeysContext = o.MaxRetries, o.ContextTimeoutEnabled
			timeouts = []time.Duration{o.ReadTimeout, o.WriteTimeout, o.PoolTimeout}
		}
		if _, isCluster := client.(*redis.ClusterClient); isCluster != test.want.isCluster {
			t.Errorf("%s: got a %T", test.url, client)
		}
		// A negative number is none; go-redis keeps a cluster's as it is.
		if retries > 0 || !obeysContext || slices.ContainsFunc(timeouts, func(d time.Duration) bool { return d != timeout }) {
			t.Errorf("%s: got %d retries, timeouts %v, by context %t", test.url, retries, timeouts, obeysContext)
		}
		_ = client.Close()
	}
}

func TestNewClient_Connects(t *testing.T) {
	skipIfShort(t)
	cert, key := newCertificate(t)
	both := TLSFiles{CA: cert, Cert: cert, Key: key}
	socket, tlsPort := filepath.Join(t.TempDir(), "s"), redistest.FreePort(t)
	server := redistest.Start(t, "--requirepass", "hunter2/@", "--unixsocket", socket,
		"--tls-port", tlsPort, "--tls-cert-file", cert, "--tls-key-file", key, "--tls-ca-cert-file", cert)
	secure := "rediss://default:hunter2%2F%40@127.0.0.1:" + tlsPort
	for _, test := range []struct {
		url       string
		files     TLSFiles
		connected bool
	}{
		{"redis://:hunter2%2F%40@" + server.Addr, TLSFiles{}, true},
		{"redis://:hunter3@" + server.Addr, TLSFiles{}, false},
		{server.URL(), TLSFiles{}, false},
		{"unix://:hunter2%2F%40@" + socket + "?db=1", TLSFiles{}, true},
		{secure, both, true},
		{secure, TLSFiles{}, false},         // signed by nobody that is known
		{secure, TLSFiles{CA: cert}, false}, // no certificate of our own
	} {
		client, err := NewClient(test.url, test.files, 10*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		err = client.Ping(t.Context()).Err()
		if (err == nil) != test.connected || err != nil && strings.Contains(err.Error(), secret) {
			t.Errorf("%s with %+v: got %v, want connected %t", Address(test.url), test.files, err, test.connected)
		}
		_ = client.Close()
	}
}

// What is wrong about a connection is said, and what to write.
func TestNewClient_SaysWhyItDoesNotConnect(t *testing.T) {
	skipIfShort(t)
	server, files := redistest.StartTLS(t)
	ours := TLSFiles{CA: files.CA, Cert: files.Cert, Key: files.Key}
	other := ours
	other.ServerName = "redis.example.com"
	for _, test := range []struct {
		url         string
		files       TLSFiles
		fault, says string
	}{
		{"redis://" + server.Addr, TLSFiles{}, "closed", "write rediss in place of redis"},
		{"rediss://" + redistest.Start(t).Addr, TLSFiles{}, "timeout", "write redis in place of rediss"},
		{server.URL(), TLSFiles{}, "tls", "certificate signed by unknown authority"},
		{server.URL(), other, "tls", "redis.example.com"},
	} {
		client, err := NewClient(test.url, test.files, time.Second)
		if err != nil {
			t.Fatal(err)
		}
		if err = client.Ping(t.Context()).Err(); FaultOf(err) != test.fault || !strings.Contains(fmt.Sprint(err), test.says) {
			t.Errorf("%s with %+v: got %q, %v, want %q and %q in it", test.url, test.files, FaultOf(err), err, test.fault, test.says)
		}
		_ = client.Close()
	}
}

func TestNewClient_RefusesBadFiles(t *testing.T) {
	cert, key := newCertificate(t)
	for _, test := range []struct {
		url    string
		files  TLSFiles
		advice string
	}{
		{"redis://localhost", TLSFiles{CA: cert}, "write rediss"},
		{"unix:///run/redis.sock", TLSFiles{Cert: cert, Key: key}, "certificates were given"},
		{"rediss://localhost", TLSFiles{CA: cert + ".missing"}, "no such file"},
		{"rediss://localhost", TLSFiles{CA: os.DevNull}, "no PEM certificate"},
		{"rediss://localhost", TLSFiles{Cert: cert}, "needs its key"},
		{"rediss://localhost", TLSFiles{Key: key}, "a key its certificate"},
		{"rediss://localhost", TLSFiles{Cert: key, Key: cert}, ""},
		{"rediss://localhost", TLSFiles{Cert: cert, Key: key + ".missing"}, "no such file"},
	} {
		if _, err := NewClient(test.url, test.files, time.Second); err == nil || !strings.Contains(err.Error(), test.advice) {
			t.Errorf("%s with %+v: got %v, want an error with %q", test.url, test.files, err, test.advice)
		}
	}
}

// newCertificate returns the files of a certificate for 127.0.0.1 that vouches
// for itself, on either side of a connection.
func newCertificate(t *testing.T) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		NotAfter:              time.Now().Add(time.Hour),
		IsCA:                  true,
		BasicConstraintsValid: true,
		IPAddresses:           []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	certDER, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	write := func(kind string, der []byte) string {
		path := filepath.Join(t.TempDir(), fmt.Sprintf("%s.pem", strings.ToLower(kind[:3])))
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	return write("CERTIFICATE", certDER), write("PRIVATE KEY", keyDER)
}
