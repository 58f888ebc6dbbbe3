// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package sshd

import (
	"errors"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/muster-cloud/muster/internal/agent/agenttest"
	"github.com/muster-cloud/muster/internal/agent/files"
)

// TestRulesAreComplete: there is a rule about each keyword that the sshd at hand
// takes in a Match block, and what rules are about may stand there.
func TestRulesAreComplete(t *testing.T) {
	h := newHost(t, debian)
	run := func(key, value string) string {
		agenttest.Write(t, h.root, "/tmp/match.conf", "Match User x\n"+key+" "+value+"\n")
		_, err := files.Programs{Root: h.root}.Run(t.Context(), nil, "sshd", "-t", "-f", "/tmp/match.conf")
		if err == nil {
			return ""
		}
		return err.Error()
	}
	for key, values := range ParseSettings([]byte(h.effective())) {
		if !strings.Contains(run(key, values[0]), "not allowed within a Match block") && ruleOf(key) == nil {
			t.Errorf("%s may stand in a Match block, and no rule is about it", key)
		}
	}
	for _, r := range rules {
		computed := []string{"revokedkeys", "authenticationmethods", "authorizedprincipalsfile", "exposeauthinfo"}
		if r.verdict == ours && (r.value == "") != slices.Contains(computed, r.key()) {
			t.Errorf("what does Muster state for %s?", r.keyword)
		}
	}
}

// TestRulesInTheDocs: the operators' page names every keyword with the same
// decision.
func TestRulesInTheDocs(t *testing.T) {
	page, err := os.ReadFile("../../../docs/agent-machine.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := map[verdict]string{}
	for line := range strings.Lines(string(page)) {
		for _, v := range []verdict{ours, told, left} {
			if strings.HasPrefix(line, "| "+string(v)+" |") {
				rows[v] += line
			}
		}
	}
	for _, r := range rules {
		if !strings.Contains(rows[r.verdict], "`"+r.keyword+"`") {
			t.Errorf("docs/agent-machine.md: no %s in a row of %q", r.keyword, r.verdict)
		}
	}
}

// opinions are all that an image may have in a Match block against Muster: who
// gets in beside, and who does not.
const opinions = `
AuthorizedPrincipalsFile /etc/ssh/principals/%u
AuthorizedPrincipalsCommand /bin/echo other
AuthorizedPrincipalsCommandUser nobody
AuthorizedKeysFile /etc/ssh/keys/%u
AuthorizedKeysCommand /bin/cat /etc/ssh/more_keys
AuthorizedKeysCommandUser nobody
TrustedUserCAKeys /etc/ssh/other_ca
RevokedKeys none
PubkeyAuthentication no
PasswordAuthentication yes
KbdInteractiveAuthentication yes
HostbasedAuthentication yes
PermitEmptyPasswords yes
`

// stated is what must be in force for Muster's accounts all the same.
var stated = []string{
	"authorizedprincipalscommand none", "authorizedkeysfile none", "authorizedkeyscommand none",
	"trustedusercakeys " + UserCAsFile, "revokedkeys " + RevokedFile, "pubkeyauthentication yes", "passwordauthentication no",
	"kbdinteractiveauthentication no", "hostbasedauthentication no", "permitemptypasswords no", "authenticationmethods publickey",
}

// TestMatchOfTheImage: what the image sets in Match blocks, wherever they stand,
// is nothing for Muster's accounts, and stays for all others.
func TestMatchOfTheImage(t *testing.T) {
	const block = "Match User *,!root\n" + opinions
	for name, test := range map[string]struct {
		config string
		others map[string]string
		file   string // Muster's
	}{
		"behind Muster's file":   {debian, map[string]string{dropFolder + "/20-x.conf": block}, dropFolder + "/00-muster.conf"},
		"before Muster's file":   {debian, map[string]string{dropFolder + "/00-a.conf": block}, dropFolder + "/0-muster.conf"},
		"before all names":       {debian, map[string]string{dropFolder + "/!!.conf": block}, settingsFile},
		"in the main file":       {debian + block, nil, dropFolder + "/00-muster.conf"},
		"and no Include":         {"UsePAM yes\n" + block, nil, settingsFile},
		"by address":             {debian + "Match Address 127.0.0.0/8\n" + opinions, nil, ""},
		"another way in":         {debian + block + "AuthenticationMethods hostbased publickey\n", nil, ""},
		"only another way in":    {debian + block + "AuthenticationMethods hostbased\n", nil, ""},
		"in a file of that file": {debian, map[string]string{dropFolder + "/1.conf": "Include /etc/ssh/o.conf\n", "/etc/ssh/o.conf": block}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t, test.config)
			for file, content := range test.others {
				agenttest.Write(t, h.root, file, content)
			}
			before := h.snapshot()
			theirs := h.effective("-C", connection("other"))
			h.apply(h.want())
			if test.file != "" && !h.tree.Exists(test.file) {
				t.Errorf("the settings are not in %s", test.file)
			}
			for _, account := range []string{"member", "reader"} {
				h.expect(h.effective("-C", connection(account)), append(slices.Clone(stated), "authorizedprincipalsfile "+Folder+"/principals/"+account)...)
			}
			others := ParseSettings([]byte(h.effective("-C", connection("other"))))
			for key, values := range ParseSettings([]byte(theirs)) {
				if isOurs(key) && !cmp.Equal(values, others[key]) {
					t.Errorf("for others %s is %q, and was %q", key, others[key], values)
				}
			}
			if warnings := strings.Join(h.Warnings(), "\n"); !strings.Contains(warnings, "RevokedKeys none") || strings.Contains(warnings, "no Include") {
				t.Errorf("it says %q", warnings)
			}
			if err := h.Remove(t.Context()); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(before, h.snapshot()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestSecondFactor: what the image asks for beside a key, in a Match block or
// not, it goes on asking for, and what lets in without a key it does not.
func TestSecondFactor(t *testing.T) {
	const global = "AuthenticationMethods publickey,password publickey,keyboard-interactive\n"
	for name, test := range map[string]struct {
		config, want string
		more         []string
	}{
		"for all": {global, "publickey,password publickey,keyboard-interactive", []string{"passwordauthentication yes", "permitemptypasswords no"}},
		"for some": {
			"Match User m*\n" + global + "Match all\n", "publickey,password publickey,keyboard-interactive",
			[]string{"passwordauthentication yes"},
		},
		"for others":            {"Match User other\n" + global, "publickey", []string{"passwordauthentication no"}},
		"a key is one of two":   {"AuthenticationMethods publickey,hostbased password\n", "publickey,hostbased", nil},
		"none of it is a key":   {"AuthenticationMethods hostbased\nHostbasedAuthentication yes\n", "publickey", []string{"hostbasedauthentication no"}},
		"a host, beside a key":  {"AuthenticationMethods publickey,hostbased\nHostbasedAuthentication yes\n", "publickey,hostbased", []string{"hostbasedauthentication yes"}},
		"some in another file":  {"Include /etc/ssh/more/*\n", "publickey,publickey", nil},
		"nothing in particular": {"PasswordAuthentication yes\n", "publickey", []string{"passwordauthentication no"}},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t, debian+test.config)
			agenttest.Write(t, h.root, "/etc/ssh/more/1.conf", "AuthenticationMethods publickey,publickey\n")
			want := h.want()
			want.PasswordAuthentication = true
			h.apply(want)
			h.expect(h.effective("-C", connection("member")), append(test.more, "authenticationmethods "+test.want, "authorizedkeysfile none")...)
		})
	}
}

// TestKeyExchangeIsAWayIn: sshd of Debian and Red Hat lets in by GSSAPIKeyExchange,
// which may not stand in Match blocks, unless a key is asked for.
func TestKeyExchangeIsAWayIn(t *testing.T) {
	h := newHost(t, debian)
	h.apply(h.want())
	s := ParseSettings([]byte(h.effective("-C", connection("member"))))
	s["gssapikeyexchange"] = []string{"yes"}
	for asked, wrong := range map[string]int{"publickey": 0, "any": 1} {
		s["authenticationmethods"] = []string{asked}
		f := &Finding{}
		if f.judgeAccount("member", s); len(f.Wrong) != wrong {
			t.Errorf("methods %s: %q", asked, f.Wrong)
		}
	}
}

// TestBlocksAtTheEnd: an sshd that knows no Include, as before OpenSSH 8.2. What
// Match blocks of the image say of Muster's accounts cannot be undone there: that
// is told, and nobody gets in.
func TestBlocksAtTheEnd(t *testing.T) {
	const plain = "UsePAM yes\nMatch User other\n  AuthorizedKeysFile /etc/ssh/keys/%u\n"
	h := newHost(t, plain)
	h.accepted = map[string]bool{includeLine: false}
	h.apply(h.want())
	h.expect(h.effective("-C", connection("member")), stated...)
	h.expect(h.effective(), always...)
	if all := h.Warnings(); len(all) != 1 || !strings.Contains(all[0], "set AuthorizedKeysFile go before") || !strings.Contains(all[0], "member, reader") {
		t.Errorf("it says %q", all)
	}
	if names := h.inspector().Accounts(); !slices.Equal(names, []string{"member", "reader"}) {
		t.Errorf("accounts with a block: %q", names)
	}
	agenttest.Write(t, h.root, mainFile, "UsePAM yes\nMatch User *,!root\n"+opinions)
	before := h.snapshot()
	if _, err := h.Apply(t.Context(), h.want()); !errors.Is(err, ErrNotInForce) ||
		!strings.Contains(err.Error(), "for member AuthorizedPrincipalsFile is /etc/ssh/principals/%u, not /etc/ssh/muster/principals/member") {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, h.snapshot()); diff != "" {
		t.Error(diff)
	}
}

// TestOthersChangeIt: nothing of Muster's is to be written, but somebody has made
// sshd follow something else, where no scan finds it.
func TestOthersChangeIt(t *testing.T) {
	h := newHost(t, "Include /etc/ssh/of?hers/*.conf\n"+debian)
	want := h.want()
	h.apply(want)
	agenttest.Write(t, h.root, "/etc/ssh/of-hers/a.conf", "Match User reader\nRevokedKeys none\n")
	for range 2 {
		if _, err := h.Apply(t.Context(), want); !errors.Is(err, ErrNotInForce) || !strings.Contains(err.Error(), "for reader RevokedKeys is none") {
			t.Fatal(err)
		}
	}
	if err := os.Remove(filepath.Join(h.root, "etc/ssh/of-hers/a.conf")); err != nil {
		t.Fatal(err)
	}
	if changed, err := h.Apply(t.Context(), want); changed || err != nil {
		t.Fatal(changed, err)
	}
}

// TestLimitsInMatch: what the image forbids some accounts in Match blocks is told
// of those, as sshd reads it.
func TestLimitsInMatch(t *testing.T) {
	h := newHost(t, debian+"Match User member\nForceCommand /bin/false\nAllowUsers root\nPermitTTY no\nChrootDirectory /srv\nRequiredRSASize 4096\n"+
		"Match User other\nDenyUsers *\n")
	h.apply(h.want())
	var got []string
	for _, text := range h.Warnings() {
		keyword, _, _ := strings.Cut(strings.TrimPrefix(text, "sshd_config sets "), ",")
		if !strings.HasSuffix(text, "for Muster's accounts member") {
			t.Errorf("%q is about others", text)
		}
		got = append(got, keyword)
	}
	want := []string{"AllowUsers", "ForceCommand", "ChrootDirectory", "PermitTTY", "RequiredRSASize"}
	if !cmp.Equal(got, want) {
		t.Error(got)
	}
}

// TestMethodsByAddress: what an image asks for by where people come from does not count for Muster's
// accounts, and that is told. A block by User does.
func TestMethodsByAddress(t *testing.T) {
	for block, told := range map[string]bool{
		"Match Address 10.0.0.0/8": true, "Match User member,other LocalPort 2222": true, "match localaddress=10.0.0.1": true,
		"Match User member": false, "Match Group address": false,
	} {
		h := newHost(t, debian+block+"\nAuthenticationMethods publickey,keyboard-interactive\n")
		h.apply(h.want())
		got := slices.ContainsFunc(h.Warnings(), func(text string) bool { return strings.Contains(text, "by where a connection comes from") })
		if got != told {
			t.Errorf("%s: warnings %q, want it told: %t", block, h.Warnings(), told)
		}
	}
}

// TestSeveralLists: the image has a revocation list of its own. An sshd that takes
// several gets both (OpenSSH 10.6).
func TestSeveralLists(t *testing.T) {
	const both = "RevokedKeys " + RevokedFile + " /etc/ssh/revoked"
	h := newHost(t, debian+"RevokedKeys /etc/ssh/revoked\n")
	agenttest.Write(t, h.root, "/etc/ssh/revoked", "")
	want := h.want()
	before := h.snapshot()
	_, refuses := files.Programs{Root: h.root}.Run(t.Context(), nil, "sshd", "-t", "-o", both)
	if _, err := h.Apply(t.Context(), want); refuses == nil && err != nil || refuses != nil && !errors.Is(err, ErrForeignRevokedKeys) {
		t.Fatalf("sshd says %v, the agent %v", refuses, err)
	}
	if refuses == nil {
		h.expect(h.effective("-C", connection("member")), "revokedkeys "+RevokedFile+" /etc/ssh/revoked")
	} else if diff := cmp.Diff(before, h.snapshot()); diff != "" {
		t.Error(diff)
	}
	h.accepted = map[string]bool{both: true} // as 10.6 says
	p, err := h.plan(t.Context(), want)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(p.dropContent()), both+"\n"); n != 3 {
		t.Errorf("for everybody and for each of two accounts, not %d times:\n%s", n, p.dropContent())
	}
}

// TestPenaltyExempt: networks whose refusals sshd does not punish, where it would
// (OpenSSH 9.8), beside those of the image.
func TestPenaltyExempt(t *testing.T) {
	h := newHost(t, debian)
	want := h.want()
	want.PenaltyExempt = []string{"192.0.2.0/24", "2001:db8::1"}
	h.apply(want)
	if known := h.knows[exemptions]; known {
		h.expect(h.effective(), exemptions+" 192.0.2.0/24,2001:db8::1")
	}
	agenttest.Write(t, h.root, mainFile, debian+"PerSourcePenaltyExemptList 198.51.100.7\n")
	for known, line := range map[bool]string{true: "PerSourcePenaltyExemptList 192.0.2.0/24,2001:db8::1,198.51.100.7\n", false: ""} {
		h.knows = map[string]bool{exemptions: known}
		p, err := h.plan(t.Context(), want)
		if err != nil {
			t.Fatal(err)
		}
		if content := string(p.dropContent()); line != "" && !strings.Contains(content, line) || line == "" && strings.Contains(content, "Penalty") {
			t.Errorf("an sshd that knows it: %v:\n%s", known, content)
		}
	}
}

// TestBeforeRenaming: an sshd before OpenSSH 8.7 (Debian 11, Ubuntu 20.04, RHEL 8).
// 8.4p1 says "Directive 'ChallengeResponseAuthentication' is not allowed within a
// Match block"; for everybody it has to be off there.
func TestBeforeRenaming(t *testing.T) {
	h := newHost(t, debian)
	want := h.want()
	h.knows = map[string]bool{"challengeresponseauthentication": true}
	p, err := h.plan(t.Context(), want)
	if err != nil {
		t.Fatal(err)
	}
	const line = "ChallengeResponseAuthentication no"
	if !slices.Contains(p.global, line) || strings.Contains(strings.Join(p.match, "\n"), line) {
		t.Errorf("%q, and in blocks %q", p.global, p.match)
	}
	// Since 8.7 it is another name of a keyword that the blocks state.
	if r := ruleOf("ChallengeResponseAuthentication"); r == nil || r.keyword != "KbdInteractiveAuthentication" {
		t.Errorf("the rule about it is %+v", r)
	}
}

// TestOtherHostCertificates: an image was certified by another authority before.
// sshd shows the last certificate that it reads for a key: Muster's, wherever the
// image's stand.
func TestOtherHostCertificates(t *testing.T) {
	const line = "HostCertificate /etc/ssh/ssh_host_ed25519_key-cert.pub\n"
	for name, test := range map[string]struct {
		config string
		file   string // that has the line
	}{
		"at the end":   {debian + line, ""},
		"in a file":    {debian, dropFolder + "/99-tatu.conf"},
		"no Include":   {line + "UsePAM yes\n", ""},
		"before Match": {debian + line + "Match User x\nX11Forwarding no", ""},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t, debian)
			want := h.want()
			stranger := *h
			stranger.ca = agenttest.NewSigner(t)
			agenttest.Write(t, h.root, "/etc/ssh/ssh_host_ed25519_key-cert.pub", stranger.want().HostCerts["/etc/ssh/ssh_host_ed25519_key"]+"\n")
			agenttest.Write(t, h.root, mainFile, test.config)
			if test.file != "" {
				agenttest.Write(t, h.root, test.file, line)
			}
			before, effective := h.snapshot(), h.effective()
			h.apply(want)
			if got := h.shownAuthority(); got != agenttest.Line(h.ca.PublicKey()) {
				t.Errorf("it shows a certificate of %s", got)
			}
			h.expect(h.effective("-C", connection("member")), stated...)
			if err := h.Remove(t.Context()); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(before, h.snapshot()) + cmp.Diff(effective, h.effective()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestHostCertificateBehind: where nobody can put Muster's certificates last, that
// is told.
func TestHostCertificateBehind(t *testing.T) {
	h := newHost(t, debian)
	want := h.want()
	h.apply(want)
	const file = "/etc/ssh/ssh_host_ed25519_key-cert.pub"
	stranger := *h
	stranger.ca = agenttest.NewSigner(t)
	agenttest.Write(t, h.root, file, stranger.want().HostCerts["/etc/ssh/ssh_host_ed25519_key"]+"\n")
	agenttest.Write(t, h.root, path.Join(dropFolder, "99.conf"), "HostCertificate "+file+"\n")
	found, err := h.inspector().Inspect(t.Context(), nil)
	if err != nil || len(found.Wrong) != 1 || !strings.Contains(found.Wrong[0], "sshd shows the host certificate "+file) {
		t.Errorf("%+v, %v", found, err)
	}
}
