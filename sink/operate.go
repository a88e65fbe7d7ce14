package sink

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tributary-cdc/tributary/pkg/kafka"
	"github.com/tributary-cdc/tributary/pkg/registry"
	"github.com/tributary-cdc/tributary/pkg/retry"
	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/schema/change"
	"github.com/tributary-cdc/tributary/schema/record"
	"github.com/tributary-cdc/tributary/sink/batch"
	"github.com/tributary-cdc/tributary/sink/consume"
	"github.com/tributary-cdc/tributary/sink/rule"
	"github.com/tributary-cdc/tributary/sink/warehouse"
)

// Operator does what people ask of a group from outside: it works on the warehouse, whether or not a sink runs, and
// every running one takes notice. What it changes leaves a row in tributary.operation. It is not safe for concurrent
// use. Close it.
type Operator struct {
	warehouse *warehouse.Warehouse
	session   *warehouse.Session
	registry  *registry.Client
	versions  *versions
	rules     *rule.Set
	outlook   *outlook
}

// NewOperator makes an operator. It does no I/O beyond reading files that the configuration names.
func NewOperator(cfg Config) (*Operator, error) {
	rules, err := cfg.Rules()
	if err != nil {
		return nil, err
	}
	client, err := registry.New(cfg.Registry)
	if err != nil {
		return nil, err
	}
	w := warehouse.New(warehouse.Config{DSN: cfg.Warehouse.DSN.Reveal, Group: cfg.Group, Instance: service.Instance(), Log: service.Log(cfg.Log)})
	return &Operator{warehouse: w, session: w.Session(), registry: client, versions: newVersions(client, rules, newNewest(cfg.Kafka, service.Log(cfg.Log))), rules: rules, outlook: newOutlook("")}, nil
}

// Rules compiles the rules of a configuration.
func (c Config) Rules() (*rule.Set, error) {
	rules, err := rule.New(c.Sources, c.Tables, c.Salt)
	if err != nil {
		return nil, &trouble.Error{Code: trouble.Config, Op: "read", Subject: "rules", Cause: err}
	}
	return rules, nil
}

// Whole says whether a source is written as a whole, by its consistency.
func (o *Operator) Whole(source string) bool { return o.rules.Whole(source) }

// Close ends its connections.
func (o *Operator) Close(ctx context.Context) {
	o.session.Close(ctx)
	o.registry.Close()
	if o.outlook.looker != nil {
		o.outlook.looker.Close()
	}
}

// Parked lists what is parked, at most limit records (0: all), in order of table, partition and offset.
func (o *Operator) Parked(ctx context.Context, sel warehouse.Selection, limit int) ([]warehouse.ParkedRecord, error) {
	return o.session.ListParked(ctx, sel, limit)
}

// Shown is a parked record as people are shown it.
type Shown struct {
	Op      string        // "insert"; "" if the record cannot be decoded
	Key     string        // ", key (id) = (4711)", "" likewise
	Columns []ShownColumn // what it would write
}

// ShownColumn is a column of a record. Value is nil for NULL.
type ShownColumn struct {
	Name      string
	Value     *string
	Unchanged bool // the source did not send the value
}

// Show decodes a parked record. Without values only the key is taken from it.
func (o *Operator) Show(ctx context.Context, p *warehouse.ParkedRecord, values bool) (Shown, error) {
	var ev change.Event
	v, err := o.versions.version(ctx, recordOf(p))
	if err != nil {
		return Shown{}, err
	}
	if _, err := v.decoder.Decode(p.Value, &ev, nil); err != nil {
		return Shown{}, err
	}
	out := Shown{Op: ev.Op.String(), Key: keyText(v, &ev)}
	row := ev.After
	if row == nil {
		row = ev.Before
	}
	if !values {
		return out, nil
	}
	for i, c := range v.plan.Relation.Columns {
		if i >= len(row) {
			break
		}
		shown := ShownColumn{Name: c.Name, Unchanged: row[i].State == change.Unchanged}
		if row[i].State == change.Present {
			text := printable(string(row[i].Text))
			if v.plan.Masked(i) {
				text = "***"
			}
			shown.Value = &text
		}
		out.Columns = append(out.Columns, shown)
	}
	return out, nil
}

// Retried is what became of a retry.
type Retried struct {
	Applied int // records
	Failed  []RetryFailure
}

// RetryFailure is one group of records that stays parked: all of one key, and of the keys it moved to and from.
type RetryFailure struct {
	Topic     string
	Partition int32
	Offsets   []int64
	Err       error
}

// Retry applies parked records, each with all that is parked of its key, in their order. What fails stays parked. The
// error is of the warehouse as a whole, or a failure that concerns every record.
func (o *Operator) Retry(ctx context.Context, sel warehouse.Selection) (out Retried, err error) {
	records, err := o.session.ListParked(ctx, sel, 0)
	if err != nil {
		return out, err
	}
	type place struct {
		topic     string
		partition int32
		offset    int64
	}
	dealtWith := map[place]bool{}
	for i := range records {
		at := &records[i]
		if dealtWith[place{at.Topic, at.Partition, at.Offset}] {
			continue
		}
		at.Value = nil // it is read anew with the others of its key
		// Targets are looked up on a connection of its own: the other one holds the transaction.
		lookup := o.warehouse.Session()
		done, err := o.session.Retry(ctx, *at, func(records []warehouse.ParkedRecord) ([]warehouse.Unit, error) {
			return o.fold(ctx, lookup, records)
		})
		lookup.Close(ctx)
		if errors.Is(err, warehouse.ErrNotParked) {
			continue
		}
		if err != nil && (ctx.Err() != nil || len(done) == 0 || retry.Transient(err)) {
			return out, err
		}
		failure := RetryFailure{Topic: at.Topic, Partition: at.Partition, Err: err}
		for j := range done {
			dealtWith[place{at.Topic, at.Partition, done[j].Offset}] = true
			failure.Offsets = append(failure.Offsets, done[j].Offset)
		}
		if err != nil {
			out.Failed = append(out.Failed, failure)
		} else {
			out.Applied += len(done)
		}
	}
	return out, nil
}

// fold makes units of parked records, in their order.
func (o *Operator) fold(ctx context.Context, lookup *warehouse.Session, records []warehouse.ParkedRecord) ([]warehouse.Unit, error) {
	type folded struct {
		topic string
		fold  *batch.Fold
		plan  *rule.Plan
		at    change.Position // of the first of its records
	}
	var units []folded
	var events [2]change.Event
	for i := 0; i < len(records); i++ {
		r := recordOf(&records[i])
		h, err := headersOf(r)
		if err != nil {
			return nil, invalid(r, err)
		}
		v, err := o.versions.version(ctx, r)
		if err != nil {
			return nil, err
		}
		if _, err := v.decoder.Decode(r.Value, &events[0], nil); err != nil {
			return nil, invalid(r, err)
		}
		if n := len(units); n == 0 || units[n-1].plan != v.plan {
			f := &batch.Fold{}
			f.Begin(v.plan)
			units = append(units, folded{r.Topic, f, v.plan, h.position})
		}
		fold := units[len(units)-1].fold
		if h.newKey != nil && i+1 < len(records) {
			other := recordOf(&records[i+1])
			second, err := headersOf(other)
			if err == nil && second.oldKey != nil && follows(h.position, second.position) {
				if v2, err := o.versions.version(ctx, other); err != nil || v2.plan != v.plan {
					return nil, invalid(other, errors.New("the halves of a change of a key have different schemas"))
				}
				if _, err := v.decoder.Decode(other.Value, &events[1], nil); err != nil {
					return nil, invalid(other, err)
				}
				if err := fold.Move(&events[0], &events[1]); err != nil {
					return nil, invalid(r, err)
				}
				i++
				continue
			}
		}
		h.place(&events[0], r)
		if err := fold.Add(&events[0], h.newKey != nil || h.oldKey != nil, h.reload); err != nil {
			return nil, invalid(r, err)
		}
	}
	var out []warehouse.Unit
	for _, u := range units {
		target, err := lookup.Prepare(ctx, u.plan, u.topic, u.at)
		if err != nil {
			return nil, err
		}
		out = append(out, warehouse.Unit{Topic: u.topic, Result: u.fold.Result(target.Carries()), Target: target})
	}
	return out, nil
}

// recordOf gives a parked record back as Kafka had it.
func recordOf(p *warehouse.ParkedRecord) *kgo.Record {
	r := &kgo.Record{Topic: p.Topic, Partition: p.Partition, Offset: p.Offset, Key: p.Key, Value: p.Value}
	for name, value := range p.Headers {
		r.Headers = append(r.Headers, kgo.RecordHeader{Key: name, Value: value})
	}
	return r
}

// Discard deletes parked records, and gives how many. They will not be applied: the warehouse lacks them, Kafka keeps
// them.
func (o *Operator) Discard(ctx context.Context, sel warehouse.Selection, reason string) (int64, error) {
	return o.session.Discard(ctx, sel, reason)
}

// Pause asks every sink of the group to stop writing a table, a source, or everything ("", ""), for a time or, with 0,
// until Resume. They do so within a second or two, after what they are writing.
func (o *Operator) Pause(ctx context.Context, source, table, reason string, d time.Duration) error {
	p := warehouse.Pause{Source: source, Table: table, Reason: reason}
	if d > 0 {
		until := time.Now().Add(d)
		p.Until = &until
	}
	return o.session.SetPause(ctx, p)
}

// Pauses lists what is paused.
func (o *Operator) Pauses(ctx context.Context) ([]warehouse.Pause, error) {
	return o.session.Pauses(ctx)
}

// Quarantines lists what is quarantined of what is to go on.
func (o *Operator) Quarantines(ctx context.Context, g warehouse.Going) ([]warehouse.Quarantine, error) {
	all, err := o.session.Quarantines(ctx)
	return slices.DeleteFunc(all, func(q warehouse.Quarantine) bool { return !g.Takes(&q) }), err
}

// Resume ends a pause and has quarantined tables tried again, behind a remedy for the record that each is held at.
func (o *Operator) Resume(ctx context.Context, g warehouse.Going) (warehouse.Resumed, error) {
	return o.session.Resume(ctx, g)
}

// Resuming gives what tells how many partitions of those that Resume let go on are past the record that they were held at, and what
// is missing still, "" for nothing. An error says that one is held again.
func (o *Operator) Resuming(g warehouse.Going, resumed []warehouse.Quarantine) func(context.Context) (done int, lacks string, err error) {
	return func(ctx context.Context) (done int, lacks string, err error) {
		next, err := o.session.Checkpoints(ctx)
		if err != nil {
			return 0, "", err
		}
		held, err := o.session.Quarantines(ctx)
		if err != nil {
			return 0, "", err
		}
		for i := range resumed {
			q := &resumed[i]
			past := next[warehouse.Place{Topic: q.Topic, Partition: q.Partition}] > q.Next
			if i := slices.IndexFunc(held, func(h warehouse.Quarantine) bool { return h.Topic == q.Topic && h.Partition == q.Partition }); i >= 0 {
				h := &held[i]
				means := fmt.Sprintf("it was tried, and is held there again: offset %d", h.Next)
				if past {
					means = fmt.Sprintf("it is past offset %d, and held at offset %d now", q.Next, h.Next)
				}
				// A row without a remedy is of an attempt that failed: one that was asked for stays until it is over.
				if h.Next != q.Next && past || h.Remedy == warehouse.TryAgain && !past {
					return 0, "", heldAgain(h, "resume", means)
				}
			}
			if past {
				done++
			} else {
				lacks = fmt.Sprintf("no sink of the group has come past offset %d of %s", q.Next, q.Part())
			}
		}
		return done, lacks, nil
	}
}

// heldAgain is the trouble of what is waited for, and held.
func heldAgain(q *warehouse.Quarantine, op, means string) error {
	return &trouble.Error{
		Code: trouble.Code(q.Code), Op: op, Subject: q.Name(), Cause: errors.New(q.Message), Means: means, Hint: strings.ReplaceAll(q.Hint, "SOURCE/TABLE", service.Quote(q.Name())),
	}
}

// Status gives what the warehouse and Kafka know of the group, for when no sink answers. How fast it goes is known when it is asked for
// again.
func (o *Operator) Status(ctx context.Context, cfg Config) (*Status, error) {
	st := &Status{
		Schema: statusSchema, Group: cfg.Group, Build: service.ThisBuild(), State: service.StateUpToDate, WarehouseUp: true,
		Waiting: []Waiting{}, Sources: []SourceStatus{}, Tables: []TableStatus{}, Unmatched: []string{}, Stages: []service.StageState{},
		Events: []service.Event{}, Members: []Member{}, Locks: []Lock{}, FreshnessSeconds: cfg.Freshness.Seconds(), accept: cfg.accepted(),
	}
	sources, err := o.session.Sources(ctx)
	if trouble.CodeOf(err) == trouble.TargetMissing {
		st.summarise()
		st.State, st.Headline = service.StateNotRunning, "is not running: no sink has run in this warehouse yet."
		return st, nil
	}
	if err != nil {
		return nil, err
	}
	quarantines, err := o.session.Quarantines(ctx)
	if err != nil {
		return nil, err
	}
	pauses, err := o.session.Pauses(ctx)
	if err != nil {
		return nil, err
	}
	parked, err := o.session.CountParked(ctx)
	if err != nil {
		return nil, err
	}
	tables, err := o.session.Tables(ctx)
	if err != nil {
		return nil, err
	}
	var retained map[string]warehouse.Expired
	if o.rules.AnyKeep() {
		if retained, err = o.session.Retained(ctx); err != nil {
			return nil, err
		}
	}
	former, err := o.session.Formers(ctx)
	if err != nil {
		return nil, err
	}
	formers := byTopic(former)
	quarantined := map[string]*Trouble{}
	for _, q := range quarantines {
		quarantined[q.Topic] = &Trouble{q.Code, q.Message, q.Hint, q.Topic, q.Partition, q.Next, q.Since.UTC()}
	}
	st.unfollowed = unfollowedOf(o.rules, quarantined)
	late := lateness(sources)
	tables = slices.DeleteFunc(tables, func(t warehouse.Table) bool {
		route, ok := matchTopic(o.rules, t.Topic)
		return !ok || warehouse.Removed(pauses, route.Source)
	})
	o.lookOut(ctx, cfg, tables)
	now := time.Now()
	for _, t := range tables {
		route, _ := matchTopic(o.rules, t.Topic)
		out := TableStatus{
			Source: route.Source, Table: route.Schema + "." + route.Table, Target: route.Target.String(), State: service.StateUpToDate,
			LastCommit: t.LastCommit, FreshnessSeconds: route.Freshness(cfg.Freshness).Seconds(), Trouble: troubleOf(o.rules, quarantined, t.Topic),
			LastHour: []float32{}, Mode: route.Mode(), Topic: t.Topic, Rule: fmt.Sprintf("tables[%d]", route.Rule), ReloadSince: t.Reload, Snapshot: t.Reload != nil,
		}
		out.aside(parked[t.Topic])
		out.expired(route, retained)
		out.Former, out.sid = formerRules(route, formers[t.Topic]), route.SIDThere()
		f := service.Facts{Quarantined: out.Trouble != nil, Stopped: out.Trouble.stops(), Paused: out.pausedBy(pauses), Snapshot: out.Snapshot, Freshness: route.Freshness(cfg.Freshness)}
		at := o.outlook.stand(t.Topic, nil)
		if out.RowsPerSec, out.Unknown = at.rate, at.lost; out.Unknown == "" {
			f.Behind = at.all.behind(now)
			out.BehindSeconds, out.Records = new(service.Seconds(f.Behind)), &at.all.records
		}
		if !at.position.IsZero() {
			out.Position = at.position.String()
		}
		out.Barrier = o.outlook.truncation(t.Topic).tell(quarantines)
		if f.Barred = at.barred; f.Barred {
			out.WaitingOn = waitBarrier
		}
		if out.State = f.State(); out.State != service.StateWaiting {
			out.WaitingOn = ""
		}
		if out.Unknown != "" && out.State == service.StateUpToDate && late(out.Source) > route.Freshness(cfg.Freshness) {
			out.State = service.StateCatchingUp // as far as the source's progress tells
		}
		out.captured(sources)
		st.Tables = append(st.Tables, out)
	}
	if err := o.members(ctx, st); err != nil {
		return nil, err
	}
	st.RowsPerSecGroup = st.groupRate()
	st.addSources(sources, o.rules)
	st.summarise()
	return st, nil
}

// members tells of the sinks of the group, also where Kafka does not answer.
func (o *Operator) members(ctx context.Context, st *Status) error {
	told, _ := o.session.Presences(ctx) // who has it locked does not keep the rest from being told; anything else the next query says
	saying := presences{told, time.Now()}
	if members, ok := o.outlook.sinks(saying); ok {
		st.Members = members
		return nil
	}
	all, err := o.session.Group(ctx)
	st.Members = saying.crew(warehouse.Members(all))
	return err
}

// lookOut looks how far tables are. What cannot be asked is told where the numbers would stand.
func (o *Operator) lookOut(ctx context.Context, cfg Config, tables []warehouse.Table) {
	if o.outlook.looker == nil { // Kafka's secrets are not read before they are needed
		looker, err := consume.NewLooker(cfg.Kafka, service.Log(cfg.Log))
		if err != nil {
			o.outlook.fail("Kafka cannot be asked: " + err.Error())
			return
		}
		o.outlook.looker = looker
	}
	var topics []string
	for _, t := range tables {
		topics = append(topics, t.Topic)
	}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	_ = o.outlook.look(ctx, o.session, topics, nil, math.MaxInt) // it notes what failed
}

// applied gives what says what is missing until everything is applied that Kafka holds now, of the topics that the rules take,
// of one source or of all (""); "" when nothing is.
func (o *Operator) applied(ctx context.Context, cfg Config, source string) (func() string, error) {
	ends, err := o.endsNow(ctx, cfg)
	if err != nil {
		return nil, err
	}
	return func() string {
		done, err := o.session.Checkpoints(ctx)
		if err != nil {
			return err.Error()
		}
		var behind []string
		for p, end := range ends {
			if done[p] < end && (source == "" || sourceOf(p.Topic) == source) {
				behind = append(behind, fmt.Sprintf("topic %q partition %d is at offset %d of %d", p.Topic, p.Partition, done[p], end))
			}
		}
		if len(behind) == 0 {
			return ""
		}
		slices.Sort(behind)
		return fmt.Sprintf("%d of %d partitions are behind: %s", len(behind), len(ends), behind[0])
	}, nil
}

func (o *Operator) endsNow(ctx context.Context, cfg Config) (map[warehouse.Place]int64, error) {
	client, err := kafkaClient(cfg)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	return o.ends(ctx, kadm.NewClient(client))
}

// ends gives up to where there is something to apply.
func (o *Operator) ends(ctx context.Context, admin *kadm.Client) (map[warehouse.Place]int64, error) {
	topics, err := admin.ListTopics(ctx)
	if err != nil {
		return nil, kafka.Trouble("list topics of", "Kafka", err)
	}
	pauses, err := o.session.Pauses(ctx)
	if err != nil {
		return nil, err
	}
	var names []string
	whole := map[string]bool{}
	for _, name := range topics.Names() {
		if warehouse.Removed(pauses, sourceOf(name)) {
			continue
		}
		if source, ok := record.ParseProgressTopic(name); ok {
			if _, ok := o.rules.Source(source); ok {
				names = append(names, name)
				whole[name] = o.rules.Whole(source)
			}
		} else if r, ok := matchTopic(o.rules, name); ok && !o.rules.Whole(r.Source) {
			names = append(names, name) // the others come with their progress topic
		}
	}
	out := map[warehouse.Place]int64{}
	if len(names) == 0 {
		return out, nil
	}
	listed, err := admin.ListCommittedOffsets(ctx, names...)
	if err == nil {
		err = listed.Error()
	}
	if err != nil {
		return nil, kafka.Trouble("list offsets of", service.Plural(len(names), "topic"), err)
	}
	listed.Each(func(l kadm.ListedOffset) {
		end := l.Offset
		if whole[l.Topic] {
			end-- // the commit marker behind the newest record is passed with the next one
		}
		out[warehouse.Place{Topic: l.Topic, Partition: l.Partition}] = end
	})
	return out, nil
}

// Subject takes SOURCE/TABLE apart, as verbs are given it; either may be missing ("shop", "shop/public.orders", "").
func Subject(text string) (source, table string, err error) {
	for i := range len(text) {
		if text[i] == '/' {
			source, table = text[:i], text[i+1:]
			if source == "" || table == "" {
				return "", "", fmt.Errorf("%q is not SOURCE/TABLE; write shop/public.orders, or shop for all its tables", text)
			}
			return source, table, nil
		}
	}
	return text, "", nil
}
