package sink

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/tributary-cdc/tributary/pkg/kafka"
	"github.com/tributary-cdc/tributary/pkg/postgres"
	"github.com/tributary-cdc/tributary/pkg/registry"
	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/schema"
	"github.com/tributary-cdc/tributary/schema/record"
	"github.com/tributary-cdc/tributary/sink/rule"
	"github.com/tributary-cdc/tributary/sink/warehouse"
)

// found is a table of which there are topics.
type found struct {
	schema, table string
	sources       []string
	relation      *schema.Relation // of the first source of which the registry has one; nil for none
	there         *warehouse.There // nil where the warehouse was not asked
}

// Scaffold writes a first configuration for the sources that match a pattern, from the topics that there are and what the
// registry says of them. Of cfg it takes Kafka and the registry.
func Scaffold(ctx context.Context, cfg Config, pattern string, w io.Writer) error {
	tables, sources, err := findTables(ctx, cfg, pattern)
	if err == nil {
		writeScaffold(w, cfg, &heading{dsn: "env:WAREHOUSE_DSN", address: "postgres://user@host/database; or file:/path"}, pattern, tables, sources)
	}
	return err
}

// Draft is what a first sink.yaml is made of.
type Draft struct {
	DSN     string // as the file shall have it: env:NAME or file:/path
	Sources string // pattern of their names

	facts   warehouse.Facts
	tables  map[string]*found
	sources int
}

// Ask asks the warehouse at dsn, and, where the rules are wanted too, Kafka and the registry, which it takes of cfg. It
// changes nothing.
func (d *Draft) Ask(ctx context.Context, cfg Config, dsn string, rules bool) (err error) {
	house := warehouse.New(warehouse.Config{DSN: func() (string, error) { return dsn, nil }, Group: cfg.Group, Instance: service.Instance(), Log: slog.New(slog.DiscardHandler)})
	session := house.Session()
	defer session.Close(context.WithoutCancel(ctx))
	if d.facts, err = session.Facts(ctx); err != nil || !rules {
		return err
	}
	if d.tables, d.sources, err = findTables(ctx, cfg, d.Sources); err != nil {
		return err
	}
	for _, f := range d.tables {
		there, err := session.There(ctx, f.schema, f.table)
		if err != nil {
			return err
		}
		f.there = &there
	}
	return nil
}

// Tables is how many tables there are rules for.
func (d *Draft) Tables() int { return len(d.tables) }

// Write writes the file. No secret is in it.
func (d *Draft) Write(cfg Config, w io.Writer) {
	writeScaffold(w, cfg, &heading{dsn: d.DSN, address: d.facts.Address + ", with the password", facts: &d.facts}, d.Sources, d.tables, d.sources)
}

// RoleWriter is what Draft.Roles calls the one role that there is.
const RoleWriter = "writer"

// Roles gives the SQL for the role that writes this warehouse.
func (d *Draft) Roles() map[string]string {
	return map[string]string{RoleWriter: RoleSQL(d.facts.Database)}
}

// RoleSQL gives the SQL by which an administrator makes the role of sink in the warehouse.
func RoleSQL(database string) string {
	return "CREATE ROLE tributary_sink LOGIN PASSWORD 'change me';\n" +
		"GRANT CONNECT, CREATE, TEMPORARY ON DATABASE " + postgres.Ident(database) + " TO tributary_sink;\n"
}

// heading is what a scaffold says of the warehouse.
type heading struct {
	dsn, address string
	facts        *warehouse.Facts // nil where it was not asked
}

func (h *heading) write(p func(format string, args ...any)) {
	p("# yaml-language-server: $schema=sink.schema.json\n")
	p("# Editors complete and check this file once there is: sink config schema > sink.schema.json\n#\n")
	if h.facts == nil {
		return
	}
	p("# Written by sink init; the warehouse is PostgreSQL %s. Every key, its default and its meaning:\n# sink config show --defaults.\n", printable(h.facts.Version))
	if !h.facts.Creates {
		p("# The role %s may not create schemas there; sink init --role prints what it needs.\n", printable(h.facts.Role))
	}
	p("# Targets that are not there are made in schemas of their own: in public a role makes tables only where that was granted to it.\n")
	if h.facts.Own > 0 {
		p("# There is a schema tributary already: sinks of one group share the work, a group of another name is another copy.\n")
	}
}

// findTables gives the tables of which there are topics, and the number of their sources.
func findTables(ctx context.Context, cfg Config, pattern string) (map[string]*found, int, error) {
	client, err := kafkaClient(cfg)
	if err != nil {
		return nil, 0, err
	}
	defer client.Close()
	reg, err := registry.New(cfg.Registry)
	if err != nil {
		return nil, 0, err
	}
	defer reg.Close()
	topics, err := kadm.NewClient(client).ListTopics(ctx)
	if err != nil {
		return nil, 0, kafka.Trouble("list topics of", "Kafka", err)
	}
	set, err := rule.New([]rule.Source{{Name: pattern}}, nil, "")
	if err != nil {
		return nil, 0, err
	}
	latest, tables, sources := newNewest(cfg.Kafka, service.Log(cfg.Log)), map[string]*found{}, map[string]bool{}
	for _, topic := range topics.Names() {
		source, schemaName, table, ok := record.ParseTopic(topic)
		if _, wanted := set.Source(source); !ok || !wanted {
			continue
		}
		name := rule.Pattern(schemaName, table)
		f := tables[name]
		if f == nil {
			f = &found{schema: schemaName, table: table}
			tables[name] = f
		}
		sources[source] = true
		f.sources = append(f.sources, source)
		if f.relation == nil {
			if f.relation, err = relationOf(ctx, latest, reg, topic); err != nil {
				return nil, 0, err
			}
		}
	}
	if len(tables) == 0 {
		return nil, 0, fmt.Errorf("there is no topic of a source %q: start its capture, or mend --source", pattern)
	}
	return tables, len(sources), nil
}

// relationOf gives the relation of the newest version of a topic's table; nil where there is none that is ours.
func relationOf(ctx context.Context, latest *newest, reg *registry.Client, topic string) (*schema.Relation, error) {
	_, text, err := latest.schema(ctx, reg, topic)
	if errors.Is(err, registry.ErrUnknownSchema) {
		return nil, nil //nolint:nilnil // a topic without records has none yet
	}
	if err != nil {
		return nil, err
	}
	decoder, err := record.NewDecoder(text)
	if err != nil {
		return nil, nil //nolint:nilnil,nilerr // of somebody else: the comment says that it is not known
	}
	return decoder.Relation(), nil
}

func writeScaffold(w io.Writer, cfg Config, h *heading, pattern string, tables map[string]*found, sources int) {
	p := func(format string, args ...any) { _, _ = fmt.Fprintf(w, format, args...) }
	h.write(p)
	p("# A first configuration: %s of %s. Change what you like, then: sink check -c sink.yaml\n", service.Plural(len(tables), "table"), service.Plural(sources, "source"))
	p("warehouse: {dsn: %q} # %s\n", h.dsn, printable(h.address))
	p("kafka: {brokers: [%s]}\nregistry: {url: %q}\n", quotedList(cfg.Kafka.Brokers), cfg.Registry.URL)
	p("sources:\n  - {name: %q} # sid: the value for the column that sid names; the source's name if nothing is said\n", pattern)
	p("tables: # the first rule that matches a table wins\n")
	targets := map[string]bool{}
	for _, name := range slices.Sorted(maps.Keys(tables)) {
		f := tables[name]
		to, there := f.target(sources, targets)
		if f.relation == nil {
			p("  # its columns are not known here: no record yet, or not of a capture\n")
		} else {
			p("  # %s\n", comment(f.relation))
			if len(f.relation.Key) == 0 {
				p("  # no key: rows are told apart by all their values, and each DELETE reads the whole target\n")
			}
		}
		if there {
			p("  # the target is there, with about %s rows: sink check says whether it fits\n", service.FormatCount(*f.there.Rows))
		}
		sid := ""
		if sources > 1 {
			sid = ", sid: source"
		}
		p("  - {from: %q, to: %q%s}", name, to, sid)
		if sources > 1 {
			p(" # %s", service.Plural(len(f.sources), "source"))
		}
		p("\n")
	}
	p("  # further keys of a rule: mode, columns, set, filter, ignore, keep and by, on_error (docs/reference/sink-yaml.md)\n")
}

// common is the schema for tables of many sources that are written together.
const common = "copy"

// target says where a table goes: to where it is at the source, if that is there and may be written, or can be made; else, as in public,
// where the role of sink makes nothing (docs/security.md), to a schema that sink makes. taken are the targets of the tables before.
func (f *found) target(sources int, taken map[string]bool) (to string, there bool) {
	there = f.there != nil && f.there.Rows != nil && f.there.Write
	schema := common
	if sources == 1 {
		schema = "{source}"
	}
	choices := []string{schema + ".{table}", schema + ".{schema}_{table}"}
	if there || f.schema != "public" && (f.there == nil || f.there.Rows == nil && f.there.Write) {
		choices = []string{"{schema}.{table}"}
	}
	for _, to = range choices {
		name := strings.NewReplacer("{source}", f.sources[0], "{schema}", f.schema, "{table}", f.table).Replace(to)
		if !taken[name] {
			taken[name] = true
			break
		}
	}
	return to, there
}

// comment lists the columns of a table.
func comment(r *schema.Relation) string {
	var out []string
	for i := range r.Columns {
		c := r.Columns[i].Name + " " + r.Columns[i].Type.Name
		if slices.Contains(r.Key, i) {
			c += " (key)"
		}
		out = append(out, c)
	}
	text := strings.Join(out, ", ")
	const most = 160
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + "…"
	}
	return printable(text)
}

func quotedList(texts []string) string {
	out := make([]string, len(texts))
	for i, text := range texts {
		out[i] = fmt.Sprintf("%q", text)
	}
	return strings.Join(out, ", ")
}
