package upstream

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"

	"golang.org/x/net/http2"
)

// Kind says what a failure means to whoever asked.
type Kind int

// The kinds of failures.
const (
	Refused  Kind = iota + 1 // no connection, or no HTTP on it
	TimedOut                 // no connection, or no answer, in time
	Closed                   // the upstream cut the connection
	Ended                    // the exchange was ended by its Life, whose cause says why
)

// Failure is why a request has no answer, or why its answer has no end.
type Failure struct {
	Kind  Kind
	Fault string // by the error types of RFC 9209; empty if Ended
	Sent  bool   // a part of the request may have reached the upstream
}

// Error tells no address: that of the upstream is a secret.
func (f *Failure) Error() string {
	if f.Kind == Ended {
		return "the exchange was ended"
	}
	return f.Fault
}

// Errors of our own about what an upstream says.
var (
	errAnswer     = errors.New("an answer that is none")
	errFull       = errors.New("the upstream takes no request on any connection")
	errForeign    = errors.New("an answer that was there before its request")
	errNotSpoken  = errors.New("the upstream does not speak HTTP/1.1")
	errHeaderSize = errors.New("the header of the answer is too large")
)

// failure says what an error of a request without an answer means.
func failure(life *Life, err error, sent bool) *Failure {
	f := &Failure{Sent: sent}
	switch cause := life.Cause(); {
	case cause == errTimeout:
		f.Kind, f.Fault = TimedOut, "http_response_timeout"
	case cause == errFull:
		f.Kind, f.Fault, f.Sent = Refused, "connection_limit_reached", false
	case cause != nil:
		f.Kind = Ended
	case !sent:
		f.Kind, f.Fault = ConnectFault(err)
	case isTimeout(err):
		f.Kind, f.Fault = TimedOut, "http_response_timeout"
	case isClosed(err):
		f.Kind, f.Fault = Closed, "connection_terminated"
	default:
		f.Kind, f.Fault = Refused, "http_protocol_error"
	}
	return f
}

// cutFailure says what an error within an answer's body means.
func cutFailure(life *Life) *Failure {
	switch cause := life.Cause(); {
	case cause == errIdle:
		return &Failure{Kind: TimedOut, Fault: "connection_read_timeout", Sent: true}
	case cause != nil:
		return &Failure{Kind: Ended, Sent: true}
	}
	return &Failure{Kind: Closed, Fault: "http_response_incomplete", Sent: true}
}

// isClosed reports whether the upstream ended the connection or stream, rather
// than say something on it that is no HTTP.
func isClosed(err error) bool {
	if stream := (http2.StreamError{}); errors.As(err, &stream) {
		return stream.Cause != nil && stream.Cause.Error() == "received from peer" // or it is our own
	}
	// A body is closed under whoever sends it where its connection ends.
	for _, end := range [...]error{io.EOF, io.ErrUnexpectedEOF, http.ErrBodyReadAfterClose, net.ErrClosed, syscall.ECONNRESET, syscall.ECONNABORTED, syscall.EPIPE} {
		if errors.Is(err, end) {
			return true
		}
	}
	// net/http has no types for these.
	for _, text := range [...]string{"server closed idle connection", "GOAWAY", "connection lost"} {
		if strings.Contains(err.Error(), text) {
			return true
		}
	}
	return false
}

// ConnectFault says what a failure to connect to an upstream means, and names
// it by the error types of RFC 9209: its own text can hold the address.
func ConnectFault(err error) (kind Kind, fault string) {
	var (
		dns         *net.DNSError
		certificate *tls.CertificateVerificationError
		host        x509.HostnameError
		record      tls.RecordHeaderError
		alert       tls.AlertError
	)
	switch {
	case errors.Is(err, errFull):
		return Refused, "connection_limit_reached"
	case errors.Is(err, errAddress):
		return Refused, "destination_ip_prohibited"
	case errors.As(err, &dns):
		return Refused, "dns_error"
	case errors.As(err, &certificate), errors.As(err, &host):
		return Refused, "tls_certificate_error"
	case errors.As(err, &record), errors.As(err, &alert):
		return Refused, "tls_protocol_error"
	case isTimeout(err):
		return TimedOut, "connection_timeout"
	case errors.Is(err, syscall.ECONNREFUSED):
		return Refused, "connection_refused"
	}
	return Refused, "destination_unavailable"
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}
