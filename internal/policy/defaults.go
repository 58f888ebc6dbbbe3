// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package policy

// The rules that Muster asks for. Each description says what the target holds.
const (
	AuthorityCreate           = "authority:create"
	AuthorityList             = "authority:list"
	AuthorityShow             = "authority:show"
	AuthorityRotate           = "authority:rotate"
	AuthorityRetire           = "authority:retire"
	AuthorityRevokeGeneration = "authority:revoke_generation"
	UserCertCreate            = "usercert:create"
	UserCertList              = "usercert:list"
	UserCertListProject       = "usercert:list_project"
	UserCertListAll           = "usercert:list_all"
	UserCertShow              = "usercert:show"
	UserCertRevoke            = "usercert:revoke"
	RevocationCreate          = "revocation:create"
	KRLShow                   = "krl:show"
	HostList                  = "host:list"
	HostShow                  = "host:show"
	HostDelete                = "host:delete"
	HostTokenCreate           = "hosttoken:create"
	HostTokenRenew            = "hosttoken:renew"
	HostCertCreate            = "hostcert:create"
	HostCertList              = "hostcert:list"
	HostCertShow              = "hostcert:show"
	VendordataCreate          = "vendordata:create"
	JoinCreate                = "join:create"
	EnrolmentList             = "enrolment:list"
	EnrolmentShow             = "enrolment:show"
	EnrolmentRetry            = "enrolment:retry"
	EnrolmentRebuild          = "enrolment:rebuild"
	EnrolmentAdopt            = "enrolment:adopt"
	PATList                   = "pat:list"
	QueueList                 = "queue:list"
	Reconcile                 = "reconcile"
	AuditList                 = "audit:list"
	AuditListAll              = "audit:list_all"
	EventList                 = "event:list"
	AllProjects               = "all_projects"
	SudoProject               = "sudo_project"
)

// The rules that those are made of.
const (
	adminRequired  = "rule:admin_required"
	projectMember  = "rule:project_member"
	adminOrMember  = "rule:admin_required or rule:project_member"
	managesProject = "rule:manager"
	ownsOrManages  = "rule:owner or rule:manager"
	serviceOrAdmin = "rule:service_user or rule:admin_required"
	ownInProject   = "rule:admin_required or (rule:owner and rule:project_member)"
)

// Defaults returns Muster's rules, in the order of the sample file. Role admin
// in any project or on the system is the operator everywhere, as in OpenStack's
// own defaults; whoever is not, must hold a token of the project in question.
func Defaults() []Default {
	defaults := baseDefaults()
	defaults = append(defaults, certificateDefaults()...)
	defaults = append(defaults, hostDefaults()...)
	defaults = append(defaults, enrolmentDefaults()...)
	defaults = append(defaults, operatorDefaults()...)
	for i := range defaults {
		defaults[i].Scopes = []string{"project", "system"}
	}
	return defaults
}

func baseDefaults() []Default {
	return []Default{
		{
			Name: "admin_required", Check: "role:admin",
			Description: "The cloud's operator: role admin, in whatever project, domain or on the system.",
		},
		{
			Name: "project_member", Check: "project_id:%(project_id)s",
			Description: "Whoever holds a token of the project in question.",
		},
		{
			Name: "manager", Check: "(role:manager and rule:project_member) or rule:admin_required",
			Description: "Who administers the project in question: its role manager, or the operator.",
		},
		{
			Name: "owner", Check: "user_id:%(user_id)s and not project_id:None",
			Description: "The user that the certificate in question belongs to, with a token of whatever project.",
		},
		{
			Name: "service_user",
			Check: "role:service or (user_name:nova and user_domain_id:default and " +
				"(project_name:service or project_name:services) and project_domain_id:default)",
			Description: "Nova's service user: by the role service, or by name. Names are unique only within a domain, so that " +
				"only the domain default counts; where Nova's user lives in another one, give it the role service.",
		},
	}
}

func certificateDefaults() []Default {
	return []Default{
		{
			Name: AuthorityCreate, Check: managesProject,
			Description: "Make a project's authority. Target: project_id.",
			Operations:  []Operation{{"POST", "/v1/authorities"}},
		},
		{
			Name: AuthorityList, Check: adminOrMember,
			Description: "List the authority of a project. Target: project_id.",
			Operations:  []Operation{{"GET", "/v1/authorities"}},
		},
		{
			Name: AuthorityShow, Check: adminOrMember,
			Description: "Show an authority with its public keys. Target: project_id.",
			Operations:  []Operation{{"GET", "/v1/authorities/{auth_id}"}},
		},
		{
			Name: AuthorityRotate, Check: managesProject,
			Description: "Add a generation to a project's CA, which signs from then on. Target: project_id.",
			Operations:  []Operation{{"POST", "/v1/authorities/{auth_id}/generations"}},
		},
		{
			Name: AuthorityRetire, Check: managesProject,
			Description: "End the trust in a generation that no longer signs, and revoke what it signed. Target: project_id.",
			Operations:  []Operation{{"DELETE", "/v1/authorities/{auth_id}/generations/{role}/{generation}"}},
		},
		{
			Name: AuthorityRevokeGeneration, Check: adminRequired,
			Description: "Revoke a whole generation of an authority's keys. Target: project_id.",
		},
		{
			Name: UserCertCreate, Check: ownInProject,
			Description: "Get a user certificate: for oneself in the token's project; operators also in another's name. " +
				"Target: user_id, project_id.",
			Operations: []Operation{{"POST", "/v1/usercerts"}},
		},
		{
			Name: UserCertList, Check: ownInProject,
			Description: "List one's own certificates in a project. Target: user_id, project_id.",
			Operations:  []Operation{{"GET", "/v1/usercerts"}},
		},
		{
			Name: UserCertListProject, Check: managesProject,
			Description: "List everybody's user certificates in a project. Target: project_id.",
			Operations:  []Operation{{"GET", "/v1/usercerts"}},
		},
		{
			Name: UserCertListAll, Check: adminRequired,
			Description: "List the user certificates of all projects.",
			Operations:  []Operation{{"GET", "/v1/usercerts"}},
		},
		{
			Name: UserCertShow, Check: ownsOrManages,
			Description: "Show a user certificate. Target: user_id, project_id of the certificate.",
			Operations:  []Operation{{"GET", "/v1/usercerts/{serial}"}},
		},
		{
			Name: UserCertRevoke, Check: ownsOrManages,
			Description: "Revoke a user certificate by its serial, or all of a user in a project. Target: user_id, project_id of the certificates.",
			Operations:  []Operation{{"POST", "/v1/revokeduserkeys/{auth_id}"}, {"POST", "/v1/revocations"}},
		},
		{
			Name: RevocationCreate, Check: managesProject,
			Description: "Revoke whatever there is in a project, by serial, user, public key or key ID. Target: project_id.",
			Operations:  []Operation{{"POST", "/v1/revocations"}},
		},
		{
			Name: KRLShow, Check: "@",
			Description: "Fetch a project's list of revoked keys. Target: project_id.",
			Operations:  []Operation{{"GET", "/v1/revokeduserkeys/{auth_id}"}},
		},
	}
}

func hostDefaults() []Default {
	return []Default{
		{
			Name: HostList, Check: adminOrMember,
			Description: "List the hosts of a project. Target: project_id.",
			Operations:  []Operation{{"GET", "/v1/hosts"}},
		},
		{
			Name: HostShow, Check: adminOrMember,
			Description: "Show a host. Target: project_id of the host.",
			Operations:  []Operation{{"GET", "/v1/hosts/{host_id}"}},
		},
		{
			Name: HostDelete, Check: serviceOrAdmin,
			Description: "End a host's records and certificates. Target: project_id of the host.",
		},
		{
			Name: HostTokenCreate, Check: serviceOrAdmin,
			Description: "Make an instance's one-time host token. Target: project_id.",
			Operations:  []Operation{{"POST", "/v1/hosttokens"}},
		},
		{
			Name: HostTokenRenew, Check: adminRequired,
			Description: "Give an instance whose token is spent or has expired another one. Target: project_id of the host.",
			Operations:  []Operation{{"POST", "/v1/hosts/{host_id}/token"}},
		},
		{
			Name: HostCertCreate, Check: "@",
			Description: "Get a host certificate. The one-time token in the request decides.",
			Operations:  []Operation{{"POST", "/v1/hostcerts"}, {"POST", "/noauth/hostcerts"}},
		},
		{
			Name: HostCertList, Check: adminOrMember,
			Description: "List the host certificates of a project. Target: project_id.",
			Operations:  []Operation{{"GET", "/v1/hostcerts"}},
		},
		{
			Name: HostCertShow, Check: adminOrMember,
			Description: "Show a host certificate. Target: project_id of the certificate.",
			Operations:  []Operation{{"GET", "/v1/hostcerts/{host_id}/{fingerprint}"}},
		},
		{
			Name: VendordataCreate, Check: serviceOrAdmin,
			Description: "Nova asks for an instance's SSH vendordata. Target: project_id.",
			Operations:  []Operation{{"POST", "/v1/novavendordata"}, {"POST", "/v1/vendordata"}},
		},
		{
			Name: JoinCreate, Check: serviceOrAdmin,
			Description: "Nova asks for an instance's enrolment in FreeIPA; novajoin's rule. Target: project_id.",
			Operations:  []Operation{{"POST", "/v1/"}, {"POST", "/v1/vendordata"}},
		},
		{
			Name: PATList, Check: "@",
			Description: "List the bastions' addresses.",
			Operations:  []Operation{{"GET", "/v1/pats"}},
		},
	}
}

// enrolmentDefaults leave to the operator what changes FreeIPA: with another's
// entry, an instance would get that host's identity.
func enrolmentDefaults() []Default {
	return []Default{
		{
			Name: EnrolmentList, Check: adminOrMember,
			Description: "List the enrolments of a project's instances in FreeIPA. Target: project_id.",
			Operations:  []Operation{{"GET", "/v1/enrolments"}},
		},
		{
			Name: EnrolmentShow, Check: adminOrMember,
			Description: "Show the enrolment of an instance. Target: project_id of the instance.",
			Operations:  []Operation{{"GET", "/v1/enrolments/{instance_id}"}},
		},
		{
			Name: EnrolmentRetry, Check: managesProject,
			Description: "Try an instance's enrolment again at once. Target: project_id of the instance.",
			Operations:  []Operation{{"POST", "/v1/enrolments/{instance_id}/retry"}},
		},
		{
			Name: EnrolmentRebuild, Check: managesProject,
			Description: "Let an instance that was built anew join again. Target: project_id of the instance.",
			Operations:  []Operation{{"POST", "/v1/enrolments/{instance_id}/rebuild"}},
		},
		{
			Name: EnrolmentAdopt, Check: adminRequired,
			Description: "Give an instance the host entry of its name that was in FreeIPA before. Target: project_id of the instance.",
			Operations:  []Operation{{"POST", "/v1/enrolments/{instance_id}/adopt"}},
		},
	}
}

func operatorDefaults() []Default {
	return []Default{
		{
			Name: QueueList, Check: adminRequired,
			Description: "List what Muster could not bring into agreement with the cloud, and tries again.",
			Operations:  []Operation{{"GET", "/v1/queue"}},
		},
		{
			Name: Reconcile, Check: adminRequired,
			Description: "Compare everything with the cloud, also without regard to the guard.",
			Operations:  []Operation{{"POST", "/v1/reconcile"}},
		},
		{
			Name: AuditList, Check: managesProject,
			Description: "Read the audit records of a project. Target: project_id.",
			Operations:  []Operation{{"GET", "/v1/audit"}},
		},
		{
			Name: AuditListAll, Check: adminRequired,
			Description: "Read the audit records of all projects.",
			Operations:  []Operation{{"GET", "/v1/audit"}},
		},
		{
			Name: EventList, Check: adminRequired,
			Description: "See which notifications have come from the other services lately.",
			Operations:  []Operation{{"GET", "/v1/events"}},
		},
		{
			Name: AllProjects, Check: adminRequired,
			Description: "Ask about all projects at once, with the header X-Auth-All-Projects.",
		},
		{
			Name: SudoProject, Check: adminRequired,
			Description: "Act in another project, with the header X-Auth-Sudo-Project-ID. Target: project_id of that project.",
		},
	}
}
