package sink

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tributary-cdc/tributary/pkg/registry"
	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/schema"
	"github.com/tributary-cdc/tributary/schema/change"
	"github.com/tributary-cdc/tributary/schema/record"
	"github.com/tributary-cdc/tributary/sink/rule"
)

// versions remembers decoder and plan of each schema of each topic. It is one goroutine's, as a decoder is.
type versions struct {
	registry *registry.Client
	rules    *rule.Set
	latest   *newest
	tops     map[string]*top
	plans    map[planKey]*versionPlan
}

type planKey struct {
	topic string
	id    int // of the schema
	key   int // of the key's schema; 0 for none
	older bool
}

// top is the newest version of a table by whose names its rule is to be read.
type top struct {
	id       int
	reached  change.Position // older versions at positions up to this
	relation *schema.Relation
}

// versionPlan is what one schema of one topic needs.
type versionPlan struct {
	decoder *record.Decoder
	plan    *rule.Plan
}

func newVersions(client *registry.Client, rules *rule.Set, latest *newest) *versions {
	return &versions{registry: client, rules: rules, latest: latest, tops: map[string]*top{}, plans: map[planKey]*versionPlan{}}
}

// top gives that of a topic; nil where names in the rule mean the columns that have them in each version. With again it is looked up
// anew.
func (vs *versions) top(ctx context.Context, topic string, route *rule.Route, again bool) (*top, error) {
	if t, known := vs.tops[topic]; known && !again {
		return t, nil
	}
	if !route.NamesColumns() {
		return nil, nil
	}
	id, reached, err := vs.latest.of(ctx, topic, again)
	if err != nil {
		return nil, err
	}
	var t *top
	if id != 0 {
		text, err := vs.registry.Schema(ctx, id)
		if err != nil {
			return nil, schemaTrouble(fmt.Sprintf("topic %q", topic), err)
		}
		decoder, err := record.NewDecoder(text)
		if err != nil {
			return nil, schemaTrouble(fmt.Sprintf("topic %q", topic), fmt.Errorf("%w: number %d: %w", registry.ErrInvalidSchema, id, err))
		}
		t = &top{id, reached, decoder.Relation()}
		switch settled := rule.Numbered(t.relation); { // if not, capture finds the attnums when it looks at the catalog next
		case !settled && !again:
			return vs.top(ctx, topic, route, true)
		case !settled:
			t = nil
		}
	}
	vs.tops[topic] = t
	return t, nil
}

// over says whether a record is of an older version than t.
func (t *top) over(r *kgo.Record, id int) bool {
	if t == nil || id == t.id {
		return false
	}
	h, err := headersOf(r)
	return err == nil && h.known && h.position.Compare(t.reached) <= 0
}

// newest gives decoder and plan for the newest version of a topic's table.
func (vs *versions) newest(ctx context.Context, topic string) (*versionPlan, error) {
	id, text, err := vs.latest.schema(ctx, vs.registry, topic)
	if err != nil {
		return nil, err
	}
	r := &kgo.Record{Topic: topic, Value: record.AppendFrame(nil, id)}
	if _, err := record.NewDecoder(text); errors.Is(err, record.ErrDebezium) { // which columns are the key is told by its schema alone
		return vs.keyed(ctx, r)
	}
	return vs.version(ctx, r)
}

// newestPlan is the plan for the newest version of a table, or why there is none.
type newestPlan struct {
	topic string
	plan  *rule.Plan
	err   error
}

// unknown says whether the registry has no schema of the topic: nothing may have been written to it yet.
func (n newestPlan) unknown() bool { return errors.Is(n.err, registry.ErrUnknownSchema) }

// How the registry is asked about many topics: so many at once, and for so long about one.
const (
	lookups       = 16
	lookupTimeout = 5 * time.Second
)

// newestPlans applies the rules to the newest version of the table of each topic, in the order of topics. err is for a
// registry that cannot be asked; the first topic that shows it ends the looking.
func newestPlans(ctx context.Context, client *registry.Client, rules *rule.Set, latest *newest, topics []string) ([]newestPlan, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	out := make([]newestPlan, len(topics))
	var next atomic.Int64
	var group sync.WaitGroup
	for range min(lookups, len(topics)) {
		group.Go(func() {
			versions := newVersions(client, rules, latest)
			for i := int(next.Add(1)) - 1; i < len(topics) && ctx.Err() == nil; i = int(next.Add(1)) - 1 {
				out[i].topic = topics[i]
				attempt, done := context.WithTimeout(ctx, lookupTimeout)
				v, err := versions.newest(attempt, topics[i])
				done()
				switch {
				case err == nil:
					out[i].plan = v.plan
				case ofRegistry(err):
					cancel(err)
				default:
					out[i].err = err
				}
			}
		})
	}
	group.Wait()
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	return out, nil
}

// version gives decoder and plan for the schema of a record.
func (vs *versions) version(ctx context.Context, r *kgo.Record) (*versionPlan, error) {
	id, _, err := record.ParseFrame(r.Value)
	if err != nil {
		return nil, invalid(r, err)
	}
	k := planKey{topic: r.Topic, id: id}
	if keyID, _, err := record.ParseFrame(r.Key); err == nil {
		k.key = keyID
	}
	k.older = vs.tops[r.Topic].over(r, id)
	if v := vs.plans[k]; v != nil {
		return v, nil
	}
	decoder, err := vs.decoder(ctx, r, k)
	if err != nil {
		return nil, err
	}
	route, ok := matchTopic(vs.rules, r.Topic)
	if !ok {
		return nil, &trouble.Error{Code: trouble.Internal, Op: "apply", Subject: where(r), Cause: errors.New("no rule matches the topic")}
	}
	// A registry that lost its schemas gives their numbers again, to those of other tables, and of tables of this name of other
	// sources. To another version of this very table it does not: its capture registers nothing before the old numbers are back.
	if !decoder.Debezium() && !decoder.Of(route.Source, route.Schema, route.Table) {
		return nil, schemaTrouble(where(r), fmt.Errorf("%w: number %d is one of table %q, of another source or name", registry.ErrUnknownSchema, id, decoder.Relation().QualifiedName()))
	}
	plan, err := vs.plan(ctx, r, route, &k, decoder.Relation())
	if err != nil {
		return nil, err
	}
	for _, i := range plan.Reads() {
		if err := decoder.Refused(i); err != nil {
			return nil, route.Refuse(err, decoder.Relation().Columns[i].Name)
		}
	}
	// The same relation under another id (another source's, or registered twice) is the same plan.
	for other, v := range vs.plans {
		if other.topic == r.Topic && other.older == k.older && v.plan.Relation.Equal(plan.Relation) {
			plan = v.plan
		}
	}
	v := &versionPlan{decoder: decoder, plan: plan}
	vs.plans[k] = v
	return v, nil
}

// plan applies the route to the version that a record is of, and says in k which it is.
func (vs *versions) plan(ctx context.Context, r *kgo.Record, route *rule.Route, k *planKey, rel *schema.Relation) (*rule.Plan, error) {
	for again := false; ; again = true {
		t, err := vs.top(ctx, r.Topic, route, again)
		if err != nil {
			return nil, err
		}
		var p *rule.Plan
		if k.older = t.over(r, k.id); k.older {
			p, err = route.CompileOlder(rel, t.relation)
		} else {
			p, err = route.Compile(rel)
		}
		// A rule that fits neither may be of a version that came after what is known.
		if err == nil || again || !route.NamesColumns() {
			return p, err
		}
	}
}

// decoder makes the decoder for the schemas of a record.
func (vs *versions) decoder(ctx context.Context, r *kgo.Record, k planKey) (*record.Decoder, error) {
	text, err := vs.registry.Schema(ctx, k.id)
	if err != nil {
		return nil, schemaTrouble(where(r), err)
	}
	decoder, err := record.NewDecoder(text)
	if errors.Is(err, record.ErrDebezium) {
		var key string
		if k.key != 0 {
			if key, err = vs.registry.Schema(ctx, k.key); err != nil {
				return nil, schemaTrouble(where(r), err)
			}
		} else if r.Key != nil {
			return nil, invalid(r, errors.New("its key is not Avro in the Confluent wire format: which columns are the key cannot be told"))
		}
		decoder, err = record.NewDebeziumDecoder(text, key)
	}
	if err != nil {
		return nil, invalid(r, err)
	}
	return decoder, nil
}
