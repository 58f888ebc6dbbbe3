-- Until when a change of an object that was begun may have an effect. See 0001 for the conventions.
-- +goose Up
ALTER TABLE external_object ADD COLUMN unsure_until INTEGER NOT NULL DEFAULT 0;
