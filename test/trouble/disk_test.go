// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package trouble

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/muster-cloud/muster/test/deployment"
	"github.com/muster-cloud/muster/test/services"
)

// TestFileMayNotGrow limits the size of SQLite's files, which fails as a quota does.
func TestFileMayNotGrow(t *testing.T) {
	t.Parallel()
	w := newWorld(t, deployment.Options{})
	process := w.StartProcess(t)
	client := deployment.As(process.URL, w.alice)
	cert := w.mustWork(t, client)
	var before unix.Rlimit
	if err := unix.Prlimit(process.PID(), unix.RLIMIT_FSIZE, nil, &before); err != nil {
		t.Fatal(err)
	}
	limit := func(size uint64) {
		if err := unix.Prlimit(process.PID(), unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: size, Max: before.Max}, nil); err != nil {
			t.Fatal(err)
		}
	}
	limit(4096)
	w.askWithFullDisk(t, client, cert)
	limit(before.Cur)
	w.mustRecover(t, client)
	revokeAndLook(t, w, client, cert)
	if err := process.Stop(); err != nil {
		t.Errorf("%v\n%s", err, process.Log())
	}
}

// TestDiskIsFull fills a small file system that only the replica sees.
func TestDiskIsFull(t *testing.T) {
	t.Parallel()
	unshare, err := exec.LookPath("unshare")
	if err == nil {
		err = exec.CommandContext(t.Context(), unshare, "-rm", "true").Run()
	}
	if err != nil {
		services.Need(t, fmt.Errorf("mounts of our own (unshare -rm: %w): %w", err, services.ErrMissing))
	}
	disk := t.TempDir()
	file := filepath.Join(disk, "muster.db")
	d := deployment.New(t, deployment.Options{Database: "sqlite:///" + file})
	d.Project(t, "alpha")
	w := &world{Deployment: d, alice: d.Person(t, "alice", "alpha", "member"), nova: d.Nova(t), root: d.Operator(t)}
	process := w.StartProcess(t, func(c *exec.Cmd) {
		// The database as it was prepared goes onto the file system of its own.
		const script = `set -e; cp "$1" "$2/../prepared"; mount -t tmpfs -o size=1m muster "$2"; cp "$2/../prepared" "$1"; exec "$0"`
		c.Args = []string{unshare, "-rm", "sh", "-c", script, c.Path, file, disk}
		c.Path = unshare
	})
	client := deployment.As(process.URL, w.alice)
	cert := w.mustWork(t, client)

	filler := fmt.Sprintf("/proc/%d/root%s/filler", process.PID(), disk)
	if err := os.WriteFile(filler, make([]byte, 2<<20), 0o600); err == nil {
		t.Fatal("2 MiB fit onto a disk of 1 MiB: it isn't the replica's")
	}
	w.askWithFullDisk(t, client, cert)
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	w.mustRecover(t, client)
	revokeAndLook(t, w, client, cert)
	if err := process.Stop(); err != nil {
		t.Errorf("%v\n%s", err, process.Log())
	}
}

// askWithFullDisk: nothing is issued or revoked, and what is there can be read.
func (w *world) askWithFullDisk(t *testing.T, client *deployment.Client, cert deployment.UserCert) {
	t.Helper()
	root := deployment.As(client.URL, w.root)
	// What the log of SQLite has allocated already may still take a few records.
	refusal := w.awaitRefusal(t, client)
	wantUnavailable(t, "a certificate with a full disk", refusal, nil)
	revocation := deployment.Object{"serial": cert.Serial, "reason": "full"}
	answer, err := root.Call(t.Context(), "POST", "/v1/revokeduserkeys/"+w.alice.ProjectID, revocation)
	wantUnavailable(t, "a revocation with a full disk", answer, err)
	var record deployment.UserCert
	client.Want(t, http.StatusOK, "GET", fmt.Sprintf("/v1/usercerts/%d", cert.Serial), nil, &record)
	if record.Cert != cert.Cert || record.Revoked {
		t.Errorf("with a full disk the record reads %+v", record)
	}
	client.Want(t, http.StatusOK, "GET", "/noauth/revokeduserkeys/"+w.alice.ProjectID, nil, nil)
}
