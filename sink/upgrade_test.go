package sink_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/tributary-cdc/tributary/pkg/pgtest"
	"github.com/tributary-cdc/tributary/pkg/terminal"
	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/sink"
	"github.com/tributary-cdc/tributary/sink/warehouse"
)

// own is everything that the schema tributary is made of.
const own = `
	SELECT format('%s.%s %s %s %s %s %s', c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity,
	              pg_get_expr(d.adbin, d.adrelid), col_description(c.oid, a.attnum))
	  FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
	 WHERE c.relnamespace = 'tributary'::regnamespace AND c.relkind IN ('r', 'v') AND a.attnum > 0 AND NOT a.attisdropped
	UNION ALL
	SELECT format('%s %s %s %s', relname, reloptions, obj_description(oid), CASE relkind WHEN 'v' THEN pg_get_viewdef(oid) WHEN 'i' THEN pg_get_indexdef(oid) END)
	  FROM pg_class WHERE relnamespace = 'tributary'::regnamespace
	UNION ALL
	SELECT conname || ' ' || pg_get_constraintdef(oid) FROM pg_constraint WHERE connamespace = 'tributary'::regnamespace AND contype <> 'n'
	UNION ALL
	SELECT pg_get_functiondef(oid) || obj_description(oid) FROM pg_proc WHERE pronamespace = 'tributary'::regnamespace
	ORDER BY 1`

// ownTables gives those of the schema tributary that hold rows, parents before children.
func (w *world) ownTables() []string {
	w.t.Helper()
	return w.query(`SELECT relname FROM pg_class WHERE relnamespace = 'tributary'::regnamespace AND relkind = 'r' AND relname <> 'version' ORDER BY length(relname), 1`)
}

// saved gives the rows of the schema tributary, by table.
func (w *world) saved(where string) map[string][]string {
	w.t.Helper()
	all := map[string][]string{}
	for _, table := range w.ownTables() {
		all[table] = w.query(`SELECT to_jsonb(x) FROM tributary.` + table + ` x WHERE ` + where + ` ORDER BY 1`)
	}
	return all
}

// downgrade makes of the sink's own tables what a sink of an older version would have left: its tables and columns, with
// what stands in them.
func (w *world) downgrade(version int) {
	w.t.Helper()
	rows := w.saved("true")
	if version == 1 {
		rows["parked"] = nil // version 1 wrote none
	}
	w.exec(`DROP SCHEMA tributary CASCADE; CREATE SCHEMA tributary; CREATE TABLE tributary.version (version integer NOT NULL)`)
	for n := 1; n <= version; n++ {
		file := "warehouse/schema.sql"
		if n > 1 {
			file = fmt.Sprintf("warehouse/schema_%d.sql", n)
		}
		step, err := os.ReadFile(file)
		if err != nil {
			w.t.Fatal(err)
		}
		w.exec(string(step))
	}
	w.exec(fmt.Sprintf(`INSERT INTO tributary.version VALUES (%d)`, version))
	for _, table := range w.ownTables() {
		sql := `INSERT INTO tributary.` + table + ` OVERRIDING SYSTEM VALUE SELECT (jsonb_populate_recordset(NULL::tributary.` + table + `, $1::jsonb)).*`
		if _, err := w.conn.Exec(w.t.Context(), sql, "["+strings.Join(rows[table], ",")+"]"); err != nil {
			w.t.Fatalf("%s: %v", sql, err)
		}
	}
}

// TestUpgrade: a sink finds its own tables as each older version has left them, changes them into what a new warehouse gets,
// keeps every row of them, and goes on where the older one ended. On those of a newer version it does not start, and
// changes nothing.
func TestUpgrade(t *testing.T) {
	w := newWorld(t)
	shop, r := w.source("shop"), relation("t", "id integer key", "v integer")
	shop.tx(ins(r, 0, 0))
	first := w.start(w.cfg)
	w.complete(shop)
	first.stop()
	w.exec(`INSERT INTO tributary.checkpoint (grp, topic, partition, topic_id, next_offset, lsn, owner, parked_n) VALUES ('other', 'a.public.t', 0, 'x', 7, '0/10', 'me', 1);
		INSERT INTO tributary.feed VALUES ('other', 'public', 't', '', 'a.public.t', '{"position": "x"}');
		INSERT INTO tributary.source VALUES ('other', 'a', '1', 1, 5, true, '{"a.public.t": [9]}', '0/10', '{}', '0/10', '{"state": "streaming"}', now());
		INSERT INTO tributary.milestone VALUES ('other', 'a', 4, 1, '0/10', '0/18', now());
		INSERT INTO tributary.milestone_part VALUES ('other', 'a', 4, 'a.public.t', 0, 9);
		INSERT INTO tributary.fence VALUES ('other', 'a', 'f1', 4);
		INSERT INTO tributary.quarantine (grp, topic, partition, next_offset, source, table_name, code, message, hint, instance, park, skip)
		VALUES ('other', 'a.public.t', 0, 7, 'a', 'public.t', 'constraint-violation', 'cannot be', 'do', 'me', true, true);
		INSERT INTO tributary.parked (grp, topic, partition, "offset", key, value, source, table_name, identity, linked, headers, behind, code, message)
		VALUES ('other', 'a.public.t', 0, 3, 'k', 'v', 'a', 'public.t', 'i', 'l', '{"p": "00"}', 2, 'record-invalid', 'damaged');
		INSERT INTO tributary.control (grp, source, "table", reason, removed) VALUES ('other', 'a', '', 'gone', true);
		INSERT INTO tributary.operation (verb, subject, before, outcome) VALUES ('pause', 'a', '{}', 'done');
		INSERT INTO tributary.reload (grp, topic, source, topic_id, partition, "offset", target_schema, target_table, sid_column, sid, key, types, at, history)
		VALUES ('other', 'a.public.t', 'a', 'x', 0, 1, 'public', 't', '', '', '{id}', '{integer}', 5, '{f,u,d,infinity}');
		INSERT INTO tributary.rule VALUES ('other', 'a.public.t', 0, '{}', 1, '[{"rule": "{}", "until": "2026-01-01T00:00:00Z", "era": 1, "lsn": "0/10"}]');
		INSERT INTO tributary.retention VALUES ('other', 'a.public.t', 'public', 't', now(), now(), 1, 2);
		INSERT INTO tributary.member VALUES ('other', 'me', 'h', '1.2.3', now(), 1, 0.5, now() - interval '1 day');
		INSERT INTO tributary.detached VALUES ('other', 'public', 't', 1, 'public', 't_1', 'FOR VALUES FROM (1) TO (2)', now())`)
	fresh, others := w.query(own), `to_jsonb(x)->>'grp' = 'other' OR to_jsonb(x) ? 'verb'`
	for table, rows := range w.saved(others) {
		if len(rows) == 0 {
			t.Errorf("the test has no row of tributary.%s", table)
		}
	}
	for version := warehouse.Version - 1; version >= 1; version-- {
		w.downgrade(version)
		if slices.Equal(w.query(own), fresh) {
			t.Fatalf("version %d is the newest", version)
		}
		if version >= 5 { // a new program's status, before its first sink runs
			if _, err := w.operator().Status(t.Context(), w.cfg); err != nil {
				t.Errorf("the status of version %d: %v", version, err)
			}
		}
		before := w.saved(others)
		mark := fmt.Sprintf(`UPDATE public.t SET v = -%d WHERE id = 0`, version) // would be undone if its record was applied again
		w.exec(mark)
		shop.tx(ins(r, version, version))
		s := w.start(w.cfg)
		w.rows(`SELECT version FROM tributary.version`, fmt.Sprint(warehouse.Version)) // wait_for would have the change of its tables wait
		w.complete(shop)
		s.stop()
		if now := w.query(own); !slices.Equal(now, fresh) {
			t.Errorf("from version %d: the tables are not those of a new warehouse:\n%s\nbut:\n%s", version, strings.Join(now, "\n"), strings.Join(fresh, "\n"))
		}
		after := w.saved(others)
		for table, rows := range before {
			if len(after[table]) != len(rows) {
				t.Errorf("from version %d: tributary.%s has %v, it had %v", version, table, after[table], rows)
				continue
			}
			for i := range rows {
				if was, is := fields(t, rows[i]), fields(t, after[table][i]); !within(was, is) {
					t.Errorf("from version %d: tributary.%s has %v, it had %v", version, table, is, was)
				}
			}
		}
		want := []string{fmt.Sprintf("0|-%d", version), fmt.Sprintf("%d|%d", version, version)}
		if got := w.query(`SELECT id, v FROM public.t WHERE id IN (0, $1) ORDER BY 1`, version); !slices.Equal(got, want) {
			t.Errorf("from version %d: rows %v, want %v", version, got, want)
		}
	}

	newer := warehouse.Version + 1
	w.exec(fmt.Sprintf(`UPDATE tributary.version SET version = %d; ALTER TABLE tributary.checkpoint ADD future text`, newer))
	future, rows := w.query(own), w.saved("true")
	shop.tx(ins(r, 100, 100))
	s, err := sink.New(w.cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), pgtest.Patience)
	defer cancel()
	err = s.Run(ctx)
	if trouble.CodeOf(err) != trouble.ServerVersion {
		t.Fatalf("on tables of version %d: %v", newer, err)
	}
	var text bytes.Buffer
	terminal.Print(&text, "sink", err)
	for _, want := range []string{
		fmt.Sprintf("they have version %d, this sink knows up to %d", newer, warehouse.Version), "a newer sink has been here; nothing was changed", "run the newer version",
	} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("no %q in:\n%s", want, text.String())
		}
	}
	told := terminal.NewCheck("sink", io.Discard)
	if err := sink.Check(t.Context(), w.cfg, told); err == nil || told.Found().Ready {
		t.Error("check finds the tables of a newer version in order")
	}
	if got := w.query(own); !slices.Equal(got, future) {
		t.Errorf("tables of a newer version were changed:\n%s", strings.Join(got, "\n"))
	}
	if got := w.saved("true"); fmt.Sprint(got) != fmt.Sprint(rows) {
		t.Errorf("rows of a newer version were changed:\n%v, they were\n%v", got, rows)
	}
	w.rows(`SELECT count(*) FROM public.t WHERE id = 100`, "0")
}

func fields(t *testing.T, row string) (of map[string]any) {
	t.Helper()
	if err := json.Unmarshal([]byte(row), &of); err != nil {
		t.Fatal(err)
	}
	return of
}

// within says whether a row has all that another has.
func within(was, is map[string]any) bool {
	for name, value := range was {
		if has, ok := is[name]; !ok || fmt.Sprint(has) != fmt.Sprint(value) {
			return false
		}
	}
	return true
}
