// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package sshd

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/muster-cloud/muster/internal/agent/agenttest"
)

// bus is a system bus on which root may do everything.
const bus = `<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path=/run/dbus/system_bus_socket</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="root"/>
    <allow own="*"/>
    <allow send_destination="*"/>
    <allow receive_sender="*"/>
  </policy>
</busconfig>
`

// TestFirewalld lets the real firewalld, in a network of its own, judge what is
// opened for the second port, and what is closed again.
func TestFirewalld(t *testing.T) {
	h := newHost(t, debian)
	agenttest.Guards(t, h.root, "dbus-daemon", "firewalld", "firewall-cmd")
	agenttest.Write(t, h.root, "/etc/test-bus.conf", bus)
	if err := os.MkdirAll(filepath.Join(h.root, "run/dbus"), 0o755); err != nil {
		t.Fatal(err)
	}
	w := h.want()
	w.Port = 2222
	h.apply(w) // before firewalld starts
	agenttest.Start(t, h.root, "dbus-daemon", "--nofork", "--config-file=/etc/test-bus.conf")
	agenttest.Start(t, h.root, "firewalld", "--nofork", "--nopid")
	for deadline := time.Now().Add(3 * time.Minute); !h.firewallRuns(t.Context()); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("firewalld does not start")
		}
	}
	ports := func() string {
		t.Helper()
		now, forGood := agenttest.Run(t, h.root, "firewall-cmd", "--list-ports"), agenttest.Run(t, h.root, "firewall-cmd", "--permanent", "--list-ports")
		return strings.TrimSpace(now) + " | " + strings.TrimSpace(forGood)
	}
	agenttest.Run(t, h.root, "firewall-cmd", "--permanent", "--add-port=2223/tcp") // the operator's
	for _, step := range []struct {
		port int
		want string
	}{
		{2222, "2222/tcp | 2222/tcp 2223/tcp"}, {2223, "2223/tcp | 2223/tcp"}, {0, "| 2223/tcp"}, {2222, "2222/tcp | 2222/tcp 2223/tcp"},
	} {
		w.Port = step.port
		if _, err := h.Apply(t.Context(), w); err != nil {
			t.Fatal(err)
		}
		if got := strings.TrimSpace(ports()); got != step.want {
			t.Errorf("with port %d, now and for good: %s, want %s", step.port, got, step.want)
		}
	}
	if err := h.Remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := strings.TrimSpace(ports()); got != "| 2223/tcp" {
		t.Errorf("afterwards: %s", got)
	}
}

// TestFirewalldIsOff: what is open for good ends with the port, too, while
// firewalld does not run.
func TestFirewalldIsOff(t *testing.T) {
	h := newHost(t, debian)
	agenttest.Guards(t, h.root, "firewall-cmd", "firewall-offline-cmd")
	for _, port := range []string{"2222", "2223"} { // the latter is the operator's
		agenttest.Run(t, h.root, "firewall-offline-cmd", "--add-port="+port+"/tcp")
	}
	if err := h.tree.SaveState(portState, []byte(`{"port": "2222", "firewall": true, "permanent": true}`)); err != nil {
		t.Fatal(err)
	}
	h.apply(h.want())
	if got := strings.TrimSpace(agenttest.Run(t, h.root, "firewall-offline-cmd", "--list-ports")); got != "2223/tcp" {
		t.Errorf("open for good: %s", got)
	}
}

// policy is an SELinux policy as small as can be: the kernel's type, and those
// of three ports.
const policy = `(handleunknown allow)
(mls true)
(class process (transition))
(class file (read))
(class tcp_socket (name_bind))
(classorder (process file tcp_socket))
(sid kernel) (sid security) (sid unlabeled) (sid file) (sid port)
(sidorder (kernel security unlabeled file port))
(sensitivity s0) (sensitivityorder (s0))
(category c0) (categoryorder (c0))
(sensitivitycategory s0 (c0))
(level systemlow (s0)) (level systemhigh (s0 (c0)))
(levelrange low (systemlow systemlow)) (levelrange lowhigh (systemlow systemhigh))
(type kernel_t) (type port_t) (type ssh_port_t) (type http_cache_port_t) (type jboss_port_t)
(typeattribute port_type) (typeattributeset port_type (port_t ssh_port_t http_cache_port_t jboss_port_t))
(role system_r) (role object_r) (roletype system_r kernel_t)
(roletype object_r kernel_t) (roletype object_r port_t) (roletype object_r ssh_port_t)
(roletype object_r http_cache_port_t) (roletype object_r jboss_port_t)
(user system_u) (userrole system_u system_r) (userrole system_u object_r)
(userlevel system_u systemlow) (userrange system_u lowhigh)
(context kernel_c (system_u system_r kernel_t low))
(context port_c (system_u object_r port_t low))
(sidcontext kernel kernel_c) (sidcontext security kernel_c) (sidcontext unlabeled kernel_c)
(sidcontext file kernel_c) (sidcontext port port_c)
(portcon tcp 22 (system_u object_r ssh_port_t low))
(portcon tcp 8080 (system_u object_r http_cache_port_t low))
(allow kernel_t self (process (transition)))
(allow kernel_t port_type (tcp_socket (name_bind)))
`

// TestSemanage lets the real semanage, with a policy that no kernel has loaded,
// judge the labels of second ports: new ones, the policy's, and the operator's.
func TestSemanage(t *testing.T) {
	h := newHost(t, debian)
	agenttest.Guards(t, h.root, "semanage", "semodule")
	agenttest.Write(t, h.root, "/etc/selinux/config", "SELINUX=permissive\nSELINUXTYPE=tiny\n")
	agenttest.Write(t, h.root, "/tmp/base.cil", policy)
	for _, folder := range []string{"var/lib/selinux/tiny", "etc/selinux/tiny/policy", "etc/selinux/tiny/contexts/files", "sys/fs/selinux/enforce"} {
		if err := os.MkdirAll(filepath.Join(h.root, folder), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	agenttest.Run(t, h.root, "semodule", "-s", "tiny", "-n", "-i", "/tmp/base.cil")
	agenttest.Run(t, h.root, "semanage", "port", "-a", "-t", "ssh_port_t", "-p", "tcp", "2230-2239")
	agenttest.Run(t, h.root, "semanage", "port", "-a", "-t", "jboss_port_t", "-p", "tcp", "9990")
	const untouched = "http_cache_port_t tcp 8080; jboss_port_t tcp 9990; ssh_port_t tcp 2230-2239, 22"
	labels := func() string {
		t.Helper()
		var all []string
		for line := range strings.Lines(agenttest.Run(t, h.root, "semanage", "port", "-l", "-n")) {
			if fields := strings.Fields(line); len(fields) > 0 {
				all = append(all, strings.Join(fields, " "))
			}
		}
		return strings.Join(all, "; ")
	}
	w := h.want()
	for _, step := range []struct {
		port int
		want string
	}{
		{2222, "http_cache_port_t tcp 8080; jboss_port_t tcp 9990; ssh_port_t tcp 2222, 2230-2239, 22"},
		{2233, untouched}, {9990, untouched},
		{8080, "http_cache_port_t tcp 8080; jboss_port_t tcp 9990; ssh_port_t tcp 8080, 2230-2239, 22"},
	} {
		w.Port = step.port
		if _, err := h.Apply(t.Context(), w); err != nil {
			t.Fatal(err)
		}
		if got := labels(); got != step.want {
			t.Errorf("with port %d: %s, want %s", step.port, got, step.want)
		}
	}
	if err := h.Remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := labels(); got != untouched {
		t.Errorf("afterwards: %s", got)
	}
}
