// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package sshd

import (
	"bytes"
	"fmt"
	"maps"
	"net"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/muster-cloud/muster/internal/agent/files"
)

// plan is where Muster's settings go, and what they say.
type plan struct {
	drop   string   // Muster's file in dropFolder; empty: a block in the main file
	global []string // settings for everybody
	match  []string // settings in Match blocks, which stand last
	certs  map[string]string
	// accounts are those that have a block each in match.
	accounts []string
	cas      []byte
	all      []byte   // Muster's and the image's authorities; nil: only Muster's
	port     string   // the second port; empty: none
	limits   []string // warnings about the image's settings
	inForce  map[string]string
}

// firstWins are the keywords that Muster sets and of which sshd takes the
// first.
var firstWins = []string{
	"trustedusercakeys", "revokedkeys", "pubkeyauthentication",
	"passwordauthentication", "kbdinteractiveauthentication", "challengeresponseauthentication",
}

// plan decides. The configuration's other parts are read anew each time, since
// others change them too.
func (c *SSHD) plan(want Want) (*plan, error) {
	p := &plan{certs: map[string]string{}, inForce: map[string]string{}, port: want.portOf(), cas: lines(want.UserCAs)}
	if p.port != "" && p.port == c.refused {
		p.limits = append(p.limits, "sshd does without its second port, "+p.port+": systemd's socket for sshd does not start with it, "+
			"perhaps since another program has that port (ss -ltnp); free it and restart muster-agent")
		p.port = ""
	}
	others, err := c.choosePlace(p)
	if err != nil {
		return nil, err
	}
	if err := c.planTrust(p, others); err != nil {
		return nil, err
	}
	p.set("PubkeyAuthentication", "yes")
	if !want.PasswordAuthentication {
		p.set("PasswordAuthentication", "no")
		p.set("KbdInteractiveAuthentication", "no")
		if c.knows["challengeresponseauthentication"] { // before OpenSSH 8.7
			p.set("ChallengeResponseAuthentication", "no")
		}
	}
	p.planCertificates(want.HostCerts)
	p.planPort(others)
	p.planAccounts(want.Accounts, others)
	p.planLimits(want.Accounts, others)
	return p, nil
}

// set adds a setting that must be in force.
func (p *plan) set(key, value string) {
	p.global = append(p.global, key+" "+value)
	p.inForce[strings.ToLower(key)] = value
}

// choosePlace finds the file that sshd reads before anything else sets the
// same, and returns what the others set.
func (c *SSHD) choosePlace(p *plan) ([]directive, error) {
	for _, name := range dropNames {
		drop := path.Join(dropFolder, name)
		found, err := scanConfig(c.tree, drop)
		if err != nil {
			return nil, err
		}
		at := slices.IndexFunc(found, func(d directive) bool { return d.key == here && !d.match })
		if at < 0 {
			continue
		}
		if !slices.ContainsFunc(found[:at], func(d directive) bool { return !d.match && slices.Contains(firstWins, d.key) }) {
			p.drop = drop
			return slices.DeleteFunc(found, func(d directive) bool { return d.key == here }), nil
		}
	}
	if main := mainConfig(c.tree); main != mainFile {
		return nil, fmt.Errorf("%s does not read %s, and a package owns it: copy it to %s", main, dropFolder, mainFile)
	}
	return scanConfig(c.tree, "")
}

// planTrust names Muster's lists. Authorities of the image are added to
// Muster's, since sshd takes one file only.
func (c *SSHD) planTrust(p *plan, others []directive) error {
	if other := first(others, "revokedkeys"); other != "" && other != RevokedFile {
		return fmt.Errorf("%w (now %s)", ErrForeignRevokedKeys, other)
	}
	p.set("RevokedKeys", RevokedFile)
	other := first(others, "trustedusercakeys")
	if other == "" || other == UserCAsFile {
		p.set("TrustedUserCAKeys", UserCAsFile)
		return nil
	}
	theirs, err := c.tree.Read(other)
	if err != nil {
		return fmt.Errorf("the authorities that the image trusts, in %s, cannot be read: %w", other, err)
	}
	p.all = slices.Concat(p.cas, []byte("# from "+other+"\n"), theirs)
	p.set("TrustedUserCAKeys", allCAsFile)
	return nil
}

// first is the value of a keyword that sshd takes the first of; empty if it is
// not set, or to none.
func first(others []directive, key string) string {
	for _, d := range others {
		if d.key == key && !d.match && len(d.args) > 0 {
			if strings.EqualFold(d.args[0], "none") {
				return ""
			}
			return d.args[0]
		}
	}
	return ""
}

// planCertificates gives each certificate a file named after its key.
func (p *plan) planCertificates(certs map[string]string) {
	for _, key := range slices.Sorted(maps.Keys(certs)) {
		file := Folder + "/" + path.Base(key) + "-cert.pub"
		for n := 2; p.certs[file] != ""; n++ {
			file = Folder + "/" + path.Base(key) + "-" + strconv.Itoa(n) + "-cert.pub"
		}
		p.certs[file] = strings.TrimSpace(certs[key]) + "\n"
		p.global = append(p.global, "HostCertificate "+quoted(file))
	}
}

// planPort adds the second port. A first Port line replaces sshd's default, so
// 22 is written too where nobody else names a port; and a ListenAddress with a
// port of its own listens on no other.
func (p *plan) planPort(others []directive) {
	if p.port == "" {
		return
	}
	var ports []string
	open := false
	for _, d := range others {
		if d.match || len(d.args) == 0 {
			continue
		}
		switch d.key {
		case "port":
			ports = append(ports, d.args[0])
		case "listenaddress":
			if host, port, err := net.SplitHostPort(d.args[0]); err == nil {
				open = open || port == p.port
				line := "ListenAddress " + strings.Join(append([]string{net.JoinHostPort(host, p.port)}, d.args[1:]...), " ")
				if !slices.Contains(p.global, line) {
					p.global = append(p.global, line)
				}
			}
		}
	}
	if open {
		p.global = slices.DeleteFunc(p.global, func(line string) bool { return strings.HasPrefix(line, "ListenAddress ") })
	}
	if len(ports) == 0 {
		p.global = append(p.global, "Port 22")
	}
	if !slices.Contains(ports, p.port) {
		p.global = append(p.global, "Port "+p.port)
	}
}

// planAccounts makes certificates that name them the only way into the accounts:
// neither a key or a .k5login that somebody has left in a home, nor what the
// image says of principals, lets anybody in. What the image asks for beside a key
// it goes on asking for; "any", too, since sshd refuses that behind another
// value. Each account has a block, since older ones of sshd read no long lines.
func (p *plan) planAccounts(accounts []string, others []directive) {
	rules := []string{"    AuthorizedKeysFile none"}
	if !slices.ContainsFunc(others, func(d directive) bool { return d.key == "authenticationmethods" }) {
		rules = append(rules, "    AuthenticationMethods publickey")
	}
	for _, other := range []struct{ key, rule string }{
		{"authorizedkeyscommand", "    AuthorizedKeysCommand none"},
		{"authorizedprincipalsfile", "    AuthorizedPrincipalsFile none"},
		{"authorizedprincipalscommand", "    AuthorizedPrincipalsCommand none"},
	} {
		if first(others, other.key) != "" {
			rules = append(rules, other.rule)
		}
	}
	p.accounts = slices.Sorted(slices.Values(accounts))
	for _, account := range p.accounts {
		p.match = append(append(p.match, "Match User "+account), rules...)
	}
}

// planLimits names rules of the image that keep Muster's accounts out. They
// are somebody's decision, so they stay.
func (p *plan) planLimits(accounts []string, others []directive) {
	for _, key := range []string{"allowusers", "denyusers", "allowgroups", "denygroups"} {
		if value := first(others, key); value != "" && len(accounts) > 0 {
			p.limits = append(p.limits, "sshd_config limits who may log in ("+key+"), which may keep out Muster's accounts "+strings.Join(accounts, ", "))
		}
	}
}

// contents of Muster's own file.
func (p *plan) dropContent() []byte {
	all := []string{"# Made by muster-agent: changes here are lost."}
	all = append(all, p.global...)
	if len(p.match) > 0 {
		all = append(append(all, p.match...), "Match all")
	}
	return []byte(strings.Join(all, "\n") + "\n")
}

// blockContent puts Muster's settings into the main file: those for everybody
// at the top, before any Match; those in Match blocks at the end.
func (p *plan) blockContent(main []byte) []byte {
	content := append(files.Block(p.global...), files.Strip(main)...)
	if len(p.match) == 0 {
		return content
	}
	if !bytes.HasSuffix(content, []byte("\n")) {
		content = append(content, '\n')
	}
	return append(content, files.Block(p.match...)...)
}

func quoted(file string) string {
	if strings.ContainsAny(file, " \t#") {
		return `"` + file + `"`
	}
	return file
}
