-- Version 12: under which rule the rows of a partition were written.

CREATE TABLE tributary.rule (
    grp       text   NOT NULL,
    topic     text   NOT NULL,
    partition integer NOT NULL,
    rule      text   NOT NULL, -- what it makes of rows, as JSON
    rows      bigint NOT NULL, -- applied_rows of the checkpoint when it began; -1: there are rows of it from before
    former    jsonb  NOT NULL DEFAULT '[]', -- those under which rows were written that have not come again since: rule, until, era, lsn
    PRIMARY KEY (grp, topic, partition)
);
CREATE INDEX ON tributary.rule (grp, topic) WHERE former <> '[]';
COMMENT ON TABLE tributary.rule IS 'Under which rule a partition is written, and those before it whose rows have not come again since.';
