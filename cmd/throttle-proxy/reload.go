package main

import (
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"
)

// hangups are the signals that say to read secrets and certificates again. Until
// they are closed, SIGHUP does not end the process.
type hangups struct {
	signals chan os.Signal
	ended   chan struct{} // nil until somebody obeys
}

func catchHangups() *hangups {
	h := &hangups{signals: make(chan os.Signal, 1)}
	signal.Notify(h.signals, syscall.SIGHUP)
	return h
}

// obey calls reload for each, and for what has come already.
func (h *hangups) obey(reload func()) {
	h.ended = make(chan struct{})
	go func() {
		defer close(h.ended)
		for range h.signals {
			reload()
		}
	}()
}

// close returns when no reload is under way. From here on SIGHUP does nothing:
// the process ends by itself.
func (h *hangups) close() {
	signal.Ignore(syscall.SIGHUP)
	signal.Stop(h.signals)
	close(h.signals)
	if h.ended != nil {
		<-h.ended
	}
}

// reload reads again what may be in files: URLs and fields to set, of which there
// are new ones in parsed, and the certificate. What cannot be used leaves
// everything as it was.
func (r *replica) reload(parse func() (*config, error)) {
	c, err := parse()
	var changed []string
	if err == nil {
		changed, err = r.proxy.Renew(c.routes)
	}
	if err != nil {
		r.logger.Warn("SIGHUP: what was read cannot be used, and everything stays as it was", slog.Any("error", err))
		return
	}
	if r.certificate != nil {
		r.certificate.reload()
	}
	r.logger.Info("SIGHUP: secrets and certificates were read again", slog.String("changed", strings.Join(changed, ",")))
}
