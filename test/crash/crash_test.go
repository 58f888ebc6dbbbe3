// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package crash

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	_ "modernc.org/sqlite"

	"github.com/muster-cloud/muster/test/deployment"
	"github.com/muster-cloud/muster/test/services"
)

// longest is how long a round's load runs at most before the kill.
const longest = 300 * time.Millisecond

// extended is how many times as many rounds there are at most, on a machine on
// which little happens in one.
const extended = 10

func TestKilledOnSQLite(t *testing.T) {
	t.Parallel()
	rounds := 100
	if testing.Short() {
		rounds = 10
	}
	d := deployment.New(t, deployment.Options{})
	run(t, d, rounds, kill, func() { checkSQLite(t, d.SQLite()) })
}

// TestStoppedUnderLoad: a replica that is told to end answers all that it took on.
func TestStoppedUnderLoad(t *testing.T) {
	t.Parallel()
	d := deployment.New(t, deployment.Options{})
	run(t, d, 5, stop, func() { checkSQLite(t, d.SQLite()) })
}

// TestDatabaseKilledUnderLoad: the replica stays, and the database is killed and
// comes back.
func TestDatabaseKilledUnderLoad(t *testing.T) {
	services.EachDatabase(t, func(t *testing.T, server *services.Server, database string) {
		killDatabase(t, deployment.New(t, deployment.Options{Database: database}), server)
	})
}

func killDatabase(t *testing.T, d *deployment.Deployment, server *services.Server) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	l := newLedger(d, t)
	replica := d.StartProcess(t)
	for round := 0; round < 5 || round < 5*extended && (l.refused == 0 || len(l.issued) == 0); round++ {
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		time.AfterFunc(time.Duration(random.Int64N(int64(longest))), func() {
			err := errors.Join(server.Kill(), server.Start(ctx))
			cancel()
			ended <- err
		})
		l.load(ctx, t, replica.URL, random.Uint64())
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
		awaitReady(t, l, replica.URL)
		l.check(t, replica.URL)
		if t.Failed() {
			t.Fatalf("round %d\n%s", round, replica.Log())
		}
	}
	l.checkSerials(t)
	if err := replica.Stop(); err != nil {
		t.Errorf("%v\n%s", err, replica.Log())
	}
	t.Logf("%d user certificates, %d revocations, %d instances, %d refusals", len(l.issued), len(l.revoked), len(l.hosts), l.refused)
	if l.refused == 0 || len(l.issued) == 0 {
		t.Error("that has tested nothing")
	}
}

// awaitReady returns when the replica has found its database again.
func awaitReady(t *testing.T, l *ledger, url string) {
	t.Helper()
	err := deployment.Await(t.Context(), func(ctx context.Context) error {
		answer, err := l.user.At(url).Call(ctx, "GET", "/readyz", nil)
		if err == nil && answer.Status != http.StatusOK {
			err = fmt.Errorf("not ready: %s", answer.Body)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// kill ends a replica as a crash does.
func kill(p *deployment.Process) error {
	p.Kill()
	return nil
}

// stop ends a replica as an operator does.
func stop(p *deployment.Process) error { return p.Stop() }

func TestKilledOnPostgreSQL(t *testing.T) {
	t.Parallel()
	run(t, deployment.New(t, deployment.Options{Database: databases.PostgreSQL(t)}), 10, kill, func() {})
}

func TestKilledOnMariaDB(t *testing.T) {
	t.Parallel()
	run(t, deployment.New(t, deployment.Options{Database: databases.MariaDB(t)}), 10, kill, func() {})
}

// run ends a replica so many times. After each the database is examined, the
// next replica starts, and everything that clients were told is compared.
func run(t *testing.T, d *deployment.Deployment, rounds int, end func(*deployment.Process) error, examine func()) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	l := newLedger(d, t)
	var replica *deployment.Process
	for round := 0; round < rounds || round < rounds*extended && !l.tells(); round++ {
		replica = d.StartProcess(t)
		l.check(t, replica.URL)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		time.AfterFunc(time.Duration(random.Int64N(int64(longest))), func() {
			if err := end(replica); err != nil {
				t.Errorf("round %d: the end: %v\n%s", round, err, replica.Log())
			}
			cancel()
			close(ended)
		})
		l.load(ctx, t, replica.URL, random.Uint64())
		<-ended
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
	if !l.tells() {
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
