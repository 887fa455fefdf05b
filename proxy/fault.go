package proxy

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
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
	case strings.Contains(err.Error(), "malformed"), strings.Contains(err.Error(), "exceeded"):
		// net/http has no types for what it cannot parse.
		return ReasonUpstreamRefused, "http_protocol_error"
	}
	return ReasonUpstreamClosed, "connection_terminated"
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
