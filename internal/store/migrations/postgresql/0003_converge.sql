-- Keys that wait to be worked on again, up to when rebuilds were seen to, and since when a project is gone. See 0001 for the conventions.
-- +goose Up
CREATE TABLE IF NOT EXISTS converge_key (
    kind text COLLATE "C" NOT NULL,
    id text COLLATE "C" NOT NULL,
    rebuilt bigint NOT NULL,
    attempts bigint NOT NULL,
    next_at bigint NOT NULL,
    since bigint NOT NULL,
    last_error text NOT NULL,
    PRIMARY KEY (kind, id)
);
CREATE INDEX IF NOT EXISTS converge_key_by_next_at ON converge_key (next_at);
CREATE TABLE IF NOT EXISTS converge_rebuild (
    instance_id text COLLATE "C" NOT NULL,
    rebuilt_at bigint NOT NULL,
    PRIMARY KEY (instance_id)
);
ALTER TABLE authority ADD COLUMN IF NOT EXISTS gone_at bigint NOT NULL DEFAULT 0;
