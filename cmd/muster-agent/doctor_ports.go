// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/muster-cloud/muster/internal/agent/sshd"
)

// ports looks whether somebody listens where sshd should.
func (d *doctor) ports(ctx context.Context) (string, error) {
	settings, err := d.at.programs().Run(ctx, nil, "sshd", "-T")
	if err != nil {
		return "", errSkipped // it would not start either
	}
	unheard, err := sshd.Unheard(d.at.root, string(settings))
	if err != nil {
		return "", err
	}
	if len(unheard) > 0 {
		return "", fmt.Errorf("nothing listens on port %s, which sshd's configuration names: see whether sshd runs (systemctl status ssh ssh.socket); "+
			"where systemd listens for it, the socket's ports count (systemctl show -P Listen ssh.socket)", strings.Join(unheard, ", "))
	}
	return "something listens on each of sshd's", nil
}
