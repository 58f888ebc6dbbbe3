// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/muster-cloud/muster/internal/agentapi"
)

// RecordFile is the record's name in the state folder.
const RecordFile = "agent.json"

// maxRecord bounds what is read back.
const maxRecord = 4 << 20

// Identity is which instance this is, and where its Muster is.
type Identity struct {
	ID        string `json:"id"`
	ProjectID string `json:"project_id"`
	Hostname  string `json:"hostname"`
	Source    string `json:"source"` // where that was found
	Endpoint  string `json:"endpoint"`
	CA        string `json:"ca,omitempty"`
}

// record is what an agent knows after a restart, also while Muster and the
// metadata are away. There is no secret in it.
type record struct {
	Identity Identity `json:"identity"`
	// Certs are the host certificates, by the host key's line.
	Certs map[string]string `json:"certs,omitempty"`
	// State is what Muster said last; its version is empty before that.
	State agentapi.State `json:"state"`
	// Joined is how joining FreeIPA went: empty, or one of agentapi's outcomes.
	Joined string `json:"joined,omitempty"`
}

// load reads the record. One that is not there is empty.
func (r *record) load(dir string) error {
	file, err := os.Open(filepath.Join(dir, RecordFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxRecord))
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, r); err != nil {
		return fmt.Errorf("%s is damaged", file.Name())
	}
	return nil
}

// save writes the record.
func (r *record) save(dir string, step func(string)) error {
	return writeJSON(filepath.Join(dir, RecordFile), r, 0o600, step)
}

func (r *record) clone() record {
	c := *r
	c.Certs = maps.Clone(r.Certs)
	return c
}

// change alters the record and writes it down. On a full disk the agent goes on
// with what it has in memory, and says so.
func (a *Agent) change(alter func(*record)) {
	a.saving.Lock()
	a.mu.Lock()
	alter(&a.record)
	record := a.record.clone()
	a.mu.Unlock()
	err := record.save(a.cfg.StateDir, a.cfg.Step)
	a.saving.Unlock()
	a.note(aboutRecord, err)
	a.describe()
}

// snapshot is a copy of the record.
func (a *Agent) snapshot() record {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.record.clone()
}

// writeJSON replaces a file in one step. With a step, which is told of each
// change before it is made, it is on the disk when that is done.
func writeJSON(path string, value any, mode fs.FileMode, step func(string)) error {
	durable := step != nil
	if !durable {
		step = func(string) {}
	}
	data, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		return err
	}
	data = append(data, '\n')
	step("copy " + path)
	file, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	_, err = file.Write(data)
	if err == nil && durable {
		err = file.Sync()
	}
	if err = errors.Join(err, file.Close()); err == nil {
		step("rename " + path)
		err = os.Rename(file.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(file.Name()))
	}
	if durable {
		return syncFolder(filepath.Dir(path))
	}
	return nil
}

// syncFolder makes a rename in a folder outlive a power cut.
func syncFolder(path string) error {
	folder, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(folder.Sync(), folder.Close())
}

// sameNames tells whether two lists of principals hold the same.
func sameNames(a, b []string) bool {
	a, b = slices.Clone(a), slices.Clone(b)
	slices.Sort(a)
	slices.Sort(b)
	return slices.Equal(slices.Compact(a), slices.Compact(b))
}
