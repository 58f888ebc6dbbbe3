// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"database/sql"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	_ "modernc.org/sqlite"

	"github.com/muster-cloud/muster/internal/agent"
)

// TestBackByAnotherToken: an instance that was off until its certificates had
// ended comes back, by a token that the operator gives and the metadata bring.
func TestBackByAnotherToken(t *testing.T) {
	i := newInstance(t)
	_, stop := i.start()
	before := i.await("set up", func(s *agent.Status) bool { return !s.ConfiguredAt.IsZero() && len(s.Problems) == 0 })
	stop()
	i.outlive()
	_, stop = i.start()
	i.await("what it needs", func(s *agent.Status) bool {
		return slices.ContainsFunc(s.Problems, func(p agent.Problem) bool { return strings.Contains(p.Text, "muster instance token "+i.id) })
	})
	var renewed struct {
		ID string `json:"host_id"`
	}
	i.ask(i.env.User("admin"), "/v1/hosts/"+i.id+"/token", nil, &renewed)
	if renewed.ID != i.id {
		t.Errorf("renewed for %q", renewed.ID)
	}
	after := i.await("certified anew", func(s *agent.Status) bool { return len(s.Problems) == 0 && len(s.Certificates) > 0 })
	stop()
	if len(after.Certificates) != len(before.Certificates) || after.Certificates[0].Serial <= before.Certificates[0].Serial {
		t.Errorf("certificates %+v, before %+v", after.Certificates, before.Certificates)
	}
	if _, err := i.programs().Run(t.Context(), nil, "sshd", "-t"); err != nil {
		t.Error(err)
	}
}

// outlive makes it as if the certificates' life were over, for both sides.
func (i *instance) outlive() {
	i.t.Helper()
	database, err := sql.Open("sqlite", filepath.Join(i.env.Dir, "muster.db")+"?_pragma=busy_timeout(10000)")
	if err != nil {
		i.t.Fatal(err)
	}
	defer database.Close()
	if _, err := database.Exec("UPDATE host_cert SET expires_at = 1 WHERE instance_id = ?", i.id); err != nil {
		i.t.Fatal(err)
	}
	path := filepath.Join(i.root, stateFolder, agent.RecordFile)
	text, err := os.ReadFile(path)
	if err != nil {
		i.t.Fatal(err)
	}
	var record map[string]any
	if err := json.Unmarshal(text, &record); err != nil {
		i.t.Fatal(err)
	}
	delete(record, "certs")
	if text, err = json.Marshal(record); err == nil {
		err = os.WriteFile(path, text, 0o600)
	}
	if err != nil {
		i.t.Fatal(err)
	}
}
