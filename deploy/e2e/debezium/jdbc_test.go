package debezium

import (
	"fmt"
	"strings"
	"testing"

	"github.com/tributary-cdc/tributary/capture"
	"github.com/tributary-cdc/tributary/pkg/config"
)

// asText are the types whose values the JDBC sink puts into columns of type text: in the topic they are the text of
// Postgres. All others have a type of their own at the target.
var asText = map[string]bool{
	"numeric": true, "decimal": true, "money": true, "text": true, "varchar": true, "char": true, "timetz": true,
	"interval": true, "inet": true, "cidr": true, "macaddr": true, "bit1": true, "bit": true, "varbit": true, "point": true,
	"int4range": true, "enum": true,
}

// atTarget are the types of columns at the target where they are neither text nor that of the source.
var atTarget = map[string]string{"jsonb": "json", "domain": "integer"}

// TestJDBCSinkReadsOurTopics has Debezium's JDBC sink connector, as it is, write the topics of a capture into a
// Postgres: rows of the snapshot, changes of every kind, a new column, TRUNCATE.
func TestJDBCSinkReadsOurTopics(t *testing.T) {
	w := newWorld(t)
	w.createTypes(types)
	w.exec("CREATE TABLE public.documents (id bigint, part text, body text, note text, PRIMARY KEY (id, part))",
		"ALTER TABLE public.documents ALTER COLUMN body SET STORAGE EXTERNAL",
		"CREATE TABLE public.whole (id bigint PRIMARY KEY, body text, note text)",
		"ALTER TABLE public.whole REPLICA IDENTITY FULL",
		"ALTER TABLE public.whole ALTER COLUMN body SET STORAGE EXTERNAL",
		"CREATE TABLE public.emptied (id int PRIMARY KEY)",
		"INSERT INTO public.emptied VALUES (1), (2)")
	big := "repeat('0123456789', 1000)"
	w.exec("INSERT INTO public.documents VALUES (1, 'a', "+big+", 'one'), (2, 'a', "+big+", 'two'), (3, 'a', 'short', 'three')",
		"INSERT INTO public.whole VALUES (1, "+big+", 'one')")
	w.startCapture()
	w.startJDBCSink()
	w.compareTypes("the snapshot")

	w.insertTypes(4, types)
	var assignments []string
	for _, c := range types {
		assignments = append(assignments, quoted(c.column)+" = "+literal(c.second))
	}
	w.exec("UPDATE public.types SET "+strings.Join(assignments, ", ")+" WHERE id IN (1, 3, 6)",
		"UPDATE public.types SET "+strings.Join(assignments[:20], ", ")+" WHERE id = 2",
		"DELETE FROM public.types WHERE id = 4",
		"UPDATE public.types SET id = 50 WHERE id = 5")
	w.compareTypes("every change")

	// A value that an UPDATE did not touch and that is TOASTed is not in the topic. The JDBC sink does not know of the
	// field that says so, and takes it for null; REPLICA IDENTITY FULL at the source helps.
	w.exec("UPDATE public.documents SET note = 'changed' WHERE id = 1",
		"UPDATE public.documents SET part = 'b' WHERE id = 2", "UPDATE public.documents SET part = 'b' WHERE id = 3",
		"UPDATE public.whole SET note = 'changed'")
	w.arrives("documents without what was not sent", `SELECT id, part, CASE WHEN length(body) < 1000 THEN body END, note FROM public.documents ORDER BY id`,
		`SELECT id, part, body, note FROM `+w.jdbcTable("documents")+` ORDER BY id`)
	w.arrives("the whole row", `SELECT * FROM public.whole`, `SELECT id, body, note FROM `+w.jdbcTable("whole"))

	w.exec("ALTER TABLE public.documents ADD COLUMN added numeric DEFAULT 1.50", "INSERT INTO public.documents VALUES (9, 'z', 'new', '', 2.5)")
	w.arrives("a new column", `SELECT id, part, body, note, added FROM public.documents WHERE id = 9`,
		`SELECT id, part, body, note, added FROM `+w.jdbcTable("documents")+` WHERE id = 9`)
	w.exec("TRUNCATE public.emptied", "INSERT INTO public.emptied VALUES (3)")
	w.arrives("TRUNCATE", `SELECT id FROM public.emptied`, `SELECT id FROM `+w.jdbcTable("emptied"))
}

// compareTypes waits for public.types at the target, and compares the types of its columns too.
func (w *world) compareTypes(what string) {
	w.Helper()
	source, target := []string{"id"}, []string{"id"}
	for _, c := range types {
		// Not a cast to text, which adds /32 to an inet.
		text := fmt.Sprintf("CASE WHEN %[1]s IS NOT NULL THEN format('%%s', %[1]s) END", quoted(c.column))
		target = append(target, text)
		if c.column == "matrix" {
			// An Avro array has one dimension that begins at 1: others are in exact, of which the JDBC sink knows nothing.
			text = fmt.Sprintf("CASE WHEN array_lower(%[1]s, 1) = 1 AND array_ndims(%[1]s) = 1 THEN format('%%s', %[1]s) END", quoted(c.column))
		}
		source = append(source, text)
	}
	w.arrives(what, "SELECT "+strings.Join(source, ", ")+" FROM public.types ORDER BY id",
		"SELECT "+strings.Join(target, ", ")+" FROM "+w.jdbcTable("types")+" ORDER BY id")
	for _, c := range types {
		typeOf := "SELECT format_type(atttypid, NULL) FROM pg_attribute WHERE attname = " + literal(c.column) + " AND attrelid = "
		want := w.rows(w.source, typeOf+"'public.types'::regclass")[0]
		if asText[c.column] {
			want = "text"
		} else if t, ok := atTarget[c.column]; ok {
			want = t
		}
		if got := w.rows(w.target, typeOf+literal(w.jdbcTable("types"))+"::regclass")[0]; got != want {
			w.Errorf("column %q is %s at the target, want %s", c.column, got, want)
		}
	}
}

func (w *world) jdbcTable(table string) string {
	return quoted(w.name + "_public_" + table)
}

func (w *world) startCapture() {
	w.Helper()
	var cfg capture.Config
	w.must(config.Decode("capture.yaml", []byte(fmt.Sprintf(`
source: {name: %s, dsn: %q, tables: ["public.*"], refresh: 300ms, heartbeat: 1s}
kafka: {brokers: [%s]}
registry: {url: %q}
http: {listen: "127.0.0.1:0"}
`, w.name, w.sourceAt, strings.Join(w.brokers, ","), w.registry)), &cfg))
	c, err := capture.New(cfg, capture.Options{}, quiet())
	w.must(err)
	w.run("capture", c.Run)
}

func (w *world) startJDBCSink() {
	w.Helper()
	at := w.server(w.targetAt)
	w.must(w.worker.Create(w.Context(), "jdbc", map[string]string{
		"connector.class":                       "io.debezium.connector.jdbc.JdbcSinkConnector",
		"topics.regex":                          strings.ReplaceAll(w.name, ".", `\.`) + `\.public\..*`,
		"connection.url":                        fmt.Sprintf("jdbc:postgresql://%s:%d/%s", at.Host, at.Port, at.Database),
		"connection.username":                   at.User,
		"connection.password":                   at.Password,
		"insert.mode":                           "upsert",
		"primary.key.mode":                      "record_key",
		"delete.enabled":                        "true",
		"truncate.enabled":                      "true",
		"schema.evolution":                      "basic",
		"consumer.override.isolation.level":     "read_committed",
		"consumer.override.metadata.max.age.ms": "500",
	}))
}
