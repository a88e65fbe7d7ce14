package capture

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"

	"github.com/tributary-cdc/tributary/capture/catalog"
	"github.com/tributary-cdc/tributary/pkg/config"
	"github.com/tributary-cdc/tributary/pkg/postgres"
	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/terminal"
	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/schema"
)

// Draft is what a first capture.yaml is made of: what the database says of itself, and what only a person knows.
type Draft struct {
	Name     string // of the source; that of the database if empty
	DSN      string // as the file shall have it: env:NAME or file:/path
	Brokers  []string
	Registry string

	address string
	server  *catalog.Server
	tables  []*catalog.Table
	sizes   map[schema.OID]int64
	owners  []catalog.Owner
}

// Ask asks the database at dsn. It changes nothing.
func (d *Draft) Ask(ctx context.Context, dsn string) error {
	cat, err := catalog.Open(ctx, dsn, "tributary init")
	if err != nil {
		return err
	}
	defer cat.Close(context.WithoutCancel(ctx)) //nolint:errcheck // the server forgets the connection by itself
	d.address = postgres.Redact(dsn)
	if d.server, err = cat.Server(ctx); err != nil {
		return err
	}
	all, err := catalog.ParsePatterns([]string{"*.*"})
	if err != nil {
		return err
	}
	if d.tables, err = cat.Tables(ctx, all); err != nil {
		return err
	}
	if d.sizes, err = cat.Sizes(ctx, d.tables); err != nil {
		return err
	}
	if d.owners, err = cat.Owners(ctx, d.tables); err != nil {
		return err
	}
	if d.Name == "" {
		d.Name = d.server.Database
	}
	if len(d.tables) == 0 {
		return &trouble.Error{
			Code: trouble.Config, Op: "find tables in", Subject: d.address, Cause: fmt.Errorf("database %q has no table that this role sees", d.server.Database),
			Means: "nothing was written", Hint: "name the database that holds the tables in the connection string",
		}
	}
	return nil
}

// Counts says how many tables are captured, and how many are left out.
func (d *Draft) Counts() (captured, leftOut int) {
	for _, t := range d.tables {
		if t.Level == catalog.LeftOut {
			leftOut++
		}
	}
	return len(d.tables) - leftOut, leftOut
}

// Write writes the file. No secret is in it. Names that come from the database stand in comments, or quoted.
func (d *Draft) Write(w io.Writer) {
	p := func(format string, args ...any) { _, _ = fmt.Fprintf(w, format, args...) }
	p("# yaml-language-server: $schema=capture.schema.json\n")
	p("# Editors complete and check this file once there is: capture config schema > capture.schema.json\n#\n")
	p("# Written by capture init, from PostgreSQL %s at %s. Every key, its default and its\n", d.server.Version, terminal.Clean(d.address))
	p("# meaning: capture config show --defaults. What is missing for it to run: capture check.\n\n")
	p("source:\n")
	p("  name: %q # first part of the names of its topics, and what the source is known by: never change it\n", d.Name)
	p("  dsn: %q # %s, with the password\n", d.DSN, terminal.Clean(d.address))
	if keep := d.server.SlotKeepBytes; keep >= 0 && keep < 64<<30 {
		p("  wal_budget: %s # how much WAL the source may keep for us before it is an alarm; the server drops the slot at %s\n",
			config.Bytes(max(keep*4/5, 1<<20)>>20<<20), service.FormatBytes(keep))
	}
	captured, leftOut := d.Counts()
	var rows, size int64
	count := "about %s rows"
	for _, t := range d.tables {
		if t.Level != catalog.LeftOut {
			rows, size = rows+t.EstimatedRows, size+d.sizes[t.Relation.OID]
			if !d.analyzed(t) {
				count = "at least %s rows"
			}
		}
	}
	if count != "about %s rows" && rows == 0 {
		count = "never analyzed: ANALYZE tells how many rows%.0s"
	}
	p("  # %s, %s, "+count+". Tables that are made later and match are taken up by themselves.\n", service.Plural(captured, "table"), service.FormatBytes(size), service.FormatCount(rows))
	p("  tables: # the last pattern that fits a table decides; ! in front leaves out, as in \"!public.audit_*\"\n")
	p("    # %10s %12s  TABLE\n", "SIZE", "ROWS")
	for _, group := range d.schemas() {
		p("    - %q\n", catalog.Exact(group[0].Relation.Schema)+".*")
		for _, t := range group {
			p("    # %10s %12s  %s\n", service.FormatBytes(d.sizes[t.Relation.OID]), d.rows(t), terminal.Clean(describe(t)))
			if t.Level == catalog.InsertOnly {
				p("    # %24s only INSERT and TRUNCATE arrive: %s\n", "", terminal.Clean(t.Reason))
				for line := range strings.SplitSeq(t.Help, "\n") {
					if line != "" {
						p("    # %24s -> %s\n", "", terminal.Clean(line))
					}
				}
			}
		}
	}
	if captured == 0 {
		p("    - \"*.*\"\n")
	}
	if leftOut > 0 {
		p("    # Left out, as they have no WAL to read:\n")
	}
	for _, t := range d.tables {
		if t.Level == catalog.LeftOut {
			p("    #   %s: %s\n", terminal.Clean(t.Relation.QualifiedName()), terminal.Clean(t.Reason))
		}
	}
	p("\n# What must not leave the database as it is; salt: env:NAME for hash.\n#columns:\n")
	for _, line := range d.private() {
		p("#  - %s\n", line)
	}
	p("\nkafka:\n  brokers: [%s]\n", quotedList(d.Brokers))
	p("  #tls: {enabled: true}\n  #sasl: {mechanism: scram-sha-512, username: capture, password: \"env:KAFKA_PASSWORD\"}\n")
	p("\nregistry:\n  url: %q\n", d.Registry)
	p("\n# The status page, /status and /metrics: open to this host alone.\n#http: {listen: \"127.0.0.1:9191\", token: \"env:STATUS_TOKEN\"}\n")
}

// schemas gives the tables that are captured by their schema, the largest first.
func (d *Draft) schemas() (groups [][]*catalog.Table) {
	at := map[string]int{}
	for _, t := range d.tables {
		if t.Level == catalog.LeftOut {
			continue
		}
		i, known := at[t.Relation.Schema]
		if !known {
			i = len(groups)
			at[t.Relation.Schema] = i
			groups = append(groups, nil)
		}
		groups[i] = append(groups[i], t)
	}
	for _, group := range groups {
		slices.SortStableFunc(group, func(a, b *catalog.Table) int { return cmp.Compare(d.sizes[b.Relation.OID], d.sizes[a.Relation.OID]) })
	}
	return groups
}

// rows is the planner's guess, which it has not made before a table was analysed.
func (d *Draft) rows(t *catalog.Table) string {
	if !d.analyzed(t) {
		return "not analyzed"
	}
	return "~" + service.FormatCount(t.EstimatedRows)
}

func (d *Draft) analyzed(t *catalog.Table) bool {
	return t.EstimatedRows > 0 || d.sizes[t.Relation.OID] == 0
}

// describe names a table, and what tells its rows apart.
func describe(t *catalog.Table) string {
	text := t.Relation.QualifiedName()
	if len(t.Relation.Key) > 0 {
		text += "  key " + keyColumns(&t.Relation)
	} else if t.Level == catalog.All {
		text += "  no key, told apart by all values"
	}
	if t.Partitioned {
		text += ", " + service.Plural(len(t.Leaves), "partition")
	}
	return text
}

var privateName = regexp.MustCompile(`(?i)passw|secret|token|e?mail|phone|iban|birth`)

// private gives entries of columns for columns whose names sound as if they were nobody else's business, or an example.
func (d *Draft) private() []string {
	const most = 5
	var out []string
	for _, t := range d.tables {
		for i := range t.Relation.Columns {
			name := t.Relation.Columns[i].Name
			if len(out) < most && t.Level != catalog.LeftOut && privateName.MatchString(name) && !slices.Contains(t.Relation.Key, i) {
				out = append(out, fmt.Sprintf("{table: %q, mask: [{column: %q, as: hash}]}", catalog.Exact(t.Relation.Schema)+"."+catalog.Exact(t.Relation.Name), name))
			}
		}
	}
	if len(out) == 0 {
		out = []string{"{table: public.customer, exclude: [notes], mask: [{column: mail, as: hash}]}"}
	}
	return out
}

func quotedList(texts []string) string {
	out := make([]string, len(texts))
	for i, text := range texts {
		out[i] = fmt.Sprintf("%q", text)
	}
	return strings.Join(out, ", ")
}

// RoleSQL gives the SQL by which an administrator makes the role with which capture keeps its publications itself.
func RoleSQL(database string, owners []string) string {
	database = postgres.Ident(database)
	lines := [][2]string{
		{"CREATE ROLE tributary_capture LOGIN REPLICATION PASSWORD 'change me';"},
		{"GRANT CONNECT, CREATE ON DATABASE " + database + " TO tributary_capture;", "CREATE: to make publications"},
	}
	for _, owner := range owners {
		lines = append(lines, [2]string{"GRANT " + postgres.Ident(owner) + " TO tributary_capture;", "to publish its tables, and to read them"})
	}
	width := 0
	for _, line := range lines[1:] {
		width = max(width, len(line[0]))
	}
	var b strings.Builder
	for _, line := range lines {
		if line[1] == "" {
			fmt.Fprintln(&b, line[0])
		} else {
			fmt.Fprintf(&b, "%-*s  -- %s\n", width, line[0], line[1])
		}
	}
	return b.String()
}

// ReaderSQL gives the SQL for a role that can read and nothing else; an administrator keeps the publications of the
// source, which it makes too.
func ReaderSQL(database, source string, tables []*catalog.Table, major int) string {
	var b strings.Builder
	fmt.Fprintln(&b, "CREATE ROLE tributary_reader LOGIN REPLICATION PASSWORD 'change me';")
	fmt.Fprintf(&b, "GRANT CONNECT ON DATABASE %s TO tributary_reader;\n", postgres.Ident(database))
	var schemas []string
	for _, t := range tables {
		if t.Level != catalog.LeftOut && !slices.Contains(schemas, t.Relation.Schema) {
			schemas = append(schemas, t.Relation.Schema)
		}
	}
	for _, name := range schemas {
		fmt.Fprintf(&b, "GRANT USAGE ON SCHEMA %s TO tributary_reader;\n", postgres.Ident(name))
		fmt.Fprintf(&b, "GRANT SELECT ON ALL TABLES IN SCHEMA %s TO tributary_reader;\n", postgres.Ident(name))
	}
	b.WriteString((Source{Name: source}).publications().SQL(tables, major))
	return b.String()
}

// The roles that Draft.Roles tells of: one that keeps its publications, and is a member of those that own the tables, and
// one that only reads.
const (
	RoleMember = "member"
	RoleReader = "reader"
)

// Roles gives the SQL for the roles with which this database can be captured.
func (d *Draft) Roles() map[string]string {
	var owners, supers []string
	for _, o := range d.owners {
		if o.Superuser {
			supers = append(supers, o.Name)
		} else {
			owners = append(owners, o.Name)
		}
	}
	member := RoleSQL(d.server.Database, owners)
	if len(supers) > 0 {
		member += fmt.Sprintf("-- Tables belong to superusers (%s), of whom no service should be a member:\n"+
			"-- give the tables to another owner, or take --role=%s.\n", terminal.Clean(strings.Join(supers, ", ")), RoleReader)
	}
	return map[string]string{RoleMember: member, RoleReader: ReaderSQL(d.server.Database, d.Name, d.tables, d.server.Major())}
}
