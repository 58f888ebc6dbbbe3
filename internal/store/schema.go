// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package store

// The tables that are written row by row, with the columns in the order of the records' row methods. See migrations for their types.
var (
	authorityTable    = newTable("authority", "project_id name created_at retired_at krl_version")
	authorityKeyTable = newTable("authority_key", "id project_id role generation algorithm public_key handle created_at state")
	instanceTable     = newTable("instance", "id project_id hostname state created_at deleted_at "+
		"token_hash token_sealed token_created_at token_expires_at token_used_at token_fingerprint")
	userCertTable = newTable("user_cert", "serial project_id user_id user_name principals fingerprint md5 key_id "+
		"authority_key_id cert created_at expires_at revoked_at profile credential_kind credential_id credential_owner group_ids")
	hostCertTable = newTable("host_cert", "serial project_id instance_id hostname principals fingerprint md5 key_id "+
		"authority_key_id cert created_at expires_at revoked_at")
	revocationTable = newTable("revocation", "project_id version seq kind authority_key_id serial value expires_at created_at "+
		"reason revoked_by")
	revokedNameTable = newTable("revoked_name", "value project_id kind")
	auditTable       = newTable("audit", "id at actor actor_name actor_project action outcome object_kind object_id project_id "+
		"reason request_id remote details times")
	enrolmentTable = newTable("enrolment", "instance_id project_id project_name fqdn state otp_state otp_sealed want last_error attempts "+
		"next_at claimed_by claimed_till created_at updated_at gone_at version rebuilt_at otp_read_at")
	ownerTable      = newTable("fqdn_owner", "fqdn instance_id created_at")
	objectTable     = newTable("external_object", "kind name instance_id state leaving created_at unsure_until identity")
	pendingKeyTable = newTable("converge_key", "kind id rebuilt attempts next_at since last_error booted")
	forgettingTable = newTable("forgetting", "version kind id origin")
	addressTable    = newTable("instance_address", "instance_id source_id address kind network_id created_at name")
)
