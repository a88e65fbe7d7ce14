-- Version 9: what has once been complete stays so while a reload that began at the same commit ends.

CREATE OR REPLACE VIEW tributary.passed AS
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
          AND m.progress_offset >= coalesce((s.tables->r.topic->>'done_offset')::bigint, 0)
          AND m.commit_lsn >= (s.tables->r.topic->>'done_lsn')::pg_lsn);
