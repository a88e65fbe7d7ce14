package sink

import (
	"context"
	"errors"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tributary-cdc/tributary/pkg/config"
	"github.com/tributary-cdc/tributary/pkg/kafka"
	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/terminal"
	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/schema/change"
	"github.com/tributary-cdc/tributary/schema/record"
	"github.com/tributary-cdc/tributary/sink/rule"
)

// Tailed is a change in Kafka, and what the rules make of it.
type Tailed struct {
	Source    string                `json:"source"`
	Table     string                `json:"table"`
	Target    string                `json:"target"`
	Partition int32                 `json:"partition"`
	Offset    int64                 `json:"offset"`
	At        time.Time             `json:"committed_at"`
	Position  string                `json:"position"`
	Op        string                `json:"op"`
	Key       []terminal.TailColumn `json:"key"`     // of the source's row
	Columns   []terminal.TailColumn `json:"columns"` // of the target's row, where it is written
	Result    string                `json:"result"`
}

// Tail gives what comes to the topics of subjects, as SOURCE or SOURCE/TABLE with * and ? as wildcards (none: of all that a
// rule writes), and what the rules make of it, until ctx ends (nil) or each returns an error. It writes nothing, and
// disturbs no sink. Values of columns that are masked stay so.
func (o *Operator) Tail(ctx context.Context, cfg Config, subjects []string, last int64, values bool, ready func(topics int), each func(*Tailed) error) error {
	for _, text := range subjects {
		if _, _, err := Subject(text); err != nil {
			return terminal.Usage(err)
		}
	}
	opts, err := cfg.Kafka.Options(service.Log(cfg.Log))
	if err != nil {
		return err
	}
	err = kafka.Follow(ctx, opts, func(topic string) bool {
		_, ok := matchTopic(o.rules, topic)
		return ok && among(subjects, topic)
	}, last, ready, func(r *kgo.Record) error {
		one, err := o.tailed(ctx, r, values)
		if err != nil || one == nil {
			return err
		}
		return each(one)
	})
	if none, ok := errors.AsType[*kafka.NoTopicError](err); ok {
		return o.noTopic(subjects, none.There)
	}
	return err
}

// noTopic says that no topic of subjects is one that a rule writes.
func (o *Operator) noTopic(subjects, topics []string) error {
	var known []string
	for _, topic := range topics {
		if route, ok := matchTopic(o.rules, topic); ok {
			known = append(known, route.Source, route.Source+"/"+route.Schema+"."+route.Table)
		}
	}
	if len(subjects) > 0 && len(known) > 0 {
		return terminal.Usage(terminal.Nearest("source or table", subjects[0], known))
	}
	return &trouble.Error{
		Code: trouble.NoTopics, Op: "read", Subject: "the topics that rules write", Cause: errors.New("there is none: no capture has published yet, or the rules name others"),
		Hint: "sink rules match     which topics there are, and which rule writes them",
	}
}

// among says whether a topic is of one of subjects.
func among(subjects []string, topic string) bool {
	source, schema, table, _ := record.ParseTopic(topic)
	for _, text := range subjects {
		wantedSource, wantedTable, _ := Subject(text)
		if wantedTable == "" {
			wantedTable = "*"
		}
		if config.Fits(wantedSource, source) && config.Fits(wantedTable, schema+"."+table) {
			return true
		}
	}
	return len(subjects) == 0
}

func (o *Operator) tailed(ctx context.Context, r *kgo.Record, values bool) (*Tailed, error) {
	if r.Value == nil {
		return nil, nil // a tombstone says what the record before it said
	}
	source, schema, table, _ := record.ParseTopic(r.Topic)
	one := &Tailed{
		Source: source, Table: schema + "." + table, Partition: r.Partition, Offset: r.Offset, At: r.Timestamp.UTC(),
		Key: []terminal.TailColumn{}, Columns: []terminal.TailColumn{},
	}
	v, err := o.versions.version(ctx, r)
	var ev change.Event
	if err == nil {
		if _, err = v.decoder.Decode(r.Value, &ev, nil); err != nil {
			err = invalid(r, err)
		}
	}
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		one.Result = "error: " + err.Error() // the sink holds the table here; what follows is told all the same
		return one, nil
	}
	p := v.plan
	one.Target, one.At, one.Position, one.Op = p.Target.String(), time.UnixMicro(ev.Tx.CommitTime).UTC(), ev.Position.String(), ev.Op.String()
	row := ev.After
	if row == nil {
		row = ev.Before
	}
	for _, k := range p.Relation.Key {
		if k < len(row) {
			one.Key = append(one.Key, tailColumn(p.Relation.Columns[k].Name, row[k], values, p.Masked(k)))
		}
	}
	var c rule.Change
	out := fateOf(p, &ev, &c)
	one.Result = out.text
	for i := range c.After {
		if out.written {
			one.Columns = append(one.Columns, tailColumn(p.Columns[i].Name, c.After[i], values, false))
		}
	}
	return one, nil
}

func tailColumn(name string, v change.Value, values, hidden bool) terminal.TailColumn {
	c := terminal.TailColumn{Name: name, Unchanged: v.State == change.Unchanged}
	if values && v.State == change.Present {
		text := string(v.Text)
		if hidden {
			text = "***"
		}
		c.Value = &text
	}
	return c
}
