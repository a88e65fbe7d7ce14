-- Version 3: tables that are read anew, and records that are passed over.

CREATE TABLE tributary.reload (
    grp           text        NOT NULL,
    topic         text        NOT NULL,
    id            bigint      NOT NULL GENERATED ALWAYS AS IDENTITY, -- keys that were written since are in tributary.seen_{id}
    source        text        NOT NULL,
    topic_id      text        NOT NULL,
    partition     integer     NOT NULL, -- in this partition, at this offset, stands the record that began it
    "offset"      bigint      NOT NULL,
    target_schema text        NOT NULL,
    target_table  text        NOT NULL,
    sid_column    text        NOT NULL, -- '' where the target has none
    sid           text        NOT NULL,
    key           text[]      NOT NULL, -- columns of the target, without the sid column
    types         text[]      NOT NULL, -- of those columns
    vector        bigint[],             -- next offset of each partition when all rows had been published; null: they have not been yet
    since         timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (grp, topic)
);
COMMENT ON TABLE tributary.reload IS 'Tables that are read anew. Rows that do not come again are removed when all others have come.';
COMMENT ON COLUMN tributary.checkpoint.parked_n IS
    'Grows with each change of what is parked of the partition, and when a reload of its topic begins or ends.';

ALTER TABLE tributary.quarantine
    ADD COLUMN skip boolean NOT NULL DEFAULT false; -- the record at next_offset is to be passed over
