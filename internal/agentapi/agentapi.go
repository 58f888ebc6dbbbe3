// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

// Package agentapi is what Muster and the agent inside an instance agree on:
// the paths and shapes of their calls, and how each side proves who it is.
//
// An instance has a one-time token for its first call. All later ones carry a
// signature by one of its host keys, for which Muster has a record of a
// certificate, over the call's path and body with a challenge of Muster's in
// it. Muster's revocation lists carry a signature by the project's user CA.
// Both are OpenSSH's signatures of files (PROTOCOL.sshsig), so that
// "ssh-keygen -Y sign" and "ssh-keygen -Y verify" can do the same.
//
// The package never touches network or disk, keeps no state, and decides
// nothing: what a verified signature allows is up to its callers.
package agentapi

import "time"

// Paths of the calls, below the base address of the instances' interface. They
// are part of what is signed, without any prefix that a proxy in between adds.
const (
	PathHostCerts  = "/noauth/v1/hostcerts"       // POST HostCertsRequest → HostCertsAnswer
	PathChallenges = "/noauth/v1/challenges"      // POST {} → Challenge
	PathRenew      = "/noauth/v1/hostcerts/renew" // POST RenewRequest, signed → HostCertsAnswer
	PathState      = "/noauth/v1/state"           // POST StateRequest, signed → State
	PathEnrolment  = "/noauth/v1/enrolment"       // POST EnrolmentRequest, signed → EnrolmentAnswer

	PathPrograms    = "/noauth/agent/"           // GET, followed by a name of Programs
	PathRevokedKeys = "/noauth/revokeduserkeys/" // GET, followed by the project's ID
)

// Programs names the agent's program for each machine architecture, as Go
// calls it.
var Programs = map[string]string{
	"amd64": "muster-agent-linux-amd64",
	"arm64": "muster-agent-linux-arm64",
}

// Bounds of what a caller may send.
const (
	MaxKeys     = 8         // host keys in one request
	MaxBody     = 160 << 10 // bytes of a request: MaxKeys of the longest keys, and some
	MaxReason   = 500       // bytes of an enrolment's reason
	MaxWaitList = 300       // seconds of ?wait= that a server may allow at most
)

// ChallengeLifetime is how long a challenge may be answered.
const ChallengeLifetime = 60 * time.Second

// Outcomes of an instance's joining FreeIPA.
const (
	OutcomeEnrolled = "enrolled"
	OutcomeFailed   = "failed"
)

// HostCertsRequest spends the instance's one-time token on all of its host
// keys. The same set again gets the same certificates.
type HostCertsRequest struct {
	Token   string   `json:"token"`
	HostID  string   `json:"host_id"`
	PubKeys []string `json:"pub_keys"` // authorized_keys lines, 1 to MaxKeys
}

// HostCertsAnswer has the certificates in the order of the request's keys.
type HostCertsAnswer struct {
	Certs []HostCert `json:"certs"`
}

// HostCert is one certificate.
type HostCert struct {
	PubKey      string    `json:"pub_key"`     // authorized_keys line without comment
	Cert        string    `json:"cert"`        // one line, as in ssh_host_*-cert.pub
	Serial      uint64    `json:"serial"`      // fits a JSON number
	Fingerprint string    `json:"fingerprint"` // of the key: SHA256:...
	ExpiresAt   time.Time `json:"expires_at"`
}

// Challenge is what a signed request has to contain.
type Challenge struct {
	Challenge string `json:"challenge"`
	ExpiresIn int    `json:"expires_in"` // seconds
}

// Signed begins every signed request.
type Signed struct {
	Challenge string `json:"challenge"`
	HostID    string `json:"host_id"` // the instance, 32 hexadecimal digits
}

// RenewRequest asks for certificates of host keys, which need not be those
// that were certified before.
type RenewRequest struct {
	Signed
	PubKeys []string `json:"pub_keys"` // authorized_keys lines, 1 to MaxKeys
}

// StateRequest asks what the instance should look like.
type StateRequest struct {
	Signed
}

// State is what the instance should look like.
type State struct {
	// Version names everything below: while it is the same, nothing changed.
	Version   string `json:"version"`
	ProjectID string `json:"project_id"`
	Hostname  string `json:"hostname"`
	// Names are the principals that the host certificates should have. If
	// those in hand have others, they should be renewed.
	Names []string `json:"names"`
	// UserCAs are authorized_keys lines, of all generations that are trusted.
	UserCAs []string `json:"user_cas"`
	// HostCA is the authorized_keys line of the generation that signs host
	// certificates now. Those in hand by another one should be renewed: it will
	// be retired. Empty: none signs.
	HostCA   string    `json:"host_ca"`
	Accounts []Account `json:"accounts"`
	// SSHPort is a second port for sshd; 22: none.
	SSHPort                int  `json:"ssh_port"`
	PasswordAuthentication bool `json:"password_authentication"`
	// PenaltyExempt are networks whose refused log-ins sshd should not punish.
	PenaltyExempt []string `json:"penalty_exempt,omitempty"`
	// PAMSudo: sudo only with a forwarded agent that holds a certificate.
	PAMSudo bool `json:"pam_sudo"`
	// PollSeconds is how often to ask for the state. A changed revocation list
	// is a reason to ask at once.
	PollSeconds int `json:"poll_seconds"`
	// LongPollSeconds is what to ask the revocation list to wait (?wait=); 0:
	// it does not wait.
	LongPollSeconds int `json:"long_poll_seconds"`
	// IPA is what to join; nil: nothing.
	IPA *IPA `json:"ipa,omitempty"`
}

// Account is one that the instance should have.
type Account struct {
	Name string `json:"name"`
	Sudo bool   `json:"sudo"`
}

// IPA is the FreeIPA domain that the instance should join.
type IPA struct {
	FQDN   string `json:"fqdn"`
	Domain string `json:"domain"`
	Realm  string `json:"realm"`
	Server string `json:"server"` // empty: found by DNS
	// Options are further ones for ipa-client-install.
	Options       []string `json:"options"`
	InstallClient bool     `json:"install_client"` // install the client's package if it is missing
	// Done: Muster knows that the instance has joined.
	Done bool `json:"done"`
}

// EnrolmentAnswer tells what Muster made of a report. A report is a hint: until
// FreeIPA says so too, an instance that has joined is not "enrolled", and may
// report again later.
type EnrolmentAnswer struct {
	State string `json:"state"` // wanted, created, enrolled, failed, leaving or gone
}

// EnrolmentRequest reports how joining FreeIPA went.
type EnrolmentRequest struct {
	Signed
	Outcome string `json:"outcome"` // OutcomeEnrolled or OutcomeFailed
	Reason  string `json:"reason"`  // for the operator, at most MaxReason bytes, without secrets
}
