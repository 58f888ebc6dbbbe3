-- For which rebuild an enrolment's one-time password was made, and when it was last read. See 0001 for the conventions.
-- +goose Up
ALTER TABLE enrolment ADD COLUMN IF NOT EXISTS rebuilt_at bigint NOT NULL DEFAULT 0;
ALTER TABLE enrolment ADD COLUMN IF NOT EXISTS otp_read_at bigint NOT NULL DEFAULT 0;
