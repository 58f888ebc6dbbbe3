// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package sshd

import (
	"slices"
	"strings"
)

// verdict is what becomes of a keyword that may stand in a Match block.
type verdict string

const (
	// ours says who gets into Muster's accounts: Muster's own blocks state it,
	// whatever the image has.
	ours verdict = "Muster's"
	// told is the image's policy, which stays, and may keep people out of Muster's
	// accounts or from what they want there: Warnings names it.
	told verdict = "the image's, told"
	// left is the image's policy, which stays, and is nobody else's business.
	left verdict = "the image's"
)

// rule is the decision about one keyword.
type rule struct {
	keyword string // as the manual spells it
	verdict verdict
	// value is what Muster's blocks state. Empty: plan computes it.
	value string
	// method is the one that the keyword switches on. Where that is asked for
	// beside a key (AuthenticationMethods), the image may have it.
	method string
	// optional: there is an sshd that does not know it, and does without.
	optional bool
	// answer: stated only where the image states it, too.
	answer bool
	// harmless are values of the image that are not worth telling.
	harmless []string
	// effect is what other values do to Muster's accounts.
	effect string
}

// rules decide about every keyword that sshd allows in Match blocks: of OpenSSH
// 9.2, 10.0 and 10.6, found by trial ("Directive ... is not allowed within a Match
// block"). A test asks the sshd at hand whether it has one that is not here.
// docs/agent-machine.md has the same table.
var rules = []rule{
	{keyword: "PubkeyAuthentication", verdict: ours, value: "yes"},
	{keyword: "TrustedUserCAKeys", verdict: ours, value: UserCAsFile},
	{keyword: "RevokedKeys", verdict: ours}, // planTrust
	{keyword: "AuthorizedKeysFile", verdict: ours, value: "none"},
	// In a Match block sshd takes "none" for a command that it cannot run, and says so
	// at each log-in; nobody gets in by it. OpenSSH 9.2 does not read the one for
	// principals if it stands behind the other.
	{keyword: "AuthorizedPrincipalsCommand", verdict: ours, value: "none", answer: true, optional: true},
	{keyword: "AuthorizedKeysCommand", verdict: ours, value: "none", answer: true},
	{keyword: "AuthorizedPrincipalsFile", verdict: ours}, // principalsFile: there "none" would be a file before OpenSSH 10.6
	{keyword: "AuthenticationMethods", verdict: ours},    // planAccounts
	{keyword: "PasswordAuthentication", verdict: ours, value: "no", method: "password"},
	{keyword: "KbdInteractiveAuthentication", verdict: ours, value: "no", method: "keyboard-interactive"},
	{keyword: "HostbasedAuthentication", verdict: ours, value: "no", method: "hostbased"},
	{keyword: "GSSAPIAuthentication", verdict: ours, value: "no", method: "gssapi-with-mic", optional: true},
	{keyword: "KerberosAuthentication", verdict: ours, value: "no", method: "password", optional: true},
	{keyword: "PermitEmptyPasswords", verdict: ours, value: "no"},
	{keyword: "ExposeAuthInfo", verdict: ours, optional: true}, // planAccounts: with pam_sudo alone

	{keyword: "AllowUsers", verdict: told, effect: keepsOut},
	{keyword: "DenyUsers", verdict: told, effect: keepsOut},
	{keyword: "AllowGroups", verdict: told, effect: keepsOut},
	{keyword: "DenyGroups", verdict: told, effect: keepsOut},
	{keyword: "RefuseConnection", verdict: told, harmless: []string{"no"}, effect: keepsOut},
	{keyword: "ForceCommand", verdict: told, harmless: []string{"none"}, effect: "runs in place of what people ask for"},
	{keyword: "ChrootDirectory", verdict: told, harmless: []string{"none"}, effect: "hides the machine's files, and its sudo"},
	{keyword: "PermitTTY", verdict: told, harmless: []string{"yes"}, effect: "gives no terminal"},
	{keyword: "AllowAgentForwarding", verdict: told, harmless: []string{"yes"}}, // forwardingLimits: with pam_sudo alone
	{keyword: "DisableForwarding", verdict: told, harmless: []string{"no"}},     // the same
	{keyword: "CASignatureAlgorithms", verdict: told},                           // algorithms.go
	{keyword: "PubkeyAcceptedAlgorithms", verdict: told},                        // algorithms.go
	{keyword: "RequiredRSASize", verdict: told, harmless: []string{"0", "1024", "2048"}, effect: "refuses shorter RSA keys"},

	{keyword: "AcceptEnv", verdict: left}, {keyword: "AgentSocketPath", verdict: left},
	{keyword: "AllowStreamLocalForwarding", verdict: left}, {keyword: "AllowTcpForwarding", verdict: left},
	{keyword: "AuthorizedKeysCommandUser", verdict: left}, {keyword: "AuthorizedPrincipalsCommandUser", verdict: left},
	{keyword: "Banner", verdict: left}, {keyword: "ChannelTimeout", verdict: left}, {keyword: "ClientAliveCountMax", verdict: left},
	{keyword: "ClientAliveInterval", verdict: left}, {keyword: "GatewayPorts", verdict: left},
	{keyword: "HostbasedAcceptedAlgorithms", verdict: left}, {keyword: "HostbasedUsesNameFromPacketOnly", verdict: left},
	{keyword: "IgnoreRhosts", verdict: left}, {keyword: "IPQoS", verdict: left}, {keyword: "LogLevel", verdict: left},
	{keyword: "LogVerbose", verdict: left}, {keyword: "MaxAuthTries", verdict: left}, {keyword: "MaxSessions", verdict: left},
	{keyword: "PAMServiceName", verdict: left}, {keyword: "PermitListen", verdict: left}, {keyword: "PermitOpen", verdict: left},
	{keyword: "PermitRootLogin", verdict: left}, {keyword: "PermitTunnel", verdict: left}, {keyword: "PermitUserRC", verdict: left},
	{keyword: "PubkeyAuthOptions", verdict: left}, {keyword: "RDomain", verdict: left}, {keyword: "RekeyLimit", verdict: left},
	{keyword: "SetEnv", verdict: left}, {keyword: "StreamLocalBindMask", verdict: left}, {keyword: "StreamLocalBindUnlink", verdict: left},
	{keyword: "Subsystem", verdict: left}, {keyword: "UnusedConnectionTimeout", verdict: left}, {keyword: "X11DisplayOffset", verdict: left},
	{keyword: "X11Forwarding", verdict: left}, {keyword: "X11UseLocalhost", verdict: left},
}

const keepsOut = "may keep people out"

// otherNames are what rules go by, too, as they were called before.
var otherNames = map[string]string{
	"pubkeyacceptedkeytypes":    "pubkeyacceptedalgorithms",    // before 8.5
	"hostbasedacceptedkeytypes": "hostbasedacceptedalgorithms", // before 8.5
	// Before 8.7 another one, which stands in no Match block, and does not count where
	// KbdInteractiveAuthentication stands in one.
	"challengeresponseauthentication": "kbdinteractiveauthentication",
	"skeyauthentication":              "kbdinteractiveauthentication",
	"dsaauthentication":               "pubkeyauthentication",
}

// key is the rule's keyword in lower case.
func (r rule) key() string { return strings.ToLower(r.keyword) }

// ruleOf finds the rule about a keyword, in whatever case; nil if there is none.
func ruleOf(keyword string) *rule {
	keyword = strings.ToLower(keyword)
	if name, renamed := otherNames[keyword]; renamed {
		keyword = name
	}
	if at := slices.IndexFunc(rules, func(r rule) bool { return r.key() == keyword }); at >= 0 {
		return &rules[at]
	}
	return nil
}

// isOurs reports whether Muster's blocks state a keyword.
func isOurs(keyword string) bool {
	r := ruleOf(keyword)
	return r != nil && r.verdict == ours
}

// methods are sets of ways to prove oneself, of which one must be gone through
// (AuthenticationMethods).
type methods []string

// anyMethod is what sshd says where the image asks for no particular one.
const anyMethod = "any"

// withKey are the sets that ask for a key.
func (m methods) withKey() methods {
	return slices.DeleteFunc(slices.Clone(m), func(set string) bool {
		return !slices.Contains(strings.Split(set, ","), "publickey")
	})
}

// keyed reports whether nobody gets in without a key.
func (m methods) keyed() bool { return len(m) > 0 && len(m.withKey()) == len(m) }

// ask reports whether one of the sets has the method.
func (m methods) ask(method string) bool {
	return method != "" && slices.ContainsFunc(m, func(set string) bool {
		return slices.ContainsFunc(strings.Split(set, ","), func(one string) bool {
			name, _, _ := strings.Cut(one, ":")
			return name == method
		})
	})
}
