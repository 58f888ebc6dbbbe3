-- The full name that Neutron gives an address. See 0001 for the conventions.
-- +goose Up
ALTER TABLE instance_address ADD COLUMN IF NOT EXISTS name text COLLATE "C" NOT NULL DEFAULT '';
