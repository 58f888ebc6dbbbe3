-- What a user's certificate was asked for with, and the groups of the token. See 0001 for the conventions.
-- +goose Up
ALTER TABLE user_cert ADD COLUMN credential_kind TEXT NOT NULL DEFAULT '';
ALTER TABLE user_cert ADD COLUMN credential_id TEXT NOT NULL DEFAULT '';
ALTER TABLE user_cert ADD COLUMN credential_owner TEXT NOT NULL DEFAULT '';
ALTER TABLE user_cert ADD COLUMN group_ids TEXT NOT NULL DEFAULT '';
CREATE INDEX IF NOT EXISTS user_cert_by_credential ON user_cert (credential_id, serial) WHERE credential_id <> '';
