// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package services

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"sync"
)

// The ports that are given out, where the kernel's own do not begin lower, and
// how many there must be at the least.
const (
	firstPort  = 12000
	portsAfter = 32000
	fewPorts   = 1000
)

// portsBeside returns from where to before where ports are given out: beside the range
// of the kernel, from which it gives clients and whoever asks for any port. Where
// that leaves too few (net.ipv4.ip_local_port_range is set by some), it is the
// usual range, and somebody else may get the port of a server that is down.
func portsBeside(kernelFirst, kernelLast int) (first, after int) {
	switch {
	case kernelFirst >= firstPort+fewPorts:
		return firstPort, min(kernelFirst, portsAfter)
	case kernelLast+1+fewPorts <= 1<<16:
		return kernelLast + 1, 1 << 16
	}
	return firstPort, portsAfter
}

// kernelPorts are the first and the last port of the kernel's range (ip(7)).
func kernelPorts() (first, last int, err error) {
	text, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	if err != nil {
		return 0, 0, err
	}
	_, err = fmt.Sscan(string(text), &first, &last)
	return first, last, err
}

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
	first, last, err := kernelPorts()
	if err != nil {
		return 0, err
	}
	first, after := portsBeside(first, last)
	for range 200 {
		port := first + rand.IntN(after-first)
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
	return 0, fmt.Errorf("found no free port from %d to %d", first, after-1)
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
