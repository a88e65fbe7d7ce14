-- Version 11: sinks say of themselves what checkpoints do not know.

CREATE TABLE tributary.member (
    grp          text        NOT NULL,
    instance     text        NOT NULL,
    host         text        NOT NULL,
    version      text        NOT NULL, -- of the program
    since        timestamptz NOT NULL, -- start of the process, by its own clock
    memory_bytes bigint      NOT NULL, -- that the process holds
    busy_share   real        NOT NULL, -- of the last minute, of the stage that most of it went into
    seen_at      timestamptz NOT NULL, -- when it wrote this last
    ended        boolean     NOT NULL DEFAULT false, -- it has said that it ends
    PRIMARY KEY (grp, instance)
) WITH (fillfactor = 50);
COMMENT ON TABLE tributary.member IS 'What each sink says of itself, every ten seconds; those that are gone are removed by the others.';
