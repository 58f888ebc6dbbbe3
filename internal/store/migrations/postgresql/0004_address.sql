-- Addresses of instances, as Neutron says. See 0001 for the conventions.
-- +goose Up
CREATE TABLE IF NOT EXISTS instance_address (
    instance_id text COLLATE "C" NOT NULL,
    source_id text COLLATE "C" NOT NULL,
    address text COLLATE "C" NOT NULL,
    kind text COLLATE "C" NOT NULL,
    network_id text COLLATE "C" NOT NULL,
    created_at bigint NOT NULL,
    PRIMARY KEY (instance_id, source_id, address)
);
CREATE INDEX IF NOT EXISTS instance_address_by_source ON instance_address (source_id);
