-- Keys that wait to be worked on again, and since when a project is gone. See 0001 for the conventions.
-- +goose Up
CREATE TABLE IF NOT EXISTS converge_key (
    kind TEXT NOT NULL,
    id TEXT NOT NULL,
    rebuilt INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    next_at INTEGER NOT NULL,
    since INTEGER NOT NULL,
    last_error TEXT NOT NULL,
    PRIMARY KEY (kind, id)
);
CREATE INDEX IF NOT EXISTS converge_key_by_next_at ON converge_key (next_at);
ALTER TABLE authority ADD COLUMN gone_at INTEGER NOT NULL DEFAULT 0;
