// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package files

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const stateFolder = "/var/lib/agent"

// machine is a small tree as it was before Muster.
func machine(t *testing.T, root string) {
	t.Helper()
	for path, content := range map[string]string{
		"etc/ssh/sshd_config": "UsePAM yes\n", "etc/pam.d/sudo": "#%PAM-1.0\nauth required x\n",
	} {
		name := filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(content), 0o640); err != nil {
			t.Fatal(err)
		}
	}
}

func open(t *testing.T, root string) *Tree {
	t.Helper()
	tree, err := OpenTree(t.Context(), Config{Root: root, State: stateFolder})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tree.Close() })
	return tree
}

// snapshot describes everything but the state folder: type, mode, owner, content.
func snapshot(t *testing.T, root string) map[string]string {
	t.Helper()
	seen := map[string]string{}
	err := filepath.WalkDir(root, func(name string, entry fs.DirEntry, err error) error {
		if err != nil || name == filepath.Join(root, "var") {
			return errors.Join(err, fs.SkipDir)
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		uid, gid := owner(info)
		text := info.Mode().String() + " " + strconv.Itoa(uid) + ":" + strconv.Itoa(gid)
		if info.Mode().IsRegular() {
			content, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			text += " " + string(content)
		}
		seen[strings.TrimPrefix(name, root)] = text
		return nil
	})
	if err != nil && !errors.Is(err, fs.SkipDir) {
		t.Fatal(err)
	}
	return seen
}

// setUp is what an agent does to the small machine.
func setUp(t *testing.T, tree *Tree) *Change {
	t.Helper()
	change := tree.Begin()
	block := append([]byte("#%PAM-1.0\n"), Block("auth sufficient y")...)
	err := errors.Join(
		change.Folder("/etc/ssh/muster", Folder),
		change.Write("/etc/ssh/muster/ca", []byte("ca\n"), Public),
		change.Write("/etc/ssh/sshd_config", []byte("replaced\n"), Attr{Mode: 0o600}),
		change.Edit("/etc/pam.d/sudo", append(block, "auth required x\n"...)),
	)
	if err != nil {
		t.Fatal(err)
	}
	return change
}

func TestUndoGivesTheTreeBack(t *testing.T) {
	root := t.TempDir()
	machine(t, root)
	before := snapshot(t, root)
	tree := open(t, root)
	if changed, err := setUp(t, tree).Do(t.Context()); err != nil || !changed {
		t.Fatal(changed, err)
	}
	if _, err := tree.Write(t.Context(), "/etc/ssh/muster/ca", []byte("other\n"), Public); err != nil {
		t.Fatal(err)
	}
	if got, err := tree.Read("/etc/ssh/muster/ca"); err != nil || string(got) != "other\n" {
		t.Fatalf("%q, %v", got, err)
	}
	if changed, err := tree.Write(t.Context(), "/etc/ssh/muster/ca", []byte("other\n"), Public); err != nil || changed {
		t.Fatal("the same again is a change", changed, err)
	}
	if err := tree.Undo(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, snapshot(t, root)); diff != "" {
		t.Fatal(diff)
	}
}

func TestUndoKeepsWhatOthersWrote(t *testing.T) {
	root := t.TempDir()
	machine(t, root)
	tree := open(t, root)
	if _, err := setUp(t, tree).Do(t.Context()); err != nil {
		t.Fatal(err)
	}
	pam := filepath.Join(root, "etc/pam.d/sudo")
	content, err := os.ReadFile(pam)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(pam, append(content, "session optional z\n"...), 0o640); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "etc/ssh/muster/others"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := tree.Undo(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	content, err = os.ReadFile(pam)
	if err != nil || string(content) != "#%PAM-1.0\nauth required x\nsession optional z\n" {
		t.Fatalf("%q, %v", content, err)
	}
	if names, err := tree.List("/etc/ssh/muster"); err != nil || !cmp.Equal(names, []string{"others"}) {
		t.Fatal(names, err)
	}
}

func TestRollback(t *testing.T) {
	root := t.TempDir()
	machine(t, root)
	before := snapshot(t, root)
	tree := open(t, root)
	change := setUp(t, tree)
	if _, err := change.Apply(t.Context()); err != nil {
		t.Fatal(err)
	}
	if cmp.Equal(before, snapshot(t, root)) {
		t.Fatal("Apply changed nothing")
	}
	if err := change.Rollback(); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, snapshot(t, root)); diff != "" {
		t.Fatal(diff)
	}
}

func TestOneProcessAtATime(t *testing.T) {
	root := t.TempDir()
	tree := open(t, root)
	if _, err := OpenTree(t.Context(), Config{Root: root, State: stateFolder}); !errors.Is(err, ErrBusy) {
		t.Fatal(err)
	}
	if err := tree.Close(); err != nil {
		t.Fatal(err)
	}
	open(t, root)
}

func TestCreateKeepsWhatIsThere(t *testing.T) {
	root := t.TempDir()
	machine(t, root)
	tree := open(t, root)
	change := tree.Begin()
	if err := change.Create("/etc/ssh/list", []byte("empty"), Public); err != nil {
		t.Fatal(err)
	}
	// Somebody is quicker.
	if _, err := tree.Write(t.Context(), "/etc/ssh/list", []byte("full"), Public); err != nil {
		t.Fatal(err)
	}
	if changed, err := change.Do(t.Context()); err != nil || changed {
		t.Fatal(changed, err)
	}
	if content, err := tree.Read("/etc/ssh/list"); err != nil || string(content) != "full" {
		t.Fatal(string(content), err)
	}
}

// TestSeveralAtOnce: each change is whole, whoever makes others meanwhile.
func TestSeveralAtOnce(t *testing.T) {
	root := t.TempDir()
	machine(t, root)
	before := snapshot(t, root)
	tree := open(t, root)
	var writers sync.WaitGroup
	for n := range 4 {
		writers.Go(func() {
			name := "/etc/ssh/" + strconv.Itoa(n)
			for round := range 5 {
				if _, err := tree.Write(t.Context(), name, []byte{byte(round)}, Public); err != nil {
					t.Error(err)
				}
			}
			if err := tree.Watch([]string{"/etc/pam.d/sudo"}, func() error { tree.Made(name); return nil }); err != nil {
				t.Error(err)
			}
		})
	}
	writers.Wait()
	if err := tree.Undo(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, snapshot(t, root)); diff != "" {
		t.Fatal(diff)
	}
}

func TestDamagedJournal(t *testing.T) {
	root := t.TempDir()
	if err := open(t, root).Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, stateFolder, journalName), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenTree(t.Context(), Config{Root: root, State: stateFolder}); !errors.Is(err, ErrJournal) {
		t.Fatal(err)
	}
}

func TestLinksStayInsideTheRoot(t *testing.T) {
	root, outside := t.TempDir(), t.TempDir()
	machine(t, root)
	tree := open(t, root)
	for link, target := range map[string]string{
		"etc/absolute": "/opt/conf", "etc/up": "../../../../../../opt/conf", "etc/loop": "loop", "etc/dir": outside,
	} {
		if err := os.Symlink(target, filepath.Join(root, link)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(filepath.Join(root, "opt"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/etc/absolute", "/etc/up"} {
		if _, err := tree.Write(t.Context(), path, []byte(path), Public); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(filepath.Join(root, "opt/conf")); err != nil || string(got) != path {
			t.Fatalf("%q, %v", got, err)
		}
		if info, err := os.Lstat(filepath.Join(root, path)); err != nil || info.Mode()&fs.ModeSymlink == 0 {
			t.Fatal("the link itself was replaced", err)
		}
	}
	for _, path := range []string{"/etc/loop", "relative"} {
		if _, err := tree.Write(t.Context(), path, nil, Public); !errors.Is(err, ErrEscapes) {
			t.Error(path, err)
		}
	}
	if _, err := tree.Write(t.Context(), "/etc/dir/x", nil, Public); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if left, err := os.ReadDir(outside); err != nil || len(left) > 0 {
		t.Fatal("it wrote outside of the root", left, err)
	}
}

// TestCrash looks at what a killed process leaves, at every point of setting up
// and of Undo, and at every point of the recovery after a kill. After one more
// start the tree is wholly as before or wholly as after.
func TestCrash(t *testing.T) {
	pristine, finished := snapshots(t)
	for _, what := range []string{"set up", "undo"} {
		root := memory(t)
		machine(t, root)
		if what == "undo" {
			run(t, root, "set up")
		}
		killed := leftovers(t, root, what)
		t.Logf("%s has %d points", what, len(killed))
		if len(killed) < 10 {
			t.Errorf("%s has only %d points", what, len(killed))
		}
		for first, once := range killed {
			var again []string
			if !testing.Short() {
				again = leftovers(t, copied(t, once), "open")
			}
			for second, root := range append(again, once) {
				recovers(t, root, pristine, finished)
				if t.Failed() {
					t.Fatalf("%s, killed at %d and %d", what, first+1, second+1)
				}
			}
		}
	}
}

// recovers fails the test unless whoever opens the tree that a killed process
// left makes it whole, and can go on from there.
func recovers(t *testing.T, root string, pristine, finished map[string]string) {
	t.Helper()
	run(t, root, "open")
	got := snapshot(t, root)
	if _, whole := got["/etc/ssh/muster/ca"]; !whole {
		delete(got, "/etc/ssh/muster") // an empty folder may be left to the next Undo
	}
	if !cmp.Equal(got, pristine) && !cmp.Equal(got, finished) {
		t.Errorf("half done: %s", cmp.Diff(pristine, got))
	}
	for again, want := range map[string]map[string]string{"set up": finished, "undo": pristine} {
		run(t, root, again)
		if diff := cmp.Diff(want, snapshot(t, root)); diff != "" {
			t.Errorf("then %s: %s", again, diff)
		}
	}
}

// leftovers does something, and returns a copy of the tree for each point at
// which a process can be killed meanwhile: what that would leave.
func leftovers(t *testing.T, root, what string) (trees []string) {
	t.Helper()
	tree, err := OpenTree(t.Context(), Config{Root: root, State: stateFolder, Crash: func(string) {
		trees = append(trees, copied(t, root))
	}})
	if err != nil {
		t.Fatal(err)
	}
	act(t, tree, what)
	if err := tree.Close(); err != nil {
		t.Fatal(err)
	}
	return trees
}

// copied is a folder with the same content, owners and modes.
func copied(t *testing.T, root string) string {
	t.Helper()
	same := memory(t)
	if output, err := exec.CommandContext(t.Context(), "cp", "-a", root+"/.", same).CombinedOutput(); err != nil {
		t.Fatalf("copying: %v: %s", err, output)
	}
	return same
}

// memory is a folder in memory where there is one: each of some thousand syncs
// would wait for the disk.
func memory(t *testing.T) string {
	t.Helper()
	root, err := os.MkdirTemp("/dev/shm", "files")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(root) })
	return root
}

func snapshots(t *testing.T) (pristine, finished map[string]string) {
	t.Helper()
	root := memory(t)
	machine(t, root)
	pristine = snapshot(t, root)
	run(t, root, "set up")
	return pristine, snapshot(t, root)
}

// run does something, undisturbed.
func run(t *testing.T, root, what string) {
	t.Helper()
	tree := open(t, root)
	act(t, tree, what)
	if err := tree.Close(); err != nil {
		t.Fatal(err)
	}
}

func act(t *testing.T, tree *Tree, what string) {
	t.Helper()
	var err error
	switch what {
	case "set up":
		_, err = setUp(t, tree).Do(t.Context())
	case "undo":
		err = tree.Undo(t.Context(), "")
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestStrip(t *testing.T) {
	for name, test := range map[string]struct{ content, want string }{
		"none":     {"a\nb\n", "a\nb\n"},
		"first":    {string(Block("x")) + "a\n", "a\n"},
		"last":     {"a\n" + string(Block("x", "y")), "a\n"},
		"two":      {string(Block("x")) + "a\n" + string(Block("y")), "a\n"},
		"no end":   {"a\n" + blockBegin + "\nb\n", "a\n" + blockBegin + "\nb\n"},
		"end only": {blockEnd + "\nb\n", blockEnd + "\nb\n"},
		"in words": {"# " + blockBegin + "\n" + blockEnd + "\n", "# " + blockBegin + "\n" + blockEnd + "\n"},
	} {
		if got := string(Strip([]byte(test.content))); got != test.want {
			t.Errorf("%s: got %q, want %q", name, got, test.want)
		}
	}
}

func FuzzStrip(f *testing.F) {
	f.Add("a\n", "b\n")
	f.Add("a", "")
	f.Fuzz(func(t *testing.T, head, tail string) {
		if strings.Contains(head+tail, "muster-agent") {
			return // it may hold the marks of a block
		}
		if head != "" && !strings.HasSuffix(head, "\n") {
			head += "\n"
		}
		if got := string(Strip([]byte(head + string(Block("x", "y")) + tail))); got != head+tail {
			t.Fatalf("%q", got)
		}
	})
}
