// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package sshd

import (
	"fmt"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"
)

// Names of algorithms are OpenSSH's (ssh -Q key-sig, ssh -Q key-cert).
const certSuffix = "-cert-v01@openssh.com"

// kinds of keys that Muster certifies, with the names of which sshd must have one
// to take a certificate of such a key.
var kinds = []struct {
	name  string
	names []string
}{
	{"Ed25519", []string{ssh.KeyAlgoED25519}},
	{"ECDSA (P-256)", []string{ssh.KeyAlgoECDSA256}},
	{"ECDSA (P-384)", []string{ssh.KeyAlgoECDSA384}},
	{"ECDSA (P-521)", []string{ssh.KeyAlgoECDSA521}},
	{"RSA", []string{ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256}},
	{"Ed25519 on a security key", []string{"sk-ssh-ed25519"}},
	{"ECDSA on a security key", []string{"sk-ecdsa-sha2-nistp256"}},
}

// signing are the values of Muster's ca_algorithm, each with the algorithm that
// such an authority signs with.
var signing = []struct{ value, name string }{
	{"ed25519", ssh.KeyAlgoED25519}, {"ecdsa-p256", ssh.KeyAlgoECDSA256}, {"ecdsa-p384", ssh.KeyAlgoECDSA384},
	{"rsa-3072 or rsa-4096", ssh.KeyAlgoRSASHA512},
}

// judgeAlgorithms compares the algorithms that sshd has with what Muster's
// certificates need: system-wide policies (FIPS) and benchmarks take some away.
func (i Inspector) judgeAlgorithms(f *Finding) {
	if content, err := i.Read(UserCAsFile); err == nil {
		f.judgeAuthorities(authorities(content))
	}
	f.judgeUserCertificates()
	var certs []*ssh.Certificate
	for _, file := range f.Settings["hostcertificate"] {
		if cert, err := i.certificate(file); err == nil && strings.HasPrefix(file, Folder+"/") {
			certs = append(certs, cert)
		}
	}
	f.judgeHostAlgorithms(certs)
}

// everywhere are the settings to judge: those for each of Muster's accounts, or
// for nobody in particular while there is none.
func (f *Finding) everywhere() map[string]Settings {
	if len(f.accounts) == 0 {
		return map[string]Settings{"": f.Settings}
	}
	return f.accounts
}

// forAccounts groups the accounts by a text about each; no text: nothing to tell.
func (f *Finding) forAccounts(text func(Settings) string) (all []string) {
	about := map[string][]string{}
	for name, settings := range f.everywhere() {
		if said := text(settings); said != "" {
			about[said] = append(about[said], name)
		}
	}
	for said, names := range about {
		slices.Sort(names)
		if names[0] != "" && len(names) < len(f.accounts) {
			said = "for " + strings.Join(names, ", ") + ": " + said
		}
		all = append(all, said)
	}
	slices.Sort(all)
	return all
}

// judgeAuthorities: sshd takes certificates only of authorities that sign with one
// of CASignatureAlgorithms.
func (f *Finding) judgeAuthorities(all []ssh.PublicKey) {
	if len(all) == 0 {
		return
	}
	refused := func(s Settings) (names []string) {
		allowed := list(s, "casignaturealgorithms")
		for _, key := range all {
			if name := signatureName(key); allowed != nil && !slices.Contains(allowed, name) && !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
		return names
	}
	every := map[string]bool{}
	for _, key := range all {
		every[signatureName(key)] = true
	}
	f.Shut = append(f.Shut, f.forAccounts(func(s Settings) string {
		names := refused(s)
		if len(names) < len(every) {
			return ""
		}
		return fmt.Sprintf("its CASignatureAlgorithms lack %s, with which the project's user CAs sign, so that it refuses all certificates: "+
			"add that, or let the operator %s", strings.Join(names, ", "), otherAuthority(list(s, "casignaturealgorithms")))
	})...)
	f.Notes = append(f.Notes, f.forAccounts(func(s Settings) string {
		names := refused(s)
		if len(names) == 0 || len(names) == len(every) {
			return ""
		}
		return fmt.Sprintf("sshd's CASignatureAlgorithms lack %s, so that it refuses the certificates of the user CAs that sign with it",
			strings.Join(names, ", "))
	})...)
}

// otherAuthority is what the operator can do where sshd does not take an
// authority's signatures.
func otherAuthority(allowed []string) string {
	var values []string
	for _, one := range signing {
		if slices.Contains(allowed, one.name) {
			values = append(values, one.value)
		}
	}
	if len(values) == 0 {
		return "know that none of Muster's kinds of CAs will do"
	}
	return fmt.Sprintf("set [ssh] ca_algorithm to %s and rotate the user CA (muster authority rotate user)", strings.Join(values, " or "))
}

// signatureName is the algorithm that Muster's authorities sign with.
func signatureName(key ssh.PublicKey) string {
	if key.Type() == ssh.KeyAlgoRSA {
		return ssh.KeyAlgoRSASHA512
	}
	return key.Type()
}

// judgeUserCertificates: sshd takes only certificates of kinds of keys that it
// names as such.
func (f *Finding) judgeUserCertificates() {
	accepted := func(s Settings) []string {
		if allowed := list(s, "pubkeyacceptedalgorithms"); allowed != nil {
			return allowed
		}
		return list(s, "pubkeyacceptedkeytypes") // before OpenSSH 8.5
	}
	f.Shut = append(f.Shut, f.forAccounts(func(s Settings) string {
		allowed := accepted(s)
		if allowed == nil || len(without(allowed)) < len(kinds) {
			return ""
		}
		return "its PubkeyAcceptedAlgorithms have no kind of certificate, so that it refuses all: add such as " +
			ssh.KeyAlgoED25519 + certSuffix
	})...)
	f.Notes = append(f.Notes, f.forAccounts(func(s Settings) string {
		allowed := accepted(s)
		missing := without(allowed)
		if allowed == nil || len(missing) == 0 || len(missing) == len(kinds) {
			return ""
		}
		return fmt.Sprintf("sshd's PubkeyAcceptedAlgorithms refuse certificates of some kinds of keys: %s; people need a key of another kind",
			strings.Join(missing, ", "))
	})...)
}

// without are the kinds of keys whose certificates are not allowed.
func without(allowed []string) (missing []string) {
	for _, kind := range kinds {
		if !slices.ContainsFunc(kind.names, func(name string) bool { return slices.Contains(allowed, name+certSuffix) }) {
			missing = append(missing, kind.name)
		}
	}
	return missing
}

// judgeHostAlgorithms: sshd shows only certificates of the kinds in
// HostKeyAlgorithms.
func (f *Finding) judgeHostAlgorithms(certs []*ssh.Certificate) {
	allowed := list(f.Settings, "hostkeyalgorithms")
	if len(certs) == 0 || allowed == nil {
		return
	}
	var missing, names []string
	for _, cert := range certs {
		fits := []string{cert.Key.Type()}
		if cert.Key.Type() == ssh.KeyAlgoRSA {
			fits = []string{ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256}
		}
		if !slices.ContainsFunc(fits, func(name string) bool { return slices.Contains(allowed, name+certSuffix) }) {
			missing = append(missing, cert.Key.Type())
			names = append(names, fits[0]+certSuffix)
		}
	}
	switch {
	case len(missing) == 0:
	case len(missing) == len(certs):
		f.Shut = append(f.Shut, "its HostKeyAlgorithms have none of the kinds of its certificates, so that clients do not know this host: add "+
			strings.Join(names, ", "))
	default:
		f.Notes = append(f.Notes, "sshd's HostKeyAlgorithms show no certificate for host keys of the kinds "+strings.Join(missing, ", ")+
			": clients that want one of those do not know this host")
	}
}

// list takes a list of algorithms apart; nil if this sshd has none of that name.
func list(s Settings, keyword string) []string {
	if s[keyword] == nil {
		return nil
	}
	return strings.FieldsFunc(s.of(keyword), func(r rune) bool { return r == ',' || r == ' ' })
}

// authorities are the keys of a file of authorities.
func authorities(content []byte) (keys []ssh.PublicKey) {
	for len(content) > 0 {
		key, _, _, rest, err := ssh.ParseAuthorizedKey(content)
		if err != nil {
			break
		}
		keys = append(keys, key)
		content = rest
	}
	return keys
}
