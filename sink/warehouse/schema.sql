-- The sink's own tables, version 1. Run once, in one transaction; see migrate.go.

CREATE TABLE tributary.checkpoint (
    grp                  text        NOT NULL,
    topic                text        NOT NULL,
    partition            integer     NOT NULL,
    topic_id             text        NOT NULL, -- Kafka's id of the topic; another one means that it was made anew
    next_offset          bigint      NOT NULL DEFAULT 0, -- of the first record not applied; commit markers count
    era                  integer     NOT NULL DEFAULT 0, -- era, lsn, seq: position of the last record applied
    lsn                  pg_lsn      NOT NULL DEFAULT '0/0',
    seq                  bigint      NOT NULL DEFAULT 0,
    barrier_era          integer     NOT NULL DEFAULT 0, -- position of the TRUNCATE that the partition waits at
    barrier_lsn          pg_lsn      NOT NULL DEFAULT '0/0',
    barrier_seq          bigint      NOT NULL DEFAULT 0,
    applied_rows         bigint      NOT NULL DEFAULT 0,
    applied_at           timestamptz,
    last_commit_ts       timestamptz, -- at the source, of the last record applied
    owner                text,        -- instance that claimed the partition
    owner_epoch          bigint      NOT NULL DEFAULT 0, -- grows with each claim; an older owner's writes do not hit the row
    owner_pid            integer,     -- backend of the last write, and its start
    owner_backend_start  timestamptz,
    PRIMARY KEY (grp, topic, partition)
) WITH (fillfactor = 50);
COMMENT ON TABLE tributary.checkpoint IS 'How far each partition is applied; written in the transaction of its rows.';

CREATE TABLE tributary.feed (
    grp           text NOT NULL,
    target_schema text NOT NULL,
    target_table  text NOT NULL,
    sid           text NOT NULL, -- '' where the target has no sid column
    topic         text NOT NULL,
    PRIMARY KEY (grp, target_schema, target_table, sid)
);
COMMENT ON TABLE tributary.feed IS 'Which topic writes which rows of a target: one, so that sources never overwrite each other.';

CREATE TABLE tributary.source (
    grp         text        NOT NULL,
    source      text        NOT NULL,
    system_id   text        NOT NULL,
    era         integer     NOT NULL,
    n           bigint      NOT NULL, -- number of the newest progress record applied
    known       boolean     NOT NULL, -- the vector is whole
    vector      jsonb       NOT NULL, -- topic: next offset of each partition
    commit_lsn  pg_lsn      NOT NULL,
    tables      jsonb       NOT NULL, -- topic: state of the table's snapshot
    tables_lsn  pg_lsn      NOT NULL, -- commit up to which tables is known
    health      jsonb       NOT NULL, -- capture's own report
    written_at  timestamptz NOT NULL, -- of the newest progress record, by capture's clock
    PRIMARY KEY (grp, source)
) WITH (fillfactor = 50);
COMMENT ON TABLE tributary.source IS 'The newest progress record of each source, and the sum of those before it.';

CREATE TABLE tributary.milestone (
    grp             text        NOT NULL,
    source          text        NOT NULL,
    progress_offset bigint      NOT NULL, -- of the progress record
    era             integer     NOT NULL,
    commit_lsn      pg_lsn      NOT NULL,
    end_lsn         pg_lsn      NOT NULL, -- every transaction that ends up to here is in, once all parts are passed
    commit_ts       timestamptz,
    PRIMARY KEY (grp, source, progress_offset)
);
CREATE TABLE tributary.milestone_part (
    grp             text    NOT NULL,
    source          text    NOT NULL,
    progress_offset bigint  NOT NULL,
    topic           text    NOT NULL,
    partition       integer NOT NULL,
    next_offset     bigint  NOT NULL,
    PRIMARY KEY (grp, source, progress_offset, topic, partition),
    FOREIGN KEY (grp, source, progress_offset) REFERENCES tributary.milestone ON DELETE CASCADE
);
COMMENT ON TABLE tributary.milestone IS 'Places of a source that are complete here once every checkpoint has passed their parts.';

CREATE TABLE tributary.fence (
    grp             text   NOT NULL,
    source          text   NOT NULL,
    id              text   NOT NULL,
    progress_offset bigint NOT NULL,
    PRIMARY KEY (grp, source, id)
);
COMMENT ON TABLE tributary.fence IS 'Fences seen in a progress topic; reached when tributary.progress says so.';

CREATE SEQUENCE tributary.quarantine_attempt;
CREATE TABLE tributary.quarantine (
    grp         text        NOT NULL,
    topic       text        NOT NULL,
    partition   integer     NOT NULL,
    next_offset bigint      NOT NULL, -- the partition stands here
    source      text        NOT NULL,
    table_name  text        NOT NULL,
    code        text        NOT NULL,
    message     text        NOT NULL,
    hint        text        NOT NULL,
    since       timestamptz NOT NULL DEFAULT now(),
    attempt     bigint      NOT NULL DEFAULT nextval('tributary.quarantine_attempt'),
    instance    text        NOT NULL,
    PRIMARY KEY (grp, topic, partition)
);
COMMENT ON TABLE tributary.quarantine IS 'Partitions held by an error. Delete a row, and its partition is tried again.';

CREATE TABLE tributary.parked (
    grp       text        NOT NULL,
    topic     text        NOT NULL,
    partition integer     NOT NULL,
    "offset"  bigint      NOT NULL,
    key       bytea,
    value     bytea,
    code      text        NOT NULL,
    message   text        NOT NULL,
    parked_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (grp, topic, partition, "offset")
);
COMMENT ON TABLE tributary.parked IS 'Records put aside, with later records of the same keys behind them.';

CREATE TABLE tributary.control (
    grp     text        NOT NULL,
    source  text        NOT NULL, -- '' for all
    "table" text        NOT NULL, -- schema.table, '' for all
    until   timestamptz,
    reason  text        NOT NULL,
    since   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (grp, source, "table")
);
COMMENT ON TABLE tributary.control IS 'Pauses asked for by people.';

CREATE TABLE tributary.operation (
    at      timestamptz NOT NULL DEFAULT now(),
    who     text        NOT NULL DEFAULT session_user,
    verb    text        NOT NULL,
    subject text        NOT NULL,
    before  jsonb,
    after   jsonb,
    reason  text,
    outcome text        NOT NULL
);
COMMENT ON TABLE tributary.operation IS 'What people did to the pipeline.';

-- One row per group and source: the newest milestone of which everything is in.
CREATE VIEW tributary.progress AS
SELECT s.grp, s.source, s.era, m.commit_lsn, m.end_lsn AS complete_lsn, m.commit_ts AS complete_ts,
       greatest(now() - CASE WHEN m.progress_offset = n.newest THEN s.written_at ELSE m.commit_ts END, interval '0') AS lag,
       s.commit_lsn AS published_lsn,
       ARRAY(SELECT f.id FROM tributary.fence f
              WHERE f.grp = s.grp AND f.source = s.source AND f.progress_offset <= m.progress_offset
              ORDER BY f.progress_offset) AS fences,
       s.health AS capture, s.written_at AS reported_at
  FROM tributary.source s
  LEFT JOIN LATERAL (
       SELECT * FROM tributary.milestone m
        WHERE m.grp = s.grp AND m.source = s.source AND NOT EXISTS (
              SELECT FROM tributary.milestone_part p
                LEFT JOIN tributary.checkpoint c
                  ON c.grp = p.grp AND c.topic = p.topic AND c.partition = p.partition
               WHERE p.grp = m.grp AND p.source = m.source AND p.progress_offset = m.progress_offset
                 AND coalesce(c.next_offset, 0) < p.next_offset)
        ORDER BY m.progress_offset DESC LIMIT 1) m ON true
  LEFT JOIN LATERAL (
       SELECT max(o.progress_offset) AS newest FROM tributary.milestone o
        WHERE o.grp = s.grp AND o.source = s.source) n ON true;
COMMENT ON VIEW tributary.progress IS 'Up to which commit of each source the warehouse is complete.';

CREATE FUNCTION tributary.wait_for(source text, lsn pg_lsn, timeout interval DEFAULT '30 s', grp text DEFAULT NULL)
RETURNS boolean LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog AS $$
DECLARE
    deadline timestamptz := clock_timestamp() + wait_for.timeout;
BEGIN
    LOOP
        IF (SELECT coalesce(bool_and(coalesce(p.complete_lsn >= wait_for.lsn, false)), false)
              FROM tributary.progress p
             WHERE p.source = wait_for.source AND (wait_for.grp IS NULL OR p.grp = wait_for.grp)) THEN
            RETURN true;
        END IF;
        IF clock_timestamp() >= deadline THEN
            RETURN false;
        END IF;
        PERFORM pg_sleep(0.02);
    END LOOP;
END $$;
COMMENT ON FUNCTION tributary.wait_for IS
    'Waits until everything that the source committed up to lsn is here. Needs a transaction of READ COMMITTED.';
