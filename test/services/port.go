// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package services

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
)

// The ports that are given out lie below the kernel's own range
// (net.ipv4.ip_local_port_range, from 32768): nobody gets one of them as the
// port of a client, or by asking for any port.
const (
	firstPort  = 12000
	portsAfter = 32000
)

// claims are the ports that this process has taken; a listener that nobody
// refers to would be closed.
var (
	claimsMu sync.Mutex
	claims   []net.Listener
)

// Port returns a port of loopback for TCP and UDP that is free and stays this
// process's until it ends, so that a server may be started there, killed, and
// started again while other tests do the same.
func Port() (int, error) {
	for range 200 {
		port := firstPort + rand.IntN(portsAfter-firstPort)
		// A name in the abstract namespace is one process's alone, ends with it, and
		// is as far away as the port in another network namespace (unix(7)).
		claim, err := net.Listen("unix", fmt.Sprintf("@muster-test-port-%d", port))
		if err != nil {
			continue
		}
		if err := tryPort(port); err != nil {
			_ = claim.Close() // it is somebody's who does not claim
			continue
		}
		claimsMu.Lock()
		claims = append(claims, claim)
		claimsMu.Unlock()
		return port, nil
	}
	return 0, fmt.Errorf("found no free port from %d to %d", firstPort, portsAfter-1)
}

func tryPort(port int) error {
	address := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	tcp, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	udp, err := net.ListenPacket("udp", address)
	if err != nil {
		return errors.Join(err, tcp.Close())
	}
	return errors.Join(tcp.Close(), udp.Close())
}
