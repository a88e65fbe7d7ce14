package nemesis

import (
	"fmt"
	"path"
	"strings"
)

// table is a table of the source that the load writes to and the checker compares.
type table struct {
	name       string
	columns    string // in SQL
	parted     string // PARTITION BY clause
	after      string // statements behind CREATE TABLE
	key        []string
	rows       string // one row for the start, in SQL, of the number i
	first      int    // rows for the start; 0 for Options.Rows
	partitions int    // of its topic
	toasted    bool   // a change of its key may come without a value in TOAST
}

// tables are all kinds that matter: each replica identity, values kept in TOAST tables, keys of several columns,
// no key and equal rows. ver, set by a trigger, makes each version of a row one of its own.
var tables = []table{
	{
		name: "plain", columns: `id int PRIMARY KEY, ver bigint NOT NULL, n int, t text`,
		key: []string{"id"}, rows: `i, 0, i % 7, 'row ' || i`, partitions: 4,
	},
	{
		name: "wide", columns: `id int PRIMARY KEY, ver bigint NOT NULL, n int, big text, big2 text`,
		after: `ALTER TABLE wide ALTER big SET STORAGE EXTERNAL, ALTER big2 SET STORAGE EXTERNAL`,
		key:   []string{"id"}, rows: `i, 0, i % 7, repeat(md5(i::text), 80), repeat(md5(i::text || 'b'), 90)`,
		partitions: 4, toasted: true,
	},
	{
		name: "whole", columns: `id int PRIMARY KEY, ver bigint NOT NULL, n int, big text, big2 text`,
		after: `ALTER TABLE whole REPLICA IDENTITY FULL; ALTER TABLE whole ALTER big SET STORAGE EXTERNAL`,
		key:   []string{"id"}, rows: `i, 0, i % 7, repeat(md5(i::text), 80), NULL`, partitions: 4,
	},
	{
		name: "coded", columns: `id int PRIMARY KEY, ver bigint NOT NULL, code text NOT NULL UNIQUE, n int`,
		after: `ALTER TABLE coded REPLICA IDENTITY USING INDEX coded_code_key`,
		key:   []string{"code"}, rows: `i, 0, 'c' || i, i % 7`, partitions: 4,
	},
	{
		name: "pair", columns: `a int, b text, ver bigint NOT NULL, n int, PRIMARY KEY (b, a)`,
		key: []string{"b", "a"}, rows: `i, 'b' || i % 3, 0, i % 7`, partitions: 4,
	},
	{
		name: "bag", columns: `a int, b text`, after: `ALTER TABLE bag REPLICA IDENTITY FULL`,
		rows: `i % 10, CASE WHEN i % 3 > 0 THEN 'same' END`, partitions: 4,
	},
	{
		// Its partitions are in a schema that is not captured, as tables that wait to be attached are.
		name: "parted", columns: `region int, id int, ver bigint NOT NULL, n int, PRIMARY KEY (region, id)`, parted: ` PARTITION BY LIST (region)`,
		after: fmt.Sprintf(`CREATE SCHEMA parts; SELECT nemesis.part(i) FROM generate_series(0, %d) i`, firstRegions-1),
		key:   []string{"region", "id"}, rows: fmt.Sprintf(`i %% %d, i, 0, i %% 7`, firstRegions), partitions: 4,
	},
	{
		name: "account", columns: `id int PRIMARY KEY, ver bigint NOT NULL, n bigint NOT NULL`,
		key: []string{"id"}, rows: fmt.Sprintf(`i, 0, %d`, fortune), first: accounts, partitions: 4,
	},
	{
		name: "purse", columns: `id int PRIMARY KEY, ver bigint NOT NULL, n bigint NOT NULL`,
		key: []string{"id"}, rows: fmt.Sprintf(`i, 0, %d`, fortune), first: accounts, partitions: 1,
	},
	{
		name: "probe", columns: `id int PRIMARY KEY, ver bigint NOT NULL, n int`,
		key: []string{"id"}, rows: `i, 0, 0`, first: probeRows, partitions: 4,
	},
}

// firstRegions is how many partitions the table parted begins with, for the regions from 0.
const firstRegions = 3

// latePattern fits the names of the tables that the load makes.
const latePattern = "late_*"

// late is a table that the load makes.
func late(name string) *table {
	return &table{
		name: name, columns: `id int PRIMARY KEY, ver bigint NOT NULL, n int, t text`,
		key: []string{"id"}, rows: `i, 0, i % 7, 'late ' || i`, first: 2 * hot, partitions: 4,
	}
}

// find gives the table of this name, nil if there is none, and whether the load has made it.
func find(name string) (t *table, made bool) {
	for i := range tables {
		if tables[i].name == name {
			return &tables[i], false
		}
	}
	if ok, _ := path.Match(latePattern, name); ok {
		return late(name), true
	}
	return nil, false
}

func (t *table) keyless() bool { return t.key == nil }

// keyText is an expression for the key of a row, as checker writes keys; of a table without key, for the whole row.
func (t *table) keyText(row string) string {
	columns := t.key
	if t.keyless() {
		columns = []string{"a", "b"}
	}
	var parts []string
	for _, c := range columns {
		parts = append(parts, fmt.Sprintf("coalesce(%s.%s::text, '%s')", row, c, null))
	}
	return "concat_ws('|', " + strings.Join(parts, ", ") + ")"
}

// null stands for null in keyText.
const null = "∅"

// ledgerSQL makes the ledger: one row for each change of a row, and one for each table that was truncated. Its ids
// grow, for each key, in the order in which the changes take effect: they are taken after the change, when the locks
// that order it are held.
const ledgerSQL = `
CREATE SCHEMA nemesis;
CREATE SEQUENCE nemesis.ver;
CREATE TABLE nemesis.ledger (
    id      bigserial PRIMARY KEY,
    xid     bigint NOT NULL,
    tbl     text NOT NULL,
    op      text NOT NULL, -- c, u, d, t; a for a row that came with an attached partition
    old_key text,
    new_key text,
    ver     bigint
);
CREATE FUNCTION nemesis.stamp() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.ver := nextval('nemesis.ver');
    RETURN NEW;
END $$;`

// schemaSQL makes the functions by which the load changes the schema.
const schemaSQL = `
CREATE FUNCTION nemesis.part(region int) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('CREATE TABLE parts.parted_%1$s PARTITION OF public.parted FOR VALUES IN (%1$s)', region);
END $$;
-- A table with rows becomes a partition. Those rows are in no stream: whoever attaches them asks for a snapshot.
CREATE FUNCTION nemesis.attach(region int) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    part text := 'parts.parted_' || region;
BEGIN
    EXECUTE format('CREATE TABLE %s (LIKE public.parted INCLUDING ALL)', part);
    EXECUTE format('INSERT INTO %s (region, id, ver, n) SELECT %s, i, nextval(''nemesis.ver''), 0 FROM generate_series(1, 300) i', part, region);
    EXECUTE format('ALTER TABLE public.parted ATTACH PARTITION %s FOR VALUES IN (%s)', part, region);
    EXECUTE format('INSERT INTO nemesis.ledger (xid, tbl, op, new_key, ver)
        SELECT pg_current_xact_id()::text::bigint, ''parted'', ''a'', region || ''|'' || id, ver FROM %s', part);
    PERFORM pg_logical_emit_message(true, 'tributary', '{"snapshot": {"id": "attached", "tables": ["public.parted"]}}');
END $$;
CREATE FUNCTION nemesis.added(tbl text) RETURNS text[] LANGUAGE sql AS $$
    SELECT coalesce(array_agg(attname::text ORDER BY attnum), '{}') FROM pg_attribute
     WHERE attrelid = tbl::regclass AND attname LIKE 'x\_%' AND NOT attisdropped
$$;
-- One more column, of several kinds; or, if there are some, one less, or one of another name. A row is written behind it: a
-- table's new form gets to the warehouse with a row.
CREATE FUNCTION nemesis.reshape(tbl text, dice int) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    had text[] := nemesis.added(tbl);
    kinds text[] := ARRAY['int', 'text', 'int NOT NULL DEFAULT 7', $d$text DEFAULT 'all'$d$, 'numeric(10, 2) DEFAULT 1.5'];
BEGIN
    IF cardinality(had) > 5 OR dice % 4 = 0 AND cardinality(had) > 0 THEN
        EXECUTE format('ALTER TABLE %I DROP COLUMN %I', tbl, had[1 + dice % cardinality(had)]);
    ELSIF dice % 4 = 1 AND cardinality(had) > 0 THEN
        EXECUTE format('ALTER TABLE %I RENAME COLUMN %I TO x_%s', tbl, had[1 + dice % cardinality(had)], nextval('nemesis.ver'));
    ELSE
        EXECUTE format('ALTER TABLE %I ADD COLUMN x_%s %s', tbl, nextval('nemesis.ver'), kinds[1 + dice % 5]);
    END IF;
    EXECUTE format('UPDATE %1$I SET n = n WHERE ctid = (SELECT min(ctid) FROM %1$I)', tbl);
END $$;
-- Writes one of the columns that were added.
CREATE FUNCTION nemesis.scribble(tbl text, id int, dice int) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    had text[] := nemesis.added(tbl);
BEGIN
    IF cardinality(had) > 0 THEN
        EXECUTE format('UPDATE %I SET %I = %L WHERE id = %s', tbl, had[1 + dice % cardinality(had)], dice, id);
    END IF;
END $$;`

// createSQL makes the table with its first rows.
func (t *table) createSQL(rows int) string {
	if t.first > 0 {
		rows = t.first
	}
	return fmt.Sprintf(`CREATE TABLE %s (%s)%s; %s; INSERT INTO %[1]s SELECT %[5]s FROM generate_series(1, %[6]d) i;`,
		t.name, t.columns, t.parted, t.after, t.rows, rows)
}

// triggerSQL lets the ledger know of the table's changes from here on.
func (t *table) triggerSQL() string {
	ver := "NEW.ver"
	stamp := fmt.Sprintf(`CREATE TRIGGER stamp BEFORE INSERT OR UPDATE ON %s FOR EACH ROW EXECUTE FUNCTION nemesis.stamp();`, t.name)
	if t.keyless() {
		ver, stamp = "NULL", ""
	}
	return fmt.Sprintf(`
CREATE FUNCTION nemesis.note_%[1]s() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    xid bigint := pg_current_xact_id()::text::bigint;
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO nemesis.ledger (xid, tbl, op, new_key, ver) VALUES (xid, '%[1]s', 'c', %[3]s, %[4]s);
    ELSIF TG_OP = 'UPDATE' THEN
        INSERT INTO nemesis.ledger (xid, tbl, op, old_key, new_key, ver) VALUES (xid, '%[1]s', 'u', %[2]s, %[3]s, %[4]s);
    ELSIF TG_OP = 'DELETE' THEN
        INSERT INTO nemesis.ledger (xid, tbl, op, old_key) VALUES (xid, '%[1]s', 'd', %[2]s);
    ELSE
        INSERT INTO nemesis.ledger (xid, tbl, op) VALUES (xid, '%[1]s', 't');
    END IF;
    RETURN NULL;
END $$;
%[5]s
CREATE TRIGGER note AFTER INSERT OR UPDATE OR DELETE ON %[1]s FOR EACH ROW EXECUTE FUNCTION nemesis.note_%[1]s();
CREATE TRIGGER note_all AFTER TRUNCATE ON %[1]s FOR EACH STATEMENT EXECUTE FUNCTION nemesis.note_%[1]s();
`, t.name, t.keyText("OLD"), t.keyText("NEW"), ver, stamp)
}
