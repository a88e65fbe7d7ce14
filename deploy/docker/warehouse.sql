-- Run once, when the warehouse's volume is empty: the role of sink (docs/security.md).

CREATE ROLE tributary_sink LOGIN PASSWORD 'sink';
GRANT CONNECT, CREATE, TEMPORARY ON DATABASE dwh TO tributary_sink;
