package proxy

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"strings"
	"syscall"
)

// classify says what an error of the Transport means to the client, and names
// it by the error types of RFC 9209: its own text can hold addresses.
func (x *exchange) classify(err error) (reason Reason, fault string) {
	if !x.sent {
		return ConnectFault(err)
	}
	switch {
	case isTimeout(err):
		return ReasonUpstreamTimeout, "http_response_timeout"
	case isClosed(err):
		return ReasonUpstreamClosed, "connection_terminated"
	}
	return ReasonUpstreamRefused, "http_protocol_error"
}

// isClosed reports whether the upstream ended the connection or stream, rather
// than say something on it that is no HTTP.
func isClosed(err error) bool {
	for _, end := range [...]error{io.EOF, io.ErrUnexpectedEOF, net.ErrClosed, syscall.ECONNRESET, syscall.ECONNABORTED, syscall.EPIPE} {
		if errors.Is(err, end) {
			return true
		}
	}
	// net/http has no types for these.
	for _, text := range [...]string{"server closed idle connection", "stream error", "GOAWAY", "connection lost"} {
		if strings.Contains(err.Error(), text) {
			return true
		}
	}
	return false
}

// ConnectFault says what a failure to connect to an upstream means, and names
// it by the error types of RFC 9209: its own text can hold the address.
func ConnectFault(err error) (reason Reason, fault string) {
	var (
		dns         *net.DNSError
		certificate *tls.CertificateVerificationError
		host        x509.HostnameError
		record      tls.RecordHeaderError
		alert       tls.AlertError
	)
	switch {
	case errors.As(err, &dns):
		return ReasonUpstreamRefused, "dns_error"
	case errors.As(err, &certificate), errors.As(err, &host):
		return ReasonUpstreamRefused, "tls_certificate_error"
	case errors.As(err, &record), errors.As(err, &alert):
		return ReasonUpstreamRefused, "tls_protocol_error"
	case isTimeout(err):
		return ReasonUpstreamTimeout, "connection_timeout"
	case errors.Is(err, syscall.ECONNREFUSED):
		return ReasonUpstreamRefused, "connection_refused"
	}
	return ReasonUpstreamRefused, "destination_unavailable"
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}
