-- Whose tokens and roles every replica forgets, in the order of commits: one row for each version, and the newest version.
-- See 0001 for the conventions.
-- +goose Up
CREATE TABLE IF NOT EXISTS forgetting (
    version INTEGER NOT NULL,
    kind TEXT NOT NULL,
    id TEXT NOT NULL,
    origin TEXT NOT NULL,
    PRIMARY KEY (version)
);
CREATE TABLE IF NOT EXISTS forgetting_version (
    name TEXT NOT NULL,
    version INTEGER NOT NULL,
    PRIMARY KEY (name)
);
INSERT OR IGNORE INTO forgetting_version (name, version) VALUES ('newest', 0);
