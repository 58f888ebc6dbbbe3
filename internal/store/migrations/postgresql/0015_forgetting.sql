-- Whose tokens and roles every replica forgets, in the order of commits: one row for each version, and the newest version.
-- See 0001 for the conventions.
-- +goose Up
CREATE TABLE IF NOT EXISTS forgetting (
    version bigint NOT NULL,
    kind text COLLATE "C" NOT NULL,
    id text COLLATE "C" NOT NULL,
    origin text COLLATE "C" NOT NULL,
    PRIMARY KEY (version)
);
CREATE TABLE IF NOT EXISTS forgetting_version (
    name text COLLATE "C" NOT NULL,
    version bigint NOT NULL,
    PRIMARY KEY (name)
);
INSERT INTO forgetting_version (name, version) VALUES ('newest', 0) ON CONFLICT DO NOTHING;
