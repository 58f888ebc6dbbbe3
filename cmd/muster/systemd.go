// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"log/slog"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// serviceManager tells systemd how the server is, by sd_notify(3). Without
// $NOTIFY_SOCKET it does nothing.
type serviceManager struct{ logger *slog.Logger }

func (m serviceManager) ready()    { m.notify(daemon.SdNotifyReady) }
func (m serviceManager) stopping() { m.notify(daemon.SdNotifyStopping) }

// reloading gives the time too, which Type=notify-reload wants.
func (m serviceManager) reloading() {
	m.notify(daemon.SdNotifyReloading + "\n" + daemon.SdNotifyMonotonicUsec())
}

func (m serviceManager) notify(state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		m.logger.Warn("Cannot tell systemd", "state", state, "error", err)
	}
}

// watchdog says that the process lives, twice as often as systemd wants to
// hear it (WatchdogSec=), until the context ends.
func (m serviceManager) watchdog(ctx context.Context) error {
	interval, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		m.logger.Warn("The watchdog is off: $WATCHDOG_USEC or $WATCHDOG_PID is wrong", "error", err)
	}
	if interval == 0 {
		return nil
	}
	tick := time.NewTicker(interval / 2)
	defer tick.Stop()
	for {
		m.notify(daemon.SdNotifyWatchdog)
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}
