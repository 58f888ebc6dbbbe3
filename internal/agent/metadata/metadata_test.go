// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package metadata

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const (
	metaData = `{"uuid": "D8E02D56-2648-49A3-BF97-6BE8F1204F38", "hostname": "web.novalocal", "name": "web",
		"project_id": "39a37b95df2f4d3c8bb9d3a4a4b0e7b1", "meta": {"token": "evil", "api_endpoint": "http://evil"}}`
	muster = `{"token": "t1", "auth_pub_key_user": "ssh-ed25519 AAAA", "root_principals": "", "users": "member", "sudoers": "",
		"ssh_port": 22, "api_endpoint": "https://muster.example.com:18322/", "pam_sudo": false,
		"project_id": "39a37b95df2f4d3c8bb9d3a4a4b0e7b1", "instance_id": "d8e02d56264849a3bf976be8f1204f38", "api_ca": "PEM",
		"hostname": "web.example.com", "krb_realm": "EXAMPLE.COM", "ipaotp": "otp1"}`
	tatu     = `{"token": "t2", "auth_pub_key_user": "ssh-rsa AAAA", "api_endpoint": "http://tatu.example.com"}`
	novajoin = `{"hostname": "web.example.com", "krb_realm": "EXAMPLE.COM", "ipaotp": "otp2"}`
)

// whole is what the samples say together.
var whole = Instance{
	ID: "d8e02d56264849a3bf976be8f1204f38", ProjectID: "39a37b95df2f4d3c8bb9d3a4a4b0e7b1", Hostname: "web.novalocal",
	Source: "test", Token: "t1", Endpoint: "https://muster.example.com:18322", CA: "PEM", UserCA: "ssh-ed25519 AAAA",
	Joining: Joining{FQDN: "web.example.com", Realm: "EXAMPLE.COM", OTP: "otp1"},
}

func TestCombine(t *testing.T) {
	fromTatu := whole
	fromTatu.Token, fromTatu.Endpoint, fromTatu.CA, fromTatu.UserCA = "t2", "http://tatu.example.com", "", "ssh-rsa AAAA"
	fromTatu.Joining = Joining{}
	both := fromTatu
	both.Joining = Joining{FQDN: "web.example.com", Realm: "EXAMPLE.COM", OTP: "otp2"}
	for name, test := range map[string]struct {
		meta, vendor string
		want         Instance
		err          string
	}{
		"under any name":        {metaData, `{"whatever": ` + muster + `}`, whole, ""},
		"beside others":         {metaData, `{"a": [], "b": 1, "static": {"cloud-init": "#"}, "z": ` + muster + `, "c": {"token": 5}}`, whole, ""},
		"the fullest of two":    {metaData, `{"a": ` + muster + `, "b": ` + tatu + `}`, whole, ""},
		"Tatu's address":        {metaData, `{"tatu": ` + tatu + `}`, fromTatu, ""},
		"both predecessors'":    {metaData, `{"join": ` + novajoin + `, "tatu": ` + tatu + `}`, both, ""},
		"only novajoin's":       {metaData, `{"join": ` + novajoin + `}`, Instance{}, "nothing from Muster"},
		"Muster was away":       {metaData, `{"muster": {}}`, Instance{}, "nothing from Muster"},
		"no object":             {metaData, `[]`, Instance{}, "not a JSON object"},
		"no JSON":               {`x`, `{}`, Instance{}, "meta_data.json is not valid JSON"},
		"no ID":                 {`{}`, `{"tatu": ` + tatu + `}`, Instance{}, "the instance's ID"},
		"an ID that is none":    {`{"uuid": "../../etc"}`, `{"m": ` + muster + `}`, Instance{}, "the instance's ID"},
		"a project that is not": {`{"uuid": "d8e02d56264849a3bf976be8f1204f38", "project_id": "x"}`, `{"m": ` + tatu + `}`, Instance{}, "the project's ID"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := combine([]byte(test.meta), []byte(test.vendor), "test")
			if (err == nil) != (test.err == "") || (err != nil && !strings.Contains(err.Error(), test.err)) {
				t.Fatalf("got error %v, want %q", err, test.err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Error(diff)
			}
			if err != nil && (strings.Contains(err.Error(), "t1") || strings.Contains(err.Error(), "otp")) {
				t.Errorf("the error holds a secret: %v", err)
			}
		})
	}
}

func TestSearch(t *testing.T) {
	kept := `{"v1": {"instance_id": "d8e02d56-2648-49a3-bf97-6be8f1204f38"}, "ds": {"meta_data": ` + metaData +
		`, "vendordata2": {"x": ` + muster + `}}}`
	got, err := search([]byte(kept), "test")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(whole, got); diff != "" {
		t.Error(diff)
	}
	if _, err := search([]byte(`{"ds": {"meta_data": `+metaData+`}}`), "test"); !errors.Is(err, ErrNoMuster) {
		t.Errorf("the owner's properties were taken for Muster's: %v", err)
	}
}

func FuzzCombine(f *testing.F) {
	f.Add([]byte(metaData), []byte(`{"m": `+muster+`}`))
	f.Add([]byte(metaData), []byte(`{"a": `+novajoin+`, "b": `+tatu+`}`))
	f.Fuzz(func(t *testing.T, a, b []byte) {
		for _, read := range []func() (Instance, error){
			func() (Instance, error) { return combine(a, b, "fuzz") },
			func() (Instance, error) { return search(b, "fuzz") },
		} {
			if found, err := read(); err == nil && (len(found.ID) != 32 || found.Token == "" || found.Endpoint == "") {
				t.Errorf("half an instance: %+v", found)
			}
		}
	})
}

// disk is a Runner for a machine with a config drive in a folder.
type disk struct {
	content string // "" for a machine without
	mounted map[string]bool
	called  []string
}

func (d *disk) Run(_ context.Context, _ []byte, name string, args ...string) ([]byte, error) {
	d.called = append(d.called, name+" "+strings.Join(args, " "))
	switch name {
	case "blkid":
		if d.content != "" && args[1] == "LABEL=config-2" {
			return []byte("/dev/sr0\n"), nil
		}
		return nil, errors.New("exit status 2")
	case "mount":
		folder := args[len(args)-1]
		d.mounted[folder] = true
		return nil, os.CopyFS(folder, os.DirFS(d.content))
	case "umount":
		delete(d.mounted, args[0])
		return nil, os.RemoveAll(filepath.Join(args[0], "openstack"))
	}
	return nil, fmt.Errorf("unexpected program %s", name)
}

// drive makes a config drive's content.
func drive(t *testing.T, vendorData string) string {
	t.Helper()
	folder := t.TempDir()
	latest := filepath.Join(folder, "openstack/latest")
	if err := os.MkdirAll(latest, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"meta_data.json": metaData, "vendor_data2.json": vendorData} {
		if err := os.WriteFile(filepath.Join(latest, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return folder
}

// service starts a metadata service, and counts how often its vendordata is read.
func service(t *testing.T, vendorData string) (address string, asked *atomic.Int32) {
	t.Helper()
	asked = new(atomic.Int32)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /openstack/latest/meta_data.json", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, metaData) })
	mux.HandleFunc("GET /openstack/latest/vendor_data2.json", func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		fmt.Fprint(w, vendorData)
	})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return server.URL, asked
}

func TestFindOnDrive(t *testing.T) {
	address, asked := service(t, `{"m": `+tatu+`}`)
	machine := &disk{content: drive(t, `{"m": `+muster+`}`), mounted: map[string]bool{}}
	finder := New(Config{Root: t.TempDir(), Runner: machine, Addresses: []string{address}})
	found, err := finder.Find(t.Context())
	if err != nil || found.Token != "t1" || asked.Load() != 0 {
		t.Errorf("got %v, %v, asked the service %d times", found.Source, err, asked.Load())
	}
	if len(machine.mounted) != 0 {
		t.Errorf("still mounted: %v", machine.called)
	}
	if !strings.Contains(strings.Join(machine.called, "\n"), "mount -o ro,nosuid,nodev,noexec /dev/sr0 ") {
		t.Errorf("not mounted as it should be: %q", machine.called)
	}
	// For what may have changed since, the service comes first.
	if found, err := finder.FindCurrent(t.Context()); err != nil || found.Token != "t2" {
		t.Errorf("got %v, %v", found.Source, err)
	}
}

func TestFindOnMountedDrive(t *testing.T) {
	root := t.TempDir()
	for _, folder := range []string{"dev/disk/by-label", "proc/self", "mnt"} {
		if err := os.MkdirAll(filepath.Join(root, folder), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("../../vdb", filepath.Join(root, "dev/disk/by-label/config-2")); err != nil {
		t.Fatal(err)
	}
	mounts := "proc /proc proc rw 0 0\n/dev/vdb /mnt/config\\040drive iso9660 ro 0 0\n"
	if err := os.WriteFile(filepath.Join(root, "proc/self/mounts"), []byte(mounts), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(filepath.Join(root, "mnt/config drive"), os.DirFS(drive(t, `{"m": `+muster+`}`))); err != nil {
		t.Fatal(err)
	}
	found, err := New(Config{Root: root, Addresses: []string{}}).Find(t.Context())
	if err != nil || found.Source != "config drive" {
		t.Errorf("got %v, %v", found.Source, err)
	}
}

// TestFindElsewhere: a drive from a time when Muster was away is not the end.
func TestFindElsewhere(t *testing.T) {
	address, _ := service(t, `{"m": `+muster+`}`)
	machine := &disk{content: drive(t, `{"m": {}}`), mounted: map[string]bool{}}
	found, err := New(Config{Root: t.TempDir(), Runner: machine, Addresses: []string{"http://127.0.0.1:1", address}}).Find(t.Context())
	if err != nil || found.Source != "metadata service "+address {
		t.Errorf("got %v, %v", found.Source, err)
	}
}

func TestFindInWhatCloudInitKept(t *testing.T) {
	root := t.TempDir()
	if err := os.MkdirAll(filepath.Join(root, "run/cloud-init"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, instanceData), []byte(`{"ds": [`+metaData+`,`+muster+`]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	found, err := New(Config{Root: root, Addresses: []string{}}).Find(t.Context())
	if err != nil || found.Source != instanceData {
		t.Errorf("got %v, %v", found.Source, err)
	}
}

func TestFindNothing(t *testing.T) {
	machine := &disk{mounted: map[string]bool{}}
	_, err := New(Config{Root: t.TempDir(), Runner: machine, Addresses: []string{"http://127.0.0.1:1"}}).Find(t.Context())
	if !errors.Is(err, ErrNone) {
		t.Errorf("got %v", err)
	}
	address, _ := service(t, `{}`)
	_, err = New(Config{Root: t.TempDir(), Runner: machine, Addresses: []string{address}}).Find(t.Context())
	if !errors.Is(err, ErrNoMuster) {
		t.Errorf("got %v", err)
	}
	address, _ = service(t, strings.Repeat(" ", MaxSize)+`{"m": `+muster+`}`)
	_, err = New(Config{Root: t.TempDir(), Runner: machine, Addresses: []string{address}}).Find(t.Context())
	if err == nil || !strings.Contains(err.Error(), "more than") {
		t.Errorf("an endless answer: %v", err)
	}
}
