-- Enrolment of instances in FreeIPA: who owns which name, and what was made for whom. See 0001 for the conventions.
-- +goose Up
CREATE TABLE IF NOT EXISTS enrolment (
    instance_id varchar(64) NOT NULL,
    project_id varchar(64) NOT NULL,
    project_name varchar(255) NOT NULL,
    fqdn varchar(255) NOT NULL,
    state varchar(64) NOT NULL,
    otp_state varchar(64) NOT NULL,
    otp_sealed mediumblob NOT NULL,
    want mediumtext NOT NULL,
    last_error varchar(1024) NOT NULL,
    attempts bigint NOT NULL,
    next_at bigint NOT NULL,
    claimed_by varchar(64) NOT NULL,
    claimed_till bigint NOT NULL,
    created_at bigint NOT NULL,
    updated_at bigint NOT NULL,
    gone_at bigint NOT NULL,
    version bigint NOT NULL,
    PRIMARY KEY (instance_id),
    KEY enrolment_by_project (project_id, instance_id),
    KEY enrolment_by_state (state, instance_id),
    KEY enrolment_by_next_at (next_at),
    KEY enrolment_by_gone_at (gone_at)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
CREATE TABLE IF NOT EXISTS fqdn_owner (
    fqdn varchar(255) NOT NULL,
    instance_id varchar(64) NOT NULL,
    created_at bigint NOT NULL,
    PRIMARY KEY (fqdn),
    KEY fqdn_owner_by_instance (instance_id)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
CREATE TABLE IF NOT EXISTS external_object (
    kind varchar(64) NOT NULL,
    name varchar(512) NOT NULL,
    instance_id varchar(64) NOT NULL,
    state varchar(64) NOT NULL,
    leaving bigint NOT NULL,
    created_at bigint NOT NULL,
    PRIMARY KEY (kind, name, instance_id),
    KEY external_object_by_instance (instance_id, kind, name)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
