// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package sshd

import (
	"fmt"
	"net"
	"slices"
	"testing"
)

// TestUnheard asks this machine's kernel. A listener of all addresses is in the
// table of IPv6, where that is. The words are those of OpenSSH 9.2 and 10.6.
func TestUnheard(t *testing.T) {
	var ports []string
	for _, address := range []string{"127.0.0.1:0", ":0", "127.0.0.1:0"} {
		listener, err := net.Listen("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close()
		_, port, err := net.SplitHostPort(listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if ports = append(ports, port); len(ports) == 3 {
			if err := listener.Close(); err != nil { // nobody listens there any more
				t.Fatal(err)
			}
		}
	}
	settings := fmt.Sprintf("port %s\nlistenaddress [::]:%s\nListenAddress 0.0.0.0:%s\nListenAddress 127.0.0.1:%s\n",
		ports[0], ports[0], ports[1], ports[2])
	got, err := Unheard("/", settings)
	if err != nil || !slices.Equal(got, ports[2:]) {
		t.Errorf("%q, %v", got, err)
	}
}

func FuzzListening(f *testing.F) {
	// The head and two lines of a real table: sshd listens, and somebody is connected.
	f.Add("  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n" +
		"   0: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 21043 1\n" +
		"   1: 0100007F:08AE 0100007F:D3F6 01 00000000:00000000 00:00000000 00000000     0        0 22511 1\n")
	f.Fuzz(func(t *testing.T, table string) {
		for _, port := range listening(table) {
			if number, err := net.LookupPort("tcp", port); err != nil || number > 65535 {
				t.Errorf("port %q: %v", port, err)
			}
		}
	})
}
