package sink

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tributary-cdc/tributary/pkg/kafka"
	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/terminal"
	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/schema/record"
	"github.com/tributary-cdc/tributary/sink/warehouse"
)

// A tenant is a source among others of the same tables. What people do to one is done here: to the warehouse, where all
// sinks of the group take notice, so that no other source is disturbed.

// Tenant is a source as the group knows it.
type Tenant struct {
	Source     string     `json:"source"`
	SID        string     `json:"sid"`
	State      string     `json:"state"`
	Tables     int        `json:"tables"`
	Reason     string     `json:"reason,omitempty"` // of a pause, or of the removal
	CompleteAt *time.Time `json:"complete_at"`
	// CompleteUntil and AgeSeconds are as in SourceStatus.
	CompleteUntil *time.Time `json:"complete_until,omitempty"`
	AgeSeconds    *float64   `json:"age_seconds"`
}

// StateRemoved is the state of a tenant that was removed.
const StateRemoved = "removed"

// Tenants lists the sources that have been here.
func (o *Operator) Tenants(ctx context.Context, cfg Config) ([]Tenant, error) {
	st, err := o.Status(ctx, cfg)
	if err != nil {
		return nil, err
	}
	pauses, err := o.session.Pauses(ctx)
	if err != nil {
		return nil, err
	}
	out := []Tenant{}
	add := func(t Tenant) {
		t.SID, _ = o.rules.Source(t.Source)
		for _, p := range pauses {
			if p.Table == "" && (p.Source == t.Source || p.Source == "") {
				t.Reason = p.Reason
			}
		}
		out = append(out, t)
	}
	known := map[string]bool{}
	for _, s := range st.Sources {
		if known[s.Name] = true; !warehouse.Removed(pauses, s.Name) {
			add(Tenant{Source: s.Name, State: s.State, Tables: s.Tables, CompleteAt: s.CompleteAt, CompleteUntil: s.until(), AgeSeconds: s.AgeSeconds})
		}
	}
	for i := range st.Tables { // of captures that write no progress
		if s := st.Tables[i].Source; !known[s] {
			known[s] = true
			t := Tenant{Source: s, State: service.StateUpToDate}
			for _, table := range st.Tables {
				if table.Source == s {
					t.Tables++
					t.State = service.WorseState(t.State, table.State)
				}
			}
			add(t)
		}
	}
	for _, p := range pauses {
		if p.Removed {
			add(Tenant{Source: p.Source, State: StateRemoved})
		}
	}
	slices.SortFunc(out, func(a, b Tenant) int { return natural(a.Source, b.Source) })
	return out, nil
}

// natural orders names as people do: tenant_2 is before tenant_10.
func natural(a, b string) int {
	x, y := a, b
	for x != "" && y != "" {
		n, m := digits(x), digits(y)
		if n == 0 || m == 0 {
			if x[0] != y[0] {
				return cmp.Compare(x[0], y[0])
			}
			x, y = x[1:], y[1:]
			continue
		}
		// Of two numbers without leading zeros the longer one is the larger.
		p, q := strings.TrimLeft(x[:n], "0"), strings.TrimLeft(y[:m], "0")
		if c := cmp.Or(cmp.Compare(len(p), len(q)), strings.Compare(p, q)); c != 0 {
			return c
		}
		x, y = x[n:], y[m:]
	}
	return cmp.Or(cmp.Compare(len(x), len(y)), strings.Compare(a, b))
}

// digits counts those with which s begins.
func digits(s string) int { return len(s) - len(strings.TrimLeft(s, "0123456789")) }

// TenantPlan is what there is of a tenant, before something is done to it.
type TenantPlan struct {
	Source  string
	Removed bool // it was removed before
	Feeds   []warehouse.Feed
	Topics  []string // that have checkpoints
}

func (p *TenantPlan) written() []warehouse.Feed {
	return slices.DeleteFunc(slices.Clone(p.Feeds), func(f warehouse.Feed) bool { return f.Unwritten })
}

func refused(source, cause, hint string) error {
	return &trouble.Error{
		Code: trouble.RuleConflict, Op: "change", Subject: fmt.Sprintf("tenant %q", source),
		Cause: errors.New(cause), Means: unchanged, Hint: hint,
	}
}

const unchanged = "nothing was changed"

// Tenant looks a tenant up. It refuses what the rules do not tell enough of: which column holds its sid.
func (o *Operator) Tenant(ctx context.Context, source string) (*TenantPlan, error) {
	pauses, err := o.session.Pauses(ctx)
	if err != nil {
		return nil, err
	}
	p := &TenantPlan{Source: source, Removed: warehouse.Removed(pauses, source)}
	if p.Topics, err = o.session.SourceTopics(ctx, source); err != nil {
		return nil, err
	}
	feeds, others, err := o.session.Feeds(ctx, source)
	switch {
	case err != nil:
		return nil, err
	case len(p.Topics) == 0 && len(feeds) == 0 && !p.Removed:
		unknown, err := o.Unknown(ctx, source)
		return nil, cmp.Or(err, terminal.Usage(errors.New(unknown)))
	case len(others) > 0:
		return nil, refused(source, others[0]+" writes the same rows", "its rows do not belong to it alone: let the other one write to another target")
	}
	for _, f := range feeds {
		route, ok := matchTopic(o.rules, f.Topic)
		ok = ok && route.Target == f.Target
		switch {
		case f.SID == "":
		case !ok || route.SIDColumn == "":
			return nil, refused(source, fmt.Sprintf("no rule says any more which column of table %q holds the sid %q", f.Target, f.SID),
				"put the rule back that wrote it; or, where its rows are gone: "+o.session.ForgetFeed(f))
		default:
			f.SIDColumn = route.SIDColumn
			f.Key = slices.DeleteFunc(f.Key, func(name string) bool { return name == f.SIDColumn })
		}
		if ok && !route.Overwrites() {
			f.Key = nil
		}
		if ok {
			f.Rule, f.Keeps, f.Computed = route.Meaning().Text(), route.Keeps(), route.Keyed()
		}
		f.Unwritten = !ok || f.SID != route.SIDThere()
		p.Feeds = append(p.Feeds, f)
	}
	return p, nil
}

// Unknown says that the group has written nothing of a source, or of a table as SOURCE/TABLE, and which one may be meant; ""
// where it has.
func (o *Operator) Unknown(ctx context.Context, subject string) (string, error) {
	topics, err := o.session.Topics(ctx)
	if err != nil {
		return "", err
	}
	var known []string
	for _, topic := range topics {
		if source, schema, table, ok := record.ParseTopic(topic); ok {
			known = append(known, source, source+"/"+schema+"."+table)
		}
	}
	if slices.Contains(known, subject) {
		return "", nil
	}
	return "the group has written nothing of " + subject + terminal.Meant(subject, known), nil
}

// RemoveTenant removes all rows of a tenant and forgets its checkpoints. Nothing of it is read again until Resume, which
// brings it back from the beginning of its topics. told is given the rows removed so far. What was begun and failed can
// be done again.
func (o *Operator) RemoveTenant(ctx context.Context, p *TenantPlan, reason string, told func(target string, rows int64)) (removed int64, err error) {
	mark, err := o.session.MarkRemoved(ctx, p.Source, reason, p.Feeds)
	if err == nil {
		removed, err = o.removeMarked(ctx, mark, told)
	}
	if err != nil && !mark.Since.IsZero() {
		err = left(removed, err)
	}
	return removed, err
}

// left says how a tenant is whose removal has ended with an error, behind its mark.
func left(removed int64, err error) error {
	rows := service.Plural(removed, "row") + " removed so far"
	if errors.Is(err, warehouse.ErrOvertaken) {
		return fmt.Errorf("%w\n%s", err, rows)
	}
	if t, ok := errors.AsType[*trouble.Error](err); ok && t.Means == unchanged {
		t.Means = ""
	}
	return fmt.Errorf("%w\n%s; the tenant is not read any more: do it again to remove the rest", err, rows)
}

func (o *Operator) removeMarked(ctx context.Context, mark warehouse.Pause, told func(target string, rows int64)) (removed int64, err error) {
	// Sinks may have begun to write a table of it since somebody looked; behind the mark they do not.
	p, err := o.Tenant(ctx, mark.Source)
	if err != nil {
		return 0, err
	}
	for _, f := range p.Feeds {
		if err := o.session.RemoveRows(ctx, f, warehouse.Removal{First: o.session.WhileRemoved(mark), Aside: true, Told: func(rows int64) {
			removed += rows
			told(f.Target.String(), removed)
		}}); err != nil {
			return removed, err
		}
	}
	return removed, o.session.Forget(ctx, mark, removed)
}

// RebuildTenant has the topics of a tenant read anew from their beginning, and says so to every sink. Rows of tables with
// a key stay until all have come again; those of histories, logs and tables without key are removed first. What no rule writes any
// more stays as it is: it would not come again.
func (o *Operator) RebuildTenant(ctx context.Context, cfg Config, p *TenantPlan, reason string, told func(target string, rows int64)) (err error) {
	if p.Removed {
		return refused(p.Source, "it is removed", "sink tenant resume "+p.Source+" reads all of it")
	}
	written := *p
	written.Feeds = p.written()
	p = &written
	var starts map[warehouse.Place]int64
	if starts, err = o.starts(ctx, cfg, p); err != nil {
		return err
	}
	resume, emptied := func() error { return nil }, ""
	if keyless := warehouse.Keyless(p.Feeds); len(keyless) > 0 {
		resume, emptied, err = o.empty(ctx, p.Source, keyless, told)
	}
	if err == nil {
		err = o.session.Rebuild(ctx, p.Source, reason, p.Feeds, emptied, starts, o.rules.Whole(p.Source))
	}
	if err == nil {
		return resume()
	}
	if pause, _ := o.pauseOf(context.WithoutCancel(ctx), p.Source); pause != nil && pause.Reason == rebuildPause { // what is gone would not come
		err = fmt.Errorf("%w\nit stays paused, as rows of its tables without key may be gone; do it again, which ends the pause", err)
	}
	return err
}

// Rebuilding gives what tells how far p is whose topics are read from their beginning, by a rebuild or as it was brought back: offsets applied of
// those that Kafka held when this was called, and what is missing still, "" for nothing. An error says that it stands still until somebody does something.
func (o *Operator) Rebuilding(ctx context.Context, cfg Config, p *TenantPlan) (func(context.Context) (done, of int64, lacks string, err error), error) {
	ends, err := o.endsNow(ctx, cfg)
	if err != nil {
		return nil, err
	}
	feeds := map[string]bool{}
	for _, f := range p.written() {
		feeds[f.Topic] = true
	}
	wanted := func(topic string) bool {
		source, progress := record.ParseProgressTopic(topic)
		_, ruled := matchTopic(o.rules, topic) // of others nobody reads on
		return feeds[topic] || progress && source == p.Source || ruled && sourceOf(topic) == p.Source
	}
	maps.DeleteFunc(ends, func(at warehouse.Place, _ int64) bool { return !wanted(at.Topic) })
	if len(ends) == 0 {
		return nil, o.nothingShown(p)
	}
	return func(ctx context.Context) (done, of int64, lacks string, err error) {
		next, err := o.session.Checkpoints(ctx)
		if err != nil {
			return 0, 0, "", err
		}
		tables, err := o.session.Tables(ctx)
		if err != nil {
			return 0, 0, "", err
		}
		held, err := o.session.Quarantines(ctx)
		if err != nil {
			return 0, 0, "", err
		}
		for i := range held {
			if q := &held[i]; wanted(q.Topic) {
				return 0, 0, "", heldAgain(q, "read anew", "it is held, and what is read anew of it with it; the others go on")
			}
		}
		pauses, err := o.session.Pauses(ctx)
		if err != nil {
			return 0, 0, "", err
		}
		var paused *warehouse.Pause
		lacking := func(topic string) {
			if paused == nil || paused.Until != nil {
				paused = cmp.Or(pauseIn(o.rules, pauses, topic), paused)
			}
		}
		for at, end := range ends {
			if done, of = done+min(next[at], end), of+end; next[at] < end {
				lacking(at.Topic)
			}
		}
		parked, err := o.session.CountParked(ctx)
		if err != nil {
			return 0, 0, "", err
		}
		aside := map[string]int64{}
		for topic, by := range parked {
			for _, n := range by {
				if wanted(topic) {
					aside[topic] += n.Records
				}
			}
		}
		for _, t := range tables {
			if wanted(t.Topic) && t.Reload != nil && aside[t.Topic] == 0 {
				lacks = "what has not come again is to be removed"
				lacking(t.Topic)
			}
		}
		if paused != nil && paused.Until == nil { // who waits would do so for ever
			return 0, 0, "", pausedStill(paused)
		}
		if done < of {
			lacks = fmt.Sprintf("%s of %s offsets are applied", service.FormatCount(done), service.FormatCount(of))
		}
		if paused != nil {
			lacks += fmt.Sprintf("; %s is paused until %s", paused.Subject(), paused.Until.UTC().Format(time.RFC3339))
		}
		if lacks == "" && len(aside) > 0 {
			return 0, 0, "", asideStill(p.Source, aside)
		}
		return done, of, lacks, nil
	}, nil
}

// asideStill is the trouble of what is waited for, and has come but for what is parked of it, so many rows of each topic: no reload of such a topic ends.
func asideStill(source string, aside map[string]int64) error {
	rows, name := int64(0), source
	what := service.Plural(len(aside), "table") + " of " + source
	for topic, n := range aside {
		rows += n
		if len(aside) == 1 {
			_, schema, table, _ := record.ParseTopic(topic)
			name += "/" + schema + "." + table
			what = name
		}
	}
	return &trouble.Error{
		Code: trouble.Parked, Op: "wait for all rows of", Subject: source,
		Cause: fmt.Errorf("%s of %s %s parked", service.Plural(rows, "row"), what, service.Agree(rows, "is", "are")),
		Means: "all else is there; what has not come again of a table with parked rows is removed when none is parked any more",
		Hint:  fmt.Sprintf("sink parked show %[1]s\nsink parked retry %[1]s, when what was wrong is mended; or sink parked discard %[1]s, without them", service.Quote(name)),
	}
}

// nothingShown is the trouble of a tenant that is waited for, of whose topics none is to be read.
func (o *Operator) nothingShown(p *TenantPlan) error {
	t := &trouble.Error{
		Code: trouble.RuleConflict, Op: "wait for", Subject: fmt.Sprintf("tenant %q", p.Source), Cause: errors.New("no topic of it is shown by Kafka"),
		Means: "nothing of it is read, and what the warehouse had of it is not known to come again",
		Hint:  "look whether its topics are there, and whether the user of sink may describe them",
	}
	_, named := o.rules.Source(p.Source)
	ruled := func(topic string) bool { _, ok := matchTopic(o.rules, topic); return ok }
	switch {
	case !named:
		t.Cause, t.Hint = errors.New(notNamed), "name it there, and restart the sinks"
	case len(p.Topics) > 0 && !slices.ContainsFunc(p.Topics, ruled):
		t.Cause, t.Hint = errors.New("no rule writes a table of it"), "add one, and restart the sinks"
	}
	return t
}

// pausedStill is the trouble of what is waited for, and paused until somebody ends that.
func pausedStill(p *warehouse.Pause) error {
	cause, hint := "it is paused since "+p.Since.UTC().Format(time.RFC3339), "sink resume"
	if p.Removed {
		cause, hint = "it was removed again", "sink tenant resume"
	}
	if p.Source != "" {
		hint += " " + service.Quote(p.Subject())
	}
	return &trouble.Error{
		Code: trouble.RuleConflict, Op: "read anew", Subject: p.Subject(), Cause: errors.New(cause), Means: "nothing of it is written; all else goes on", Hint: hint,
	}
}

// rebuildPause is the reason of the pause in which rows are removed that are to come again.
const rebuildPause = "tenant rebuild"

// empty removes the rows of a tenant's tables without key while nobody writes them: the tenant is paused until resume is called. emptied is for Rebuild.
func (o *Operator) empty(ctx context.Context, source string, keyless []warehouse.Feed, told func(target string, rows int64)) (resume func() error, emptied string, err error) {
	resume = func() error { return nil }
	pause, err := o.pauseOf(ctx, source)
	if err == nil && pause == nil {
		if err = o.Pause(ctx, source, "", rebuildPause, 0); err == nil {
			pause, err = o.pauseOf(ctx, source)
		}
	}
	if err != nil {
		return nil, "", err
	}
	if pause != nil && pause.Reason == rebuildPause { // perhaps of one before, which has failed
		resume = func() error { return o.session.EndPause(context.WithoutCancel(ctx), *pause) }
	}
	emptied, err = o.session.TakeAway(ctx, source, keyless...)
	removed := int64(0)
	for _, f := range keyless {
		if err == nil {
			err = o.session.RemoveRows(ctx, f, warehouse.Removal{Last: o.session.Emptying(f.Topic), Told: func(rows int64) {
				removed += rows
				told(f.Target.String(), removed)
			}})
		}
	}
	if err == nil {
		err = o.session.CheckEmpty(ctx, keyless, emptied)
	}
	if err != nil {
		return nil, "", err // it stays paused: a part of its rows is gone
	}
	return resume, emptied, nil
}

// pauseOf gives the pause of a whole source, nil for none.
func (o *Operator) pauseOf(ctx context.Context, source string) (*warehouse.Pause, error) {
	pauses, err := o.session.Pauses(ctx)
	i := slices.IndexFunc(pauses, func(q warehouse.Pause) bool { return q.Source == source && q.Table == "" })
	if err != nil || i < 0 {
		return nil, err
	}
	return &pauses[i], nil
}

// starts gives where the topics of a tenant begin. It refuses topics that have lost their beginning: what they hold does
// not make the table.
func (o *Operator) starts(ctx context.Context, cfg Config, p *TenantPlan) (map[warehouse.Place]int64, error) {
	client, err := kafkaClient(cfg)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	var topics []string
	for _, f := range p.Feeds {
		topics = append(topics, f.Topic)
	}
	out := map[warehouse.Place]int64{}
	if len(topics) == 0 {
		return out, nil
	}
	listed, err := kadm.NewClient(client).ListStartOffsets(ctx, topics...)
	if err == nil {
		err = listed.Error()
	}
	if err != nil {
		return nil, kafka.Trouble("list offsets of", service.Plural(len(topics), "topic"), err)
	}
	listed.Each(func(l kadm.ListedOffset) {
		if l.Offset > 0 {
			err = refused(p.Source, fmt.Sprintf("topic %q begins at offset %d: Kafka has deleted what was before", l.Topic, l.Offset),
				"have the source read anew: capture snapshot --reload, at its capture (docs/reload.md)")
		}
		out[warehouse.Place{Topic: l.Topic, Partition: l.Partition}] = l.Offset
	})
	return out, err
}

func kafkaClient(cfg Config) (*kgo.Client, error) {
	opts, err := cfg.Kafka.Options(service.Log(cfg.Log))
	if err != nil {
		return nil, err
	}
	client, err := kgo.NewClient(opts...)
	if err != nil {
		return nil, fmt.Errorf("make Kafka client: %w", err)
	}
	return client, nil
}

// sourceOf gives the source that a topic belongs to, "" for none.
func sourceOf(topic string) string {
	if source, _, _, ok := record.ParseTopic(topic); ok {
		return source
	}
	source, _ := record.ParseProgressTopic(topic)
	return source
}
