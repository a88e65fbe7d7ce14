package sink

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tributary-cdc/tributary/pkg/kafka"
	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/terminal"
	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/schema/change"
	"github.com/tributary-cdc/tributary/schema/record"
	"github.com/tributary-cdc/tributary/sink/rule"
)

// tableVersion gives decoder and plan for the newest version of a table that the registry knows.
func (o *Operator) tableVersion(ctx context.Context, topic string) (*versionPlan, error) {
	if err := o.matched(topic); err != nil {
		return nil, err
	}
	return o.versions.newest(ctx, topic)
}

// matched refuses a topic that no rule writes.
func (o *Operator) matched(topic string) error {
	if _, ok := matchTopic(o.rules, topic); ok {
		return nil
	}
	return &trouble.Error{
		Code: trouble.Config, Op: "apply rules to", Subject: fmt.Sprintf("topic %q", topic), Cause: errors.New("no rule matches it, or one that says skip"),
		Means: "the table is not written", Hint: "look at sources and at from of the rules: the first that matches counts",
	}
}

// Matched is a topic and what the rules do with it.
type Matched struct {
	Topic  string `json:"topic"`
	Source string `json:"source"`
	Table  string `json:"table"`
	Target string `json:"target"` // "" where it is not written
	Mode   string `json:"mode"`
	Rule   string `json:"rule"` // "tables[1]"; "skip" where it is left out on purpose; "" where no rule matches
}

// MatchRules says of each table's topic that there is which rule writes it where. It changes nothing.
func (o *Operator) MatchRules(ctx context.Context, cfg Config) ([]Matched, error) {
	client, err := kafkaClient(cfg)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	topics, err := kadm.NewClient(client).ListTopics(ctx)
	if err != nil {
		return nil, kafka.Trouble("list topics of", "Kafka", err)
	}
	all := []Matched{}
	for _, topic := range topics.Names() {
		source, schema, table, ok := record.ParseTopic(topic)
		if !ok {
			continue
		}
		one := Matched{Topic: topic, Source: source, Table: schema + "." + table}
		if r, ok := matchTopic(o.rules, topic); ok {
			one.Target, one.Mode, one.Rule = r.Target.String(), r.Mode(), fmt.Sprintf("tables[%d]", r.Rule)
		} else if o.rules.Skipped(source, schema, table) {
			one.Rule = "skip"
		}
		all = append(all, one)
	}
	return all, nil
}

// Known says, where a verb failed as a topic or its schema is not there, which name was meant; any other error it gives back.
func (o *Operator) Known(ctx context.Context, cfg Config, topic string, failed error) error {
	if code := trouble.CodeOf(failed); code != trouble.NoTopics && code != trouble.SchemaUnknown {
		return failed
	}
	there, err := o.MatchRules(ctx, cfg)
	if err != nil {
		return failed
	}
	var known []string
	for i := range there {
		if there[i].Topic == topic {
			return failed
		}
		known = append(known, there[i].Topic)
	}
	if len(known) == 0 {
		return failed
	}
	return terminal.Usage(fmt.Errorf("%w (sink rules match lists them)", terminal.Nearest("topic", topic, known)))
}

// ExplainRule says what happens to a table of a source, step by step, in words and as the SQL that is run. It changes
// nothing.
func (o *Operator) ExplainRule(ctx context.Context, topic string, w io.Writer) error {
	out := terminal.To(w)
	v, err := o.tableVersion(ctx, topic)
	if err != nil {
		return err
	}
	p := v.plan
	in, err := o.session.Inspect(ctx, p)
	if err != nil {
		return err
	}
	if err := explainPlan(out, p); err != nil {
		return err
	}
	if len(in.Changes) > 0 {
		out.Printf("\nFirst, on the target\n")
		for _, sql := range in.Changes {
			out.Printf("  %s;\n", sql)
		}
	}
	if len(in.Ahead) > 0 {
		out.Printf("\nPartitions that it lacks\n")
		for i := range in.Ahead {
			out.Printf("  %s %s\n", in.Ahead[i].Name, in.Ahead[i].Bounds)
		}
	}
	out.Printf("\nAs SQL, for a batch of rows; $1 is the sid where there is one\n")
	for _, sql := range in.Statements {
		out.Printf("  %s;\n", sql)
	}
	if in.Index != "" {
		out.Printf("\nNo unique index on the key: each UPDATE and DELETE reads the whole table\n  %s\n", in.Index)
	}
	out.Printf("\nTry it on real records, writing nothing: sink rules test --source %s --table %s.%s --last 100\n", p.Source, p.Schema, p.Table)
	return nil
}

// explainPlan says in words what a plan does.
func explainPlan(out *terminal.Output, p *rule.Plan) error {
	out.Printf("%s\n", ruleHead(p))
	out.Printf("\nColumns\n")
	table := tabwriter.NewWriter(out.Out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(table, "  SOURCE\tTYPE\tTARGET\tTYPE\tHOW")
	for _, s := range p.Steps() {
		cells := []string{s.From, s.FromType, s.To, s.ToType, s.How}
		for i := range cells {
			cells[i] = cmp.Or(terminal.Clean(cells[i]), "-")
		}
		fmt.Fprintf(table, "  %s\n", strings.Join(cells, "\t"))
	}
	if err := table.Flush(); err != nil {
		return err
	}
	if p.Filter() != "" {
		out.Printf("\nRows for which %s\n", p.Filter())
	}
	out.Printf("\nWhat happens to\n")
	for _, m := range p.Meanings() {
		out.Printf("  %-11s %s\n", m[0], m[1])
	}
	for _, warning := range p.Warnings() {
		out.Printf("\nMind: %s\n", warning)
	}
	return nil
}

func ruleHead(p *rule.Plan) string {
	head := fmt.Sprintf("%s %s.%s -> %s        %s, mode %s", p.Source, p.Schema, p.Table, p.Target, p.Where(), p.Mode)
	if p.Filter() != "" {
		head += ", filter " + p.Filter()
	}
	return head
}

// trial is what a rule did to records in TestRule.
type trial struct {
	seen, written, left, entered, removed, ignored, failed int
	collisions                                             map[string]map[string]bool // target key: keys of the source
	lines                                                  []string
}

// Trial says on which records a rule is tried, and what of it is told.
type Trial struct {
	Records int   // of each partition, at most
	Offset  int64 // the first; -1: the last Records
	Values  bool  // rows before and after
	// Other are rules of another configuration: only records are told of which these make something else.
	Other *rule.Set
}

// TestRule tries the rule of a topic on records of it, and says what became of them. It writes nothing.
func (o *Operator) TestRule(ctx context.Context, cfg Config, topic string, q Trial, w io.Writer) error {
	out := terminal.To(w)
	if err := o.matched(topic); err != nil {
		return err
	}
	if q.Other != nil {
		return o.compareRules(ctx, cfg, topic, q, out)
	}
	records, err := lastOf(ctx, cfg, topic, q)
	if err != nil {
		return err
	}
	if len(records) == 0 {
		out.Printf("topic %s has no records there\n", topic)
		return nil
	}
	values := q.Values
	t := &trial{collisions: map[string]map[string]bool{}}
	var plan *rule.Plan
	for _, r := range records {
		if plan, err = o.try(ctx, t, r, values); err != nil {
			return err
		}
	}
	collide := 0
	for _, sources := range t.collisions {
		if len(sources) > 1 {
			collide++
		}
	}
	first, end := records[0], records[len(records)-1]
	out.Printf("%s\n\n%s, offsets %d to %d, committed %s to %s; nothing is written\n", ruleHead(plan), service.Plural(t.seen, "record"), first.Offset, end.Offset,
		first.Timestamp.UTC().Format(time.TimeOnly), end.Timestamp.UTC().Format(time.TimeOnly))
	for _, line := range []struct {
		n    int
		text string
	}{
		{t.written, "written"},
		{t.left, "left out by the filter"},
		{t.entered, "of the written come into the filter by an UPDATE"},
		{t.removed, "removed: deletes, and rows that leave the filter"},
		{t.ignored, "ignored (ignore)"},
		{t.failed, "errors"},
		{collide, "target keys of more than one row of the source"},
	} {
		out.Printf("%5d %s\n", line.n, line.text)
	}
	out.Printf("\n")
	for _, line := range t.lines {
		out.Printf("%s\n", line)
	}
	return nil
}

// compareRules tells the records of which the rules of another configuration make something else than these.
func (o *Operator) compareRules(ctx context.Context, cfg Config, topic string, q Trial, out *terminal.Output) error {
	records, err := lastOf(ctx, cfg, topic, q)
	if err != nil {
		return err
	}
	_, written := matchTopic(q.Other, topic)
	other := newVersions(o.registry, q.Other, o.versions.latest)
	differ := 0
	var lines []string
	for _, r := range records {
		now, err := outcomeOf(ctx, o.versions, r)
		if err != nil {
			return err
		}
		was := unwritten
		if written {
			if was, err = outcomeOf(ctx, other, r); err != nil {
				return err
			}
		}
		if now.target == was.target && now.text == was.text && now.row == was.row {
			continue
		}
		differ++
		lines = append(lines, fmt.Sprintf("%d/%d  %-8s %s", r.Partition, r.Offset, now.op, shownKey(now.key, q.Values)),
			"      -  "+was.told(&now, q.Values), "      +  "+now.told(&was, q.Values))
	}
	out.Printf("%d records, %d of them otherwise (- the other configuration, + this one); nothing is written\n", len(records), differ)
	for _, line := range lines {
		out.Printf("%s\n", line)
	}
	return nil
}

// outcomeText is what becomes of a record, as text.
type outcomeText struct{ op, key, target, text, row string }

// unwritten is that of a table that no rule writes.
var unwritten = outcomeText{target: "not written", text: "no rule matches"}

func outcomeOf(ctx context.Context, versions *versions, r *kgo.Record) (out outcomeText, err error) {
	v, err := versions.version(ctx, r)
	if err != nil {
		return out, err
	}
	var ev change.Event
	if _, err := v.decoder.Decode(r.Value, &ev, nil); err != nil {
		return out, invalid(r, err)
	}
	var c rule.Change
	f := fateOf(v.plan, &ev, &c)
	out = outcomeText{op: ev.Op.String(), key: keyText(v, &ev), target: fmt.Sprintf("%s, %s", v.plan.Target, v.plan.Mode), text: f.text}
	if c.After != nil && c.Is {
		out.row = shownRow(c.After, func(i int) string { return v.plan.Columns[i].Name }, func(int) bool { return false })
	}
	return out, nil
}

// told gives what is not the same in other; the row only with values.
func (o *outcomeText) told(other *outcomeText, values bool) string {
	text := o.target + ": " + o.text
	switch {
	case o.row == other.row || o.row == "":
	case values:
		text += "  " + o.row
	case other.row != "":
		text += ", another row (--values)"
	}
	return text
}

// try maps one record.
func (o *Operator) try(ctx context.Context, t *trial, r *kgo.Record, values bool) (*rule.Plan, error) {
	v, err := o.versions.version(ctx, r)
	if err != nil {
		return nil, err
	}
	var ev change.Event
	if _, err := v.decoder.Decode(r.Value, &ev, nil); err != nil {
		return nil, invalid(r, err)
	}
	t.seen++
	var c rule.Change
	out := fateOf(v.plan, &ev, &c)
	t.count(out)
	if out.written {
		t.note(v.plan, &ev, &c)
	}
	t.lines = append(t.lines, fmt.Sprintf("%d/%d  %-8s %s  %s", r.Partition, r.Offset, ev.Op, shownKey(keyText(v, &ev), values), out.text))
	if values && c.After != nil && c.Is {
		t.lines = append(t.lines, "      before  "+shownRow(ev.After, func(i int) string { return v.plan.Relation.Columns[i].Name }, v.plan.Masked),
			"      after   "+shownRow(c.After, func(i int) string { return v.plan.Columns[i].Name }, func(int) bool { return false }))
	}
	return v.plan, nil
}

// shownKey gives what keyText tells of a row, with the key's values where values are asked for.
func shownKey(key string, values bool) string {
	if !values {
		key = trouble.WithoutKeys(key)
	}
	return strings.TrimPrefix(key, ", ")
}

// fate is what a rule makes of a change.
type fate struct {
	text                                             string
	failed, ignored, removed, left, written, entered bool
}

// fateOf applies a plan to ev, with c as memory.
func fateOf(p *rule.Plan, ev *change.Event, c *rule.Change) fate {
	switch err := p.Map(ev, c); {
	case err != nil:
		if failed, ok := errors.AsType[*trouble.Error](err); ok {
			err = failed.Cause
		}
		return fate{text: "error: " + err.Error(), failed: true}
	case ev.Op == change.Truncate:
		return fate{text: "all rows of the source"}
	case p.Ignore&ignoredBy(ev.Op) != 0:
		return fate{text: "ignored", ignored: true}
	case ev.Op == change.Delete:
		return fate{text: "deleted by its key", removed: true}
	case !c.Is && ev.Op == change.Update:
		return fate{text: "left out by the filter: deleted, if it was there", removed: true, left: true}
	case !c.Is:
		return fate{text: "left out by the filter", left: true}
	case c.Was == rule.Out:
		return fate{text: "comes into the filter: inserted", written: true, entered: true}
	}
	return fate{text: "written", written: true}
}

func (t *trial) count(f fate) {
	add := func(n *int, is bool) {
		if is {
			*n++
		}
	}
	add(&t.failed, f.failed)
	add(&t.ignored, f.ignored)
	add(&t.removed, f.removed)
	add(&t.left, f.left)
	add(&t.written, f.written)
	add(&t.entered, f.entered)
}

// note counts under which key of the target a row comes.
func (t *trial) note(p *rule.Plan, ev *change.Event, c *rule.Change) {
	if len(p.Key) == 0 {
		return
	}
	var to, from []byte
	for _, k := range p.Key {
		to = append(p.Column(k).Type.AppendCanonical(to, c.After[k].Text), 0)
	}
	for _, k := range p.Relation.Key {
		from = append(p.Relation.Columns[k].Type.AppendCanonical(from, ev.After[k].Text), 0)
	}
	if t.collisions[string(to)] == nil {
		t.collisions[string(to)] = map[string]bool{}
	}
	t.collisions[string(to)][string(from)] = true
}

func ignoredBy(op change.Op) rule.Ops {
	switch op {
	case change.Create, change.Read:
		return rule.Inserts
	case change.Update:
		return rule.Updates
	case change.Delete:
		return rule.Deletes
	}
	return rule.Truncates
}

func shownRow(row change.Tuple, name func(int) string, hidden func(int) bool) string {
	var out []string
	for i, v := range row {
		text := "null"
		switch {
		case v.State == change.Unchanged:
			text = "(not sent)"
		case v.State == change.Present && hidden(i):
			text = "***"
		case v.State == change.Present:
			text = printable(string(v.Text))
			if runes := []rune(text); len(runes) > 40 {
				text = string(runes[:40]) + "…"
			}
		}
		out = append(out, name(i)+"="+text)
	}
	return strings.Join(out, "  ")
}

// tail is how many offsets more than asked for are looked at: commit markers take some.
const tail = 20

// lastOf reads the records of each partition of a topic that a trial is of, in the order of their partitions and offsets:
// the last ones with a value, or those from an offset on.
func lastOf(ctx context.Context, cfg Config, topic string, q Trial) ([]*kgo.Record, error) {
	n := q.Records
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	opts, err := cfg.Kafka.Options(slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, err
	}
	client, err := kgo.NewClient(append(opts, kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords())...)
	if err != nil {
		return nil, kafka.Trouble("connect to", "Kafka", err)
	}
	defer client.Close()
	admin := kadm.NewClient(client)
	starts, err := admin.ListStartOffsets(ctx, topic)
	var ends kadm.ListedOffsets
	if err == nil {
		ends, err = admin.ListCommittedOffsets(ctx, topic)
	}
	if err == nil {
		err = cmp.Or(starts.Error(), ends.Error())
	}
	switch {
	case errors.Is(err, kerr.UnknownTopicOrPartition):
		return nil, &trouble.Error{
			Code: trouble.NoTopics, Op: "read", Subject: fmt.Sprintf("topic %q", topic), Cause: err,
			Hint: "sink rules match     which topics there are, and which rule writes them",
		}
	case err != nil:
		return nil, kafka.Trouble("list offsets of", fmt.Sprintf("topic %q", topic), err)
	}
	from, left := map[int32]kgo.Offset{}, map[int32]int64{}
	ends.Each(func(end kadm.ListedOffset) {
		start, _ := starts.Lookup(topic, end.Partition)
		if end.Offset > start.Offset {
			// Commit markers take offsets, too: about as many as transactions.
			first := max(start.Offset, end.Offset-2*int64(n)-tail)
			if q.Offset >= 0 {
				if first = max(start.Offset, q.Offset); first >= end.Offset {
					return
				}
			}
			from[end.Partition] = kgo.NewOffset().At(first)
			left[end.Partition] = end.Offset
		}
	})
	client.AddConsumePartitions(map[string]map[int32]kgo.Offset{topic: from})
	byPartition := map[int32][]*kgo.Record{}
	for len(left) > 0 {
		fetches := client.PollFetches(ctx)
		if ctx.Err() != nil {
			return nil, kafka.Trouble("read the last records of", fmt.Sprintf("topic %q", topic), ctx.Err())
		}
		fetches.EachRecord(func(r *kgo.Record) {
			if _, _, err := record.ParseFrame(r.Value); err == nil && !r.Attrs.IsControl() {
				byPartition[r.Partition] = append(byPartition[r.Partition], r)
			}
			if r.Offset+1 >= left[r.Partition] || q.Offset >= 0 && len(byPartition[r.Partition]) >= n {
				delete(left, r.Partition)
			}
		})
	}
	var out []*kgo.Record
	for _, records := range byPartition {
		if q.Offset >= 0 {
			records = records[:min(n, len(records))]
		}
		out = append(out, records[max(0, len(records)-n):]...)
	}
	slices.SortFunc(out, func(a, b *kgo.Record) int {
		if a.Partition != b.Partition {
			return int(a.Partition - b.Partition)
		}
		return int(a.Offset - b.Offset)
	})
	return out, nil
}
