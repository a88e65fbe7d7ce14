package debezium

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/tributary-cdc/tributary/pkg/config"
	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/sink"
)

// fromDebezium gives the text that a column has at the target, as an expression over the source's, where Debezium loses
// something of the value or of its type.
var fromDebezium = map[string]string{
	"numeric": "trim_scale(%s)",    // zero has no scale
	"money":   "%s::numeric(12,2)", // a decimal
	"bit1":    "%s::int::boolean",  // a boolean
}

// unreadable are the types that Debezium writes in a form from which their values cannot be told.
var unreadable = []string{"bit", "varbit", "point", "matrix"}

// TestSinkReadsDebezium has Debezium's Postgres connector write a source's topics, and our sink read them: snapshot, every
// kind of change, what the connector repeats after it was killed.
func TestSinkReadsDebezium(t *testing.T) {
	w := newWorld(t)
	readable := slices.DeleteFunc(slices.Clone(types), func(c typed) bool { return slices.Contains(unreadable, c.column) })
	w.createTypes(readable)
	w.exec("CREATE TABLE public.documents (id bigint, part text, body text, bytes bytea, words text[], numbers bigint[], data jsonb, note text, n int NOT NULL DEFAULT 5, PRIMARY KEY (id, part))",
		"ALTER TABLE public.documents ALTER COLUMN body SET STORAGE EXTERNAL, ALTER COLUMN bytes SET STORAGE EXTERNAL, ALTER COLUMN words SET STORAGE EXTERNAL, ALTER COLUMN numbers SET STORAGE EXTERNAL, ALTER COLUMN data SET STORAGE EXTERNAL",
		"CREATE TABLE public.keyless (a int, b text)", "ALTER TABLE public.keyless REPLICA IDENTITY FULL",
		"CREATE TABLE public.emptied (id int PRIMARY KEY)", "CREATE TABLE public.fresh (id int PRIMARY KEY)",
		"CREATE TABLE public.refused (id int PRIMARY KEY, flags varbit)", "INSERT INTO public.refused VALUES (1, '101')",
		"INSERT INTO public.keyless VALUES (1, 'x'), (1, 'x'), (2, NULL)", "INSERT INTO public.emptied VALUES (1), (2)")
	document := func(id int, part string) string {
		return fmt.Sprintf(`INSERT INTO public.documents SELECT %d, '%s', repeat('0123456789', 1000), repeat('0123456789', 1000)::bytea,
			array_fill('abc'::text, array[2000]), array_fill(7::bigint, array[2000]), to_jsonb(repeat('0123456789', 1000)), 'new'`, id, part)
	}
	w.exec(document(1, "a"), document(2, "a"), document(3, "a"))
	w.startDebezium(map[string]string{"interval.handling.mode": "string"})
	s := w.startSink("copy")
	w.compareCopy("copy", readable, "the snapshot")
	// Its offsets are kept: the snapshot is not taken again below.
	w.must(w.worker.Restart(t.Context()))

	w.insertTypes(4, readable)
	var assignments []string
	for _, c := range readable {
		assignments = append(assignments, quoted(c.column)+" = "+literal(c.second))
	}
	w.exec("UPDATE public.types SET "+strings.Join(assignments, ", ")+" WHERE id IN (1, 3, 6)",
		"DELETE FROM public.types WHERE id = 4", "UPDATE public.types SET id = 50 WHERE id = 5",
		"INSERT INTO public.types (id, date, timestamp, timestamp3, timestamptz, time) VALUES (60, 'infinity', 'infinity', 'infinity', 'infinity', '24:00'), (61, '-infinity', '-infinity', '-infinity', '-infinity', '00:00')",
		"INSERT INTO public.types (id, date, timestamp, timestamp3, timestamptz, decimal, numeric) VALUES (62, '0044-03-15 BC', '0044-03-15 BC', '0044-03-15 BC', '0044-03-15 BC', 0.001, 1e-20), (63, '12024-03-15', '12024-03-15', '12024-03-15', '12024-03-15', -0.001, -123456789012345678901234567890)",
		// What a change of a row does not carry stays: of an update, and of a change of the key.
		"UPDATE public.documents SET note = 'changed' WHERE id = 1", "UPDATE public.documents SET part = 'b' WHERE id IN (1, 2)",
		"UPDATE public.documents SET note = 'gone soon' WHERE id = 3", "DELETE FROM public.documents WHERE id = 3",
		"INSERT INTO public.keyless VALUES (3, 'y'), (3, 'y')", "DELETE FROM public.keyless WHERE ctid = (SELECT min(ctid) FROM public.keyless WHERE a = 1)",
		"UPDATE public.keyless SET b = 'z' WHERE a = 2",
		"TRUNCATE public.emptied", "INSERT INTO public.emptied VALUES (3)", "TRUNCATE public.fresh", "INSERT INTO public.fresh VALUES (1)",
		"ALTER TABLE public.documents ADD COLUMN added numeric(8,2)", document(4, "a")+", 1.5")
	w.interleave()
	w.compareCopy("copy", readable, "every change")

	// It writes again what it has written since it was stopped in order. Applied once more, that would fail where a row is
	// gone of which an update does not carry everything, and double the rows of the table without key.
	w.must(w.worker.Kill())
	w.must(w.worker.Restart(t.Context()))
	w.exec(document(5, "a")+", 2.5", "INSERT INTO public.keyless VALUES (4, NULL)")
	w.insertTypes(70, readable)
	w.interleave()
	w.compareCopy("copy", readable, "every change, with repeats before it")
	status := map[string]sink.TableStatus{}
	for _, table := range s.Status().Tables {
		status[table.Table] = table
	}
	for _, table := range []string{"public.documents", "public.keyless", "public.types"} {
		if st := status[table]; st.Duplicates == 0 || st.Trouble != nil {
			t.Errorf("%s: %d duplicates, want some; trouble %v, want none", table, st.Duplicates, st.Trouble)
		}
	}
	if st := status["public.refused"].Trouble; st == nil || st.Code != string(trouble.RuleConflict) || !strings.Contains(st.Message, `"flags"`) ||
		!strings.Contains(st.Message, "io.debezium.data.Bits") {
		t.Errorf("trouble of the table with a column that cannot be read: %+v", st)
	}

	// The topics alone make the same, with repeats and all. The first record of one table has no key: a TRUNCATE.
	// And the table with a column that cannot be read is read without it.
	w.startSink("rebuilt", `{from: public.refused, to: rebuilt.refused, columns: [id]}`)
	w.compareCopy("rebuilt", readable, "read anew")
	w.arrives("the table without its column that cannot be read", "SELECT id FROM public.refused", "SELECT * FROM rebuilt.refused")
	w.until("the table that begins with a TRUNCATE has its key", func() bool {
		return slices.Equal(w.rows(w.target, "SELECT conkey FROM pg_constraint WHERE contype = 'p' AND conrelid = to_regclass('rebuilt.fresh')"), []string{"{1}"})
	})
}

// interleave has two transactions write the same table in turns: LSNs of rows are not in the order of commits then.
func (w *world) interleave() {
	w.Helper()
	first, second := w.connect(w.sourceAt), w.connect(w.sourceAt)
	for _, step := range []struct {
		sql    string
		second bool
	}{
		{"BEGIN", false},
		{"BEGIN", true},
		{"INSERT INTO public.emptied SELECT coalesce(max(id), 0) + 1 FROM public.emptied", false},
		{"INSERT INTO public.emptied SELECT coalesce(max(id), 0) + 101 FROM public.emptied", true},
		{"COMMIT", true},
		{"INSERT INTO public.emptied SELECT coalesce(max(id), 0) + 201 FROM public.emptied", false},
		{"COMMIT", false},
	} {
		conn := first
		if step.second {
			conn = second
		}
		_, err := conn.Exec(w.Context(), step.sql)
		w.must(err)
	}
}

// compareCopy waits until every table that can be read is at the target as it is at the source.
func (w *world) compareCopy(schema string, types []typed, what string) {
	w.Helper()
	source, target := []string{"id"}, []string{"id"}
	for _, c := range types {
		value := quoted(c.column)
		if f, ok := fromDebezium[c.column]; ok {
			value = fmt.Sprintf(f, value)
		}
		source = append(source, fmt.Sprintf("CASE WHEN %[1]s IS NOT NULL THEN format('%%s', %[2]s) END", quoted(c.column), value))
		target = append(target, fmt.Sprintf("CASE WHEN %[1]s IS NOT NULL THEN format('%%s', %[1]s) END", quoted(c.column)))
	}
	w.arrives(what+": types", "SELECT "+strings.Join(source, ", ")+" FROM public.types ORDER BY id",
		"SELECT "+strings.Join(target, ", ")+" FROM "+schema+".types ORDER BY id")
	for _, table := range []string{"documents", "keyless", "emptied", "fresh"} {
		if len(w.rows(w.source, "SELECT FROM public."+table+" LIMIT 1")) == 0 {
			continue // it has no topic yet
		}
		columns := strings.Join(w.rows(w.source, "SELECT string_agg(format('md5(%I::text) AS %1$I', attname), ', ' ORDER BY attnum) FROM pg_attribute WHERE attnum > 0 AND attrelid = "+literal("public."+table)+"::regclass"), "")
		order := "1"
		if strings.Contains(columns, ",") {
			order = "1, 2"
		}
		w.arrives(what+": "+table, "SELECT "+columns+" FROM public."+table+" ORDER BY "+order, "SELECT "+columns+" FROM "+schema+"."+table+" ORDER BY "+order)
	}
}

// startSink runs a sink that writes the schema of the name given; its group has it, too. rules come before that for all
// tables.
func (w *world) startSink(schema string, rules ...string) *sink.Sink {
	w.Helper()
	var lines strings.Builder
	for _, rule := range rules {
		fmt.Fprintf(&lines, "  - %s\n", rule)
	}
	var cfg sink.Config
	w.must(config.Decode("sink.yaml", []byte(fmt.Sprintf(`
group: %[1]s_%[5]s
warehouse: {dsn: %[2]q, connections: 2}
kafka: {brokers: [%[3]s]}
registry: {url: %[4]q}
refresh: 200ms
http: {listen: "127.0.0.1:0"}
sources: [{name: %[1]s}]
tables:
%[6]s  - {from: "public.*", to: "%[5]s.{table}"}
`, w.name, w.targetAt, strings.Join(w.brokers, ","), w.registry, schema, lines.String())), &cfg))
	s, err := sink.New(cfg, quiet())
	w.must(err)
	w.run("sink", s.Run)
	return s
}

// startDebezium runs Debezium's Postgres connector on the source, with options beside what it must be told.
func (w *world) startDebezium(options map[string]string) {
	w.Helper()
	at := w.server(w.sourceAt)
	config := map[string]string{
		"connector.class":    "io.debezium.connector.postgresql.PostgresConnector",
		"plugin.name":        "pgoutput",
		"topic.prefix":       w.name,
		"database.hostname":  at.Host,
		"database.port":      fmt.Sprint(at.Port),
		"database.user":      at.User,
		"database.password":  at.Password,
		"database.dbname":    at.Database,
		"slot.name":          "debezium_" + at.Database,
		"table.include.list": `public\..*`,
		"skipped.operations": "none",

		"topic.creation.default.partitions":         "1",
		"topic.creation.default.replication.factor": "1",
	}
	maps.Copy(config, options)
	w.must(w.worker.Create(w.Context(), "postgres", config))
}
