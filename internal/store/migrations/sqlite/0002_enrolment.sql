-- Enrolment of instances in FreeIPA: who owns which name, and what was made for whom. See 0001 for the conventions.
-- +goose Up
CREATE TABLE IF NOT EXISTS enrolment (
    instance_id TEXT NOT NULL,
    project_id TEXT NOT NULL,
    project_name TEXT NOT NULL,
    fqdn TEXT NOT NULL,
    state TEXT NOT NULL,
    otp_state TEXT NOT NULL,
    otp_sealed BLOB NOT NULL,
    want TEXT NOT NULL,
    last_error TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    next_at INTEGER NOT NULL,
    claimed_by TEXT NOT NULL,
    claimed_till INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    gone_at INTEGER NOT NULL,
    version INTEGER NOT NULL,
    PRIMARY KEY (instance_id)
);
CREATE INDEX IF NOT EXISTS enrolment_by_project ON enrolment (project_id, instance_id);
CREATE INDEX IF NOT EXISTS enrolment_by_state ON enrolment (state, instance_id);
CREATE INDEX IF NOT EXISTS enrolment_by_next_at ON enrolment (next_at);
CREATE INDEX IF NOT EXISTS enrolment_by_gone_at ON enrolment (gone_at);
CREATE TABLE IF NOT EXISTS fqdn_owner (
    fqdn TEXT NOT NULL,
    instance_id TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (fqdn)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS fqdn_owner_by_instance ON fqdn_owner (instance_id);
CREATE TABLE IF NOT EXISTS external_object (
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    instance_id TEXT NOT NULL,
    state TEXT NOT NULL,
    leaving INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (kind, name, instance_id)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS external_object_by_instance ON external_object (instance_id, kind, name);
