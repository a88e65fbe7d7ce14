// Package prompt is a small SQL prompt, for machines without psql (https://www.postgresql.org/docs/current/app-psql.html):
// the embedded servers bring none. Statements end with a semicolon, results are printed as tables; of psql's own commands
// it knows only \q.
package prompt

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/tributary-cdc/tributary/pkg/postgres"
)

// Config says where a prompt reads and writes.
type Config struct {
	DSN string
	In  io.Reader
	Out io.Writer
	// Interactive is for people at a terminal: there is a prompt, and a statement that fails is no end. Without it the
	// first failure is the error of Run.
	Interactive bool
}

// maxStatement bounds what is read while no semicolon comes.
const maxStatement = 64 << 20

// Run reads statements until the end of cfg.In, \q, or the end of ctx.
func Run(ctx context.Context, cfg Config) error {
	connConfig, err := postgres.ParseConfig(cfg.DSN, "tributary prompt")
	if err != nil {
		return err
	}
	delete(connConfig.RuntimeParams, "search_path") // people write sales.payment or film, as they are used to
	conn, err := pgx.ConnectConfig(ctx, connConfig)
	if err != nil {
		return fmt.Errorf("connect to %s: %w", postgres.Redact(cfg.DSN), postgres.Describe(err))
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }() // the server ends the session either way

	lines := bufio.NewScanner(cfg.In)
	lines.Buffer(nil, maxStatement)
	pending := ""
	for {
		if cfg.Interactive {
			sign := "=> "
			if strings.TrimSpace(pending) != "" {
				sign = "-> "
			}
			fmt.Fprint(cfg.Out, connConfig.Database+sign)
		}
		if !lines.Scan() {
			break
		}
		line := lines.Text()
		if strings.TrimSpace(pending) == "" && strings.TrimSpace(line) == `\q` {
			return nil
		}
		pending += line + "\n"
		for {
			statement, rest, ok := cut(pending)
			if !ok {
				break
			}
			pending = rest
			if err := execute(ctx, conn, cfg.Out, statement); err != nil {
				if !cfg.Interactive || conn.IsClosed() {
					return err
				}
				fmt.Fprintln(cfg.Out, "error:", err)
			}
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("read statements: %w", err)
	}
	if cfg.Interactive {
		fmt.Fprintln(cfg.Out)
		return nil
	}
	if strings.TrimSpace(pending) == "" {
		return nil
	}
	return execute(ctx, conn, cfg.Out, pending) // the last one needs no semicolon
}

// cut takes the first statement from text: all up to a semicolon that is not in quotes, a comment, or a dollar-quoted
// string (Postgres manual, "Lexical Structure").
func cut(text string) (statement, rest string, ok bool) {
	for i := 0; i < len(text); {
		switch c := text[i]; {
		case c == ';':
			return text[:i], text[i+1:], true
		case c == '\'' || c == '"':
			escapes := c == '\'' && i > 0 && (text[i-1] == 'E' || text[i-1] == 'e') && (i == 1 || !isWord(text[i-2]))
			end := closing(text, i+1, c, escapes)
			if end < 0 {
				return "", text, false
			}
			i = end
		case strings.HasPrefix(text[i:], "--"):
			n := strings.IndexByte(text[i:], '\n')
			if n < 0 {
				return "", text, false
			}
			i += n + 1
		case strings.HasPrefix(text[i:], "/*"):
			end := commentEnd(text, i)
			if end < 0 {
				return "", text, false
			}
			i = end
		case c == '$' && (i == 0 || !isWord(text[i-1])):
			tag := dollarTag(text[i:])
			if tag == "" {
				i++
				break
			}
			n := strings.Index(text[i+len(tag):], tag)
			if n < 0 {
				return "", text, false
			}
			i += n + 2*len(tag)
		default:
			i++
		}
	}
	return "", text, false
}

// closing gives the place behind the quote that ends what began before from; a doubled one is part of the text. -1:
// there is none.
func closing(text string, from int, quote byte, escapes bool) int {
	for i := from; i < len(text); i++ {
		switch {
		case escapes && text[i] == '\\':
			i++
		case text[i] == quote && i+1 < len(text) && text[i+1] == quote:
			i++
		case text[i] == quote:
			return i + 1
		}
	}
	return -1
}

// commentEnd gives the place behind a comment, which may hold others; -1: it does not end.
func commentEnd(text string, from int) int {
	depth := 0
	for i := from; i < len(text); i++ {
		switch {
		case strings.HasPrefix(text[i:], "/*"):
			depth++
			i++
		case strings.HasPrefix(text[i:], "*/"):
			depth--
			i++
			if depth == 0 {
				return i + 1
			}
		}
	}
	return -1
}

// dollarTag gives the $tag$ that text begins with, "" if it does not.
func dollarTag(text string) string {
	for i := 1; i < len(text); i++ {
		switch {
		case text[i] == '$':
			return text[:i+1]
		case !isWord(text[i]) || i == 1 && text[i] >= '0' && text[i] <= '9':
			return ""
		}
	}
	return ""
}

func isWord(c byte) bool {
	return c == '_' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c >= 0x80
}

// execute runs a statement and prints its result.
func execute(ctx context.Context, conn *pgx.Conn, out io.Writer, statement string) error {
	if strings.TrimSpace(statement) == "" {
		return nil
	}
	results := conn.PgConn().Exec(ctx, statement)
	for results.NextResult() {
		result := results.ResultReader()
		fields := result.FieldDescriptions()
		var rows [][]string
		for result.NextRow() {
			row := make([]string, len(fields))
			for i, value := range result.Values() {
				row[i] = visible(string(value)) // null is nothing, as in psql
			}
			rows = append(rows, row)
		}
		tag, err := result.Close()
		if err != nil {
			return errors.Join(postgres.Describe(err), ignoreSame(results.Close(), err))
		}
		if len(fields) > 0 {
			printTable(out, fields, rows)
		} else if text := tag.String(); text != "" {
			fmt.Fprintln(out, text)
		}
	}
	return postgres.Describe(results.Close())
}

// ignoreSame gives err unless it is what was already reported.
func ignoreSame(err, reported error) error {
	if err == nil || errors.Is(err, reported) || postgres.SQLState(err) == postgres.SQLState(reported) {
		return nil
	}
	return postgres.Describe(err)
}

// numeric are the types that stand on the right.
var numeric = map[uint32]bool{
	pgtype.Int2OID: true, pgtype.Int4OID: true, pgtype.Int8OID: true, pgtype.OIDOID: true,
	pgtype.Float4OID: true, pgtype.Float8OID: true, pgtype.NumericOID: true,
}

func printTable(out io.Writer, fields []pgconn.FieldDescription, rows [][]string) {
	names := make([]string, len(fields))
	widths := make([]int, len(fields))
	for i, f := range fields {
		names[i] = visible(f.Name)
		widths[i] = utf8.RuneCountInString(names[i])
		for _, row := range rows {
			widths[i] = max(widths[i], utf8.RuneCountInString(row[i]))
		}
	}
	var b strings.Builder
	write := func(row []string, right func(column int) bool) {
		for i, text := range row {
			space := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(text))
			if i > 0 {
				b.WriteString(" |")
			}
			b.WriteByte(' ')
			switch {
			case right(i):
				b.WriteString(space + text)
			case i < len(row)-1:
				b.WriteString(text + space)
			default:
				b.WriteString(text)
			}
		}
		b.WriteByte('\n')
	}
	write(names, func(int) bool { return false })
	for i, width := range widths {
		if i > 0 {
			b.WriteByte('+')
		}
		b.WriteString(strings.Repeat("-", width+2))
	}
	b.WriteByte('\n')
	for _, row := range rows {
		write(row, func(i int) bool { return numeric[fields[i].DataTypeOID] })
	}
	unit := "rows"
	if len(rows) == 1 {
		unit = "row"
	}
	fmt.Fprintf(&b, "(%d %s)\n\n", len(rows), unit)
	fmt.Fprint(out, b.String())
}

// visible makes control characters visible, so that no value can paint the terminal or break the table.
func visible(s string) string {
	if strings.IndexFunc(s, unicode.IsControl) < 0 && utf8.ValidString(s) {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		switch {
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\t':
			b.WriteString(`\t`)
		case unicode.IsControl(r):
			fmt.Fprintf(&b, `\x%02x`, r)
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}
