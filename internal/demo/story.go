// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/muster-cloud/muster/internal/demo/openssh"
	"github.com/muster-cloud/muster/internal/dev"
	"github.com/muster-cloud/muster/internal/uuid"
)

// metadataReads is how often the instance reads its metadata, beside what Nova
// asks for by itself.
const metadataReads = 3

// story is the world in which the scenes play. Each scene finds in it what
// those before have left.
type story struct {
	cfg      Config
	programs openssh.Programs
	account  string // of the machine: the one that plays the demo
	http     *http.Client
	running  sync.WaitGroup
	// listDeadline is how soon a revocation has to arrive at the instance.
	listDeadline time.Duration
	// ipaDeadline is how soon FreeIPA has to be as expected.
	ipaDeadline time.Duration

	env      *dev.Environment
	stopEnv  context.CancelFunc
	envEnded chan error

	ipaHosts       int    // entries of FreeIPA before the first boot
	admin          string // the token of the cloud's admin
	alice, mallory *person
	instance       *instance
}

// person is somebody with a key.
type person struct {
	name, id           string
	project, projectID string
	token              string
	ssh                openssh.Client
	serial             uint64 // of the certificate
}

func newStory(cfg Config, programs openssh.Programs) (*story, error) {
	who, err := user.Current()
	if err != nil {
		return nil, fmt.Errorf("who plays the demo: %w", err)
	}
	return &story{
		cfg: cfg, programs: programs, account: who.Username,
		// All that is asked is on loopback: no proxy.
		http:         &http.Client{Transport: &http.Transport{}},
		listDeadline: time.Minute,
		ipaDeadline:  time.Minute,
	}, nil
}

// end stops what the scenes have started, in the opposite order.
func (s *story) end() error {
	var problems []error
	if s.instance != nil && s.instance.server != nil {
		problems = append(problems, s.instance.server.Close())
	}
	if s.instance != nil && s.instance.stopAgent != nil {
		s.instance.stopAgent()
	}
	s.running.Wait()
	s.http.CloseIdleConnections()
	if s.env != nil {
		s.stopEnv()
		problems = append(problems, <-s.envEnded)
	}
	return errors.Join(problems...)
}

func (s *story) scenes() []scene {
	return []scene{
		{"Muster starts beside a small cloud", "nothing has to be set up: SQLite and one process are enough", s.start},
		{"A project and a user appear", "Keystone alone says who exists and who may what", s.populate},
		{"Nova boots an instance and asks for its vendordata", "however often Nova asks, the instance's one-time token is the same", s.boot},
		{"The instance gets its host certificate", "the token is enough, and asking again gives the same certificate", s.certifyHost},
		{"The user gets a certificate", "its principals are the user's roles in the project", s.certifyUser},
		{"The user logs in with ssh", "one @cert-authority line is enough to know the host, one certificate to be let in", s.enter},
		{"A stranger from another project is refused", "a project's certificates are good for its own instances only", s.refuseStranger},
		{"A stolen token is refused and reported", "a token that was used is worth nothing with another key", s.refuseThief},
		{"The instance joins FreeIPA", "the same vendordata hold its name, its realm and a password that serves once", s.join},
		{"Names that are taken are refused", "no instance gets the entry of another one, nor one that Muster did not make", s.refuseNames},
		{"A floating IP leads to the instance", "its name is in the DNS as soon as Neutron says so, forwards and backwards", s.addFloatingIP},
		{"The user's certificate is revoked", "the next login is refused, as soon as the instance has the new list", s.revokeUser},
		{"The user's role is removed", "Keystone's word is enough: what the role gave is revoked, and the next login refused", s.removeRole},
		{"The instance is deleted", "its token, its certificate, its records, its place in FreeIPA and in the DNS end with it", s.deleteInstance},
	}
}

func (s *story) start(ctx context.Context) (string, error) {
	env, err := dev.New(ctx, dev.Config{Version: s.cfg.Version, Logger: s.cfg.Logger})
	if err != nil {
		return "", err
	}
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	s.env, s.stopEnv, s.envEnded = env, stop, make(chan error, 1)
	s.ipaHosts = len(env.Cloud.FreeIPA.Hosts())
	go func() { s.envEnded <- env.Run(running) }()
	if _, err := s.call(ctx, request{method: "GET", url: env.MusterURL + "/readyz", want: http.StatusOK}, nil); err != nil {
		return "", err
	}
	admin := env.User("admin")
	s.admin, err = s.login(ctx, admin.Name, admin.Password, admin.Project)
	return "Muster at " + env.MusterURL + ", Keystone at " + env.KeystoneURL, err
}

func (s *story) populate(ctx context.Context) (string, error) {
	var err error
	if s.alice, err = s.newPerson(ctx, "alice", "orchard"); err != nil {
		return "", err
	}
	if s.mallory, err = s.newPerson(ctx, "mallory", "quarry"); err != nil {
		return "", err
	}
	return "alice, member of project orchard; mallory, member of project quarry", nil
}

// newPerson makes a user who is a member of a project of their own, and their key.
func (s *story) newPerson(ctx context.Context, name, project string) (*person, error) {
	p := &person{name: name, project: project}
	password := rand.Text()
	var err error
	if p.projectID, err = s.create(ctx, "project", map[string]any{"name": project}); err != nil {
		return nil, err
	}
	if p.id, err = s.create(ctx, "user", map[string]any{"name": name, "password": password}); err != nil {
		return nil, err
	}
	if err := s.assign(ctx, http.MethodPut, p, "member"); err != nil {
		return nil, err
	}
	if p.token, err = s.login(ctx, name, password, project); err != nil {
		return nil, err
	}
	folder := filepath.Join(s.env.Dir, name)
	if err := os.Mkdir(folder, 0o700); err != nil {
		return nil, err
	}
	p.ssh = openssh.Client{
		Account: s.account, KnownHosts: filepath.Join(folder, "known_hosts"), HostName: "web-1", Command: "id -un",
	}
	return p, s.newKey(ctx, p, "key")
}

// newKey gives the person another key, whose certificate will lie beside it.
func (s *story) newKey(ctx context.Context, p *person, name string) error {
	p.ssh.Key = filepath.Join(s.env.Dir, p.name, name)
	p.ssh.Certificate = p.ssh.Key + "-cert.pub"
	_, err := s.programs.NewKey(ctx, p.ssh.Key, p.name)
	return err
}

// enrolling is the metadata of an instance that wants to be in FreeIPA, with a
// web server of its own on an internal network.
var enrolling = map[string]string{"ipa_enroll": "true", "compact_service_HTTP": `["internal"]`}

// newInstance boots an instance in the person's project and returns its ID.
func (s *story) newInstance(ctx context.Context, p *person, name string) (string, error) {
	var made struct{ Server struct{ ID string } }
	_, err := s.call(ctx, request{method: "POST", url: s.env.NovaURL + "/servers", token: p.token, want: http.StatusAccepted,
		body: map[string]any{"server": map[string]any{"name": name, "imageRef": "", "flavorRef": "1", "metadata": enrolling}}}, &made)
	if err != nil {
		return "", err
	}
	s.env.Cloud.Compute.Wait()
	id, err := uuid.Parse(made.Server.ID)
	if err != nil {
		return "", fmt.Errorf("the ID of the instance: %w", err)
	}
	return id, nil
}

func (s *story) boot(ctx context.Context) (string, error) {
	id, err := s.newInstance(ctx, s.alice, "web-1")
	if err != nil {
		return "", err
	}
	i := &instance{
		id: id, projectID: s.alice.projectID, dir: filepath.Join(s.env.Dir, "instance"),
		joined: make(chan struct{}),
	}
	s.instance = i
	if err := s.expectAudit(ctx, "hosttoken.create", "ok", 1); err != nil {
		return "", err
	}
	for read := range metadataReads {
		metadata, err := s.readMetadata(ctx, i.id, i.projectID)
		if err != nil {
			return "", err
		}
		if read > 0 && metadata != i.metadata {
			return "", errors.New("the instance's metadata differ between two reads")
		}
		i.metadata = metadata
	}
	found := fmt.Sprintf("asked while it booted, and for each of %d reads of the metadata: one token", metadataReads)
	return found, s.expectAudit(ctx, "hosttoken.create", "ok", 1)
}

// expectAudit checks how often Muster recorded an act on the instance.
func (s *story) expectAudit(ctx context.Context, action, outcome string, want int) error {
	entries, err := s.audit(ctx, action, s.instance.id)
	if err != nil {
		return err
	}
	entries = slices.DeleteFunc(entries, func(e auditEntry) bool { return e.Outcome != outcome })
	if len(entries) != want {
		return fmt.Errorf("the audit log tells of %d × %s (%s) for the instance, not of %d", len(entries), action, outcome, want)
	}
	return nil
}

func (s *story) certifyHost(ctx context.Context) (string, error) {
	i := s.instance
	if err := os.Mkdir(i.dir, 0o700); err != nil {
		return "", err
	}
	var err error
	if i.key, err = s.programs.NewKey(ctx, i.path("host"), "web-1"); err != nil {
		return "", err
	}
	if err := s.startAgent(ctx); err != nil {
		return "", err
	}
	if err := i.machine.AwaitSetUp(ctx, s.listDeadline); err != nil {
		return "", err
	}
	cert, err := os.ReadFile(i.path("host" + openssh.CertificateSuffix))
	if err != nil {
		return "", err
	}
	// Tatu's call, as a boot script without the agent makes it.
	again, err := s.askHostCert(ctx, i.key, http.StatusOK)
	if err != nil {
		return "", err
	}
	if again.Cert != strings.TrimSpace(string(cert)) {
		return "", errors.New("asking again with the same key gave another certificate")
	}
	if i.server, err = i.machine.StartServer(context.WithoutCancel(ctx)); err != nil {
		return "", err
	}
	return fmt.Sprintf("muster-agent got certificate %d for %s; its sshd listens on port %d", again.Serial, again.Hostname, i.server.Port()), nil
}

// userCert is the answer to a person who asks for a certificate.
type userCert struct {
	Cert       string
	Principals string
	Serial     uint64
	ExpiresAt  string `json:"expires_at"`
}

// askUserCert asks for a certificate for the person's key.
func (s *story) askUserCert(ctx context.Context, p *person, projectID string, want int) (userCert, error) {
	key, err := os.ReadFile(p.ssh.Key + ".pub")
	if err != nil {
		return userCert{}, err
	}
	var cert userCert
	_, err = s.call(ctx, request{method: "POST", url: s.env.MusterURL + "/v1/usercerts", token: p.token, want: want,
		body: map[string]string{"user_id": p.id, "auth_id": projectID, "pub_key": string(key)}}, &cert)
	return cert, err
}

// certify gives the person a certificate of their project, which must let them
// in as member, and the line by which their ssh knows alice's hosts.
func (s *story) certify(ctx context.Context, p *person) (userCert, error) {
	cert, err := s.askUserCert(ctx, p, p.projectID, http.StatusCreated)
	if err != nil {
		return userCert{}, err
	}
	if !slices.Contains(strings.Split(cert.Principals, ","), "member") {
		return userCert{}, fmt.Errorf("the certificate's principals are %s, without member", cert.Principals)
	}
	p.serial = cert.Serial
	if err := os.WriteFile(p.ssh.Certificate, []byte(cert.Cert+"\n"), 0o600); err != nil {
		return userCert{}, err
	}
	var authority struct {
		HostKey string `json:"host_pub_key"`
	}
	_, err = s.call(ctx, request{method: "GET", url: s.env.MusterURL + "/v1/authorities/" + s.alice.projectID, token: s.alice.token,
		want: http.StatusOK}, &authority)
	if err != nil {
		return userCert{}, err
	}
	return cert, os.WriteFile(p.ssh.KnownHosts, []byte("@cert-authority * "+authority.HostKey+"\n"), 0o600)
}

func (s *story) certifyUser(ctx context.Context) (string, error) {
	cert, err := s.certify(ctx, s.alice)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("certificate %d for %s, valid until %.16s UTC", cert.Serial, cert.Principals, cert.ExpiresAt), nil
}

func (s *story) enter(ctx context.Context) (string, error) {
	output, err := s.instance.server.Login(ctx, s.alice.ssh)
	if err != nil {
		return "", err
	}
	if strings.TrimSpace(output) != s.account {
		return "", fmt.Errorf("`%s` answered %q, not %q", s.alice.ssh.Command, output, s.account)
	}
	// Without the line ssh must refuse the same host, else the line proves nothing.
	ignorant := s.alice.ssh
	ignorant.KnownHosts = os.DevNull
	if _, err := s.instance.server.Login(ctx, ignorant); !errors.Is(err, openssh.ErrHostRefused) {
		return "", fmt.Errorf("without the line, ssh does not refuse the host: %w", unexpected(err))
	}
	return fmt.Sprintf("`%s` ran there; without the line ssh refuses the host", s.alice.ssh.Command), nil
}

func (s *story) refuseStranger(ctx context.Context) (string, error) {
	if _, err := s.askUserCert(ctx, s.mallory, s.alice.projectID, http.StatusForbidden); err != nil {
		return "", err
	}
	if _, err := s.certify(ctx, s.mallory); err != nil {
		return "", err
	}
	if _, err := s.instance.server.Login(ctx, s.mallory.ssh); !errors.Is(err, openssh.ErrRefused) {
		return "", fmt.Errorf("sshd does not refuse the stranger: %w", unexpected(err))
	}
	return "Muster gives mallory none for orchard (403); sshd refuses the one for quarry, though it says member too", nil
}

// unexpected is the error of something that should have failed in another way.
func unexpected(err error) error {
	if err == nil {
		return errors.New("it succeeded")
	}
	return err
}

func (s *story) refuseThief(ctx context.Context) (string, error) {
	key, err := s.programs.NewKey(ctx, s.instance.path("thief"), "thief")
	if err != nil {
		return "", err
	}
	if _, err := s.askHostCert(ctx, key, http.StatusConflict); err != nil {
		return "", err
	}
	entries, err := s.audit(ctx, "hostcert.issue", s.instance.id)
	if err != nil {
		return "", err
	}
	for _, entry := range entries {
		if entry.Outcome == "refused" {
			return fmt.Sprintf("409; the audit log: hostcert.issue refused, %s, asked from %s", entry.Reason, entry.Remote), nil
		}
	}
	return "", errors.New("the audit log does not tell of it")
}
