// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package instance

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/muster-cloud/muster/internal/agent"
	"github.com/muster-cloud/muster/internal/agentapi"
	"github.com/muster-cloud/muster/internal/cloudinit"
	"github.com/muster-cloud/muster/test/machine"
)

// program is where the agent is installed.
const program = "/usr/local/sbin/muster-agent"

// setUpTime is how soon an instance is as Muster says, on a slow machine too.
const setUpTime = 5 * time.Minute

// pollInterval is how often agents ask Muster for their state: as often as can be set.
const pollInterval = 10 * time.Second

// slow is how long that may take before the logs are of interest.
const slow = 5 * time.Second

// programs is a folder with the agent's program, built as for a release.
var programs = sync.OnceValues(func() (string, error) { return build() })

func build(flags ...string) (folder string, err error) {
	if folder, err = machine.TempDir(); err != nil {
		return "", err
	}
	file := filepath.Join(folder, agentapi.Programs[runtime.GOARCH])
	args := append([]string{"build", "-trimpath", "-ldflags", "-s -w", "-o", file}, flags...)
	command := exec.Command("go", append(args, "github.com/muster-cloud/muster/cmd/muster-agent")...)
	command.Env = append(os.Environ(), "CGO_ENABLED=0")
	if output, err := command.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building the agent: %w: %s", err, output)
	}
	return folder, nil
}

// instance is a machine that is an instance of the site and runs the agent.
type instance struct {
	*machine.Machine
	served
}

// newInstance makes an instance that gets the agent by the boot script once it
// boots.
func (s *site) newInstance(t *testing.T, name string, prepare ...func(root string) error) *instance {
	t.Helper()
	m := machine.New(t, machine.Config{Name: name, DMIProduct: "OpenStack Nova", Prepare: func(root string) error {
		for _, step := range append([]func(string) error{image}, prepare...) {
			if err := step(root); err != nil {
				return err
			}
		}
		return nil
	}})
	vendordata, err := cloudinit.Vendordata()
	if err != nil {
		t.Fatal(err)
	}
	i := &instance{Machine: m, served: s.boot(t, m, func(one *served) { one.vendordata = vendordata })}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the console of %s:\n%s", m.Name, tail(m.Console(), 2000))
		}
	})
	return i
}

// withAgent is the configuration of a Muster that hands the agent out.
func withAgent(t *testing.T, settings string) string {
	t.Helper()
	machine.Need(t)
	folder, err := programs()
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("[agent]\ndirectory = %s\npoll_interval = %v\n%s", folder, pollInterval, settings)
}

// status is what the agent says about itself.
func (i *instance) status() (agent.Status, error) {
	var status agent.Status
	text, err := os.ReadFile(i.Process("1/root/run/muster-agent/status.json"))
	if err == nil {
		err = json.Unmarshal(text, &status)
	}
	return status, err
}

// answers sets what the metadata service says in vendor_data2.json from now on;
// nil: what Muster says.
func (i *instance) answers(t *testing.T, change func([]byte) ([]byte, error)) {
	t.Helper()
	service, err := metadata()
	if err != nil {
		t.Fatal(err)
	}
	i.change = change
	service.set(i.Address, i.served)
}

// awaitSetUp returns when the agent has made the machine as Muster says.
func (i *instance) awaitSetUp(t *testing.T) agent.Status {
	t.Helper()
	var status agent.Status
	i.await(t, func() (err error) {
		status, err = i.status()
		if err == nil && (status.ConfiguredAt.IsZero() || len(status.Problems) > 0) {
			err = fmt.Errorf("it is set up since %v, with the problems %v", status.ConfiguredAt, status.Problems)
		}
		return err
	})
	return status
}

// await asks until there is no error, and shows the agent's log if there is one
// for too long.
func (i *instance) await(t *testing.T, ask func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), setUpTime)
	defer cancel()
	if err := eventually(ctx, ask); err != nil {
		t.Fatalf("%v\n%s", err, i.agentLog())
	}
}

// has tells, as an error, whether the account is there and not locked, or is not.
func (i *instance) has(account string, wanted bool) error {
	status, err := i.status()
	if err != nil {
		return err
	}
	found := false
	for _, name := range status.Accounts {
		found = found || name == account
	}
	if found != wanted {
		return fmt.Errorf("the accounts are %v", status.Accounts)
	}
	return nil
}

// healthy fails the test unless sshd would start with the configuration of now.
func (i *instance) healthy(t *testing.T) {
	t.Helper()
	if _, err := i.Run(t.Context(), "sshd", "-t"); err != nil {
		t.Errorf("sshd would not start: %v", err)
	}
}

func (i *instance) agentLog() string {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute) // the test's may have ended
	defer cancel()
	output, err := i.Run(ctx, "journalctl", "-b", "--no-pager", "-u", "muster-agent")
	return tail(strings.Join([]string{output, errorText(err)}, "\n"), 6000)
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func tail(text string, length int) string { return text[max(0, len(text)-length):] }

var errStillThere = errors.New("it is still there")
