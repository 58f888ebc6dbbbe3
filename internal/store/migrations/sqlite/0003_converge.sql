-- Keys that wait to be worked on again, up to when rebuilds were seen to, and since when a project is gone. See 0001 for the conventions.
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
CREATE TABLE IF NOT EXISTS converge_rebuild (
    instance_id TEXT NOT NULL,
    rebuilt_at INTEGER NOT NULL,
    PRIMARY KEY (instance_id)
);
ALTER TABLE authority ADD COLUMN gone_at INTEGER NOT NULL DEFAULT 0;
