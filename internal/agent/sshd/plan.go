// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package sshd

import (
	"bytes"
	"context"
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
	file     string   // of Muster's settings; empty: blocks in the main file
	included bool     // file is not in dropFolder, so that the main file includes it
	global   []string // settings for everybody
	match    []string // settings in Match blocks
	last     []string // settings of which sshd takes the last, at the end of the main file
	certs    map[string]string
	// principals are files that name an account each.
	principals map[string]string
	// accounts are those that have a block each in match.
	accounts []string
	cas      []byte
	all      []byte            // Muster's and the image's authorities; nil: only Muster's
	revoked  string            // the lists that sshd reads
	port     string            // the second port; empty: none
	limits   []string          // warnings about the image's settings
	inForce  map[string]string // what must be, by keyword
}

// firstWins are the keywords that Muster sets for everybody and of which sshd
// takes the first.
var firstWins = []string{
	"trustedusercakeys", "revokedkeys", "pubkeyauthentication",
	"passwordauthentication", "kbdinteractiveauthentication", "challengeresponseauthentication", exemptions,
}

// exemptions is the keyword of networks whose refused log-ins are not punished.
// sshd has it since 9.8.
const exemptions = "persourcepenaltyexemptlist"

// plan decides. The configuration's other parts are read anew each time, since
// others change them too.
func (c *SSHD) plan(ctx context.Context, want Want) (*plan, error) {
	p := &plan{certs: map[string]string{}, principals: map[string]string{}, inForce: map[string]string{}, port: want.portOf(), cas: lines(want.UserCAs)}
	if p.port != "" && p.port == c.refused {
		p.limits = append(p.limits, "sshd does without its second port, "+p.port+": systemd's socket for sshd does not start with it, "+
			"perhaps since another program has that port (ss -ltnp); free it and restart muster-agent")
		p.port = ""
	}
	others, err := c.choosePlace(ctx, p)
	if err != nil {
		return nil, err
	}
	if err := c.planTrust(ctx, p, others); err != nil {
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
	if c.knows[exemptions] && len(want.PenaltyExempt) > 0 {
		p.set("PerSourcePenaltyExemptList", strings.Join(append(slices.Clone(want.PenaltyExempt), firstOf(others, exemptions)...), ","))
	}
	if err := c.planCertificates(p, want.HostCerts, others); err != nil {
		return nil, err
	}
	p.planPort(others)
	if err := c.planAccounts(ctx, p, want, others); err != nil {
		return nil, err
	}
	p.planLimits(want, others)
	return p, nil
}

// set adds a setting that must be in force.
func (p *plan) set(key, value string) {
	p.global = append(p.global, key+" "+value)
	p.inForce[key] = value
}

// choosePlace finds the file that sshd reads before anything else sets the
// same, and returns what the others set.
func (c *SSHD) choosePlace(ctx context.Context, p *plan) ([]directive, error) {
	for _, name := range dropNames {
		drop := path.Join(dropFolder, name)
		found, err := scanConfig(c.tree, drop)
		if err != nil {
			return nil, err
		}
		at := slices.IndexFunc(found, func(d directive) bool { return d.key == here && !d.match })
		if at >= 0 && !slices.ContainsFunc(found[:at], directive.first) {
			p.file = drop
			return slices.DeleteFunc(found, func(d directive) bool { return d.key == here }), nil
		}
	}
	if main := mainConfig(c.tree); main != mainFile {
		return nil, fmt.Errorf("%s does not read %s, and a package owns it: copy it to %s", main, dropFolder, mainFile)
	}
	if c.accepts(ctx, includeLine) { // since OpenSSH 8.2
		p.file, p.included = settingsFile, true
	}
	return scanConfig(c.tree, "")
}

// includeLine is what the main file begins with where it includes settingsFile.
const includeLine = "Include " + settingsFile

// first reports whether the directive goes before Muster's if it stands before.
func (d directive) first() bool {
	return !d.match && slices.Contains(firstWins, d.key) || d.block && isOurs(d.key)
}

// planTrust names Muster's lists. Authorities of the image are added to
// Muster's, since sshd takes one file only; so is a revocation list of the
// image's where sshd takes several (OpenSSH 10.6).
func (c *SSHD) planTrust(ctx context.Context, p *plan, others []directive) error {
	p.revoked = RevokedFile
	if theirs := slices.DeleteFunc(firstOf(others, "revokedkeys"), func(file string) bool { return file == RevokedFile }); len(theirs) > 0 {
		both := append([]string{RevokedFile}, theirs...)
		if strings.ContainsAny(strings.Join(theirs, ""), " \t#\"") || !c.accepts(ctx, "RevokedKeys "+strings.Join(both, " ")) {
			return fmt.Errorf("%w (now %s)", ErrForeignRevokedKeys, strings.Join(theirs, " "))
		}
		p.revoked = strings.Join(both, " ")
	}
	p.set("RevokedKeys", p.revoked)
	theirs := firstOf(others, "trustedusercakeys")
	if len(theirs) == 0 || theirs[0] == UserCAsFile {
		p.set("TrustedUserCAKeys", UserCAsFile)
		return nil
	}
	content, err := c.tree.Read(theirs[0])
	if err != nil {
		return fmt.Errorf("the authorities that the image trusts, in %s, cannot be read: %w", theirs[0], err)
	}
	p.all = slices.Concat(p.cas, []byte("# from "+theirs[0]+"\n"), content)
	p.set("TrustedUserCAKeys", allCAsFile)
	return nil
}

// firstOf are the values of a keyword that sshd takes the first of; none if it is
// not set, or to none.
func firstOf(others []directive, key string) []string {
	for _, d := range others {
		if d.key == key && !d.match && len(d.args) > 0 {
			if strings.EqualFold(d.args[0], "none") {
				return nil
			}
			return slices.Clone(d.args)
		}
	}
	return nil
}

// planCertificates gives each certificate a file named after its key. Of several
// certificates for a key sshd shows the last that it reads, so that Muster's go
// behind those that the image names.
func (c *SSHD) planCertificates(p *plan, certs map[string]string, others []directive) error {
	for _, key := range slices.Sorted(maps.Keys(certs)) {
		file := Folder + "/" + path.Base(key) + "-cert.pub"
		for n := 2; p.certs[file] != ""; n++ {
			file = Folder + "/" + path.Base(key) + "-" + strconv.Itoa(n) + "-cert.pub"
		}
		p.certs[file] = strings.TrimSpace(certs[key]) + "\n"
		p.last = append(p.last, "HostCertificate "+quoted(file))
	}
	if !slices.ContainsFunc(others, func(d directive) bool { return d.key == "hostcertificate" }) {
		p.global, p.last = append(p.global, p.last...), nil
		return nil
	}
	if main := mainConfig(c.tree); main != mainFile && len(p.last) > 0 {
		return fmt.Errorf("the image names host certificates, Muster's have to be the last, and a package owns %s: copy it to %s", main, mainFile)
	}
	return nil
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

// planAccounts makes Muster's certificates that name them the only way into the
// accounts: neither a key or a .k5login that somebody has left in a home, nor
// what the image says of principals or other authorities, lets anybody in. What
// the image asks for beside a key it goes on asking for. Each account has a
// block, since older ones of sshd read no long lines.
func (c *SSHD) planAccounts(ctx context.Context, p *plan, want Want, others []directive) error {
	p.accounts = slices.Sorted(slices.Values(want.Accounts))
	asked := slices.ContainsFunc(others, func(d directive) bool { return d.key == "authenticationmethods" })
	// Behind another value "any" is an error before OpenSSH 10, which ends each login.
	fixed := slices.ContainsFunc(others, func(d directive) bool {
		return d.key == "authenticationmethods" && slices.Contains(d.args, anyMethod)
	}) && !c.accepts(ctx, "Match all\nAuthenticationMethods publickey\nAuthenticationMethods any")
	if len(p.accounts) > 0 && slices.ContainsFunc(others, func(d directive) bool { return d.key == "authenticationmethods" && d.from }) {
		p.limits = append(p.limits, "sshd_config sets AuthenticationMethods by where a connection comes from; Muster's accounts "+
			strings.Join(p.accounts, ", ")+" have it as it is for 127.0.0.1: a block by User or Group counts for them")
	}
	for _, account := range p.accounts {
		sets := methods{"publickey"}
		if asked {
			theirs, err := c.imageMethods(ctx, account)
			if err != nil {
				return err
			}
			if both := theirs.withKey(); len(both) > 0 {
				sets = both
			}
		}
		p.match = append(p.match, "Match User "+account)
		for _, r := range rules {
			value := r.value
			switch {
			case r.verdict != ours, r.optional && !c.knows[r.key()]:
				continue
			case r.answer && !slices.ContainsFunc(others, func(d directive) bool { return d.key == r.key() }):
				continue
			case r.key() == "authorizedprincipalsfile":
				value = principalsFile(account)
				p.principals[value] = account + "\n"
			case r.key() == "revokedkeys":
				value = p.revoked
			case r.key() == "exposeauthinfo":
				// For people whose SSH agent holds no certificates: see package sudo.
				if value = "yes"; !slices.Contains(want.ForwardAgent, account) {
					continue
				}
			case r.key() == "authenticationmethods":
				value = strings.Join(sets, " ")
				if fixed {
					continue
				}
			case sets.ask(r.method):
				continue
			}
			p.match = append(p.match, "    "+r.keyword+" "+value)
		}
	}
	return nil
}

// imageMethods asks sshd what the image alone asks for in an account. A
// configuration that is broken, or an sshd that cannot tell, asks for nothing:
// what comes of it is judged later.
func (c *SSHD) imageMethods(ctx context.Context, account string) (methods, error) {
	main, err := c.tree.Read(mainConfig(c.tree))
	if err != nil {
		return nil, fmt.Errorf("reading sshd's configuration: %w", err)
	}
	content, err := c.withoutDrop(files.Strip(main))
	if err != nil {
		return nil, err
	}
	if err := c.tree.SaveState(candidate, content); err != nil {
		return nil, err
	}
	output, err := c.sshd(ctx, "-T", "-f", path.Join(c.tree.StateFolder(), candidate), "-C", connection(account))
	if dropped := c.tree.DropState(candidate); dropped != nil {
		return nil, dropped
	}
	if err != nil {
		c.log.Debug("cannot find out what the image asks for", "account", account, "error", err)
		return nil, ctx.Err()
	}
	return ParseSettings(output).methods(), nil
}

// withoutDrop names the files of dropFolder one by one, but for Muster's, where
// the main file includes them by a pattern.
func (c *SSHD) withoutDrop(main []byte) ([]byte, error) {
	var content bytes.Buffer
	for line := range bytes.Lines(main) {
		key, patterns := split(string(line))
		if key != "include" {
			content.Write(line)
			continue
		}
		for _, pattern := range patterns {
			if !path.IsAbs(pattern) {
				pattern = path.Join("/etc/ssh", pattern)
			}
			if path.Dir(pattern) != dropFolder {
				content.WriteString("Include " + quoted(pattern) + "\n")
				continue
			}
			names, err := c.tree.List(dropFolder)
			if err != nil {
				return nil, err
			}
			for _, name := range names {
				if fits(pattern, name) && !slices.Contains(dropNames, name) {
					content.WriteString("Include " + quoted(path.Join(dropFolder, name)) + "\n")
				}
			}
		}
	}
	return content.Bytes(), nil
}

// planLimits names what Match blocks of the image set otherwise for accounts that
// are not Muster's, which is the image's affair; and, where Muster's own blocks
// come last, what may be set otherwise for Muster's, too.
func (p *plan) planLimits(want Want, others []directive) {
	var set, before []string
	for _, d := range others {
		if !d.block {
			continue
		}
		r := ruleOf(d.key)
		if r == nil || r.verdict != ours {
			continue
		}
		before = append(before, r.keyword)
		value := strings.Join(d.args, " ")
		switch d.key {
		case "trustedusercakeys", "revokedkeys":
			set = append(set, r.keyword+" "+value)
		case "passwordauthentication", "kbdinteractiveauthentication", "challengeresponseauthentication":
			if !want.PasswordAuthentication && !strings.EqualFold(value, "no") {
				set = append(set, r.keyword+" "+value)
			}
		}
	}
	if len(set) > 0 {
		p.limits = append(p.limits, "Match blocks of sshd_config set "+strings.Join(unique(set), ", ")+
			", which goes before Muster's settings where they apply; Muster's own accounts have blocks that come first")
	}
	if p.file == "" && len(before) > 0 && len(p.accounts) > 0 {
		p.limits = append(p.limits, "this sshd knows no Include, so that Muster's blocks for its accounts stand at the end of sshd_config, "+
			"and Match blocks before them that set "+strings.Join(unique(before), ", ")+" go before Muster's settings where they apply: "+
			"see that they apply to none of "+strings.Join(p.accounts, ", "))
	}
}

func unique(all []string) []string {
	slices.Sort(all)
	return slices.Compact(all)
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

// mainContent is the main file with Muster's part: at the top, before any Match,
// what includes Muster's file or is in its place; at the end, which belongs to
// everybody, that of which sshd takes the last.
func (p *plan) mainContent(main []byte) []byte {
	var head, tail []string
	switch {
	case p.included:
		head = []string{includeLine}
	case p.file == "":
		head, tail = p.global, p.match
	}
	if len(p.last) > 0 || len(tail) > 0 {
		tail = append(append(slices.Clone(tail), "Match all"), p.last...)
	}
	content := files.Strip(main)
	if len(head) > 0 {
		content = slices.Concat(files.Block(head...), content)
	}
	if len(tail) == 0 {
		return content
	}
	if len(content) > 0 && !bytes.HasSuffix(content, []byte("\n")) {
		content = append(bytes.Clone(content), '\n')
	}
	return slices.Concat(content, files.Block(tail...))
}

func quoted(file string) string {
	if strings.ContainsAny(file, " \t#") {
		return `"` + file + `"`
	}
	return file
}
