package main

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	"github.com/coreos/go-systemd/v22/daemon"
)

// inherited returns the listener that systemd, or whoever plays it, has made for
// this process; nil if there is none. It outlives the process: connections wait
// in it for the next one.
func inherited() (net.Listener, error) {
	files := activation.Files(true)
	if len(files) == 0 {
		return nil, nil
	}
	defer func() {
		for _, file := range files {
			_ = file.Close()
		}
	}()
	if len(files) > 1 {
		return nil, errors.New("systemd passes several sockets: write one ListenStream= in the .socket")
	}
	listener, err := net.FileListener(files[0])
	if err != nil {
		return nil, errors.New("what systemd passes is no socket that can be listened on: write ListenStream= in the .socket")
	}
	if unix, ok := listener.(*net.UnixListener); ok {
		unix.SetUnlinkOnClose(false)
	}
	return listener, nil
}

// notify tells systemd how the process is. Without systemd it does nothing.
func notify(state string) { _, _ = daemon.SdNotify(false, state) } // who does not listen does not need to know

// watchdog tells systemd that the process lives, as often as that wants to hear it,
// until ctx ends. alive is asked each time, and a process that hangs in it is
// ended by systemd.
func watchdog(ctx context.Context, alive func()) {
	patience, err := daemon.SdWatchdogEnabled(false)
	if err != nil || patience == 0 {
		return
	}
	tick := time.NewTicker(patience / 3)
	defer tick.Stop()
	for {
		alive()
		notify(daemon.SdNotifyWatchdog)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// watch tells systemd that the replica serves, and from then on that it lives,
// until stop is called.
func (r *replica) watch() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var told sync.WaitGroup
	told.Go(func() {
		watchdog(ctx, func() { r.traffic.quiet() }) // by the mutex that each connection needs
	})
	notify(daemon.SdNotifyReady)
	return func() {
		cancel()
		told.Wait()
	}
}
