-- Version 7: what the end of a reload needs to know of a history, whose versions it ends instead of removing rows.

ALTER TABLE tributary.reload
    ADD COLUMN at      bigint NOT NULL DEFAULT 0, -- commit time of the record that began it, microseconds since 1970-01-01 UTC
    ADD COLUMN history text[]; -- columns from, to and deleted, and the value of to that means: valid still; null for other modes
