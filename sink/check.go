package sink

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/tributary-cdc/tributary/pkg/kafka"
	"github.com/tributary-cdc/tributary/pkg/postgres"
	"github.com/tributary-cdc/tributary/pkg/registry"
	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/terminal"
	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/schema/record"
	"github.com/tributary-cdc/tributary/sink/rule"
	"github.com/tributary-cdc/tributary/sink/warehouse"
)

// checker is a check of a sink.
type checker struct {
	*terminal.Check
	said   map[string]bool
	accept []service.Accept

	targets []*checkedTarget // in the order in which they were looked at
}

// checkedTarget is what becomes of one target, of all sources that are written to it.
type checkedTarget struct {
	name    rule.Target
	missing bool
	ahead   string // partitions that will be made
	changes []string
	failed  bool
}

// target gives the one of a name.
func (c *checker) target(name rule.Target) *checkedTarget {
	for _, t := range c.targets {
		if t.name == name {
			return t
		}
	}
	t := &checkedTarget{name: name}
	c.targets = append(c.targets, t)
	return t
}

// tellTargets tells each target that the sink would make or alter, and counts those that stay as they are.
func (c *checker) tellTargets() {
	changed, fit := 0, 0
	for _, t := range c.targets {
		var will []string // do
		switch {
		case t.failed && len(t.changes) == 0:
			continue
		case t.missing:
			will = append(will, "be made")
		case len(t.changes) > 0:
			will = append(will, "be altered, by "+service.Plural(len(t.changes), "statement"))
		}
		if t.ahead != "" {
			will = append(will, "get "+t.ahead)
		}
		if len(will) == 0 {
			fit++
			continue
		}
		if len(t.changes) > 0 {
			changed++
		}
		c.Will("target", fmt.Sprintf("%s will %s", t.name, strings.Join(will, ", and ")), t.changes)
	}
	if changed > 0 && !c.SQL {
		c.Note("targets", "the sink does so itself, before it writes to "+service.Agree(changed, "it", "them"), "sink check --sql     tells by which statements")
	}
	if fit > 0 {
		c.OK("targets", fmt.Sprintf("%s as the rules want %s", service.Plural(fit, "target"), service.Agree(fit, "it", "them")))
	}
}

// once says whether nothing was said of text yet: many sources have it in common.
func (c *checker) once(text string) bool {
	if c.said[text] {
		return false
	}
	c.said[text] = true
	return true
}

// checkTimeout bounds each part of a check.
const checkTimeout = 15 * time.Second

// oldest is the first version of Postgres that the sink writes to.
const oldest = 140000

// Check looks at everything that Run would need, and tells what it finds. It changes nothing: what a rule would do to a
// target is done and rolled back. The error, a trouble, says that the sink could not run.
func Check(ctx context.Context, cfg Config, told *terminal.Check) error {
	quiet := slog.New(slog.DiscardHandler)
	s, err := New(cfg, quiet)
	if err != nil {
		return err
	}
	defer s.registry.Close()
	defer s.consumer.Client().Close()
	c := &checker{Check: told, said: map[string]bool{}, accept: s.cfg.accepted()}
	session := s.warehouse.Session()
	defer session.Close(ctx)
	up := s.checkWarehouse(ctx, c, session)
	if c.Wants("kafka") || c.Wants("rules") {
		topics, err := s.checkKafka(ctx, c)
		if err != nil {
			c.Blocked("kafka", err)
		}
		if c.Wants("rules") {
			s.checkRules(ctx, c, session, topics, up)
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return c.End("sink")
}

func (s *Sink) checkWarehouse(ctx context.Context, c *checker, session *warehouse.Session) (up bool) {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	facts, err := session.Facts(ctx)
	c.Of("Group", s.cfg.Group, facts.Address)
	c.Part("Warehouse", "")
	if err != nil {
		c.Blocked("connection", err)
		return false
	}
	role := "primary"
	if facts.Standby {
		role = "standby"
	}
	switch version := fmt.Sprintf("PostgreSQL %s, %s", facts.Version, role); {
	case facts.Number < oldest:
		c.Fail(trouble.ServerVersion, "version", version, "a warehouse has version 14 or later")
	case facts.Standby:
		c.Fail(trouble.WarehouseReadOnly, "version", version, "a standby cannot be written; point warehouse.dsn to the primary")
	default:
		c.OK("version", version)
	}
	switch {
	case facts.Own == 0 && !facts.Creates:
		c.Fail(trouble.WarehouseRights, "role", fmt.Sprintf("%q may not create the schema tributary", facts.Role),
			fmt.Sprintf("GRANT CREATE ON DATABASE %s TO %s;", postgres.Ident(facts.Database), postgres.Ident(facts.Role)))
	case !facts.OwnUsable:
		c.Fail(trouble.WarehouseRights, "role", fmt.Sprintf("%q may not write the tables of schema tributary", facts.Role),
			fmt.Sprintf("GRANT ALL ON ALL TABLES IN SCHEMA tributary TO %s;", postgres.Ident(facts.Role)))
	default:
		c.OK("role", fmt.Sprintf("%q", facts.Role))
	}
	switch {
	case facts.Own == 0:
		c.OK("own tables", fmt.Sprintf("schema tributary is not there yet; it will be created with version %d", warehouse.Version))
	case facts.Own < warehouse.Version:
		c.OK("own tables", fmt.Sprintf("schema tributary, version %d; it will be brought to version %d", facts.Own, warehouse.Version))
	case facts.Own > warehouse.Version:
		c.Fail(trouble.ServerVersion, "own tables", fmt.Sprintf("schema tributary, version %d; this binary knows up to %d", facts.Own, warehouse.Version), "run the newer version")
	default:
		c.OK("own tables", fmt.Sprintf("schema tributary, version %d, as this binary wants it", facts.Own))
	}
	// Workers, progress, supervision, and one for claims.
	wanted := s.cfg.Warehouse.Connections + 3
	text := fmt.Sprintf("%d wanted by this sink, %d of %d in use", wanted, facts.Connections, facts.Limit)
	if facts.Connections+wanted > facts.Limit {
		c.Fail(trouble.WarehouseUnreachable, "connections", text, "raise max_connections, or lower warehouse.connections")
	} else {
		c.OK("connections", text)
	}
	return true
}

// checkKafka gives the topics that there are.
func (s *Sink) checkKafka(ctx context.Context, c *checker) (kadm.TopicDetails, error) {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	admin := kadm.NewClient(s.consumer.Client())
	meta, err := admin.Metadata(ctx)
	if err != nil {
		c.Part("Kafka", strings.Join(s.cfg.Kafka.Brokers, ", "))
		return nil, kafka.Trouble("reach", "Kafka", err)
	}
	c.Part("Kafka", fmt.Sprintf("%s, %s", strings.Join(s.cfg.Kafka.Brokers, ", "), service.Plural(len(meta.Brokers), "broker")))
	members, err := membersOf(ctx, admin, s.cfg.Group)
	if err != nil {
		c.Failed("group", s.cfg.Kafka.Grant(kafka.Trouble("describe", fmt.Sprintf("group %q", s.cfg.Group), err), s.rights()))
	} else {
		c.OK("group", fmt.Sprintf("%q: %s, read_committed", s.cfg.Group, service.Plural(members, "member")))
	}
	if err := s.registry.Ping(ctx); err != nil {
		c.Failed("registry", registry.Trouble("reach", s.cfg.Registry.URL, err))
	} else {
		c.OK("registry", s.cfg.Registry.URL)
	}
	return meta.Topics, nil
}

// membersOf gives how many members a group has, as Kafka says; none where the first sink is still to make it.
func membersOf(ctx context.Context, admin *kadm.Client, name string) (int, error) {
	groups, err := admin.DescribeGroups(ctx, name)
	group, known := groups[name]
	switch {
	case err != nil:
		return 0, err
	case !known:
		return 0, errors.New("the broker said nothing of it")
	case group.Err != nil && !errors.Is(group.Err, kerr.GroupIDNotFound):
		return 0, group.Err
	}
	return len(group.Members), nil
}

// topicsByRule is what the rules make of the topics that the brokers show.
type topicsByRule struct {
	visible  int                    // topics that are shown
	progress int                    // of them, those of progress of sources that are read
	matched  [][]string             // topics, by rule
	nowhere  []string               // topics that no rule wants
	there    []string               // tables that any topic is of
	routes   map[string]*rule.Route // by topic
}

// sortTopics sorts the topics by the rules that take them.
func (s *Sink) sortTopics(topics kadm.TopicDetails) *topicsByRule {
	m := &topicsByRule{matched: make([][]string, s.rules.Len()), routes: map[string]*rule.Route{}}
	for _, name := range topics.Names() {
		if topics[name].IsInternal || topics[name].Err != nil {
			continue
		}
		m.visible++
		if source, ok := record.ParseProgressTopic(name); ok {
			if _, ok := s.rules.Source(source); ok {
				m.progress++
			}
			continue
		}
		source, schema, table, ok := record.ParseTopic(name)
		if !ok {
			continue
		}
		m.there = append(m.there, schema+"."+table)
		r, ok := s.rules.Match(source, schema, table)
		if !ok {
			if !s.rules.Skipped(source, schema, table) {
				m.nowhere = append(m.nowhere, name)
			}
			continue
		}
		m.matched[r.Rule] = append(m.matched[r.Rule], name)
		m.routes[name] = r
	}
	return m
}

// checkRules says which rule meets which topics, and what it would do to its targets.
func (s *Sink) checkRules(ctx context.Context, c *checker, session *warehouse.Session, topics kadm.TopicDetails, up bool) {
	m := s.sortTopics(topics)
	tables := len(m.routes)
	c.Part("Rules", fmt.Sprintf("%s, %s, %s", service.Plural(s.rules.Len(), "rule"), service.Plural(tables, "table"), service.Plural(m.progress, "source")))
	if tables == 0 && topics != nil {
		text, hints := "no topic matches the rules", []string{"start capture, or look at from and sources"}
		if m.visible == 0 {
			text = "the brokers show no topic"
			hints = append([]string{"start capture; or the brokers hide topics that the user may not describe:"}, s.cfg.Kafka.Commands(kafka.OnTopics, s.rights())...)
		}
		c.Warn(trouble.NoTopics, "topics", text, hints...)
	}
	plans := s.plans(ctx, c, slices.Concat(m.matched...))
	var targets []rule.Target
	for _, plan := range plans {
		targets = append(targets, plan.Target)
	}
	c.checkSharing(shareTargets(m.routes), plans)
	if up {
		s.checkFormer(ctx, c, session, m.routes)
	}
	for i, names := range m.matched {
		if len(names) == 0 {
			if topics != nil && !s.rules.Skips(i) {
				c.Warn(trouble.NoTopics, fmt.Sprintf("tables[%d]", i), fmt.Sprintf("%s: no topic%s", s.rules.From(i), terminal.Meant(s.rules.From(i), m.there)), "see docs/runbooks/no-topics.md")
			}
			continue
		}
		c.OK(fmt.Sprintf("tables[%d]", i), fmt.Sprintf("%s: %s", s.rules.From(i), service.Plural(len(names), "table")))
		for _, name := range names {
			if plan := plans[name]; plan != nil && up {
				s.checkTarget(ctx, c, session, plan, targets)
			}
		}
	}
	c.tellTargets()
	s.checkUnmatched(c, m.nowhere)
}

// checkUnmatched tells of the topics that no rule wants.
func (s *Sink) checkUnmatched(c *checker, nowhere []string) {
	nowhere, elsewhere := byNamed(s.rules, nowhere)
	if n := len(elsewhere); n > 0 {
		c.Note("unmatched", fmt.Sprintf("%s %s of no source that sources names: %s", service.Plural(n, "topic"), service.Agree(n, "is", "are"), shortened(elsewhere)), unmatched(s.rules, elsewhere))
	}
	if len(nowhere) > 0 {
		c.Warn(trouble.NoTopics, "unmatched", fmt.Sprintf("%s %s no rule: %s", service.Plural(len(nowhere), "topic"), service.Agree(len(nowhere), "matches", "match"), shortened(nowhere)), unmatched(s.rules, nowhere))
	}
}

// byNamed parts topics that no rule wants by whether sources names their source: on brokers that others use, too, it is set so that theirs
// are left alone.
func byNamed(rules *rule.Set, topics []string) (named, elsewhere []string) {
	for _, topic := range topics {
		if _, ok := rules.Source(sourceOf(topic)); ok {
			named = append(named, topic)
		} else {
			elsewhere = append(elsewhere, topic)
		}
	}
	return named, elsewhere
}

// unmatched says what is to be done about topics that the rules do not want: a rule is only asked of a source that is named.
func unmatched(rules *rule.Set, topics []string) string {
	named, unnamed := false, ""
	for _, topic := range topics {
		if _, ok := rules.Source(sourceOf(topic)); ok {
			named = true
		} else if unnamed == "" {
			unnamed = sourceOf(topic)
		}
	}
	var hints []string
	if named {
		hints = append(hints, `say {from: "…", skip: true} if that is meant`)
	}
	if unnamed != "" {
		hints = append(hints, fmt.Sprintf("sources does not name %q: name it there, if it is to be written", unnamed))
	}
	return strings.Join(hints, "; ")
}

func (s *Sink) checkTarget(ctx context.Context, c *checker, session *warehouse.Session, plan *rule.Plan, targets []rule.Target) {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	in, err := session.Inspect(ctx, plan, targets...)
	t := c.target(plan.Target)
	if err != nil {
		t.failed = true
		c.Failed("target", err)
		return
	}
	t.missing = t.missing || in.Missing
	for _, change := range in.Changes {
		if c.once(change) {
			t.changes = append(t.changes, change)
		}
	}
	if n := len(in.Ahead); n > 0 {
		t.ahead = fmt.Sprintf("%s, %s to %s", service.Plural(n, "partition"), in.Ahead[0].Name, in.Ahead[n-1].Name)
	}
	if in.Unfit != nil {
		c.Failed("retention", in.Unfit)
	}
	for _, warning := range plan.Warnings() {
		c.Warn(trouble.RuleError, "rule", warning)
	}
	accepted := service.Accepts(c.accept, trouble.MissingIndex, plan.Source+"/"+plan.Schema+"."+plan.Table)
	made := "" // before the target is
	if in.Missing {
		made = "when the sink has made it: "
	}
	if in.Index != "" {
		rows := ""
		if in.Rows >= 0 {
			rows = fmt.Sprintf(" (about %s rows)", service.FormatCount(in.Rows))
		}
		if text := fmt.Sprintf("%s has no index on its key: each batch with an UPDATE or DELETE reads the whole table%s", plan.Target, rows); c.once(text) {
			c.WarnUnless(accepted, trouble.MissingIndex, "index", text, made+in.Index, "see docs/runbooks/missing-index.md")
		}
	}
	if in.ByIndex != "" {
		_, by := plan.Keep()
		if text := fmt.Sprintf("%s has no index on %q, by which old rows are found: each look for them reads the whole table", plan.Target, by); c.once(text) {
			c.WarnUnless(accepted, trouble.MissingIndex, "index", text, made+in.ByIndex, "see docs/runbooks/missing-index.md")
		}
	}
}

// plans applies the rules to the newest version of the tables that the registry has.
func (s *Sink) plans(ctx context.Context, c *checker, topics []string) map[string]*rule.Plan {
	plans := map[string]*rule.Plan{}
	newest, err := newestPlans(ctx, s.registry, s.rules, s.latest, topics)
	if err != nil {
		c.Failed("schemas", err)
		return plans
	}
	var unknown []string
	for _, n := range newest {
		switch {
		case n.unknown():
			unknown = append(unknown, n.topic)
		case n.err != nil:
			c.Failed("rule", n.err)
		default:
			plans[n.topic] = n.plan
		}
	}
	if len(plans) > 0 {
		c.OK("schemas", fmt.Sprintf("the rules fit %d of %s", len(plans), service.Plural(len(topics), "table")))
	}
	if len(unknown) > 0 {
		c.Warn(trouble.SchemaUnknown, "schemas", fmt.Sprintf("the registry knows no schema of %s: %s", service.Plural(len(unknown), "topic"), shortened(unknown)),
			"if there are records in it, registry.url is not the registry that capture uses")
	}
	return plans
}
