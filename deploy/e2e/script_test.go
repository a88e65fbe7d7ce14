package e2e

import (
	"bufio"
	"context"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
)

// statement is one statement of a dump; rows holds the lines of a COPY … FROM stdin.
type statement struct {
	sql  string
	rows string
}

// readScript splits a dump as pg_dump writes it: statements end at a semicolon at the end of a line, outside of dollar
// quotes; the lines behind COPY … FROM stdin go up to "\.".
func readScript(t testing.TB, path string) []statement {
	t.Helper()
	f, err := os.Open(path)
	must(t, err)
	defer f.Close()
	var list []statement
	var sql, rows strings.Builder
	dollar, copying := "", false
	scan := bufio.NewScanner(f)
	scan.Buffer(nil, 16<<20)
	for scan.Scan() {
		line := scan.Text()
		if copying {
			if line == `\.` {
				list = append(list, statement{sql.String(), rows.String()})
				sql.Reset()
				rows.Reset()
				copying = false
				continue
			}
			rows.WriteString(line + "\n")
			continue
		}
		if sql.Len() == 0 && (line == "" || strings.HasPrefix(line, "--")) {
			continue
		}
		sql.WriteString(line + "\n")
		for rest := line; ; {
			i := strings.Index(rest, "$")
			if i < 0 {
				break
			}
			j := strings.Index(rest[i+1:], "$")
			if j < 0 {
				break
			}
			tag := rest[i : i+j+2]
			if strings.ContainsAny(tag, " ,;()'") {
				rest = rest[i+1:]
				continue
			}
			switch dollar {
			case "":
				dollar = tag
			case tag:
				dollar = ""
			}
			rest = rest[i+j+2:]
		}
		if dollar != "" || !strings.HasSuffix(strings.TrimSpace(line), ";") {
			continue
		}
		if text := sql.String(); strings.HasPrefix(text, "COPY ") && strings.Contains(text, "FROM stdin") {
			copying = true
			continue
		}
		list = append(list, statement{sql: sql.String()})
		sql.Reset()
	}
	must(t, scan.Err())
	return list
}

// load runs a dump. Statements that an older server does not know may fail if their text holds one of harmless.
func load(ctx context.Context, t testing.TB, conn *pgx.Conn, path string, harmless ...string) {
	t.Helper()
	for _, s := range readScript(t, path) {
		var err error
		if s.rows != "" || strings.Contains(s.sql, "FROM stdin") {
			_, err = conn.PgConn().CopyFrom(ctx, strings.NewReader(s.rows), s.sql)
		} else {
			_, err = conn.PgConn().Exec(ctx, s.sql).ReadAll()
		}
		if err == nil {
			continue
		}
		expected := false
		for _, h := range harmless {
			expected = expected || strings.Contains(s.sql, h)
		}
		if !expected {
			t.Fatalf("%s: %v\n%s", path, err, s.sql[:min(len(s.sql), 300)])
		}
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func exec(t testing.TB, conn *pgx.Conn, sql string, args ...any) {
	t.Helper()
	if _, err := conn.Exec(t.Context(), sql, args...); err != nil {
		t.Fatalf("%v\n%s", err, sql)
	}
}

// setting gives a number that whoever runs a test of random things may set in the environment.
func setting(t testing.TB, name string, otherwise uint64) uint64 {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(text, 10, 64)
	must(t, err)
	return n
}

func scalar[T any](t testing.TB, conn *pgx.Conn, sql string, args ...any) T {
	t.Helper()
	var v T
	if err := conn.QueryRow(t.Context(), sql, args...).Scan(&v); err != nil {
		t.Fatalf("%v\n%s", err, sql)
	}
	return v
}

func connect(t testing.TB, dsn string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	must(t, err)
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}
