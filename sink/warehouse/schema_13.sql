-- Version 13: how far behind a source is of which nothing is complete is not known. greatest passes over null, so that it was 0.

CREATE OR REPLACE VIEW tributary.progress AS
SELECT s.grp, s.source, s.era, m.commit_lsn, m.end_lsn AS complete_lsn, m.commit_ts AS complete_ts,
       CASE WHEN a.age IS NOT NULL THEN greatest(a.age, interval '0') END AS lag,
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
        WHERE o.grp = s.grp AND o.source = s.source) n ON true
 CROSS JOIN LATERAL (
       SELECT now() - CASE WHEN m.progress_offset = n.newest
                           THEN s.written_at - make_interval(secs => coalesce((s.health->>'behind_s')::float8, 0))
                           ELSE m.commit_ts END AS age) a;
