// Package debezium tests both directions between Tributary and Debezium, with the real connectors in the real Kafka
// Connect on Apache Kafka. What works and what does not is written down in docs/debezium.md.
package debezium

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tributary-cdc/tributary/pkg/kafkatest"
	"github.com/tributary-cdc/tributary/pkg/pgtest"
)

// world is everything around the services: broker, registry, a source and a warehouse, Kafka Connect.
type world struct {
	*testing.T
	name     string // of the source, no other test's
	brokers  []string
	registry string
	sourceAt string // DSN
	targetAt string
	source   *pgx.Conn
	target   *pgx.Conn
	worker   *kafkatest.ConnectWorker
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{T: t, name: strings.ReplaceAll(kafkatest.Name(t), "-", "_"), brokers: kafkatest.Real(t).Addrs(), registry: kafkatest.Registry(t)}
	w.worker = kafkatest.Connect(t, w.brokers, w.registry)
	cluster := pgtest.Shared(t, 0)
	w.sourceAt, w.targetAt = pgtest.Database(t, cluster), pgtest.Database(t, cluster)
	w.source, w.target = w.connect(w.sourceAt), w.connect(w.targetAt)
	return w
}

func (w *world) connect(dsn string) *pgx.Conn {
	w.Helper()
	conn, err := pgx.Connect(w.Context(), dsn)
	w.must(err)
	w.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// exec runs statements at the source, each in a transaction of its own.
func (w *world) exec(statements ...string) {
	w.Helper()
	for _, sql := range statements {
		if _, err := w.source.Exec(w.Context(), sql, pgx.QueryExecModeSimpleProtocol); err != nil {
			w.Fatalf("%v\n%s", err, sql)
		}
	}
}

// run runs a service until the end of the test.
func (w *world) run(name string, service func(context.Context) error) {
	w.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- service(ctx) }()
	w.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				w.Errorf("%s: %v", name, err)
			}
		case <-time.After(time.Minute):
			w.Errorf("%s does not stop", name)
		}
	})
}

// patience is how long a change may take from one table to the other while the machine is busy.
const patience = 90 * time.Second

// until polls until ok. A connector that has failed ends the test.
func (w *world) until(what string, ok func() bool) {
	w.Helper()
	deadline := time.Now().Add(patience)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		w.must(w.worker.Check(w.Context()))
		if time.Now().After(deadline) {
			w.Fatalf("waited too long until %s", what)
		}
		<-tick.C
	}
}

// rows gives rows as text, columns separated by |, null as ∅; what is wrong with the query, where it cannot be answered.
func (w *world) rows(conn *pgx.Conn, sql string) []string {
	w.Helper()
	rows, err := conn.Query(w.Context(), sql, pgx.QueryExecModeSimpleProtocol)
	if err != nil {
		return []string{err.Error()}
	}
	out, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (string, error) {
		var values []string
		for _, v := range row.RawValues() {
			if v == nil {
				values = append(values, "∅")
			} else {
				values = append(values, string(v))
			}
		}
		return strings.Join(values, "|"), nil
	})
	if err != nil {
		return []string{err.Error()}
	}
	return out
}

// arrives waits until a query gives the same at the target as another one at the source.
func (w *world) arrives(what, sourceSQL, targetSQL string) {
	w.Helper()
	want := w.rows(w.source, sourceSQL)
	var got []string
	arrived := false
	defer func() {
		if !arrived {
			w.Logf("%s:\n%s\nwant\n%s", what, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}()
	w.until(what, func() bool {
		got = w.rows(w.target, targetSQL)
		arrived = slices.Equal(got, want)
		return arrived
	})
}

// server gives what a connector needs to connect to a DSN.
func (w *world) server(dsn string) pgx.ConnConfig {
	w.Helper()
	cfg, err := pgx.ParseConfig(dsn)
	w.must(err)
	return *cfg
}

func quiet() *slog.Logger {
	level := slog.LevelError
	if testing.Verbose() {
		level = slog.LevelWarn
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
}

// typed is a column of the table public.types and two of its values.
type typed struct{ column, typ, first, second string }

var types = []typed{
	{"boolean", "boolean", "t", "f"},
	{"smallint", "smallint", "-32768", "7"},
	{"integer", "integer", "-2147483648", "7"},
	{"bigint", "bigint", "-9223372036854775808", "9007199254740993"},
	{"real", "real", "3.1415927", "-1e-30"},
	{"double", "double precision", "3.141592653589793", "-1e-300"},
	{"numeric", "numeric", "12345678901234567890.123456789012345678901", "0.00"},
	{"decimal", "numeric(12,3)", "-123456789.125", "0.100"},
	{"money", "money", "$1,234.56", "-$0.01"},
	{"text", "text", "with 'quotes', ünïcödé and\nlines", ""},
	{"varchar", "varchar(20)", "twenty", ""},
	{"char", "char(5)", "ab", "abcde"},
	{"bytea", "bytea", `\x00ff10`, `\x`},
	{"date", "date", "2024-02-29", "1969-12-31"},
	{"time", "time", "23:59:59.999999", "00:00:00"},
	{"timetz", "timetz", "04:05:06.789+00", "00:00:00+00"},
	{"timestamp", "timestamp", "2024-02-29 12:34:56.789012", "1969-12-31 23:59:59.9"},
	{"timestamp3", "timestamp(3)", "2024-02-29 12:34:56.789", "1969-12-31 23:59:59.9"},
	{"timestamptz", "timestamptz", "2024-02-29 12:34:56.789012+00", "1969-12-31 23:59:59.9+00"},
	{"interval", "interval", "1 year 2 mons 3 days 04:05:06.7", "-00:00:01"},
	{"uuid", "uuid", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "00000000-0000-0000-0000-000000000000"},
	{"json", "json", `{"b": 1,  "a": [1.10, null]}`, "null"},
	{"jsonb", "jsonb", `{"a": [1.10, null], "b": 1}`, "null"},
	{"xml", "xml", "<a>b</a>", "<a/>"},
	{"inet", "inet", "192.168.0.1/24", "::1"},
	{"cidr", "cidr", "192.168.0.0/24", "::/0"},
	{"macaddr", "macaddr", "08:00:2b:01:02:03", "00:00:00:00:00:00"},
	{"bit1", "bit(1)", "1", "0"},
	{"bit", "bit(10)", "1010000011", "0000000001"},
	{"varbit", "bit varying(10)", "101", ""},
	{"point", "point", "(1.5,-2)", "(0,0)"},
	{"int4range", "int4range", "[1,10)", "empty"},
	{"tsvector", "tsvector", "'a':1 'b':2", ""},
	{"enum", "mood", "sad", "happy"},
	{"domain", "positive", "1", "2147483647"},
	{"int_array", "integer[]", "{1,NULL,3}", "{}"},
	{"text_array", "text[]", `{a,"b c",NULL,"NULL",""}`, "{}"},
	{"matrix", "integer[]", "{{1,2},{3,4}}", "[0:1]={1,2}"},
}

// createTypes makes the table public.types: rows 1 and 2 with the two values of each type, 3 with nulls.
func (w *world) createTypes(types []typed) {
	w.Helper()
	w.exec(`CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy')`, `CREATE DOMAIN positive AS integer CHECK (value > 0)`)
	columns := []string{"id integer PRIMARY KEY"}
	for _, c := range types {
		columns = append(columns, quoted(c.column)+" "+c.typ)
	}
	w.exec("CREATE TABLE public.types (" + strings.Join(columns, ", ") + ")")
	w.insertTypes(1, types)
}

// insertTypes inserts three rows from id on: the first values, the second ones, nulls.
func (w *world) insertTypes(id int, types []typed) {
	w.Helper()
	first, second := []string{fmt.Sprint(id)}, []string{fmt.Sprint(id + 1)}
	for _, c := range types {
		first, second = append(first, literal(c.first)), append(second, literal(c.second))
	}
	w.exec("INSERT INTO public.types VALUES ("+strings.Join(first, ", ")+")",
		"INSERT INTO public.types VALUES ("+strings.Join(second, ", ")+")",
		fmt.Sprintf("INSERT INTO public.types (id) VALUES (%d)", id+2))
}

func quoted(name string) string { return pgx.Identifier{name}.Sanitize() }

func literal(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }
