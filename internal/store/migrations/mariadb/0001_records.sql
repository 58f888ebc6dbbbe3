-- The first schema. Times are microseconds since 1970 UTC, 0 for none; lists and maps are JSON.
-- +goose Up
CREATE TABLE IF NOT EXISTS authority (
    project_id varchar(64) NOT NULL,
    name varchar(255) NOT NULL,
    created_at bigint NOT NULL,
    retired_at bigint NOT NULL,
    krl_version bigint NOT NULL,
    PRIMARY KEY (project_id)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
CREATE TABLE IF NOT EXISTS authority_key (
    id varchar(64) NOT NULL,
    project_id varchar(64) NOT NULL,
    role varchar(64) NOT NULL,
    generation bigint NOT NULL,
    algorithm varchar(64) NOT NULL,
    public_key mediumtext NOT NULL,
    handle mediumblob NOT NULL,
    created_at bigint NOT NULL,
    state varchar(64) NOT NULL,
    PRIMARY KEY (id),
    UNIQUE KEY authority_key_by_project (project_id, role, generation)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
CREATE TABLE IF NOT EXISTS instance (
    id varchar(64) NOT NULL,
    project_id varchar(64) NOT NULL,
    hostname varchar(255) NOT NULL,
    state varchar(64) NOT NULL,
    created_at bigint NOT NULL,
    deleted_at bigint NOT NULL,
    token_hash varchar(64) NOT NULL,
    token_sealed mediumblob NOT NULL,
    token_created_at bigint NOT NULL,
    token_expires_at bigint NOT NULL,
    token_used_at bigint NOT NULL,
    token_fingerprint varchar(64) NOT NULL,
    PRIMARY KEY (id),
    KEY instance_by_token_hash (token_hash),
    KEY instance_by_project (project_id, id)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
CREATE TABLE IF NOT EXISTS user_cert (
    serial bigint NOT NULL PRIMARY KEY,
    project_id varchar(64) NOT NULL,
    user_id varchar(64) NOT NULL,
    user_name varchar(255) NOT NULL,
    principals mediumtext NOT NULL,
    fingerprint varchar(64) NOT NULL,
    md5 varchar(64) NOT NULL,
    key_id varchar(255) NOT NULL,
    authority_key_id varchar(64) NOT NULL,
    cert mediumtext NOT NULL,
    created_at bigint NOT NULL,
    expires_at bigint NOT NULL,
    revoked_at bigint NOT NULL,
    profile varchar(255) NOT NULL,
    KEY user_cert_by_fingerprint (fingerprint),
    KEY user_cert_by_user (user_id, serial),
    KEY user_cert_by_project (project_id, serial),
    KEY user_cert_by_expires_at (expires_at)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
CREATE TABLE IF NOT EXISTS host_cert (
    serial bigint NOT NULL PRIMARY KEY,
    project_id varchar(64) NOT NULL,
    instance_id varchar(64) NOT NULL,
    hostname varchar(255) NOT NULL,
    principals mediumtext NOT NULL,
    fingerprint varchar(64) NOT NULL,
    md5 varchar(64) NOT NULL,
    key_id varchar(255) NOT NULL,
    authority_key_id varchar(64) NOT NULL,
    cert mediumtext NOT NULL,
    created_at bigint NOT NULL,
    expires_at bigint NOT NULL,
    revoked_at bigint NOT NULL,
    KEY host_cert_by_fingerprint (fingerprint),
    KEY host_cert_by_instance (instance_id, serial),
    KEY host_cert_by_project (project_id, serial),
    KEY host_cert_by_expires_at (expires_at)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
CREATE TABLE IF NOT EXISTS revocation (
    project_id varchar(64) NOT NULL,
    version bigint NOT NULL,
    seq bigint NOT NULL,
    kind varchar(64) NOT NULL,
    authority_key_id varchar(64) NOT NULL,
    serial bigint NOT NULL,
    value varchar(255) NOT NULL,
    expires_at bigint NOT NULL,
    created_at bigint NOT NULL,
    reason varchar(1024) NOT NULL,
    revoked_by varchar(255) NOT NULL,
    PRIMARY KEY (project_id, version, seq),
    KEY revocation_by_expires_at (expires_at)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
CREATE TABLE IF NOT EXISTS revoked_name (
    value varchar(255) NOT NULL,
    project_id varchar(64) NOT NULL,
    kind varchar(64) NOT NULL,
    PRIMARY KEY (value, project_id, kind)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
CREATE TABLE IF NOT EXISTS audit (
    id varchar(64) NOT NULL,
    at bigint NOT NULL,
    actor varchar(64) NOT NULL,
    actor_name varchar(255) NOT NULL,
    actor_project varchar(64) NOT NULL,
    action varchar(64) NOT NULL,
    outcome varchar(64) NOT NULL,
    object_kind varchar(64) NOT NULL,
    object_id varchar(255) NOT NULL,
    project_id varchar(64) NOT NULL,
    reason varchar(1024) NOT NULL,
    request_id varchar(64) NOT NULL,
    remote varchar(64) NOT NULL,
    details mediumtext NOT NULL,
    PRIMARY KEY (id),
    KEY audit_by_project (project_id, id)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
CREATE TABLE IF NOT EXISTS lease (
    name varchar(64) NOT NULL,
    holder varchar(64) NOT NULL,
    expires_at bigint NOT NULL,
    PRIMARY KEY (name)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
CREATE TABLE IF NOT EXISTS serial_block (
    id bigint NOT NULL PRIMARY KEY,
    next bigint NOT NULL
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
INSERT IGNORE INTO serial_block (id, next) VALUES (1, 1);
