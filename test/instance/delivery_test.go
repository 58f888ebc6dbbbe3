// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package instance

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/muster-cloud/muster/internal/cloudinit"
	"github.com/muster-cloud/muster/test/machine"
)

// recorder stands in for the agent's program: it installs itself, and notes how
// it was called.
const recorder = "#!/bin/sh\necho \"$*\" >>/var/log/recorder\n[ -e /usr/local/sbin/muster-agent ] || cp \"$0\" /usr/local/sbin/muster-agent\n"

// recorded is what the recorder has noted when it was installed once.
const recorded = "install\n"

// delivery is an instance that gets the recorder by the boot script.
type delivery struct {
	*machine.Machine
	instance served
}

// deliver prepares an instance whose vendordata name a program with the
// recorder's checksum, at an address where the content is.
func deliver(t *testing.T, content, userData string) *delivery {
	t.Helper()
	t.Parallel()
	s := newSite(t, "")
	d := &delivery{Machine: machine.New(t, machine.Config{Name: "web-1", DMIProduct: "OpenStack Nova", Prepare: image})}
	vendordata, err := cloudinit.Vendordata()
	if err != nil {
		t.Fatal(err)
	}
	url := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "program", time.Time{}, strings.NewReader(content))
	})) + "/program"
	d.instance = s.boot(t, d.Machine, func(one *served) {
		one.vendordata, one.userData = vendordata, userData
		one.change = func(answer []byte) ([]byte, error) { return naming(answer, url) }
	})
	return d
}

// naming makes Muster's answer to Nova name the recorder at the address.
func naming(answer []byte, url string) ([]byte, error) {
	var targets map[string]map[string]any
	if err := json.Unmarshal(answer, &targets); err != nil {
		return nil, err
	}
	for _, arch := range []string{"amd64", "arm64"} {
		targets["muster"]["agent_"+arch] = url
		targets["muster"]["agent_"+arch+"_sha256"] = fmt.Sprintf("%x", sha256.Sum256([]byte(recorder)))
	}
	return json.Marshal(targets)
}

// serve answers the machines at an address of its own, for as long as the test runs.
func serve(t *testing.T, handler http.Handler) (url string) {
	t.Helper()
	listener, err := net.Listen("tcp", net.JoinHostPort(machine.Outside().String(), "0"))
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: handler}
	go func() { _ = server.Serve(listener) }() // until it is closed
	t.Cleanup(func() { _ = server.Close() })
	return "http://" + listener.Addr().String()
}

// finish returns when cloud-init has come to its end.
func (d *delivery) finish(t *testing.T) {
	t.Helper()
	d.Boot(t)
	// It fails if something that it ran did.
	_, _ = d.Run(t.Context(), "cloud-init", "status", "--wait")
}

// record is what the recorder noted, empty if it never ran.
func (d *delivery) record(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(d.Root, "var/log/recorder"))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return string(text)
}

// cloud-init fetches and starts the agent from what Nova's metadata service
// says, beside what the user wants of cloud-init.
func TestDelivery(t *testing.T) {
	d := deliver(t, recorder, "#cloud-config\nruncmd:\n- [sh, -c, 'echo user >>/var/log/recorder']\n")
	d.finish(t)
	if got := d.record(t); got != recorded+"user\n" {
		t.Errorf("the programs ran as %q\n%s", got, d.Must(t, "cat", "/var/log/cloud-init-output.log"))
	}
	if !strings.Contains(d.Console(), "muster: muster-agent is installed and started") {
		t.Errorf("the console does not tell of it:\n%s", d.Console())
	}
	if left := d.Must(t, "ls", "-A", "/usr/local/sbin"); left != "muster-agent\n" {
		t.Errorf("the script left %q", left)
	}
	if got := d.Must(t, "stat", "-c", "%a %U:%G", "/usr/local/sbin/muster-agent"); got != "755 root:root\n" {
		t.Errorf("the program is %s", got)
	}
	// The next boot runs nothing again, and the script by hand fetches nothing.
	if err := d.PowerOff(); err != nil {
		t.Fatal(err)
	}
	d.finish(t)
	if got := d.record(t); got != recorded+"user\n" {
		t.Errorf("after another boot: %q", got)
	}
}

// The same from a config drive, without any metadata service.
func TestDeliveryByConfigDrive(t *testing.T) {
	d := deliver(t, recorder, "")
	drive := d.configDrive(t)
	service, err := metadata()
	if err != nil {
		t.Fatal(err)
	}
	service.set(d.Address, served{})
	d.Attach(t, drive)
	if err := os.WriteFile(filepath.Join(d.Root, "etc/cloud/cloud.cfg.d/90_datasource.cfg"),
		[]byte("datasource_list: [ConfigDrive]\nlocale: C.UTF-8\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	d.finish(t)
	if got := d.record(t); got != recorded {
		t.Errorf("the programs ran as %q\n%s", got, d.Must(t, "cat", "/var/log/cloud-init.log", "/var/log/cloud-init-output.log"))
	}
}

// configDrive makes the image of a disk as Nova does, but for the kind of file
// system, of which kernels for tests know few.
func (d *delivery) configDrive(t *testing.T) (image string) {
	t.Helper()
	vendordata2, err := d.instance.vendordata2(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	meta, err := json.Marshal(d.instance.metaData())
	if err != nil {
		t.Fatal(err)
	}
	folder := t.TempDir()
	latest := filepath.Join(folder, "openstack/latest")
	if err := os.MkdirAll(latest, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string][]byte{
		"meta_data.json": meta, "vendor_data.json": d.instance.vendordata, "vendor_data2.json": vendordata2,
	} {
		if err := os.WriteFile(filepath.Join(latest, name), text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	image = filepath.Join(t.TempDir(), "drive")
	run(t, "mke2fs", "-q", "-t", "ext4", "-L", "config-2", "-d", folder, image, "4m")
	return image
}

// A program that is not the one that Nova named is neither installed nor run,
// and the console says so.
func TestWrongProgramIsRefused(t *testing.T) {
	d := deliver(t, strings.Replace(recorder, "echo", "echo other", 1), "")
	d.finish(t)
	if got := d.record(t); got != "" {
		t.Errorf("it ran: %q", got)
	}
	if !strings.Contains(d.Console(), "muster: WRONG CHECKSUM") {
		t.Errorf("the console does not tell of it:\n%s", d.Console())
	}
	if left := d.Must(t, "ls", "-A", "/usr/local/sbin"); left != "" {
		t.Errorf("the script left %q", left)
	}
	d.Must(t, "sshd", "-t")
}

// What small images have is enough for the boot script: busybox, and nothing
// else.
func TestDeliveryByBusybox(t *testing.T) {
	d := deliver(t, recorder, "")
	service, err := metadata()
	if err != nil {
		t.Fatal(err)
	}
	// It is not cloud-init that runs the script.
	d.instance.vendordata = json.RawMessage("{}")
	service.set(d.Address, d.instance)
	d.Boot(t)
	d.Must(t, "sh", "-c", "mkdir /run/small && busybox --install -s /run/small")
	ctx, cancel := context.WithTimeout(t.Context(), setUpTime)
	defer cancel()
	script := d.Command(ctx, "env", "PATH=/run/small", "/run/small/sh", "-s")
	script.Stdin = strings.NewReader(cloudinit.Script())
	output, err := script.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, output)
	}
	if got := d.record(t); got != recorded {
		t.Errorf("the program ran as %q: %s", got, output)
	}
	if bytes.Contains(output, []byte("not found")) {
		t.Errorf("the script needs more: %s", output)
	}
}
