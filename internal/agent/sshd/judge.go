// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package sshd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"

	"github.com/muster-cloud/muster/internal/agent/files"
)

// Settings is what "sshd -T" says: the values of each keyword, which is in lower
// case. OpenSSH 10.4 and later write keywords as the manual does.
type Settings map[string][]string

// ParseSettings reads what "sshd -T" wrote.
func ParseSettings(output []byte) Settings {
	settings := Settings{}
	for line := range strings.Lines(string(output)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if key == "" {
			continue
		}
		key = strings.ToLower(key)
		settings[key] = append(settings[key], value)
	}
	return settings
}

// of is a keyword's value in one line. Keywords that have none say so ("none"),
// but for some that are then left out.
func (s Settings) of(keyword string) string { return strings.Join(s[keyword], " ") }

// methods are the account's AuthenticationMethods; nil if any will do.
func (s Settings) methods() methods {
	sets := methods(strings.Fields(s.of("authenticationmethods")))
	if slices.Equal(sets, methods{anyMethod}) {
		return nil
	}
	return sets
}

// Inspector asks sshd what comes of its configuration, and changes nothing.
type Inspector struct {
	Runner files.Runner
	// Read returns a file of the machine's.
	Read func(path string) ([]byte, error)
}

// Finding is what comes of sshd's configuration.
type Finding struct {
	// Wrong is what of Muster's is not in force, and what does instead.
	Wrong []string
	// Shut says why certificates that are good let nobody in, or prove no host,
	// since sshd uses none of their algorithms.
	Shut []string
	// Notes are what of the image's keeps some people out of Muster's accounts, or
	// from something in them.
	Notes []string
	// Settings are sshd's, for no account in particular.
	Settings Settings
	accounts map[string]Settings
}

// Err is what is wrong, as an error.
func (f *Finding) Err() error {
	var all []error
	if len(f.Wrong) > 0 {
		all = append(all, fmt.Errorf("%w: %s", ErrNotInForce, strings.Join(f.Wrong, "; ")))
	}
	if len(f.Shut) > 0 {
		all = append(all, fmt.Errorf("%w: %s", ErrShut, strings.Join(f.Shut, "; ")))
	}
	return errors.Join(all...)
}

// Accounts are those for which Muster's part of the configuration has a block.
func (i Inspector) Accounts() (names []string) {
	for _, name := range dropNames {
		content, err := i.Read(path.Join(dropFolder, name))
		if err == nil {
			names = append(names, blockNames(content)...)
		}
	}
	if content, err := i.Read(settingsFile); err == nil {
		names = append(names, blockNames(content)...)
	}
	if content, err := i.Read(mainFile); err == nil && len(names) == 0 {
		theirs := blockNames(files.Strip(content))
		names = slices.DeleteFunc(blockNames(content), func(name string) bool { return slices.Contains(theirs, name) })
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func blockNames(content []byte) (names []string) {
	for line := range strings.Lines(string(content)) {
		if key, args := split(line); key == "match" && len(args) == 2 && strings.EqualFold(args[0], "user") {
			names = append(names, args[1])
		}
	}
	return names
}

// Inspect asks sshd about everybody and about each of the accounts, as when
// somebody logs in there. Errors are that sshd refuses its configuration, as
// ErrRefused, or that there is none (ErrMissing).
func (i Inspector) Inspect(ctx context.Context, accounts []string) (*Finding, error) {
	f := &Finding{accounts: map[string]Settings{}}
	var err error
	if f.Settings, err = i.settings(ctx); err != nil {
		return nil, err
	}
	if value := f.Settings.of("trustedusercakeys"); value != UserCAsFile && value != allCAsFile {
		f.wrong("", "TrustedUserCAKeys", value, UserCAsFile)
	}
	f.judgeRevoked("", f.Settings)
	if value := f.Settings.of("pubkeyauthentication"); value != "yes" {
		f.wrong("", "PubkeyAuthentication", value, "yes")
	}
	for n, account := range accounts {
		settings, err := i.account(ctx, account)
		if err != nil {
			if _, other := i.account(ctx, "root"); other != nil && n == 0 {
				break // an old one that cannot tell
			}
			return nil, fmt.Errorf("%w: for %s: %w", ErrRefused, account, err)
		}
		f.accounts[account] = settings
		f.judgeAccount(account, settings)
		if content, err := i.Read(principalsFile(account)); err != nil || string(content) != account+"\n" {
			f.Wrong = append(f.Wrong, principalsFile(account)+" does not name the account")
		}
	}
	f.noteLimits()
	i.judgeHostCertificates(f)
	i.judgeAlgorithms(f)
	return f, nil
}

// settings is what sshd says for no account in particular.
func (i Inspector) settings(ctx context.Context) (Settings, error) {
	output, err := i.Runner.Run(ctx, nil, "sshd", "-T")
	if err != nil && strings.Contains(err.Error(), "connection test specification") {
		// Older ones want to know for whom, once there are Match blocks.
		output, err = i.Runner.Run(ctx, nil, "sshd", "-T", "-C", connection("root"))
	}
	switch {
	case files.Missing(err):
		return nil, ErrMissing
	case err != nil:
		return nil, fmt.Errorf("%w: %w", ErrBroken, err)
	}
	return ParseSettings(output), nil
}

// account is what sshd says for an account.
func (i Inspector) account(ctx context.Context, name string) (Settings, error) {
	output, err := i.Runner.Run(ctx, nil, "sshd", "-T", "-C", connection(name))
	if err != nil {
		return nil, err
	}
	return ParseSettings(output), nil
}

// connection is an account's, for sshd's tests.
func connection(account string) string {
	return "user=" + account + ",host=localhost,addr=127.0.0.1,laddr=127.0.0.1,lport=22"
}

func (f *Finding) wrong(account, keyword, got, want string) {
	if got == "" {
		got = "not set"
	}
	text := fmt.Sprintf("%s is %s, not %s", keyword, got, want)
	if account != "" {
		text = "for " + account + " " + text
	}
	f.Wrong = append(f.Wrong, text)
}

// judgeAccount compares what is in force for one of Muster's accounts with what
// Muster's blocks state.
func (f *Finding) judgeAccount(account string, s Settings) {
	keyed := s.methods().keyed()
	for _, r := range rules {
		got := s.of(r.key())
		switch {
		case r.verdict != ours, r.optional && got == "", r.key() == "exposeauthinfo": // which lets nobody in
		case r.key() == "revokedkeys":
			f.judgeRevoked(account, s)
		case r.key() == "authorizedprincipalsfile":
			if got != principalsFile(account) {
				f.wrong(account, r.keyword, got, principalsFile(account))
			}
		case r.key() == "authenticationmethods":
			// Where any will do, all others are off.
			if all := s.methods(); all != nil && !keyed {
				f.wrong(account, r.keyword, got, "publickey")
			}
			// But for one of Debian's and Red Hat's sshd, which no block can switch off.
			if way := "gssapikeyexchange"; !keyed && s.of(way) == "yes" {
				f.wrong(account, "GSSAPIKeyExchange", "yes", "no (or let AuthenticationMethods ask for publickey)")
			}
		case r.method != "" && keyed:
			// Beside a key it does no harm.
		case got != r.value:
			f.wrong(account, r.keyword, got, r.value)
		}
	}
}

// judgeRevoked looks for Muster's list among those that sshd reads.
func (f *Finding) judgeRevoked(account string, s Settings) {
	if value := s.of("revokedkeys"); !slices.Contains(strings.Fields(value), RevokedFile) {
		f.wrong(account, "RevokedKeys", value, RevokedFile)
	}
}

// noteLimits names what the image allows Muster's accounts less.
func (f *Finding) noteLimits() {
	for _, r := range rules {
		if r.verdict != told || r.effect == "" {
			continue
		}
		f.note("sshd_config sets "+r.keyword+", which "+r.effect+", for Muster's accounts %s", func(s Settings) bool {
			values := s[r.key()]
			return len(values) > 0 && !(len(values) == 1 && slices.Contains(r.harmless, values[0]))
		})
	}
}

// note tells something that is so for some accounts.
func (f *Finding) note(text string, is func(Settings) bool) {
	if names := f.where(is); len(names) > 0 {
		f.Notes = append(f.Notes, fmt.Sprintf(text, strings.Join(names, ", ")))
	}
}

// where are the accounts for which something is so.
func (f *Finding) where(is func(Settings) bool) (names []string) {
	for name, settings := range f.accounts {
		if is(settings) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// judgeHostCertificates looks whether sshd shows Muster's certificates. Of several
// for one key it shows the last that it reads.
func (i Inspector) judgeHostCertificates(f *Finding) {
	shown := map[string]string{} // the last file by key
	for _, file := range f.Settings["hostcertificate"] {
		if cert, err := i.certificate(file); err == nil {
			shown[string(cert.Key.Marshal())] = file
		}
	}
	for _, file := range f.Settings["hostcertificate"] {
		if path.Dir(file) != Folder {
			continue
		}
		cert, err := i.certificate(file)
		if err != nil {
			f.Wrong = append(f.Wrong, fmt.Sprintf("the host certificate %s cannot be read: %v", file, err))
			continue
		}
		if other := shown[string(cert.Key.Marshal())]; other != file {
			f.Wrong = append(f.Wrong, fmt.Sprintf("sshd shows the host certificate %s, not Muster's, %s, since it is named later: "+
				"remove its HostCertificate line", other, file))
		}
	}
}

// certificate reads a host certificate's file.
func (i Inspector) certificate(file string) (*ssh.Certificate, error) {
	content, err := i.Read(file)
	if err != nil {
		return nil, err
	}
	key, _, _, _, err := ssh.ParseAuthorizedKey(bytes.TrimSpace(content))
	if err != nil {
		return nil, err
	}
	cert, is := key.(*ssh.Certificate)
	if !is {
		return nil, errors.New("it is no certificate")
	}
	return cert, nil
}
