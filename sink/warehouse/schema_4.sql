-- Version 4: what each target was made to fit last, so that a column that the source renames is found again; and a source is
-- complete only when what a reload has found gone is gone.

ALTER TABLE tributary.feed
    ADD COLUMN shape jsonb; -- position, key, and by attnum the name of each column at the source and here; see shape in evolve.go

CREATE VIEW tributary.passed AS
SELECT m.*
  FROM tributary.milestone m JOIN tributary.source s USING (grp, source)
 WHERE NOT EXISTS (
       SELECT FROM tributary.milestone_part p
         LEFT JOIN tributary.checkpoint c
           ON c.grp = p.grp AND c.topic = p.topic AND c.partition = p.partition
        WHERE p.grp = m.grp AND p.source = m.source AND p.progress_offset = m.progress_offset
          AND coalesce(c.next_offset, 0) < p.next_offset)
   AND NOT EXISTS ( -- all rows of a table that is read anew have come, and those that are gone at the source are still here
       SELECT FROM tributary.reload r
        WHERE r.grp = m.grp AND r.source = m.source AND (s.tables->r.topic->>'done')::boolean
          AND (s.vector->r.topic->>r.partition)::bigint > r."offset"
          AND m.commit_lsn >= (s.tables->r.topic->>'done_lsn')::pg_lsn);
COMMENT ON VIEW tributary.passed IS 'Milestones of which everything is in.';

-- One row per group and source: the newest milestone of which everything is in.
CREATE OR REPLACE VIEW tributary.progress AS
SELECT s.grp, s.source, s.era, m.commit_lsn, m.end_lsn AS complete_lsn, m.commit_ts AS complete_ts,
       greatest(now() - CASE WHEN m.progress_offset = n.newest THEN s.written_at ELSE m.commit_ts END, interval '0') AS lag,
       s.commit_lsn AS published_lsn,
       ARRAY(SELECT f.id FROM tributary.fence f
              WHERE f.grp = s.grp AND f.source = s.source AND f.progress_offset <= m.progress_offset
              ORDER BY f.progress_offset) AS fences,
       s.health AS capture, s.written_at AS reported_at
  FROM tributary.source s
  LEFT JOIN LATERAL (
       SELECT * FROM tributary.passed p
        WHERE p.grp = s.grp AND p.source = s.source ORDER BY p.progress_offset DESC LIMIT 1) m ON true
  LEFT JOIN LATERAL (
       SELECT max(o.progress_offset) AS newest FROM tributary.milestone o
        WHERE o.grp = s.grp AND o.source = s.source) n ON true;
