package postgres

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/tributary-cdc/tributary/pkg/pgtest"
)

func connect(t *testing.T, dsn string) *pgx.Conn {
	t.Helper()
	conn, err := Connect(t.Context(), dsn, "test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

// texts runs a query over the simple protocol and gives the first row as the server wrote it.
func texts(t *testing.T, conn *pgconn.PgConn, sql string) string {
	t.Helper()
	results, err := conn.Exec(t.Context(), sql).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	last := results[len(results)-1]
	var out []string
	for _, value := range last.Rows[0] {
		out = append(out, string(value))
	}
	return strings.Join(out, " | ")
}

// TestPinnedSettings: a database and a role with hostile defaults, and a connection string that asks for others, must
// not change the text of a value.
func TestPinnedSettings(t *testing.T) {
	cluster := pgtest.Shared(t, 0)
	dsn := pgtest.Database(t, cluster)
	admin := connect(t, dsn)
	name := admin.Config().Database
	hostile := []string{
		"datestyle = 'SQL, DMY'", "intervalstyle = 'sql_standard'", "extra_float_digits = 0", "bytea_output = 'escape'",
		"timezone = 'Asia/Kolkata'", "search_path = public", "statement_timeout = '1s'", "lock_timeout = '1s'",
		"idle_in_transaction_session_timeout = '1s'", "client_encoding = 'LATIN1'", "array_nulls = off", "xmloption = document", "quote_all_identifiers = on",
	}
	if version := texts(t, admin.PgConn(), "SHOW server_version_num"); version >= "170000" {
		hostile = append(hostile, "transaction_timeout = '1min'")
	}
	for _, setting := range hostile {
		if _, err := admin.Exec(t.Context(), "ALTER DATABASE "+Ident(name)+" SET "+setting); err != nil {
			t.Fatal(err)
		}
	}
	const query = `SELECT 0.1::float8 + 0.2, '\xdeadbeef'::bytea, '1 mon -1 day'::interval,
		'2024-02-03 04:05:06.789+00'::timestamptz, 'ü', current_setting('search_path'), current_setting('statement_timeout'),
		current_setting('lock_timeout'), current_setting('idle_in_transaction_session_timeout'), current_setting('application_name'),
		'{null}'::text[], 'a<b/>'::xml, format_type('text[]'::regtype, -1), coalesce(current_setting('transaction_timeout', true), '0')`
	const want = `0.30000000000000004 | \xdeadbeef | 1 mon -1 days | 2024-02-03 04:05:06.789+00 | ü | pg_catalog | 0 | 0 | 0 | tributary test | {NULL} | a<b/> | text[] | 0`

	for _, dsn := range []string{dsn, withParameter(dsn, "TimeZone=Europe%2FRome&DateStyle=German&options=-c%20extra_float_digits%3D0")} {
		conn, err := Connect(t.Context(), dsn, "tributary test")
		if err != nil {
			t.Fatal(err)
		}
		if got := texts(t, conn.PgConn(), query); got != want {
			t.Errorf("Connect:\ngot  %s\nwant %s", got, want)
		}
		if err := conn.Close(t.Context()); err != nil {
			t.Error(err)
		}
		replication, err := ConnectReplication(t.Context(), dsn, "tributary test", nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := texts(t, replication, query); got != want {
			t.Errorf("ConnectReplication:\ngot  %s\nwant %s", got, want)
		}
		if got := texts(t, replication, "SHOW wal_sender_timeout"); got != "30s" {
			t.Errorf("wal_sender_timeout is %s", got)
		}
		if got := texts(t, replication, "IDENTIFY_SYSTEM"); !strings.HasSuffix(got, "| "+name) {
			t.Errorf("not a replication connection to %s: %s", name, got)
		}
		if err := replication.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

func withParameter(dsn, parameter string) string {
	if strings.Contains(dsn, "?") {
		return dsn + "&" + parameter
	}
	return dsn + "?" + parameter
}

func TestNotices(t *testing.T) {
	dsn := pgtest.Database(t, pgtest.Shared(t, 0))
	var notices []Notice
	conn, err := ConnectReplication(t.Context(), dsn, "test", func(n Notice) { notices = append(notices, n) })
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.Background()) }()
	for _, sql := range []string{`DROP TABLE IF EXISTS public.nowhere`, `DO $$ BEGIN RAISE NOTICE 'card 4711'; END $$`} {
		if _, err := conn.Exec(t.Context(), sql).ReadAll(); err != nil {
			t.Fatal(err)
		}
	}
	if len(notices) != 2 || notices[0].Severity != "NOTICE" || !strings.Contains(notices[0].Message, `"nowhere"`) ||
		strings.Contains(notices[1].Message, "4711") {
		t.Errorf("got %+v", notices)
	}
}

// TestNoRowValueIsShown provokes errors whose message, detail or context holds a value, and prints what Describe makes
// of them in every way.
func TestNoRowValueIsShown(t *testing.T) {
	conn := connect(t, pgtest.Database(t, pgtest.Shared(t, 0)))
	const value = "hunter2"
	if _, err := conn.Exec(t.Context(), `
		CREATE SCHEMA tributary;
		CREATE TYPE public.mood AS ENUM ('sad');
		CREATE TABLE public.customer (name text PRIMARY KEY, price int CONSTRAINT price_check CHECK (price > 0), born date, n numeric(3, 1));
		INSERT INTO public.customer VALUES ('hunter2');
		CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
			IF NEW.name LIKE 'raise%' THEN RAISE EXCEPTION 'name % is refused', NEW.name; END IF;
			IF NEW.name LIKE 'unique%' THEN RAISE EXCEPTION 'name % is taken', NEW.name USING ERRCODE = '23505'; END IF;
			IF NEW.name LIKE 'run%' THEN EXECUTE 'SELECT 1 ' || NEW.name; END IF;
			IF NEW.name LIKE 'external%' THEN RAISE EXCEPTION 'name % is taken', NEW.name USING ERRCODE = '38000'; END IF;
			RETURN NEW;
		END $$;
		CREATE TRIGGER refuse BEFORE INSERT ON public.customer FOR EACH ROW EXECUTE FUNCTION public.refuse()`); err != nil {
		t.Fatal(err)
	}
	expect := func(sql, state string, shown ...string) {
		t.Helper()
		_, err := conn.Exec(t.Context(), sql)
		if SQLState(err) != state {
			t.Fatalf("%s: got %v, want SQLSTATE %s", sql, err, state)
		}
		described := fmt.Errorf("apply: %w", Describe(err))
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q"} {
			for _, e := range []error{described, errors.Unwrap(described)} {
				if text := fmt.Sprintf(verb, e); strings.Contains(text, value) {
					t.Errorf("%s: %s of the error shows the value: %s", sql, verb, text)
				}
			}
		}
		if _, reachable := errors.AsType[*pgconn.PgError](described); reachable {
			t.Errorf("%s: the server's own error is reachable", sql)
		}
		if SQLState(described) != state {
			t.Errorf("%s: described as SQLSTATE %q", sql, SQLState(described))
		}
		for _, s := range append(shown, state) {
			if !strings.Contains(described.Error(), s) {
				t.Errorf("%s: no %q in %s", sql, s, described)
			}
		}
	}
	expect(`INSERT INTO public.customer VALUES ('hunter2')`, "23505",
		`duplicate key value violates unique constraint`, `table "public.customer"`, `constraint "customer_pkey"`)
	expect(`INSERT INTO public.customer VALUES ('hunter2 b', -1)`, "23514", `constraint "price_check"`)
	expect(`SELECT 'hunter2'::int`, "22P02", "invalid input syntax for type integer: …")
	expect(`SELECT '"hunter2"'::int`, "22P02", "invalid input syntax for type integer: …")
	expect(`SELECT 'hunter2'::public.mood`, "22P02", "invalid input value for enum")
	expect(`SELECT '{hunter2'::int[]`, "22P02", "malformed array literal")
	expect(`SELECT '{"a": hunter2}'::json`, "22P02", "json")
	expect(`SELECT 'hunter2'::date`, "22007", "invalid input syntax for type date")
	expect(`SELECT '2001-13-13 hunter2'::timestamp`, "22008", "out of range")
	expect(`SELECT 'hunter2' ~ '(hunter2'`, "2201B")
	expect(`INSERT INTO public.customer VALUES ('raise hunter2')`, "P0001", "withheld")
	expect(`INSERT INTO public.customer VALUES ('unique hunter2')`, "23505", "withheld")
	expect(`INSERT INTO public.customer (name, n) VALUES ('hunter2 c', 100)`, "22003", "numeric field overflow")
	// What is looked up by a value, and what a function makes a statement of.
	for kind, state := range map[string]string{"regclass": "42P01", "regtype": "42704", "regproc": "42883", "regrole": "42704", "regnamespace": "3F000", "regconfig": "42704"} {
		expect(`SELECT x::`+kind+` FROM (VALUES ('hunter2'::text)) v(x)`, state, "…")
	}
	expect(`SELECT x::regclass FROM (VALUES ('a hunter2'::text)) v(x)`, "42602", "invalid name syntax")
	expect(`SELECT x::tsquery FROM (VALUES ('hunter2 &'::text)) v(x)`, "42601", "in tsquery")
	expect(`SELECT x::jsonpath FROM (VALUES ('$$ hunter2'::text)) v(x)`, "42601", "syntax error")
	expect(`INSERT INTO public.customer VALUES ('run hunter2')`, "42601", "syntax error")
	expect(`INSERT INTO public.customer VALUES ('external hunter2')`, "38000", "withheld")
	// Our own statements have names only, and say them.
	expect(`SELECT * FROM tributary.absent`, "42P01", `relation "tributary.absent" does not exist`)
	expect(`SELECT * FROM public.absent`, "42P01", `relation "public.absent" does not exist`)
	expect(`TRUNCATE tributary.absent`, "42P01", `relation "tributary.absent" does not exist`)
	expect(`SELECT absent FROM public.customer`, "42703", `column "absent" does not exist`)
	expect(`CREATE TABLE public.other (x absent)`, "42704", `type "absent" does not exist`)
	expect(`ALTER PUBLICATION absent ADD TABLE public.customer`, "42704", `publication "absent" does not exist`)
	expect(`ALTER TABLE public.customer ALTER absent SET NOT NULL`, "42703", `column "absent" of relation "customer" does not exist`)

	// Over COPY the context holds the whole line.
	_, err := conn.PgConn().CopyFrom(t.Context(), strings.NewReader("hunter2 d\thunter2\n"), `COPY public.customer (name, price) FROM STDIN`)
	if text := fmt.Sprintf("%+v %#v", Describe(err), Describe(err)); SQLState(err) != "22P02" || strings.Contains(text, value) {
		t.Errorf("COPY: %s", text)
	}
	_, err = conn.PgConn().CopyFrom(t.Context(), strings.NewReader("hunter2 e\n"), `COPY public.customer (name, price) FROM STDIN`)
	if text := Describe(err).Error(); SQLState(err) != "22P04" || !strings.Contains(text, `missing data for column "price"`) {
		t.Errorf("COPY: %s", text)
	}
}

func TestMaskQuoted(t *testing.T) {
	masked := func(message, want string) {
		t.Helper()
		if got := maskQuoted(message); got != want {
			t.Errorf("%q: got %q, want %q", message, got, want)
		}
	}
	masked(`division by zero`, `division by zero`)
	masked(`value "99" is out of range for type integer`, `value … is out of range for type integer`)
	masked(`ungültige Eingabesyntax für Typ integer: »a«b«`, `ungültige Eingabesyntax für Typ integer: …`)
	masked(`syntaxe en entrée invalide pour le type integer : « a »`, `syntaxe en entrée invalide pour le type integer : …`)
	masked(`invalid byte sequence for encoding "UTF8": 0xe4 0x62`, `invalid byte sequence for encoding …`)
	masked(`"`, `…`)
	masked(`0x`, `…`)
	masked(`a "b" c "d"`, `a …`)
	// Of which slot a walsender waits for names alone are told, with the code of a wrong value.
	away := &pgconn.PgError{Code: "22023", Routine: "StandbySlotsHaveCaughtup", Message: `replication slot "db2" specified in parameter "synchronized_standby_slots" does not exist`}
	if got := safeMessage(away); got != away.Message {
		t.Errorf("got %q", got)
	}
	masked(``, ``)
}

func TestDescribeOther(t *testing.T) {
	if Describe(nil) != nil || SQLState(nil) != "" {
		t.Error("nil is an error")
	}
	if err := Describe(io.EOF); !errors.Is(err, io.EOF) {
		t.Errorf("got %v", err)
	}
	once := Describe(&pgconn.PgError{Code: "23505", Message: "m"})
	if twice := Describe(fmt.Errorf("x: %w", once)); twice.Error() != "x: m (SQLSTATE 23505)" {
		t.Errorf("described twice: %v", twice)
	}
}

func TestNamesOnTheServer(t *testing.T) {
	conn := connect(t, pgtest.Database(t, pgtest.Shared(t, 0)))
	for _, name := range []string{"a", "Select", `a"b`, "a.b", "ü ", `\`, `'`, "$1", `";DROP TABLE x;--`, "a\nb"} {
		rows, err := conn.Query(t.Context(), "SELECT 1 AS "+Ident(name))
		if err != nil {
			t.Fatal(err)
		}
		if got := rows.FieldDescriptions()[0].Name; got != name {
			t.Errorf("identifier %q is %q to the server", name, got)
		}
		rows.Close()
		for _, conforming := range []string{"on", "off"} {
			sql := "SET standard_conforming_strings = " + conforming + "; SELECT" + Literal(name)
			if got := texts(t, conn.PgConn(), sql); got != name {
				t.Errorf("text %q is %q to the server", name, got)
			}
		}
	}
	if got := Ident("public", `a"b`); got != `"public"."a""b"` {
		t.Errorf("got %s", got)
	}
	if got := Ident("a\x00b") + Literal("a\x00b"); got != `"ab"'ab'` {
		t.Errorf("got %s", got)
	}
}

func TestRedact(t *testing.T) {
	redacted := func(dsn, want string) {
		t.Helper()
		if got := Redact(dsn); got != want {
			t.Errorf("%q: got %s, want %s", dsn, got, want)
		}
	}
	redacted("postgres://capture:hunter2@db1:5432/shop?sslmode=verify-full&sslpassword=x", "postgres://capture@db1:5432/shop")
	redacted("postgresql://capture@db1/shop", "postgres://capture@db1/shop")
	redacted("postgres://u:p@a:1,b:2/db", "postgres://u@a:1,b:2/db")
	redacted("postgres://u:p@/db?host=/run/pg", "postgres://u@/db?host=/run/pg")
	redacted("postgres://u:p%zz@h/db", "postgres://(unreadable)")
	redacted("postgres://u:hunter/2@h/db", "postgres://(unreadable)")
	redacted("host=db1 user=capture password='hunter 2' dbname=shop sslmode=disable", "postgres://capture@db1:5432/shop")
	redacted("host=a,b port=1,2 user=u password=p dbname=d sslmode=prefer", "postgres://u@a:1,b:2/d")
	redacted("host=/run/pg user=u dbname=d", "postgres://u@/d?host=/run/pg")
	redacted("hunter2", "postgres://(unreadable)")
}

func TestConnectionStringIsNotShown(t *testing.T) {
	refused := func(dsn, want string) {
		t.Helper()
		_, err := ParseConfig(dsn, "test")
		if err == nil {
			t.Fatalf("%q is taken", dsn)
		}
		for _, verb := range []string{"%v", "%+v", "%#v"} {
			if text := fmt.Sprintf(verb, err); strings.Contains(text, "hunter") {
				t.Errorf("%q: %s", dsn, text)
			}
		}
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q: no %q in %v", dsn, want, err)
		}
	}
	refused("postgres://u:hunter%zz@h/db", "percent-encoded")
	refused("postgres://u:hunter/2@h:x/db", "connection string is not valid")
	refused("hunter2", "postgres://user:password@host")
	refused("postgres://u:hunter2@h/db?sslmode=maybe", "sslmode")
	refused("postgres://u:hunter2@h/db?sslmode=verify-full&sslrootcert=/absent/ca.pem", "/absent/ca.pem")
	refused("postgres://u:hunter2@h/db?connect_timeout=x", "connect_timeout")

	// Nobody listens: the address was free a moment ago.
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	_ = listener.Close()
	dsn := "postgres://capture:hunter2@" + address + "/shop"
	for _, connect := range []func() error{
		func() error { _, err := Connect(t.Context(), dsn, "test"); return err },
		func() error { _, err := ConnectReplication(t.Context(), dsn, "test", nil); return err },
	} {
		err := connect()
		text := fmt.Sprintf("%v %+v %#v", err, err, err)
		if err == nil || strings.Contains(text, "hunter2") || !strings.Contains(text, "connect to postgres://capture@"+address+"/shop") || strings.Count(err.Error(), "dial tcp") != 1 {
			t.Errorf("got %s", text)
		}
		for e := err; e != nil; e = errors.Unwrap(e) {
			if strings.Contains(fmt.Sprintf("%+v", e), "hunter2") {
				t.Errorf("in the chain: %T", e)
			}
		}
		if _, ok := errors.AsType[*net.OpError](err); !ok {
			t.Errorf("the cause is lost: %v", err)
		}
	}
}

// TestPasswordRefused: the server's refusal keeps its SQLSTATE through Connect. The server is played, as the clusters of
// tests trust everybody.
func TestPasswordRefused(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var served sync.WaitGroup
	served.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			backend := pgproto3.NewBackend(conn, conn)
			if _, err := backend.ReceiveStartupMessage(); err == nil {
				backend.Send(&pgproto3.ErrorResponse{
					Severity: "FATAL", SeverityUnlocalized: "FATAL", Code: "28P01", Message: `password authentication failed for user "capture"`,
				})
				_ = backend.Flush()
			}
			_ = conn.Close()
		}
	})
	_, err = Connect(t.Context(), "postgres://capture:hunter2@"+listener.Addr().String()+"/shop?sslmode=disable", "test")
	_ = listener.Close()
	served.Wait()
	if SQLState(err) != "28P01" || !strings.Contains(err.Error(), "password authentication failed") || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("got %v", err)
	}
}
