package main

// Certificate authorities for a file system that has none, as the image's. The
// system's are used where it has some.
import _ "golang.org/x/crypto/x509roots/fallback"
