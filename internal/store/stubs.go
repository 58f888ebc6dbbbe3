// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"time"
)

// Open connects to the database and checks that it answers. It doesn't look at the schema; see CheckSchema. Writes wait for Run.
func Open(ctx context.Context, cfg Config) (*Store, error) { panic("not yet") }

// Close closes all connections. Run must have returned.
func (s *Store) Close() error { panic("not yet") }

// Run commits the writes of all callers until ctx ends, then those that are queued, and returns nil. Before Run, and after it,
// a grouped write waits until its own context ends.
func (s *Store) Run(ctx context.Context) error { panic("not yet") }

// Ping asks the database for an answer. ErrUnavailable if there is none.
func (s *Store) Ping(ctx context.Context) error { panic("not yet") }

// SchemaVersion returns the version of the database's schema (0: empty) and the one that this program was made for.
func (s *Store) SchemaVersion(ctx context.Context) (have, want int64, err error) { panic("not yet") }

// Upgrade brings the schema up to date and returns the names of the migrations that it applied. Several may run at once.
func (s *Store) Upgrade(ctx context.Context) (applied []string, err error) { panic("not yet") }

// CheckSchema returns ErrSchemaOld or ErrSchemaNew if this program can't work with the database.
func (s *Store) CheckSchema(ctx context.Context) error { panic("not yet") }

// CreateAuthority records an authority with its first keys, and the audit entry. ErrExists if the project has one.
func (s *Store) CreateAuthority(ctx context.Context, a Authority, audit Audit) error {
	panic("not yet")
}

// Authority returns the authority of a project with its keys, newest generation first. ErrNotFound.
func (s *Store) Authority(ctx context.Context, projectID string) (Authority, error) { panic("not yet") }

// Authorities lists authorities with their keys by project ID.
func (s *Store) Authorities(ctx context.Context, page Page) ([]Authority, error) { panic("not yet") }

// CreateInstance records an instance with its token. The first one wins, over all replicas: if there is a record, that one is
// returned, with created = false, and nothing is written. ErrConflict if it belongs to another project or was deleted.
func (s *Store) CreateInstance(ctx context.Context, i Instance, audit Audit) (stored Instance, created bool, err error) {
	panic("not yet")
}

// Instance returns a live instance. ErrNotFound.
func (s *Store) Instance(ctx context.Context, id string) (Instance, error) { panic("not yet") }

// InstanceByToken returns the live instance whose token has this hash, expired or not. ErrNotFound.
func (s *Store) InstanceByToken(ctx context.Context, hash string) (Instance, error) { panic("not yet") }

// Instances lists live instances by ID. The filter knows ProjectID.
func (s *Store) Instances(ctx context.Context, f Filter, page Page) ([]Instance, error) {
	panic("not yet")
}

// RenewToken gives a live instance another token, if its hash is still oldHash; else another replica did it, and what is there
// is returned. ErrNotFound.
func (s *Store) RenewToken(ctx context.Context, id, oldHash string, token HostToken, audit Audit) (stored Instance, err error) {
	panic("not yet")
}

// DeleteInstance marks an instance deleted, drops its token and revokes its host certificates that have not expired, all in one
// transaction. Of the order, Reason and By are used. Repeats do nothing. ErrNotFound if the instance was never recorded.
func (s *Store) DeleteInstance(ctx context.Context, id string, at time.Time, order RevocationOrder, audit Audit) error {
	panic("not yet")
}

// NextSerial returns a serial that no other call of any replica ever got: greater than 0, less than 2^53.
func (s *Store) NextSerial(ctx context.Context) (uint64, error) { panic("not yet") }

// LatestUserCert returns the newest certificate of a user for a key (SHA256:...) in a project, expired or not, and whether
// the key is revoked in the project.
func (s *Store) LatestUserCert(ctx context.Context, projectID, userID, fingerprint string) (cert UserCert, found, keyRevoked bool, err error) {
	panic("not yet")
}

// InsertUserCert records a certificate and the audit entry. When ctx ends first its error is returned, and the record may still be
// committed. ErrExists if the serial is taken, ErrConflict if the user's key is revoked or the authority's key is not active.
func (s *Store) InsertUserCert(ctx context.Context, c UserCert, audit Audit) error { panic("not yet") }

// SpendToken exchanges a host token for a host certificate, at once: a token that was not used is marked used, and the certificate and audit
// entry recorded. If it was used for the same key, the certificate that is stored is returned with spent = false, and nothing is
// written. ErrConflict if it was used for another key, the host's key is revoked, or the authority's key is not active;
// ErrNotFound if the token is unknown or has expired, or the instance is gone.
func (s *Store) SpendToken(ctx context.Context, tokenHash, fingerprint string, c HostCert, audit Audit) (stored HostCert, spent bool, err error) {
	panic("not yet")
}

// UserCert returns the certificate with this serial. ErrNotFound.
func (s *Store) UserCert(ctx context.Context, serial uint64) (UserCert, error) { panic("not yet") }

// UserCertByKey returns a user's newest certificate for a key (SHA256:... or MD5:...). ErrNotFound.
func (s *Store) UserCertByKey(ctx context.Context, userID, fingerprint string) (UserCert, error) {
	panic("not yet")
}

// UserCerts lists user certificates by serial. The filter knows ProjectID and UserID.
func (s *Store) UserCerts(ctx context.Context, f Filter, page Page) ([]UserCert, error) {
	panic("not yet")
}

// HostCert returns an instance's newest certificate for a key (SHA256:... or MD5:...). ErrNotFound.
func (s *Store) HostCert(ctx context.Context, instanceID, fingerprint string) (HostCert, error) {
	panic("not yet")
}

// HostCerts lists host certificates by serial. The filter knows ProjectID and InstanceID.
func (s *Store) HostCerts(ctx context.Context, f Filter, page Page) ([]HostCert, error) {
	panic("not yet")
}

// HostKeyHolders returns the certificates, neither expired nor revoked, of live instances for this host key (SHA256:...), at most limit.
func (s *Store) HostKeyHolders(ctx context.Context, fingerprint string, limit int) ([]HostCert, error) {
	panic("not yet")
}

// Revoke revokes and records the audit entry. ErrNotFound if the project has no such certificate or key. Many certificates are marked in several
// transactions; after an error, the call can be repeated.
func (s *Store) Revoke(ctx context.Context, o RevocationOrder, audit Audit) (RevocationResult, error) {
	panic("not yet")
}

// UserProjects returns the projects in which a user has certificates that are neither expired nor revoked.
func (s *Store) UserProjects(ctx context.Context, userID string) ([]string, error) { panic("not yet") }

// Revocations returns the entries of a project's log after a version, in order, whole versions only: about limit entries, more if one
// version has more. An empty answer means that there are none.
func (s *Store) Revocations(ctx context.Context, projectID string, afterVersion uint64, limit int) ([]Revocation, error) {
	panic("not yet")
}

// KRLVersions returns the version of each project's revocation log that has one.
func (s *Store) KRLVersions(ctx context.Context) (map[string]uint64, error) { panic("not yet") }

// PruneExpired removes certificates and revocations that expired, and instances that were deleted, before a time: at most limit of each. It
// returns how many; call again until it returns 0.
func (s *Store) PruneExpired(ctx context.Context, before time.Time, limit int) (int, error) {
	panic("not yet")
}

// AppendAudit records an audit entry.
func (s *Store) AppendAudit(ctx context.Context, a Audit) error { panic("not yet") }

// Audits lists audit entries, newest first.
func (s *Store) Audits(ctx context.Context, f AuditFilter, page Page) ([]Audit, error) {
	panic("not yet")
}

// PruneAudit removes at most limit audit entries made before a time, and returns how many.
func (s *Store) PruneAudit(ctx context.Context, before time.Time, limit int) (int, error) {
	panic("not yet")
}

// Lease takes or renews a lease for a holder. held = false: another holder has it. A lease that was not renewed for its ttl is free.
func (s *Store) Lease(ctx context.Context, name, holder string, ttl time.Duration) (held bool, err error) {
	panic("not yet")
}
