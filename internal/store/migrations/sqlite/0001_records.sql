-- The first schema. Times are microseconds since 1970 UTC, 0 for none; lists and maps are JSON.
-- +goose Up
CREATE TABLE IF NOT EXISTS authority (
    project_id TEXT NOT NULL,
    name TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    retired_at INTEGER NOT NULL,
    krl_version INTEGER NOT NULL,
    PRIMARY KEY (project_id)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS authority_key (
    id TEXT NOT NULL,
    project_id TEXT NOT NULL,
    role TEXT NOT NULL,
    generation INTEGER NOT NULL,
    algorithm TEXT NOT NULL,
    public_key TEXT NOT NULL,
    handle BLOB NOT NULL,
    created_at INTEGER NOT NULL,
    state TEXT NOT NULL,
    PRIMARY KEY (id)
);
CREATE UNIQUE INDEX IF NOT EXISTS authority_key_by_project ON authority_key (project_id, role, generation);
CREATE TABLE IF NOT EXISTS instance (
    id TEXT NOT NULL,
    project_id TEXT NOT NULL,
    hostname TEXT NOT NULL,
    state TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    deleted_at INTEGER NOT NULL,
    token_hash TEXT NOT NULL,
    token_sealed BLOB NOT NULL,
    token_created_at INTEGER NOT NULL,
    token_expires_at INTEGER NOT NULL,
    token_used_at INTEGER NOT NULL,
    token_fingerprint TEXT NOT NULL,
    PRIMARY KEY (id)
);
CREATE INDEX IF NOT EXISTS instance_by_token_hash ON instance (token_hash);
CREATE INDEX IF NOT EXISTS instance_by_project ON instance (project_id, id);
CREATE TABLE IF NOT EXISTS user_cert (
    serial INTEGER PRIMARY KEY,
    project_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    user_name TEXT NOT NULL,
    principals TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    md5 TEXT NOT NULL,
    key_id TEXT NOT NULL,
    authority_key_id TEXT NOT NULL,
    cert TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    revoked_at INTEGER NOT NULL,
    profile TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS user_cert_by_fingerprint ON user_cert (fingerprint);
CREATE INDEX IF NOT EXISTS user_cert_by_user ON user_cert (user_id, serial);
CREATE INDEX IF NOT EXISTS user_cert_by_project ON user_cert (project_id, serial);
CREATE INDEX IF NOT EXISTS user_cert_by_expires_at ON user_cert (expires_at);
CREATE TABLE IF NOT EXISTS host_cert (
    serial INTEGER PRIMARY KEY,
    project_id TEXT NOT NULL,
    instance_id TEXT NOT NULL,
    hostname TEXT NOT NULL,
    principals TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    md5 TEXT NOT NULL,
    key_id TEXT NOT NULL,
    authority_key_id TEXT NOT NULL,
    cert TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    revoked_at INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS host_cert_by_fingerprint ON host_cert (fingerprint);
CREATE INDEX IF NOT EXISTS host_cert_by_instance ON host_cert (instance_id, serial);
CREATE INDEX IF NOT EXISTS host_cert_by_project ON host_cert (project_id, serial);
CREATE INDEX IF NOT EXISTS host_cert_by_expires_at ON host_cert (expires_at);
CREATE TABLE IF NOT EXISTS revocation (
    project_id TEXT NOT NULL,
    version INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    kind TEXT NOT NULL,
    authority_key_id TEXT NOT NULL,
    serial INTEGER NOT NULL,
    value TEXT NOT NULL,
    expires_at INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    reason TEXT NOT NULL,
    revoked_by TEXT NOT NULL,
    PRIMARY KEY (project_id, version, seq)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS revocation_by_expires_at ON revocation (expires_at);
CREATE TABLE IF NOT EXISTS revoked_name (
    value TEXT NOT NULL,
    project_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    PRIMARY KEY (value, project_id, kind)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS audit (
    id TEXT NOT NULL,
    at INTEGER NOT NULL,
    actor TEXT NOT NULL,
    actor_name TEXT NOT NULL,
    actor_project TEXT NOT NULL,
    action TEXT NOT NULL,
    outcome TEXT NOT NULL,
    object_kind TEXT NOT NULL,
    object_id TEXT NOT NULL,
    project_id TEXT NOT NULL,
    reason TEXT NOT NULL,
    request_id TEXT NOT NULL,
    remote TEXT NOT NULL,
    details TEXT NOT NULL,
    PRIMARY KEY (id)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS audit_by_project ON audit (project_id, id);
CREATE TABLE IF NOT EXISTS lease (
    name TEXT NOT NULL,
    holder TEXT NOT NULL,
    expires_at INTEGER NOT NULL,
    PRIMARY KEY (name)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS serial_block (
    id INTEGER PRIMARY KEY,
    next INTEGER NOT NULL
);
INSERT INTO serial_block (id, next) VALUES (1, 1) ON CONFLICT DO NOTHING;
