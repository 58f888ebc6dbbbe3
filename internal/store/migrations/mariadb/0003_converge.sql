-- Keys that wait to be worked on again, up to when rebuilds were seen to, and since when a project is gone. See 0001 for the conventions.
-- +goose Up
CREATE TABLE IF NOT EXISTS converge_key (
    kind varchar(64) NOT NULL,
    id varchar(129) NOT NULL,
    rebuilt bigint NOT NULL,
    attempts bigint NOT NULL,
    next_at bigint NOT NULL,
    since bigint NOT NULL,
    last_error varchar(1024) NOT NULL,
    PRIMARY KEY (kind, id),
    KEY converge_key_by_next_at (next_at)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
CREATE TABLE IF NOT EXISTS converge_rebuild (
    instance_id varchar(64) NOT NULL,
    rebuilt_at bigint NOT NULL,
    PRIMARY KEY (instance_id)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
ALTER TABLE authority ADD COLUMN IF NOT EXISTS gone_at bigint NOT NULL DEFAULT 0;
