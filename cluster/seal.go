package cluster

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"slices"
	"time"
)

// What a store keeps of an answer is sealed: whoever can read the store learns
// nothing of it, but how long it is. Only who repeats the request has its
// fingerprint, of which the key is made.

// sealing returns the cipher for what is kept under f: AES-256 in Galois/Counter
// Mode (NIST SP 800-38D).
func (f Fingerprint) sealing() cipher.AEAD {
	var b [1 + sha256.Size]byte
	b[0] = 2 // 1 is of the hash by which a store knows f
	copy(b[1:], f[:])
	key := sha256.Sum256(b[:])
	block, err := aes.NewCipher(key[:])
	if err != nil {
		panic(err) // the key has its length
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		panic(err) // so has the block
	}
	return aead
}

// appendSealed appends to b an answer that is from an instant, by the store's clock,
// sealed so that it can be opened only as what belongs to what, which is public.
func (f Fingerprint) appendSealed(b, answer []byte, at time.Duration, what string) []byte {
	aead := f.sealing()
	begin := len(b)
	b = slices.Grow(b, aead.NonceSize()+8+len(answer)+aead.Overhead())
	nonce := b[begin : begin+aead.NonceSize()]
	if _, err := rand.Read(nonce); err != nil {
		panic(err) // it never fails
	}
	b = b[:begin+len(nonce)]
	open := append(binary.BigEndian.AppendUint64(b, uint64(at.Microseconds())), answer...)[len(b):]
	return aead.Seal(b, nonce, open, []byte(what)) // in the place where it is open
}

var errSealed = errors.New("an answer of the store cannot be opened")

// open opens what [Fingerprint.appendSealed] has sealed. The error is that something else is
// there, or belongs to something else.
func (f Fingerprint) open(sealed []byte, what string) (answer []byte, at time.Duration, err error) {
	aead := f.sealing()
	if len(sealed) < aead.NonceSize() {
		return nil, 0, errSealed
	}
	open, err := aead.Open(nil, sealed[:aead.NonceSize()], sealed[aead.NonceSize():], []byte(what))
	if err != nil || len(open) < 8 {
		return nil, 0, errSealed
	}
	return open[8:], time.Duration(binary.BigEndian.Uint64(open)) * time.Microsecond, nil
}
