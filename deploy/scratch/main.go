// Command scratch writes the image that releases are built on, as ko finds it
// in its cache ($KOCACHE): a file system in which there is nothing but the
// directory of the admin socket. It prints the image's digest, which is always
// the same. So no registry is asked for a base.
package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

const (
	user      = 65532 // nobody's by custom, and not root's
	directory = "run/throttle-proxy"
)

var architectures = []string{"amd64", "arm64"}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: scratch DIRECTORY")
		os.Exit(2)
	}
	digest, err := write(os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, "scratch:", err)
		os.Exit(1)
	}
	fmt.Println(digest)
}

// object is one of JSON.
type object map[string]any

// layout is a directory as the OCI image layout describes it.
type layout struct {
	dir string
	err error // the first
}

func write(dir string) (digest string, err error) {
	l := &layout{dir: dir}
	files := socketDirectory()
	layer := l.blob("application/vnd.oci.image.layer.v1.tar", files)
	var images []object
	for _, architecture := range architectures {
		platform := object{"os": "linux", "architecture": architecture}
		image := l.json("application/vnd.oci.image.manifest.v1+json", object{
			"config": l.json("application/vnd.oci.image.config.v1+json", object{
				"os": "linux", "architecture": architecture,
				"config": object{
					"User": fmt.Sprint(user),
					"Env":  []string{"THROTTLE_PROXY_ADMIN=unix:/" + directory + "/admin.sock"},
				},
				"rootfs":  object{"type": "layers", "diff_ids": []any{layer["digest"]}},
				"history": []object{{"created_by": "an empty file system with /" + directory}},
			}),
			"layers": []object{layer},
		})
		image["platform"] = platform
		images = append(images, image)
	}
	index := l.json("application/vnd.oci.image.index.v1+json", object{"manifests": images})
	l.file("oci-layout", marshal(object{"imageLayoutVersion": "1.0.0"}))
	l.file("index.json", marshal(object{"schemaVersion": 2, "manifests": append(images, index)}))
	return index["digest"].(string), l.err
}

// socketDirectory returns a file system's layer.
func socketDirectory() []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, header := range []*tar.Header{
		{Name: "run/", Mode: 0o755},
		{Name: directory + "/", Mode: 0o700, Uid: user, Gid: user},
	} {
		header.Typeflag, header.ModTime = tar.TypeDir, time.Unix(0, 0)
		if err := w.WriteHeader(header); err != nil {
			panic(err) // the header is wrong: memory takes all
		}
	}
	if err := w.Close(); err != nil {
		panic(err)
	}
	return b.Bytes()
}

// json adds a document, and returns its descriptor.
func (l *layout) json(mediaType string, document object) object {
	if mediaType != "application/vnd.oci.image.config.v1+json" {
		document["schemaVersion"], document["mediaType"] = 2, mediaType
	}
	return l.blob(mediaType, marshal(document))
}

func (l *layout) blob(mediaType string, content []byte) object {
	sum := sha256.Sum256(content)
	l.file(filepath.Join("blobs", "sha256", hex.EncodeToString(sum[:])), content)
	return object{"mediaType": mediaType, "digest": "sha256:" + hex.EncodeToString(sum[:]), "size": len(content)}
}

func (l *layout) file(name string, content []byte) {
	if l.err != nil {
		return
	}
	path := filepath.Join(l.dir, name)
	if l.err = os.MkdirAll(filepath.Dir(path), 0o755); l.err == nil {
		l.err = os.WriteFile(path, content, 0o644)
	}
}

func marshal(document object) []byte {
	text, err := json.Marshal(document) // members in order
	if err != nil {
		panic(err) // nothing in it can fail
	}
	return text
}
