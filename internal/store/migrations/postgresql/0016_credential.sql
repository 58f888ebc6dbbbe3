-- What a user's certificate was asked for with, and the groups of the token. See 0001 for the conventions.
-- +goose Up
ALTER TABLE user_cert ADD COLUMN IF NOT EXISTS credential_kind text COLLATE "C" NOT NULL DEFAULT '';
ALTER TABLE user_cert ADD COLUMN IF NOT EXISTS credential_id text COLLATE "C" NOT NULL DEFAULT '';
ALTER TABLE user_cert ADD COLUMN IF NOT EXISTS credential_owner text COLLATE "C" NOT NULL DEFAULT '';
ALTER TABLE user_cert ADD COLUMN IF NOT EXISTS group_ids text NOT NULL DEFAULT '';
CREATE INDEX IF NOT EXISTS user_cert_by_credential ON user_cert (credential_id, serial) WHERE credential_id <> '';
