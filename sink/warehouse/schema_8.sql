-- Version 8: partitions of targets that are dropped when all of their rows are old.

CREATE TABLE tributary.detached (
    grp              text        NOT NULL,
    target_schema    text        NOT NULL,
    target_table     text        NOT NULL,
    partition        oid         NOT NULL, -- the table that was a partition; another one that takes its name is not it
    partition_schema text        NOT NULL,
    partition_table  text        NOT NULL,
    bounds           text        NOT NULL, -- with which ALTER TABLE ... ATTACH PARTITION brings it back
    detached_at      timestamptz NOT NULL, -- it is dropped when the rule's drop has gone by since
    PRIMARY KEY (grp, partition)
);
COMMENT ON TABLE tributary.detached IS 'Partitions that were detached since all of their rows are older than keep, and are not dropped yet.';
