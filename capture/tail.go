package capture

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tributary-cdc/tributary/capture/catalog"
	"github.com/tributary-cdc/tributary/pkg/kafka"
	"github.com/tributary-cdc/tributary/pkg/terminal"
	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/schema"
	"github.com/tributary-cdc/tributary/schema/change"
	"github.com/tributary-cdc/tributary/schema/record"
)

// Tailed is a change as it was published.
type Tailed struct {
	Table     string                `json:"table"`
	Partition int32                 `json:"partition"`
	Offset    int64                 `json:"offset"`
	At        time.Time             `json:"committed_at"`
	Position  string                `json:"position"`
	Op        string                `json:"op"`
	Key       []terminal.TailColumn `json:"key"`
	Columns   []terminal.TailColumn `json:"columns"` // that it carries or, of an update where the old row is known, that are others than before
}

// Tail gives what is published of the tables that fit patterns (none: of all), from the last so many offsets of each
// partition on, until ctx ends (nil) or each returns an error. ready is called before the first.
func (c *Capture) Tail(ctx context.Context, patterns []string, last int64, values bool, ready func(topics int), each func(*Tailed) error) error {
	if len(patterns) == 0 {
		patterns = []string{"*.*"}
	}
	wanted, err := catalog.ParsePatterns(patterns)
	if err != nil {
		return terminal.Usage(err)
	}
	opts, err := c.config.Kafka.Options(c.log)
	if err != nil {
		return err
	}
	t := tailer{c: c, decoders: map[int]*record.Decoder{}, values: values}
	err = kafka.Follow(ctx, opts, func(topic string) bool {
		source, schema, table, ok := record.ParseTopic(topic)
		return ok && source == c.config.Source.Name && wanted.Match(schema, table)
	}, last, ready, func(r *kgo.Record) error {
		one, err := t.tell(ctx, r)
		if err != nil || one == nil {
			return err
		}
		return each(one)
	})
	if none, ok := errors.AsType[*kafka.NoTopicError](err); ok {
		return c.noTopic(patterns, none.There)
	}
	return err
}

// noTopic says that no topic of the source is of such a table.
func (c *Capture) noTopic(patterns, topics []string) error {
	var known []string
	for _, topic := range topics {
		if source, schema, table, ok := record.ParseTopic(topic); ok && source == c.config.Source.Name {
			known = append(known, schema+"."+table)
		}
	}
	if len(known) > 0 {
		return terminal.Usage(terminal.Nearest("table", patterns[0], known))
	}
	return &trouble.Error{
		Code: trouble.NoTopics, Op: "read the changes of", Subject: fmt.Sprintf("source %q", c.config.Source.Name), Cause: errors.New("it has no topic of a table: no capture has published yet"),
		Hint: "capture run -c capture.yaml\ncapture topics list     what is there",
	}
}

type tailer struct {
	c        *Capture
	decoders map[int]*record.Decoder
	values   bool
}

func (t *tailer) tell(ctx context.Context, r *kgo.Record) (*Tailed, error) {
	_, schemaName, table, _ := record.ParseTopic(r.Topic)
	where := fmt.Sprintf("topic %q partition %d offset %d", r.Topic, r.Partition, r.Offset)
	if r.Value == nil {
		return nil, nil // a tombstone says what the record before it said
	}
	id, _, err := record.ParseFrame(r.Value)
	if err != nil {
		return nil, fmt.Errorf("decode %s: %w", where, err)
	}
	d := t.decoders[id]
	if d == nil {
		text, err := t.c.registry.Schema(ctx, id)
		if err == nil {
			d, err = record.NewDecoder(text)
		}
		if err != nil {
			return nil, fmt.Errorf("look up the schema of %s: %w", where, err)
		}
		t.decoders[id] = d
	}
	var ev change.Event
	if _, err := d.Decode(r.Value, &ev, nil); err != nil {
		return nil, fmt.Errorf("decode %s: %w", where, err)
	}
	rel := d.Relation()
	out := &Tailed{
		Table: schemaName + "." + table, Partition: r.Partition, Offset: r.Offset, At: time.UnixMicro(ev.Tx.CommitTime).UTC(), Position: ev.Position.String(),
		Op: ev.Op.String(), Key: []terminal.TailColumn{}, Columns: []terminal.TailColumn{},
	}
	row := ev.After
	if row == nil {
		row = ev.Before
	}
	key := map[int]bool{}
	for _, k := range rel.Key {
		key[k] = true
		if k < len(row) {
			out.Key = append(out.Key, t.column(rel, row, k))
		}
	}
	for i := range ev.After {
		if key[i] || ev.Op == change.Update && len(ev.Before) == len(ev.After) && same(ev.Before[i], ev.After[i]) {
			continue
		}
		out.Columns = append(out.Columns, t.column(rel, ev.After, i))
	}
	return out, nil
}

func same(a, b change.Value) bool { return a.State == b.State && string(a.Text) == string(b.Text) }

func (t *tailer) column(rel *schema.Relation, row change.Tuple, i int) terminal.TailColumn {
	c := terminal.TailColumn{Name: rel.Columns[i].Name, Unchanged: row[i].State == change.Unchanged}
	if t.values && row[i].State == change.Present {
		text := string(row[i].Text)
		c.Value = &text
	}
	return c
}
