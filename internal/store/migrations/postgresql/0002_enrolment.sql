-- Enrolment of instances in FreeIPA: who owns which name, and what was made for whom. See 0001 for the conventions.
-- +goose Up
CREATE TABLE IF NOT EXISTS enrolment (
    instance_id text COLLATE "C" NOT NULL,
    project_id text COLLATE "C" NOT NULL,
    project_name text COLLATE "C" NOT NULL,
    fqdn text COLLATE "C" NOT NULL,
    state text COLLATE "C" NOT NULL,
    otp_state text COLLATE "C" NOT NULL,
    otp_sealed bytea NOT NULL,
    want text NOT NULL,
    last_error text NOT NULL,
    attempts bigint NOT NULL,
    next_at bigint NOT NULL,
    claimed_by text COLLATE "C" NOT NULL,
    claimed_till bigint NOT NULL,
    created_at bigint NOT NULL,
    updated_at bigint NOT NULL,
    gone_at bigint NOT NULL,
    version bigint NOT NULL,
    PRIMARY KEY (instance_id)
);
CREATE INDEX IF NOT EXISTS enrolment_by_project ON enrolment (project_id, instance_id);
CREATE INDEX IF NOT EXISTS enrolment_by_state ON enrolment (state, instance_id);
CREATE INDEX IF NOT EXISTS enrolment_by_next_at ON enrolment (next_at);
CREATE INDEX IF NOT EXISTS enrolment_by_gone_at ON enrolment (gone_at);
CREATE TABLE IF NOT EXISTS fqdn_owner (
    fqdn text COLLATE "C" NOT NULL,
    instance_id text COLLATE "C" NOT NULL,
    created_at bigint NOT NULL,
    PRIMARY KEY (fqdn)
);
CREATE INDEX IF NOT EXISTS fqdn_owner_by_instance ON fqdn_owner (instance_id);
CREATE TABLE IF NOT EXISTS external_object (
    kind text COLLATE "C" NOT NULL,
    name text COLLATE "C" NOT NULL,
    instance_id text COLLATE "C" NOT NULL,
    state text COLLATE "C" NOT NULL,
    leaving bigint NOT NULL,
    created_at bigint NOT NULL,
    PRIMARY KEY (kind, name, instance_id)
);
CREATE INDEX IF NOT EXISTS external_object_by_instance ON external_object (instance_id, kind, name);
