// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"database/sql"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"

	_ "modernc.org/sqlite"

	"github.com/muster-cloud/muster/internal/agentapi"
	"github.com/muster-cloud/muster/internal/api/apitest"
	"github.com/muster-cloud/muster/test/deployment"
)

// noTrouble are the operations that ask nobody, so that only a panic makes
// them fail.
var noTrouble = []string{
	"listVersions", "showVersion", "showAlive", "showReady", "showMetrics", "showDescription", "showPage", "listPATs", "listEvents",
	"createChallenge", "showProgram",
}

// troubled is a world in which each call of the table can be made.
type troubled struct {
	*world
	asks []ask
}

func newTroubled(t *testing.T, checks *apitest.Transport, o deployment.Options) *troubled {
	t.Helper()
	w := &troubled{world: newWorld(t, 1, o)}
	w.checks, w.client = checks, &http.Client{Transport: checks}
	w.do("manager", "POST", "/v1/authorities", object("auth_id", w.demo)).want(201)
	for _, call := range calls {
		w.asks = append(w.asks, call.make(w.world))
	}
	return w
}

// askAll makes the calls as a caller and returns the statuses that were
// answered.
func (w *troubled) askAll(caller string) map[int]int {
	statuses := map[int]int{}
	for _, a := range w.asks {
		statuses[w.do(caller, a.method, a.path, a.body, a.headers...).Status]++
	}
	return statuses
}

// TestTroubleIsDescribed: what is answered while those that Muster needs are
// away, when it cannot do its work, and to those who ask too often, is held
// against the description like any other answer.
func TestTroubleIsDescribed(t *testing.T) {
	checks := apitest.NewTransport(t)
	t.Run("Keystone is away", func(t *testing.T) {
		w := newTroubled(t, checks, deployment.Options{})
		w.cloud.Keystone.Shut()
		if got := w.askAll("system"); got[503] < len(calls)*3/4 {
			t.Errorf("without Keystone: %v", got)
		}
	})
	databaseAway := false // not played where there is no server, as in make unit
	t.Run("the database is away", func(t *testing.T) {
		url, gate := deployment.Through(t, databases.PostgreSQL(t))
		databaseAway = true
		w := newTroubled(t, checks, deployment.Options{Database: url})
		gate.Shut()
		if got := w.askAll("admin"); got[503] < len(calls)*3/4 {
			t.Errorf("without the database: %v", got)
		}
	})
	t.Run("the database is broken", func(t *testing.T) {
		w := newTroubled(t, checks, deployment.Options{})
		dropTables(t, w.cloud.SQLite())
		if got := w.askAll("admin"); got[500] < len(calls)*3/4 {
			t.Errorf("without tables: %v", got)
		}
		w.do("admin", "POST", "/v1/authorities", object("auth_id", w.other)).want(500) // that of demo is remembered
	})
	t.Run("an address asks too often", func(t *testing.T) {
		w := newWorld(t, 1, deployment.Options{Settings: deployment.Settings{"listen:main": {
			"faces": "tatu, vendordata, join, instance, operator, health, metrics", "rate_limit": "0.001", "rate_burst": "1"}}})
		w.checks, w.client = checks, &http.Client{Transport: checks}
		order := object("token_id", newID(), "host_id", newID(), "pub_key", line(newKey(t)))
		w.do("none", "POST", "/noauth/hostcerts", order).want(404)
		for _, path := range []string{"/noauth/hostcerts", "/v1/hostcerts", "/hostcerts"} {
			w.do("none", "POST", path, order).want(429)
		}
		w.do("none", "GET", "/noauth/revokeduserkeys/"+w.demo, "").want(429)
		w.do("none", "GET", agentapi.PathPrograms+agentapi.Programs["amd64"], "").want(429)
		for _, path := range []string{agentapi.PathHostCerts, agentapi.PathChallenges, agentapi.PathRenew, agentapi.PathState, agentapi.PathEnrolment} {
			w.do("none", "POST", path, "{}").want(429)
		}
	})
	t.Run("a user asks too often", func(t *testing.T) {
		const burst = 100
		w := newTroubled(t, checks, deployment.Options{Settings: deployment.Settings{"api": {
			"user_rate_limit": "0.001", "user_rate_burst": strconv.Itoa(burst)}}})
		refused := false
		for n := 0; n <= burst && !refused; n++ {
			refused = w.do("owner", "GET", "/v1/usercerts", "").Status == 429
		}
		if got := w.askAll("owner"); got[429] < len(calls)*3/4 {
			t.Errorf("a user without requests left: %v", got)
		}
		w.do("member", "GET", "/v1/usercerts", "").want(200) // another user, in the same project
		// Nova asks as one user for all instances, and must never wait.
		for _, unlimited := range []string{"service", "admin"} {
			if got := w.askAll(unlimited); got[429] > 0 {
				t.Errorf("%s: %v", unlimited, got)
			}
		}
	})
	exercised, statuses := checks.Exercised(), []int{429, 500, 503}
	if !databaseAway {
		statuses = []int{429, 500}
	}
	for _, path := range apitest.Load(t).Paths.Map() {
		for _, operation := range path.Operations() {
			id := operation.OperationID
			for _, status := range statuses {
				if operation.Responses.Status(status) != nil && !exercised[id][status] && !slices.Contains(noTrouble, id) {
					t.Errorf("operation %s is described with %d, which never came", id, status)
				}
			}
		}
	}
}

// dropTables takes all that a SQLite file holds away from under Muster.
func dropTables(t *testing.T, path string) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	rows, err := db.QueryContext(t.Context(), "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")
	if err != nil {
		t.Fatal(err)
	}
	var drops []string
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			t.Fatal(err)
		}
		drops = append(drops, "DROP TABLE "+name)
	}
	if err := rows.Err(); err != nil || len(drops) == 0 {
		t.Fatalf("%d tables: %v", len(drops), err)
	}
	statements := "PRAGMA busy_timeout = 10000; PRAGMA foreign_keys = OFF; BEGIN IMMEDIATE; " + strings.Join(drops, "; ") + "; COMMIT"
	if _, err := db.ExecContext(t.Context(), statements); err != nil {
		t.Fatal(err)
	}
}
