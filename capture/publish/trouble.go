package publish

import (
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tributary-cdc/tributary/pkg/registry"
	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/schema"
	"github.com/tributary-cdc/tributary/schema/change"
	"github.com/tributary-cdc/tributary/schema/record"
)

// OneTable is a trouble that keeps one table from being published and no other: what is wrong is its row, its schema or
// its topic. The Kafka transaction with everything else is as good as before.
type OneTable struct{ Err *trouble.Error }

func (e *OneTable) Error() string { return e.Err.Error() }

// Unwrap gives the trouble.
func (e *OneTable) Unwrap() error { return e.Err }

// Refusal is a record that the brokers refuse and that no check of ours has found: a limit of theirs is lower than the
// one that we know. The Kafka transaction with it is lost; the next one must not try again.
type Refusal struct {
	Topic string
	At    change.Position // of the first record that was refused
	Err   *trouble.Error
}

func (r *Refusal) Error() string { return r.Err.Error() }

// Unwrap gives the trouble.
func (r *Refusal) Unwrap() error { return r.Err }

// Refusals are the refusals so far, by topic. One goroutine at a time.
type Refusals map[string]*Refusal

// Add notes a refusal. A topic that is refused once more, below the position noted, takes nothing at all.
func (all Refusals) Add(r *Refusal) {
	if all[r.Topic] != nil {
		r.At = change.Position{}
	}
	all[r.Topic] = r
}

func (all Refusals) of(topic string, at change.Position) error {
	if r := all[topic]; r != nil && at.Compare(r.At) >= 0 {
		return &OneTable{r.Err}
	}
	return nil
}

// refusal gives e as a Refusal of r, if it is one.
func refusal(r *kgo.Record, e *trouble.Error) error {
	if e.Code != trouble.RecordTooLarge || len(r.Headers) == 0 || r.Headers[0].Key != record.HeaderPosition {
		return e
	}
	at, err := change.ParsePosition(r.Headers[0].Value)
	if err != nil {
		return e
	}
	return &Refusal{Topic: r.Topic, At: at, Err: e}
}

func notEncoded(what, subject string, err error) error {
	return &OneTable{&trouble.Error{
		Code: trouble.RecordInvalid, Op: "encode " + what, Subject: subject, Cause: err,
		Means: "nothing after it is published; the source keeps its WAL",
		Hint:  trouble.Report("capture"),
	}}
}

// topicTrouble gives an error of making or finding a table's topic.
func topicTrouble(err error) error {
	e, ok := errors.AsType[*trouble.Error](err)
	if ok && (e.Code == trouble.TopicName || errors.Is(err, kerr.PolicyViolation)) {
		return &OneTable{e}
	}
	return err
}

func tooLarge(t *Table, ev *change.Event, size int) error {
	return &OneTable{&trouble.Error{
		Code: trouble.RecordTooLarge, Op: "publish a row of", Subject: fmt.Sprintf("table %q at %s%s", t.Relation.QualifiedName(), ev.Position, keyOf(t.Relation, ev)),
		Cause: fmt.Errorf("it takes %d bytes, topic %q takes %d", size, t.topic.name, t.topic.maxBytes),
		Means: "nothing after it is published; the source keeps its WAL",
		Hint:  "raise topics.max_message_bytes, and max.message.bytes of the topic and message.max.bytes of the broker with it",
	}}
}

// keyOf tells the key of an event's row, "" where there is none.
func keyOf(rel *schema.Relation, ev *change.Event) string {
	row := ev.After
	if ev.Op == change.Delete {
		row = ev.Before
	}
	if row == nil {
		return ""
	}
	var names, values []string
	for _, k := range rel.Key {
		names, values = append(names, rel.Columns[k].Name), append(values, string(row[k].Text))
	}
	return trouble.Key(names, values)
}

func registryTrouble(rel *schema.Relation, err error) error {
	refused := &trouble.Error{
		Code: trouble.SchemaIncompatible, Op: "register the schemas of", Subject: fmt.Sprintf("table %q", rel.QualifiedName()), Cause: err,
		Means: "nothing after it is published, the source keeps its WAL",
	}
	switch {
	case errors.Is(err, registry.ErrIncompatible):
		refused.Means = "the table has changed in a way that the registry's rules for this subject refuse; " + refused.Means
		refused.Hint = "set the compatibility of the subject to NONE in the registry: readers of ours use the schema that a record was written with"
		return &OneTable{refused}
	case errors.Is(err, registry.ErrInvalidSchema):
		refused.Means = "the registry does not take the table's schema for one of Avro; " + refused.Means
		refused.Hint = "its words say what it does not take, mostly a name or a default: alter that at the source, or have the registry validate less. Else " + trouble.Report("capture")
		return &OneTable{refused}
	case errors.Is(err, registry.ErrTooLarge):
		refused.Means = "the table's schema is larger than the registry, or a proxy before it, takes: defaults of columns are part of it; " + refused.Means
		refused.Hint = "raise the limit of the proxy (nginx: client_max_body_size), or shorten the default at the source"
		return &OneTable{refused}
	}
	if errors.Is(err, registry.ErrLost) {
		return LostSchemas("register the schemas of", fmt.Sprintf("table %q", rel.QualifiedName()), err)
	}
	return registry.Trouble("register the schemas of", fmt.Sprintf("table %q", rel.QualifiedName()), err)
}

// LostSchemas is why nothing is published with what a registry says: the numbers that it gives mean other schemas in the topics.
func LostSchemas(op, subject string, cause error) *trouble.Error {
	return &trouble.Error{
		Code: trouble.SchemaUnknown, Op: op, Subject: subject, Cause: cause,
		Means: "the registry lost its schemas, or is another one: the numbers that it gives have another meaning in the topics; nothing was written with them",
		Hint:  "restore the registry's schemas, or point registry.url to the one that has them; without either, begin anew under another source.name",
	}
}
