// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"sync"
)

// The network of the tests: 198.18.0.0/15 is for tests of networks (RFC 2544),
// and 169.254.169.254 is where clouds have their metadata.
var (
	outside  = netip.MustParseAddr("198.18.0.1")
	router   = netip.MustParseAddr("198.18.0.254")
	metadata = netip.MustParseAddr("169.254.169.254")
)

// cable is the switch that the machines are plugged into.
const cable = "machines"

// cableMAC is the switch's own address, and so the router's. A bridge without
// one takes the lowest of its ports', which goes with that machine: all others
// would talk to nobody until their neighbour tables forget it, up to a minute
// later.
const cableMAC = "02:00:00:00:00:fe"

// Outside is the tests' own address, as the machines reach it.
func Outside() netip.Addr { return outside }

// Metadata is another address of the tests, at which machines look for a
// cloud's metadata service.
func Metadata() netip.Addr { return metadata }

var (
	addressMu sync.Mutex
	addresses int
)

// nextAddress returns an address that no machine had before.
func nextAddress() (int, netip.Addr) {
	addressMu.Lock()
	defer addressMu.Unlock()
	addresses++
	return addresses, netip.AddrFrom4([4]byte{198, 18, 0, byte(addresses + 1)})
}

// buildNetwork makes the network in an empty network namespace.
func buildNetwork() error {
	for _, line := range []string{
		"link set lo up",
		"link add " + cable + " address " + cableMAC + " type bridge",
		"link set " + cable + " up",
		"address add " + router.String() + "/24 dev " + cable,
		"address add " + outside.String() + "/32 dev " + cable,
		"address add " + metadata.String() + "/32 dev " + cable,
	} {
		if err := ip(line); err != nil {
			return err
		}
	}
	return nil
}

// plugIn connects a process's network namespace, as eth0. The port goes some
// time after the namespace; its name can't be used again before.
func plugIn(port string, pid int) error {
	if err := ip(fmt.Sprintf("link add %s type veth peer name eth0 netns %d", port, pid)); err != nil {
		return err
	}
	return ip(fmt.Sprintf("link set %s master %s up", port, cable))
}

func ip(line string) error {
	output, err := exec.Command("ip", strings.Fields(line)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("ip %s: %w: %s", line, err, strings.TrimSpace(string(output)))
	}
	return nil
}
