package sink

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/tributary-cdc/tributary/pkg/kafka"
	"github.com/tributary-cdc/tributary/schema"
	"github.com/tributary-cdc/tributary/schema/record"
	"github.com/tributary-cdc/tributary/schema/registry"
	"github.com/tributary-cdc/tributary/sink/rule"
)

// found is a table of which there are topics.
type found struct {
	schema, table string
	sources       []string
	relation      *schema.Relation // of the first source of which the registry has one; nil for none
}

// Scaffold writes a first configuration for the sources that match a pattern, from the topics that there are and what the
// registry says of them. Of cfg it takes Kafka and the registry.
func Scaffold(ctx context.Context, cfg Config, pattern string, w io.Writer) error {
	client, err := kafkaClient(cfg)
	if err != nil {
		return err
	}
	defer client.Close()
	reg, err := newRegistry(cfg.Registry)
	if err != nil {
		return err
	}
	defer reg.Close()
	topics, err := kadm.NewClient(client).ListTopics(ctx)
	if err != nil {
		return kafka.Trouble("list topics of", "Kafka", err)
	}
	set, err := rule.New([]rule.Source{{Name: pattern}}, nil, "")
	if err != nil {
		return err
	}
	tables, sources := map[string]*found{}, map[string]bool{}
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
			if f.relation, err = latest(ctx, reg, topic); err != nil {
				return err
			}
		}
	}
	if len(tables) == 0 {
		return fmt.Errorf("there is no topic of a source %q: start its capture, or mend --source", pattern)
	}
	writeScaffold(w, cfg, pattern, tables, len(sources))
	return nil
}

// latest gives the newest relation that the registry has of a topic; nil where it has none that is ours.
func latest(ctx context.Context, reg *registry.Client, topic string) (*schema.Relation, error) {
	id, err := reg.Latest(ctx, topic+"-value")
	var text string
	if err == nil {
		text, err = reg.Schema(ctx, id)
	}
	if errors.Is(err, registry.ErrUnknownSchema) {
		return nil, nil //nolint:nilnil // a topic without records has none yet
	}
	if err != nil {
		return nil, fmt.Errorf("look up the schema of topic %q: %w", topic, err)
	}
	decoder, err := record.NewDecoder(text)
	if err != nil {
		return nil, nil //nolint:nilnil,nilerr // of somebody else: the comment says that it is not known
	}
	return decoder.Relation(), nil
}

func writeScaffold(w io.Writer, cfg Config, pattern string, tables map[string]*found, sources int) {
	p := func(format string, args ...any) { _, _ = fmt.Fprintf(w, format, args...) }
	p("# A first configuration: %s of %s. Change what you like, then: sink check -c sink.yaml\n", count(len(tables), "table"), count(sources, "source"))
	p("warehouse: {dsn: \"env:WAREHOUSE_DSN\"} # postgres://user@host/database; or file:/path\n")
	p("kafka: {brokers: [%s]}\nregistry: {url: %q}\n", quotedList(cfg.Kafka.Brokers), cfg.Registry.URL)
	p("sources:\n  - {name: %q} # sid: the value for the column that sid names; the source's name if nothing is said\n", pattern)
	p("tables: # the first rule that matches a table wins\n")
	for _, name := range slices.Sorted(maps.Keys(tables)) {
		f := tables[name]
		if f.relation == nil {
			p("  # its columns are not known here: no record yet, or not of a capture\n")
		} else {
			p("  # %s\n", comment(f.relation))
			if len(f.relation.Key) == 0 {
				p("  # no key: rows are told apart by all their values, and each DELETE reads the whole target\n")
			}
		}
		sid := ""
		if sources > 1 {
			sid = ", sid: source"
		}
		p("  - {from: %q, to: \"{schema}.{table}\"%s}", name, sid)
		if sources > 1 {
			p(" # %s", count(len(f.sources), "source"))
		}
		p("\n")
	}
	p("  # further keys of a rule: mode, columns, set, filter, ignore, keep and by, on_error (docs/reference/sink-yaml.md)\n")
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
