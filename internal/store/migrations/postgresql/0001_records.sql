-- The first schema. Times are microseconds since 1970 UTC, 0 for none; lists and maps are JSON.
-- +goose Up
CREATE TABLE IF NOT EXISTS authority (
    project_id text COLLATE "C" NOT NULL,
    name text COLLATE "C" NOT NULL,
    created_at bigint NOT NULL,
    retired_at bigint NOT NULL,
    krl_version bigint NOT NULL,
    PRIMARY KEY (project_id)
);
CREATE TABLE IF NOT EXISTS authority_key (
    id text COLLATE "C" NOT NULL,
    project_id text COLLATE "C" NOT NULL,
    role text COLLATE "C" NOT NULL,
    generation bigint NOT NULL,
    algorithm text COLLATE "C" NOT NULL,
    public_key text NOT NULL,
    handle bytea NOT NULL,
    created_at bigint NOT NULL,
    state text COLLATE "C" NOT NULL,
    PRIMARY KEY (id)
);
CREATE UNIQUE INDEX IF NOT EXISTS authority_key_by_project ON authority_key (project_id, role, generation);
CREATE TABLE IF NOT EXISTS instance (
    id text COLLATE "C" NOT NULL,
    project_id text COLLATE "C" NOT NULL,
    hostname text COLLATE "C" NOT NULL,
    state text COLLATE "C" NOT NULL,
    created_at bigint NOT NULL,
    deleted_at bigint NOT NULL,
    token_hash text COLLATE "C" NOT NULL,
    token_sealed bytea NOT NULL,
    token_created_at bigint NOT NULL,
    token_expires_at bigint NOT NULL,
    token_used_at bigint NOT NULL,
    token_fingerprint text COLLATE "C" NOT NULL,
    PRIMARY KEY (id)
);
CREATE INDEX IF NOT EXISTS instance_by_token_hash ON instance (token_hash);
CREATE INDEX IF NOT EXISTS instance_by_project ON instance (project_id, id);
CREATE TABLE IF NOT EXISTS user_cert (
    serial bigint PRIMARY KEY,
    project_id text COLLATE "C" NOT NULL,
    user_id text COLLATE "C" NOT NULL,
    user_name text COLLATE "C" NOT NULL,
    principals text NOT NULL,
    fingerprint text COLLATE "C" NOT NULL,
    md5 text COLLATE "C" NOT NULL,
    key_id text COLLATE "C" NOT NULL,
    authority_key_id text COLLATE "C" NOT NULL,
    cert text NOT NULL,
    created_at bigint NOT NULL,
    expires_at bigint NOT NULL,
    revoked_at bigint NOT NULL,
    profile text COLLATE "C" NOT NULL
);
CREATE INDEX IF NOT EXISTS user_cert_by_fingerprint ON user_cert (fingerprint, serial);
CREATE INDEX IF NOT EXISTS user_cert_by_user ON user_cert (user_id, serial);
CREATE INDEX IF NOT EXISTS user_cert_by_project ON user_cert (project_id, serial);
CREATE INDEX IF NOT EXISTS user_cert_by_expires_at ON user_cert (expires_at);
CREATE TABLE IF NOT EXISTS host_cert (
    serial bigint PRIMARY KEY,
    project_id text COLLATE "C" NOT NULL,
    instance_id text COLLATE "C" NOT NULL,
    hostname text COLLATE "C" NOT NULL,
    principals text NOT NULL,
    fingerprint text COLLATE "C" NOT NULL,
    md5 text COLLATE "C" NOT NULL,
    key_id text COLLATE "C" NOT NULL,
    authority_key_id text COLLATE "C" NOT NULL,
    cert text NOT NULL,
    created_at bigint NOT NULL,
    expires_at bigint NOT NULL,
    revoked_at bigint NOT NULL
);
CREATE INDEX IF NOT EXISTS host_cert_by_fingerprint ON host_cert (fingerprint, serial);
CREATE INDEX IF NOT EXISTS host_cert_by_instance ON host_cert (instance_id, serial);
CREATE INDEX IF NOT EXISTS host_cert_by_project ON host_cert (project_id, serial);
CREATE INDEX IF NOT EXISTS host_cert_by_expires_at ON host_cert (expires_at);
CREATE TABLE IF NOT EXISTS revocation (
    project_id text COLLATE "C" NOT NULL,
    version bigint NOT NULL,
    seq bigint NOT NULL,
    kind text COLLATE "C" NOT NULL,
    authority_key_id text COLLATE "C" NOT NULL,
    serial bigint NOT NULL,
    value text COLLATE "C" NOT NULL,
    expires_at bigint NOT NULL,
    created_at bigint NOT NULL,
    reason text NOT NULL,
    revoked_by text COLLATE "C" NOT NULL,
    PRIMARY KEY (project_id, version, seq)
);
CREATE INDEX IF NOT EXISTS revocation_by_expires_at ON revocation (expires_at);
CREATE TABLE IF NOT EXISTS revoked_name (
    value text COLLATE "C" NOT NULL,
    project_id text COLLATE "C" NOT NULL,
    kind text COLLATE "C" NOT NULL,
    PRIMARY KEY (value, project_id, kind)
);
CREATE TABLE IF NOT EXISTS audit (
    id text COLLATE "C" NOT NULL,
    at bigint NOT NULL,
    actor text COLLATE "C" NOT NULL,
    actor_name text COLLATE "C" NOT NULL,
    actor_project text COLLATE "C" NOT NULL,
    action text COLLATE "C" NOT NULL,
    outcome text COLLATE "C" NOT NULL,
    object_kind text COLLATE "C" NOT NULL,
    object_id text COLLATE "C" NOT NULL,
    project_id text COLLATE "C" NOT NULL,
    reason text NOT NULL,
    request_id text COLLATE "C" NOT NULL,
    remote text COLLATE "C" NOT NULL,
    details text NOT NULL,
    PRIMARY KEY (id)
);
CREATE INDEX IF NOT EXISTS audit_by_project ON audit (project_id, id);
CREATE TABLE IF NOT EXISTS lease (
    name text COLLATE "C" NOT NULL,
    holder text COLLATE "C" NOT NULL,
    expires_at bigint NOT NULL,
    PRIMARY KEY (name)
);
CREATE TABLE IF NOT EXISTS serial_block (
    id bigint PRIMARY KEY,
    next bigint NOT NULL
);
INSERT INTO serial_block (id, next) VALUES (1, 1) ON CONFLICT DO NOTHING;
