// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package crash

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	_ "modernc.org/sqlite"

	"github.com/muster-cloud/muster/test/deployment"
)

// longest is how long a round's load runs at most before the kill.
const longest = 400 * time.Millisecond

func TestKilledOnSQLite(t *testing.T) {
	rounds := 100
	if testing.Short() {
		rounds = 10
	}
	d := deployment.New(t, deployment.Options{})
	run(t, d, rounds, func() { checkSQLite(t, d.SQLite()) })
}

func TestKilledOnPostgreSQL(t *testing.T) {
	run(t, deployment.New(t, deployment.Options{Database: databases.PostgreSQL(t)}), 10, func() {})
}

func TestKilledOnMariaDB(t *testing.T) {
	run(t, deployment.New(t, deployment.Options{Database: databases.MariaDB(t)}), 10, func() {})
}

// run kills a replica so many times. After each the database is examined, the
// next replica starts, and everything that clients were told is compared.
func run(t *testing.T, d *deployment.Deployment, rounds int, examine func()) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	l := newLedger(d, t)
	var replica *deployment.Process
	for round := range rounds {
		replica = d.StartProcess(t)
		l.check(t, replica.URL)
		ctx, cancel := context.WithCancel(t.Context())
		killed := make(chan struct{})
		time.AfterFunc(time.Duration(random.Int64N(int64(longest))), func() {
			replica.Kill()
			cancel()
			close(killed)
		})
		l.load(ctx, t, replica.URL, random.Uint64())
		<-killed
		examine()
		if text := replica.Log(); strings.Contains(text, "panic") {
			t.Errorf("round %d: %s", round, text)
		}
		if t.Failed() {
			t.Fatalf("round %d of %d", round, rounds)
		}
	}
	replica = d.StartProcess(t)
	l.check(t, replica.URL)
	l.checkSerials(t)
	askOpenSSH(t, l, l.list(t, replica.URL))
	if err := replica.Stop(); err != nil {
		t.Errorf("the last replica: %v\n%s", err, replica.Log())
	}
	t.Logf("%d user certificates, %d revocations, %d instances", len(l.issued), len(l.revoked), len(l.hosts))
	if len(l.issued) < rounds || len(l.revoked) == 0 || len(l.hosts) == 0 {
		t.Error("that is too little to have tested anything")
	}
}

// checkSQLite lets SQLite look at the whole file as the crash left it.
func checkSQLite(t *testing.T, path string) {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var verdict string
	if err := db.QueryRowContext(t.Context(), "PRAGMA integrity_check").Scan(&verdict); err != nil || verdict != "ok" {
		t.Errorf("integrity_check: %s %v", verdict, err)
	}
}

// asked is how many certificates ssh-keygen is asked about.
const asked = 10

// askOpenSSH lets ssh-keygen judge a sample of both kinds.
func askOpenSSH(t *testing.T, l *ledger, raw []byte) {
	t.Helper()
	program, err := exec.LookPath("ssh-keygen")
	if err != nil {
		t.Fatal(err)
	}
	folder := t.TempDir()
	list := filepath.Join(folder, "krl")
	if err := os.WriteFile(list, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	var revoked, good int
	for serial, cert := range l.issued {
		of := &good
		if l.revoked[serial] {
			of = &revoked
		}
		if *of++; *of > asked {
			continue
		}
		path := filepath.Join(folder, fmt.Sprint(serial))
		if err := os.WriteFile(path, []byte(cert+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := exec.CommandContext(t.Context(), program, "-Q", "-f", list, path).CombinedOutput()
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
		says := strings.Contains(string(out), "REVOKED")
		if says != (err != nil) {
			t.Fatalf("ssh-keygen -Q: %v: %s", err, out)
		}
		// An order that was not answered may have been carried out or not.
		if l.revoked[serial] && !says {
			t.Errorf("ssh-keygen doesn't find %d revoked: %s", serial, out)
		}
	}
}
