-- How often something was refused within a minute, where that is one entry. See 0001 for the conventions.
-- +goose Up
ALTER TABLE audit ADD COLUMN IF NOT EXISTS times bigint NOT NULL DEFAULT 1;
