-- Whether a key was hinted because its instance booted, and for nothing else. See 0001 for the conventions.
-- +goose Up
ALTER TABLE converge_key ADD COLUMN booted INTEGER NOT NULL DEFAULT 0;
