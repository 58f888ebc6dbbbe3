// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package files

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// asked is a Runner that writes down what it was asked to run.
type asked []string

func (a *asked) Run(_ context.Context, _ []byte, name string, args ...string) ([]byte, error) {
	*a = append(*a, strings.Join(append([]string{name}, args...), " "))
	return nil, errors.New("it failed") // which is no more than a warning
}

// TestLabels: under SELinux a file that is replaced keeps its label, also when
// it is given back, and the policy is asked for the labels of new ones.
func TestLabels(t *testing.T) {
	root := memory(t)
	if err := os.MkdirAll(filepath.Join(root, "sys/fs/selinux/enforce"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(root, "etc/ssh"), 0o755); err != nil {
		t.Fatal(err)
	}
	there := filepath.Join(root, "etc/ssh/sshd_config")
	if err := os.WriteFile(there, []byte("before"), 0o600); err != nil {
		t.Fatal(err)
	}
	const label = "system_u:object_r:etc_t:s0\x00"
	if err := syscall.Setxattr(there, selinuxLabel, []byte(label), 0); err != nil {
		if os.Getenv("CI") == "true" || os.Getenv("MUSTER_TEST_REQUIRE") == "1" {
			t.Fatal("labels can't be set here: ", err)
		}
		t.Skip("SKIPPED, nothing was tested: labels can't be set here: ", err)
	}
	ran := &asked{}
	tree, err := OpenTree(t.Context(), Config{Root: root, State: stateFolder, Runner: ran})
	if err != nil {
		t.Fatal(err)
	}
	defer tree.Close()
	change := tree.Begin()
	err = errors.Join(change.Write("/etc/ssh/sshd_config", []byte("after"), Public), change.Folder("/etc/ssh/muster", Folder),
		change.Write("/etc/ssh/muster/ca", []byte("ca"), Public))
	if _, doErr := change.Do(t.Context()); errors.Join(err, doErr) != nil {
		t.Fatal(err, doErr)
	}
	if got := labelOf(there); got != label {
		t.Errorf("the label is %q", got)
	}
	if diff := cmp.Diff(asked{"restorecon /etc/ssh/muster /etc/ssh/muster/ca"}, *ran); diff != "" {
		t.Errorf("what was asked of the policy:\n%s", diff)
	}
	if err := tree.Undo(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(there)
	if err != nil || string(content) != "before" || labelOf(there) != label {
		t.Errorf("given back: %q with the label %q, %v", content, labelOf(there), err)
	}
	if slices.ContainsFunc(*ran, func(line string) bool { return strings.Contains(line, "setenforce") }) {
		t.Error("SELinux was switched")
	}
}
