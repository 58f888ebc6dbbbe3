-- Until when a change of an object that was begun may have an effect. See 0001 for the conventions.
-- +goose Up
ALTER TABLE external_object ADD COLUMN IF NOT EXISTS unsure_until bigint NOT NULL DEFAULT 0;
