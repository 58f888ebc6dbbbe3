// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package sshd

import (
	"crypto/rand"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/ssh"

	"github.com/muster-cloud/muster/internal/agent/agenttest"
	"github.com/muster-cloud/muster/internal/agent/files"
)

func TestMain(m *testing.M) { os.Exit(agenttest.Main(m)) }

const stateFolder = "/var/lib/muster-agent"

// debian is the configuration that Debian and Ubuntu ship.
const debian = "Include /etc/ssh/sshd_config.d/*.conf\nKbdInteractiveAuthentication no\nUsePAM yes\nAcceptEnv LANG LC_*\n"

// host is a machine with an sshd that Muster configures.
type host struct {
	testing.TB
	root string
	tree *files.Tree
	*SSHD
	ca ssh.Signer
}

func newHost(t testing.TB, config string) *host {
	t.Helper()
	h := &host{TB: t, root: agenttest.Machine(t, "sshd", "ssh-keygen"), ca: agenttest.NewSigner(t)}
	agenttest.Write(t, h.root, mainFile, config)
	agenttest.Run(t, h.root, "ssh-keygen", "-A")
	h.open()
	t.Cleanup(func() { _ = h.tree.Close() })
	return h
}

func (h *host) open() {
	h.Helper()
	programs := files.Programs{Root: h.root}
	tree, err := files.OpenTree(h.Context(), files.Config{Root: h.root, State: stateFolder, Runner: programs})
	if err != nil {
		h.Fatal(err)
	}
	if h.SSHD, err = New(Config{Tree: tree, Runner: programs}); err != nil {
		h.Fatal(err)
	}
	h.tree = tree
}

// want is all that Muster may want, with certificates for the host's own keys.
func (h *host) want() Want {
	h.Helper()
	keys, err := h.HostKeys(h.Context())
	if err != nil {
		h.Fatal(err)
	}
	w := Want{HostCerts: map[string]string{}, UserCAs: []string{agenttest.Line(h.ca.PublicKey())}, Accounts: []string{"member", "reader"}}
	for _, key := range keys {
		public, _, _, _, err := ssh.ParseAuthorizedKey([]byte(key.PublicKey))
		if err != nil {
			h.Fatal(err)
		}
		w.HostCerts[key.Path] = h.sign(&ssh.Certificate{Key: public, CertType: ssh.HostCert, ValidPrincipals: []string{"host"}})
	}
	return w
}

func (h *host) sign(cert *ssh.Certificate) string {
	h.Helper()
	if cert.ValidBefore == 0 {
		cert.ValidBefore = ssh.CertTimeInfinity
	}
	if err := cert.SignCert(rand.Reader, h.ca); err != nil {
		h.Fatal(err)
	}
	return agenttest.Line(cert)
}

// snapshot describes all files below /etc/ssh.
func (h *host) snapshot() map[string]string {
	h.Helper()
	seen := map[string]string{}
	err := filepath.WalkDir(filepath.Join(h.root, "etc/ssh"), func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		text := info.Mode().String()
		if info.Mode().IsRegular() {
			content, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			text += " " + string(content)
		}
		seen[strings.TrimPrefix(name, h.root)] = text
		return nil
	})
	if err != nil {
		h.Fatal(err)
	}
	return seen
}

func (h *host) apply(w Want) {
	h.Helper()
	changed, err := h.Apply(h.Context(), w)
	if err != nil || !changed {
		h.Fatal(changed, err)
	}
	if changed, err = h.Apply(h.Context(), w); err != nil || changed {
		h.Fatal("the same again: ", changed, err)
	}
	agenttest.Run(h, h.root, "sshd", "-t")
}

// effective is what the real sshd says, for the connection if one is given.
func (h *host) effective(args ...string) string {
	h.Helper()
	return agenttest.Run(h, h.root, "sshd", append([]string{"-T"}, args...)...)
}

func (h *host) expect(settings string, lines ...string) {
	h.Helper()
	all := ParseSettings([]byte(settings))
	for _, line := range lines {
		unwanted, not := strings.CutPrefix(line, "not ")
		key, value, _ := strings.Cut(unwanted, " ")
		if slices.Contains(all[key], value) == not {
			h.Errorf("sshd -T: %q, but it has %q", line, all[key])
		}
	}
}

func TestHostKeys(t *testing.T) {
	h := newHost(t, debian)
	keys, err := h.HostKeys(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var types []string
	for _, key := range keys {
		kind, _, _ := strings.Cut(key.PublicKey, " ")
		types = append(types, kind)
	}
	slices.Sort(types)
	if want := []string{"ecdsa-sha2-nistp256", "ssh-ed25519", "ssh-rsa"}; !cmp.Equal(types, want) {
		t.Fatal(types)
	}
	if err := os.Remove(filepath.Join(h.root, keys[0].Path+".pub")); err != nil {
		t.Fatal(err)
	}
	again, err := h.HostKeys(t.Context())
	if err != nil || !cmp.Equal(keys, again) {
		t.Fatal("a public key from the private one: ", again, err)
	}
}

// always holds whatever else stands in the configuration.
var always = []string{
	"trustedusercakeys " + UserCAsFile, "revokedkeys " + RevokedFile, "pubkeyauthentication yes",
	"passwordauthentication no", "kbdinteractiveauthentication no",
	"hostcertificate " + Folder + "/ssh_host_ed25519_key-cert.pub", "hostcertificate " + Folder + "/ssh_host_rsa_key-cert.pub",
	"hostcertificate " + Folder + "/ssh_host_ecdsa_key-cert.pub",
}

func TestApply(t *testing.T) {
	for name, test := range map[string]struct {
		config string
		others map[string]string // further files of the image
		port   int
		file   string // that holds Muster's settings
		want   []string
	}{
		"as Debian has it": {config: debian, file: "/etc/ssh/sshd_config.d/00-muster.conf", want: []string{"port 22", "usepam yes"}},
		"no Include": {
			config: "PasswordAuthentication yes\nUsePAM yes\nMatch User x\n  PasswordAuthentication yes\n",
			port:   2222, file: mainFile, want: []string{"port 22", "port 2222", "usepam yes"},
		},
		"Include too late": {
			config: "PasswordAuthentication yes\n" + debian, file: mainFile, want: []string{"usepam yes"},
		},
		"Include in a Match": {
			config: "UsePAM yes\nMatch User x\nInclude /etc/ssh/sshd_config.d/*.conf\n", file: mainFile,
			want: []string{"usepam yes"},
		},
		"Include of others": {config: "include \"sshd_config.d/5*.conf\"\n", file: mainFile},
		"relative Include":  {config: "include=sshd_config.d/*.conf\n", file: "/etc/ssh/sshd_config.d/00-muster.conf"},
		"cloud-init's file": {
			config: debian, others: map[string]string{"/etc/ssh/sshd_config.d/50-cloud-init.conf": "PasswordAuthentication yes\n"},
			file: "/etc/ssh/sshd_config.d/00-muster.conf",
		},
		"another first file": {
			config: debian, others: map[string]string{"/etc/ssh/sshd_config.d/00-first.conf": "PasswordAuthentication yes\n"},
			file: "/etc/ssh/sshd_config.d/0-muster.conf",
		},
		"an earlier one yet": {
			config: debian, others: map[string]string{"/etc/ssh/sshd_config.d/0-a.conf": "PasswordAuthentication yes\n"},
			file: "/etc/ssh/sshd_config.d/!muster.conf",
		},
		"an earlier one that says something else": {
			config: debian, others: map[string]string{"/etc/ssh/sshd_config.d/000-a.conf": "X11Forwarding no\n"},
			file: "/etc/ssh/sshd_config.d/00-muster.conf", want: []string{"x11forwarding no"},
		},
		"the first of all": {
			config: debian, others: map[string]string{"/etc/ssh/sshd_config.d/!!.conf": "PasswordAuthentication yes\n"}, file: mainFile,
		},
		"second port":       {config: debian, port: 2222, want: []string{"port 22", "port 2222"}},
		"port of the image": {config: debian + "Port 2200\n", port: 2222, want: []string{"port 2200", "port 2222", "not port 22"}},
		"there already":     {config: debian + "Port 22\nPort 2222\n", port: 2222, want: []string{"port 22", "port 2222"}},
		"addresses with ports": {
			config: debian + "ListenAddress 127.0.0.1:22\nListenAddress [::1]:22\n", port: 2222,
			want: []string{"listenaddress 127.0.0.1:22", "listenaddress 127.0.0.1:2222", "listenaddress [::1]:2222"},
		},
		"addresses without ports": {
			config: debian + "ListenAddress 127.0.0.1\n", port: 2222,
			want: []string{"listenaddress 127.0.0.1:22", "listenaddress 127.0.0.1:2222"},
		},
		"any method":             {config: debian + "AuthenticationMethods any\n"},
		"no line end at the end": {config: strings.TrimSpace(debian) + "\nAuthorizedPrincipalsFile /etc/principals/%u"},
		"the same without Include": {
			config: "AuthorizedPrincipalsFile /etc/principals/%u\nMatch User x\nX11Forwarding no", file: mainFile,
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t, test.config)
			for file, content := range test.others {
				agenttest.Write(t, h.root, file, content)
			}
			before, effective := h.snapshot(), h.effective()
			w := h.want()
			w.Port = test.port
			h.apply(w)
			h.expect(h.effective(), append(slices.Clone(always), test.want...)...)
			if test.file != "" && !h.tree.Made(test.file) {
				t.Errorf("the settings are not in %s", test.file)
			}
			h.expect(h.effective("-C", "user=member,host=x,addr=192.0.2.1"), "authorizedprincipalsfile "+Folder+"/principals/member",
				"authorizedkeysfile none", "not authorizedprincipalsfile /etc/principals/%u")
			others := h.effective("-C", "user=other,host=x,addr=192.0.2.1")
			h.expect(others, "not authorizedkeysfile none", "authenticationmethods any")
			if !strings.Contains(test.config, "AuthenticationMethods") {
				h.expect(h.effective("-C", "user=member,host=x,addr=192.0.2.1"), "authenticationmethods publickey")
			}
			if strings.Contains(test.config, "AuthorizedPrincipalsFile") {
				h.expect(others, "authorizedprincipalsfile /etc/principals/%u")
			}
			if err := h.Remove(t.Context()); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(before, h.snapshot()); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(effective, h.effective()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestWithoutFolder: sshd's configuration includes a folder that is not there.
func TestWithoutFolder(t *testing.T) {
	h := newHost(t, debian)
	if err := os.Remove(filepath.Join(h.root, dropFolder)); err != nil {
		t.Fatal(err)
	}
	before := h.snapshot()
	h.apply(h.want())
	h.expect(h.effective(), always...)
	if err := h.Remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, h.snapshot()); diff != "" {
		t.Error(diff)
	}
}

func TestApplyFollowsChanges(t *testing.T) {
	h := newHost(t, debian)
	w := h.want()
	w.Port = 2222
	h.apply(w)

	// A key goes, no authority is left, the port goes, passwords come back.
	delete(w.HostCerts, "/etc/ssh/ssh_host_rsa_key")
	w.UserCAs, w.Port, w.PasswordAuthentication = nil, 0, true
	h.apply(w)
	h.expect(h.effective(), "port 22", "not port 2222", "passwordauthentication yes", "trustedusercakeys "+UserCAsFile,
		"not hostcertificate "+Folder+"/ssh_host_rsa_key-cert.pub")
	if h.tree.Exists(Folder + "/ssh_host_rsa_key-cert.pub") {
		t.Error("the certificate that is not used is still there")
	}
	if content, err := h.tree.Read(UserCAsFile); err != nil || len(content) > 0 {
		t.Errorf("%q, %v", content, err)
	}

	// Somebody puts a file before Muster's.
	agenttest.Write(t, h.root, dropFolder+"/00-a.conf", "RevokedKeys none\nPubkeyAuthentication no\n")
	h.apply(w)
	h.expect(h.effective(), "pubkeyauthentication yes", "revokedkeys "+RevokedFile)
	if h.tree.Exists(dropFolder + "/00-muster.conf") {
		t.Error("Muster's file is there twice")
	}

	// The Include line goes, and comes back.
	agenttest.Write(t, h.root, mainFile, "UsePAM yes\n")
	h.apply(w)
	h.expect(h.effective(), "pubkeyauthentication yes", "revokedkeys "+RevokedFile)
	main, err := h.tree.Read(mainFile)
	if err != nil {
		t.Fatal(err)
	}
	agenttest.Write(t, h.root, mainFile, debian+string(main))
	h.apply(w)
	if !h.tree.Exists(dropFolder + "/0-muster.conf") {
		t.Error("Muster's file is not back")
	}
	if main, err := h.tree.Read(mainFile); err != nil || string(main) != debian+"UsePAM yes\n" {
		t.Errorf("%q, %v", main, err)
	}
}

// TestTwoFactors: what the image asks for beside a key it goes on asking for.
func TestTwoFactors(t *testing.T) {
	h := newHost(t, debian+"AuthenticationMethods publickey,publickey\n")
	h.apply(h.want())
	h.expect(h.effective("-C", "user=member,host=x,addr=192.0.2.1"), "authorizedkeysfile none", "authenticationmethods publickey,publickey")
}

// TestLetsIn: a configuration with which sshd starts, but lets one account in no
// more, since it refuses what it reads for that one.
func TestLetsIn(t *testing.T) {
	h := newHost(t, debian+"Match User member\nAuthenticationMethods publickey\nMatch User member,reader\nAuthenticationMethods any\n")
	agenttest.Run(t, h.root, "sshd", "-t")
	if _, err := h.inspector().Inspect(t.Context(), []string{"reader"}); err != nil {
		t.Error(err)
	}
	// OpenSSH 10 does not mind.
	_, refuses := files.Programs{Root: h.root}.Run(t.Context(), nil, "sshd", "-T", "-C", connection("member"))
	if _, err := h.inspector().Inspect(t.Context(), []string{"member"}); errors.Is(err, ErrRefused) != (refuses != nil) {
		t.Error(err, refuses)
	}
}

// TestRefused changes nothing where sshd would not have it.
func TestRefused(t *testing.T) {
	for name, test := range map[string]struct {
		config string
		others map[string]string
		want   error
	}{
		"broken before":            {config: debian + "Nonsense yes\n", want: ErrBroken},
		"broken before in a block": {config: "Nonsense yes\n", want: ErrBroken},
		"passwords needed":         {config: debian + "AuthenticationMethods password\n", want: ErrRefused},
		"set for everybody":        {config: debian + "Match all\nRevokedKeys none\n", want: ErrNotInForce},
		"set where nobody looks": {
			config: "Include /etc/ssh/of?hers/*.conf\n" + debian,
			others: map[string]string{"/etc/ssh/of-hers/a.conf": "PasswordAuthentication yes\n"}, want: ErrNotInForce,
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t, debian)
			w := h.want()
			agenttest.Write(t, h.root, mainFile, test.config)
			for file, content := range test.others {
				agenttest.Write(t, h.root, file, content)
			}
			before := h.snapshot()
			for range 2 {
				if changed, err := h.Apply(t.Context(), w); !errors.Is(err, test.want) || changed {
					t.Fatal(changed, err)
				}
				if diff := cmp.Diff(before, h.snapshot()); diff != "" {
					t.Fatal(diff)
				}
			}
			agenttest.Write(t, h.root, mainFile, debian)
			h.apply(w)
		})
	}
}

// TestMendsItsOwnPart: after an update sshd may refuse what it once took.
func TestMendsItsOwnPart(t *testing.T) {
	h := newHost(t, debian)
	w := h.want()
	h.apply(w)
	agenttest.Write(t, h.root, dropFolder+"/00-muster.conf", "GoneOption yes\n")
	h.apply(w)
	h.expect(h.effective(), always...)
}

// TestTrustDoesNotWait: somebody breaks the configuration, and an authority
// is retired meanwhile.
func TestTrustDoesNotWait(t *testing.T) {
	h := newHost(t, debian)
	w := h.want()
	h.apply(w)
	agenttest.Write(t, h.root, mainFile, debian+"Nonsense yes\n")
	w.UserCAs, w.Port = nil, 2222
	if changed, err := h.Apply(t.Context(), w); !errors.Is(err, ErrBroken) || !changed {
		t.Fatal(changed, err)
	}
	if trusted, err := h.tree.Read(UserCAsFile); err != nil || len(trusted) > 0 {
		t.Fatal("the retired authority is still trusted: ", string(trusted), err)
	}
	agenttest.Write(t, h.root, mainFile, debian)
	h.apply(w)
}

func TestKeepsTheImagesAuthorities(t *testing.T) {
	h := newHost(t, debian+"TrustedUserCAKeys /etc/ssh/own_ca\n")
	own := agenttest.Line(agenttest.NewSigner(t).PublicKey())
	agenttest.Write(t, h.root, "/etc/ssh/own_ca", own+"\n")
	w := h.want()
	h.apply(w)
	h.expect(h.effective(), "trustedusercakeys "+allCAsFile)
	all, err := h.tree.Read(allCAsFile)
	if err != nil || !strings.Contains(string(all), own) || !strings.Contains(string(all), w.UserCAs[0]) {
		t.Fatalf("%q, %v", all, err)
	}
	if muster, err := h.tree.Read(UserCAsFile); err != nil || string(muster) != w.UserCAs[0]+"\n" {
		t.Fatalf("%q, %v", muster, err)
	}
}

func TestWantIsChecked(t *testing.T) {
	h := newHost(t, debian)
	good := agenttest.Line(agenttest.NewSigner(t).PublicKey())
	for name, w := range map[string]Want{
		"port":        {Port: 65536},
		"authority":   {UserCAs: []string{"nonsense"}},
		"two in one":  {UserCAs: []string{good + good}},
		"account":     {Accounts: []string{"a b"}},
		"pattern":     {Accounts: []string{"*"}},
		"key no cert": {HostCerts: map[string]string{"/etc/ssh/x": good}},
		"path":        {HostCerts: map[string]string{"x\nPort 1": good}},
	} {
		if changed, err := h.Apply(t.Context(), w); err == nil || changed {
			t.Errorf("%s was taken", name)
		}
	}
}

func FuzzSplit(f *testing.F) {
	for _, line := range []string{"Port 22", "port=22", `Include "a b" c`, "# x", "Match", `A "`, "a = b # c"} {
		f.Add(line)
	}
	f.Fuzz(func(t *testing.T, line string) {
		key, args := split(line)
		if key == "" && len(args) > 0 {
			t.Fatal(args)
		}
	})
}

// TestWarnings: what the image forbids stays forbidden, and is told, as sshd
// itself reads it.
func TestWarnings(t *testing.T) {
	for name, test := range map[string]struct {
		config string
		want   []string // a part of each
	}{
		"nothing":        {debian, nil},
		"no agents":      {debian + "AllowAgentForwarding no\n", []string{"no SSH agent for member, reader,"}},
		"nothing at all": {debian + "DisableForwarding yes\n", []string{"no SSH agent for member, reader,"}},
		"but for one":    {debian + "AllowAgentForwarding no\nMatch User member\nAllowAgentForwarding yes\n", []string{"no SSH agent for reader,"}},
		"for one":        {debian + "Match User member\nAllowAgentForwarding no\n", []string{"no SSH agent for member,"}},
		"few":            {debian + "AllowUsers debian\n", []string{"AllowUsers, which may keep people out, for Muster's accounts member, reader"}},
		"both": {debian + "DenyGroups people\nAllowAgentForwarding no\n", []string{
			"DenyGroups", "pam_sudo",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t, test.config)
			want := h.want()
			want.ForwardAgent = []string{"member", "reader"}
			for range 2 { // they stay while they are true
				if _, err := h.Apply(t.Context(), want); err != nil {
					t.Fatal(err)
				}
				got := h.Warnings()
				if len(got) != len(test.want) {
					t.Fatalf("%q", got)
				}
				for i, part := range test.want {
					if !strings.Contains(got[i], part) {
						t.Errorf("%q, without %q", got[i], part)
					}
				}
			}
			want.ForwardAgent = nil
			if _, err := h.Apply(t.Context(), want); err != nil {
				t.Fatal(err)
			}
			for _, text := range h.Warnings() {
				if strings.Contains(text, "pam_sudo") {
					t.Errorf("nobody needs an agent: %s", text)
				}
			}
		})
	}
}
