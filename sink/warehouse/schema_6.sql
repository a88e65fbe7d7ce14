-- Version 6: rows that are removed when they are old.

CREATE TABLE tributary.retention (
    grp           text        NOT NULL,
    topic         text        NOT NULL,
    target_schema text        NOT NULL,
    target_table  text        NOT NULL,
    ran_at        timestamptz NOT NULL, -- end of the last run
    cutoff        timestamptz NOT NULL, -- rows before it are gone
    removed       bigint      NOT NULL, -- by the last run
    removed_ever  bigint      NOT NULL,
    PRIMARY KEY (grp, topic)
);
COMMENT ON TABLE tributary.retention IS 'What retention has removed, for each topic whose rule says keep.';
