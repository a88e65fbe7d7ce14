-- Version 2: parking of records, and pauses. tributary.parked was not written before.

ALTER TABLE tributary.parked
    ADD COLUMN source     text  NOT NULL,
    ADD COLUMN table_name text  NOT NULL, -- schema.table at the source
    ADD COLUMN identity   bytea NOT NULL, -- the key without the frame: what records of one row have in common
    ADD COLUMN linked     bytea,          -- of a half of a change of a key: identity of the other half
    ADD COLUMN headers    jsonb NOT NULL, -- name: value in hexadecimal
    ADD COLUMN behind     bigint;         -- offset of the record that it waits behind; null: it failed itself
CREATE INDEX parked_identity ON tributary.parked (grp, topic, partition, identity);
CREATE INDEX parked_linked ON tributary.parked (grp, topic, partition, linked) WHERE linked IS NOT NULL;

ALTER TABLE tributary.checkpoint
    ADD COLUMN parked_n bigint NOT NULL DEFAULT 0; -- grows with each change of what is parked of the partition
ALTER TABLE tributary.quarantine
    ADD COLUMN park boolean NOT NULL DEFAULT false; -- the record at next_offset is to be parked
