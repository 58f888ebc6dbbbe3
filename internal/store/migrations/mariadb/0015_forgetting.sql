-- Whose tokens and roles every replica forgets, in the order of commits: one row for each version, and the newest version.
-- See 0001 for the conventions.
-- +goose Up
CREATE TABLE IF NOT EXISTS forgetting (
    version bigint NOT NULL,
    kind varchar(64) NOT NULL,
    id varchar(129) NOT NULL,
    origin varchar(64) NOT NULL,
    PRIMARY KEY (version)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
CREATE TABLE IF NOT EXISTS forgetting_version (
    name varchar(64) NOT NULL,
    version bigint NOT NULL,
    PRIMARY KEY (name)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
INSERT IGNORE INTO forgetting_version (name, version) VALUES ('newest', 0);
