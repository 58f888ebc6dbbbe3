-- Addresses of instances, as Neutron says. See 0001 for the conventions.
-- +goose Up
CREATE TABLE IF NOT EXISTS instance_address (
    instance_id varchar(64) NOT NULL,
    source_id varchar(64) NOT NULL,
    address varchar(64) NOT NULL,
    kind varchar(64) NOT NULL,
    network_id varchar(64) NOT NULL,
    created_at bigint NOT NULL,
    PRIMARY KEY (instance_id, source_id, address),
    KEY instance_address_by_source (source_id)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
