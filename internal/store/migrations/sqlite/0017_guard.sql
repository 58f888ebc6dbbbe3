-- What a transaction that signs changes where the database is Galera, so that it conflicts with a revocation. See 0001 for the conventions.
-- +goose Up
ALTER TABLE authority ADD COLUMN guard INTEGER NOT NULL DEFAULT 0;
