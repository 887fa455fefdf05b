package engine

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// content is a manifest, an index or a configuration of bin/release/image: the
// members that are looked at.
type content struct {
	Manifests []descriptor
	Config    struct {
		descriptor
		User   string
		Env    []string
		Labels map[string]string
	}
	Layers       []descriptor
	OS           string
	Architecture string
}

type descriptor struct {
	Digest string
	Size   int64
}

func open(t *testing.T, path string) (c content) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("../../../bin/release/image", path))
	if err != nil {
		t.Fatalf("%v (make release SNAPSHOT=1 writes it)", err)
	}
	if err := json.Unmarshal(text, &c); err != nil {
		t.Fatal(err)
	}
	return c
}

func (d descriptor) open(t *testing.T) content {
	t.Helper()
	return open(t, filepath.Join("blobs", strings.Replace(d.Digest, ":", "/", 1)))
}

// The image of a release, for each of its platforms.
func TestImageIsReleased(t *testing.T) {
	var platforms []string
	for _, image := range open(t, "index.json").Manifests[0].open(t).Manifests {
		manifest := image.open(t)
		config := manifest.Config.open(t)
		platforms = append(platforms, config.OS+"/"+config.Architecture)
		size := int64(0)
		for _, layer := range manifest.Layers {
			size += layer.Size
		}
		t.Logf("%s/%s: %.1f MB", config.OS, config.Architecture, float64(size)/1e6)
		if size > 25e6 {
			t.Errorf("%d bytes are pulled, want under 25 MB", size)
		}
		if config.Config.User != "65532" {
			t.Errorf("runs as %q", config.Config.User)
		}
		for _, name := range []string{"title", "description", "licenses", "version", "revision"} {
			if config.Config.Labels["org.opencontainers.image."+name] == "" {
				t.Errorf("no label %s", name)
			}
		}
	}
	if got, want := strings.Join(platforms, " "), "linux/amd64 linux/arm64"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if files, _ := filepath.Glob("../../../bin/release/sbom/*.spdx.json"); len(files) != 3 {
		t.Errorf("got the SBOMs %v, want one of each image, and the index's", files)
	}
}

func TestImageServesIsHealthyAndStops(t *testing.T) {
	u := newUpstream(t)
	id := docker(t, "run", "-d", "--read-only", "--tmpfs", "/run/throttle-proxy:uid=65532,mode=0700", "--cap-drop", "ALL",
		"-p", "127.0.0.1::44444", image, "--register", "echo="+u.url)
	t.Cleanup(func() { docker(t, "rm", "-f", id) })
	eventually(t, "the replica is healthy", func() bool {
		if docker(t, "inspect", id, "--format", "{{.State.Running}}") != "true" {
			t.Fatal(docker(t, "logs", id))
		}
		return strings.Contains(docker(t, "logs", id), "listening on")
	})
	docker(t, "exec", id, "throttle-proxy", "health") // fails unless it is
	if got, want := docker(t, "exec", id, "throttle-proxy", "version"), os.Getenv("VERSION"); !strings.Contains(got, want) || want == "" {
		t.Errorf("version says %q, want %q in it", got, want)
	}
	address := docker(t, "port", id, "44444/tcp")
	response, err := http.Post("http://"+address+"/echo", "text/plain", strings.NewReader("hello"))
	if err != nil || response.StatusCode != http.StatusOK || u.arrived["hello"] != 1 {
		t.Errorf("got %v, %v", response, err)
	}
	docker(t, "stop", id)
	if got := docker(t, "inspect", id, "--format", "{{.State.ExitCode}}"); got != "0" {
		t.Errorf("exit status %s", got)
	}
}

// The admin socket is there without a word about it, and for this user alone.
func TestImageHasAnAdminSocket(t *testing.T) {
	id := docker(t, "run", "-d", image, "--register", "echo=http://127.0.0.1:1")
	t.Cleanup(func() { docker(t, "rm", "-f", id) })
	eventually(t, "the replica listens", func() bool {
		if docker(t, "inspect", id, "--format", "{{.State.Running}}") != "true" {
			t.Fatal(docker(t, "logs", id))
		}
		return strings.Contains(docker(t, "logs", id), "listening on")
	})
	changes := docker(t, "diff", id)
	if !strings.Contains(changes, "A /run/throttle-proxy/admin.sock") {
		t.Errorf("the file system has changed by %s, want the socket", changes)
	}
}
