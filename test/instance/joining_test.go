// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package instance

import (
	"embed"
	"encoding/json"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/muster-cloud/muster/internal/agent/agenttest"
	"github.com/muster-cloud/muster/internal/dev"
)

// recorderFiles are the programs of FreeIPA's client and the module for LDAP, as
// far as joining touches them. They do it over HTTP, and note how they were
// called.
//
//go:embed all:testdata/freeipa
var recorderFiles embed.FS

// joinAsk is what the recorder asks of the directory.
type joinAsk struct{ Server, Who, Password, OID, Host string }

// directory is the cloud's FreeIPA as the recorder reaches it.
type directory struct {
	env *dev.Environment

	mu    sync.Mutex
	up    bool
	asked []joinAsk
}

// set lets the directory answer, or not.
func (d *directory) set(up bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.up = up
}

// record is all that was asked so far.
func (d *directory) record() []joinAsk {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.asked)
}

// ServeHTTP lets a host join by its one-time password.
func (d *directory) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var ask joinAsk
	if err := json.NewDecoder(r.Body).Decode(&ask); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	d.mu.Lock()
	d.asked = append(d.asked, ask)
	up := d.up
	d.mu.Unlock()
	if !up {
		http.Error(w, "down", http.StatusServiceUnavailable)
		return
	}
	if err := d.env.Cloud.FreeIPA.Join(ask.Host, ask.Password); err != nil {
		http.Error(w, err.Error(), http.StatusUnauthorized)
		return
	}
	_, _ = fmt.Fprintf(w, "host/%s@EXAMPLE.TEST", ask.Host)
}

// withRecorder puts FreeIPA's client, as a recorder that asks at the address,
// into an image.
func withRecorder(url string) func(root string) error {
	return func(root string) error {
		if err := agenttest.InstallFreeIPA(root); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(root, "etc/recorder"), []byte(url), 0o644); err != nil {
			return err
		}
		files, err := fs.Sub(recorderFiles, "testdata/freeipa")
		if err != nil {
			return err
		}
		modules := filepath.Join(root, agenttest.PythonModules)
		if err := os.CopyFS(modules, files); err != nil {
			return err
		}
		for _, name := range []string{"ipa-client-install", "ipa-getkeytab"} {
			file := filepath.Join(root, "usr/sbin", name)
			if err := os.Rename(filepath.Join(modules, name), file); err != nil {
				return err
			}
			if err := os.Chmod(file, 0o755); err != nil {
				return err
			}
		}
		return nil
	}
}

// call is one call of a program of FreeIPA's client.
type call struct {
	Step      string
	Arguments []string
	Named     int        // command lines of the machine with the host's name
	Leaked    [][]string // command lines of the machine with the password
}

// calls are what the recorder noted.
func (i *instance) calls(t *testing.T) (all []call) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(i.Root, "var/log/recorder"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		var one call
		if err := json.Unmarshal([]byte(line), &one); err != nil {
			t.Fatal(err)
		}
		all = append(all, one)
	}
	return all
}

// enrolment is what operators see of an instance's way into FreeIPA.
type enrolment struct {
	InstanceID string `json:"instance_id"`
	FQDN       string
	State      string
	Error      string
}

func (s *site) enrolments(t *testing.T) []enrolment {
	t.Helper()
	var list struct{ Enrolments []enrolment }
	s.admin.Want(t, http.StatusOK, "GET", "/v1/enrolments", nil, &list, "X-Auth-All-Projects", "True")
	return list.Enrolments
}

// awaitEnrolment returns when operators see the one instance in that state.
func (s *site) awaitEnrolment(t *testing.T, i *instance, state string) (found enrolment) {
	t.Helper()
	i.await(t, func() error {
		list := s.enrolments(t)
		if len(list) != 1 || list[0].State != state {
			return fmt.Errorf("the enrolments are %+v", list)
		}
		found = list[0]
		return nil
	})
	if found.InstanceID != strings.ReplaceAll(i.id, "-", "") || found.FQDN != "web-1.example.test" {
		t.Errorf("the enrolment is %+v", found)
	}
	return found
}

// otp is the one-time password that the instance's metadata have now.
func (i *instance) otp(t *testing.T) string {
	t.Helper()
	answer, err := i.vendordata2(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var targets map[string]struct{ IPAOTP string }
	if err := json.Unmarshal(answer, &targets); err != nil {
		t.Fatal(err)
	}
	return targets["muster"].IPAOTP
}

// An instance that asks for it joins FreeIPA at its first boot, and not again.
// What keeps it from that is shown to operators, and it tries again. Nobody on
// the machine can see its password. No FreeIPA is at hand: a recorder does what
// its client does.
func TestJoining(t *testing.T) {
	t.Parallel()
	s := newSite(t, withAgent(t, "ipa_server = ipa.example.test\nipa_client_options = --mkhomedir, --no-ntp\n"))
	s.metadata = map[string]string{"ipa_enroll": "true"}
	d := &directory{env: s.env}
	i := s.newInstance(t, "web-1", withRecorder(serve(t, d)))
	if err := i.PowerOn(); err != nil {
		t.Fatal(err)
	}

	failed := s.awaitEnrolment(t, i, "failed")
	if want := "the instance reports: no FreeIPA server of the domain answers"; !strings.HasPrefix(failed.Error, want) {
		t.Errorf("operators read %q, want %q", failed.Error, want)
	}
	i.await(t, func() error { return i.says("no FreeIPA server of the domain answers") })
	otp := i.otp(t)
	if otp == "" {
		t.Fatal("the metadata have no one-time password")
	}
	d.set(true)
	if joined := s.awaitEnrolment(t, i, "enrolled"); joined.Error != "" {
		t.Errorf("operators read %q", joined.Error)
	}
	if status := i.awaitSetUp(t); status.IPA.Outcome != "enrolled" || status.IPA.FQDN != "web-1.example.test" {
		t.Errorf("the agent says %+v", status.IPA)
	}
	if host, _ := s.env.Cloud.FreeIPA.Host("web-1.example.test"); !host.HasKeytab || host.HasPassword {
		t.Errorf("FreeIPA has %+v", host)
	}
	i.joinedBy(t, otp, d.record())
	i.keepsSecret(t, otp)
	s.joinsOnce(t, i)
}

// joinedBy fails the test unless FreeIPA's client was called as Muster says.
func (i *instance) joinedBy(t *testing.T, otp string, asked []joinAsk) {
	t.Helper()
	const name = "fqdn=web-1.example.test,cn=computers,cn=accounts,dc=example,dc=test"
	ask := joinAsk{
		Server: "ldaps://ipa.example.test:636", Who: name, Password: otp, OID: "2.16.840.1.113730.3.8.10.3", Host: "web-1.example.test",
	}
	if len(asked) < 2 || slices.ContainsFunc(asked, func(one joinAsk) bool { return one != ask }) {
		t.Errorf("the directory was asked %+v, want %+v, twice or more", asked, ask)
	}
	install := strings.Fields("--unattended --hostname web-1.example.test --domain example.test --realm EXAMPLE.TEST " +
		"--server ipa.example.test --mkhomedir --no-ntp --password PASSWORD")
	var want []call // the same until it succeeds
	for range asked {
		want = append(want, call{Step: "install", Arguments: install, Leaked: [][]string{}})
	}
	want = append(want, call{Step: "getkeytab", Leaked: [][]string{}, Arguments: strings.Fields(
		"-s ipa.example.test -p host/web-1.example.test@EXAMPLE.TEST -k /etc/krb5.keytab -D " + name + " -W")})
	calls := i.calls(t)
	for n := range calls {
		if calls[n].Named == 0 {
			t.Error("the recorder saw no command lines")
		}
		calls[n].Named = 0
	}
	if difference := cmp.Diff(want, calls); difference != "" {
		t.Error(difference)
	}
}

// keepsSecret fails the test if the password is on the machine, but for where
// cloud-init keeps what Nova says (until 25.1), which is for root alone.
func (i *instance) keepsSecret(t *testing.T, secret string) {
	t.Helper()
	const control = "/var/lib/control" // which the search must find
	keep := i.Command(t.Context(), "sh", "-c", "umask 077; cat >"+control)
	keep.Stdin = strings.NewReader(secret + "\n")
	if output, err := keep.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, output)
	}
	search := i.Command(t.Context(), "grep", "-rslFf", "-", "/etc", "/root", "/run", "/tmp", "/usr/local", "/var")
	search.Stdin = strings.NewReader(secret + "\n")
	output, _ := search.Output() // it fails if files went while it read
	found := strings.Fields(string(output))
	if !slices.Contains(found, control) {
		t.Errorf("the search found %v, and not %s", found, control)
	}
	for _, name := range found {
		if name != control && !strings.HasPrefix(name, "/var/lib/cloud/") && !strings.HasPrefix(name, "/run/cloud-init/") {
			t.Errorf("the password is in %s", name)
		} else if i.Must(t, "find", name, "-perm", "/077") != "" {
			t.Errorf("the password is in %s, which others than root can read", name)
		}
	}
	journal := i.Must(t, "journalctl", "--no-pager", "-o", "export")
	if !strings.Contains(journal, "Joined FreeIPA") {
		t.Error("the journal does not tell of the joining")
	}
	for name, text := range map[string]string{
		"the journal": journal, "the console": i.Console(), "the agent's status": i.Must(t, program, "status", "-o", "json"),
	} {
		if strings.Contains(text, secret) {
			t.Errorf("the password is in %s", name)
		}
	}
}

// joinsOnce boots the instance again.
func (s *site) joinsOnce(t *testing.T, i *instance) {
	t.Helper()
	before := len(i.calls(t))
	if err := i.PowerOff(); err != nil {
		t.Fatal(err)
	}
	i.Boot(t)
	i.awaitSetUp(t)
	// All steps of an agent that starts, to their end.
	i.Must(t, "systemctl", "stop", "muster-agent")
	i.Must(t, program, "once", "--wait", setUpTime.String())
	if now := i.calls(t); len(now) != before {
		t.Errorf("it joined again: %+v", now[before:])
	}
	if otp := i.otp(t); otp != "" {
		t.Error("the metadata have a one-time password again")
	}
	s.awaitEnrolment(t, i, "enrolled")
}
