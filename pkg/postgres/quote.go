package postgres

import "strings"

// Ident quotes the parts of a name as SQL identifiers and joins them by dots: Ident("public", `a"b`) = `"public"."a""b"`.
// Each part is always quoted, so that case, reserved words and dots inside a name stay what they are. It is the only
// function that may put a name into SQL text. Postgres allows no NUL in a name; NULs are dropped, as a name with one
// cannot exist.
func Ident(parts ...string) string {
	var b strings.Builder
	for i, part := range parts {
		if i > 0 {
			b.WriteByte('.')
		}
		b.WriteByte('"')
		b.WriteString(strings.ReplaceAll(strings.ReplaceAll(part, "\x00", ""), `"`, `""`))
		b.WriteByte('"')
	}
	return b.String()
}

// Literal quotes text as an SQL string constant, for the statements that take no parameters (replication commands,
// utility statements). A text with a backslash becomes an escape string (E prefix), which means the same
// whatever standard_conforming_strings says. NULs are dropped: Postgres text cannot hold them.
func Literal(text string) string {
	text = strings.ReplaceAll(strings.ReplaceAll(text, "\x00", ""), "'", "''")
	if !strings.Contains(text, `\`) {
		return "'" + text + "'"
	}
	return " E'" + strings.ReplaceAll(text, `\`, `\\`) + "'"
}
