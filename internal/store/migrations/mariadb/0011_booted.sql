-- Whether a key was hinted because its instance booted, and for nothing else. See 0001 for the conventions.
-- +goose Up
ALTER TABLE converge_key ADD COLUMN IF NOT EXISTS booted bigint NOT NULL DEFAULT 0;
