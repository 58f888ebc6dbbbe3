-- What tells an object from another one that was made under its name later. Empty: not known. See 0001 for the conventions.
-- +goose Up
ALTER TABLE external_object ADD COLUMN IF NOT EXISTS identity varchar(64) NOT NULL DEFAULT '';
