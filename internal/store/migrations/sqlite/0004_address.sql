-- Addresses of instances, as Neutron says. See 0001 for the conventions.
-- +goose Up
CREATE TABLE IF NOT EXISTS instance_address (
    instance_id TEXT NOT NULL,
    source_id TEXT NOT NULL,
    address TEXT NOT NULL,
    kind TEXT NOT NULL,
    network_id TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (instance_id, source_id, address)
);
CREATE INDEX IF NOT EXISTS instance_address_by_source ON instance_address (source_id);
