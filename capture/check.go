package capture

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tributary-cdc/tributary/capture/catalog"
	"github.com/tributary-cdc/tributary/capture/publish"
	"github.com/tributary-cdc/tributary/pkg/kafka"
	"github.com/tributary-cdc/tributary/pkg/postgres"
	"github.com/tributary-cdc/tributary/pkg/registry"
	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/terminal"
	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/schema/record"
)

// Check tells everything that capture needs and finds, and changes nothing. The error, a trouble, says that capture
// could not run.
func (c *Capture) Check(ctx context.Context, r *terminal.Check) error {
	dsn, err := c.dsn()
	if err != nil {
		return err
	}
	r.Of("Source", c.config.Source.Name, postgres.Redact(dsn))
	var tables []*catalog.Table
	if r.Wants("server") || r.Wants("tables") {
		tables = c.checkSource(ctx, r, dsn)
	}
	if r.Part("Kafka", strings.Join(c.config.Kafka.Brokers, ", ")) {
		c.checkKafka(ctx, r, tables)
	}
	return r.End("capture")
}

// checkSource gives the tables that there are, nil where that is not known.
func (c *Capture) checkSource(ctx context.Context, r *terminal.Check, dsn string) (tables []*catalog.Table) {
	r.Part("Server", "")
	cat, err := catalog.Open(ctx, dsn, "tributary check")
	if err != nil {
		r.Blocked("connection", err)
		return nil
	}
	defer cat.Close(context.WithoutCancel(ctx)) //nolint:errcheck // the server forgets the connection by itself
	server, err := cat.Server(ctx)
	if err != nil {
		r.Blocked("settings", err)
		return nil
	}
	c.checkServer(ctx, r, cat, server)
	patterns, err := catalog.ParsePatterns(c.config.Source.Tables)
	if err != nil {
		r.Blocked("tables", err)
		return nil
	}
	tables, err = cat.Tables(ctx, patterns)
	if err != nil {
		r.Blocked("tables", err)
		return nil
	}
	foreign, err := cat.LeaveOut(ctx, c.config.Source.publications(), tables)
	if err != nil {
		r.Blocked("owners", err)
		return nil
	}
	if len(foreign) > 0 && !foreign[0].Foreign { // all that there are
		r.Fail(trouble.SourceRights, "tables", fmt.Sprintf("%q has the rights of no owner of %s: publishing them takes these", server.Role, service.Plural(len(foreign), "table")),
			"capture init DSN --role   prints the statements")
	}
	c.checkTables(ctx, r, cat, tables)
	if n, err := cat.TemporaryTables(ctx); err != nil {
		r.Failed("temporary", err)
	} else if n > 0 {
		r.Note(service.Plural(n, "table"), "temporary, of the sessions that are open now: they have no WAL to read")
	}
	return tables
}

func (c *Capture) checkServer(ctx context.Context, r *terminal.Check, cat *catalog.Catalog, s *catalog.Server) {
	role := "primary"
	if s.InRecovery {
		role = "standby"
	}
	if version := fmt.Sprintf("PostgreSQL %s, %s", s.Version, role); s.Major() >= 14 {
		r.OK("version", version)
	} else {
		r.Fail(trouble.ServerVersion, "version", version+": 14 or later is needed")
	}
	if s.InRecovery {
		r.Fail(trouble.SourceRights, "primary", "this server is a standby: publications and slot are made on the primary")
	}
	if s.WALLevel == "logical" {
		r.OK("wal_level", s.WALLevel)
	} else {
		r.Fail(trouble.WALLevel, "wal_level", s.WALLevel, "ALTER SYSTEM SET wal_level = 'logical';   then restart the server")
	}
	if why := s.Unconvertible(); why != "" {
		r.Warn(trouble.StreamBroken, "encoding", why+". A row with one stops capture, or holds its table", "have such texts written anew in UTF-8, and see that no application writes others")
	}
	c.checkRole(ctx, r, cat, s)
	if used := fmt.Sprintf("%d of %d slots used, %d of %d WAL senders used", s.SlotsUsed, s.SlotsMax, s.SendersUsed, s.SendersMax); s.SlotsUsed < s.SlotsMax && s.SendersUsed < s.SendersMax {
		r.OK("slots", used)
	} else {
		r.Warn(trouble.SlotsExhausted, "slots", used, "raise max_replication_slots and max_wal_senders, unless ours are among them")
	}
	budget := int64(c.config.Source.WALBudget)
	if s.SlotKeepBytes >= 0 && s.SlotKeepBytes < budget {
		r.Warn(trouble.WALBudget, "WAL limit", fmt.Sprintf("wal_budget is %s, but the server drops the slot at %s (max_slot_wal_keep_size): alarms are at parts of that",
			service.FormatBytes(budget), service.FormatBytes(s.SlotKeepBytes)), fmt.Sprintf("ALTER SYSTEM SET max_slot_wal_keep_size = '%dMB'; SELECT pg_reload_conf();", budget>>20))
	}
	if s.SlotKeepBytes < 0 {
		r.Note("disk", fmt.Sprintf("the server keeps WAL until its disk is full (max_slot_wal_keep_size = -1), and does not tell how much is free: pg_wal should have more than %s, source.wal_budget", service.FormatBytes(budget)))
	}
	slot, err := cat.Slot(ctx, c.config.Source.slot())
	switch {
	case err != nil:
		r.Failed("slot", err)
	case slot == nil:
		r.OK("slot", fmt.Sprintf("%s is to be made", c.config.Source.slot()))
		c.checkOpen(ctx, r, cat, trouble.SlotWaits, time.Minute, "creating the slot waits until it ends")
	case slot.WALStatus == "lost":
		r.Fail(trouble.SlotLost, "slot", slot.Name+" is lost: the server dropped the WAL that it needed", resnapshotHint)
	case !ours(slot, s.Database):
		r.Failed("slot", alien(slot))
	case slot.Making:
		r.Warn(trouble.SlotWaits, "slot", fmt.Sprintf("%s: %s", slot.Name, activity(slot)))
		c.checkOpen(ctx, r, cat, trouble.SlotWaits, time.Minute, "making the slot waits until it ends")
	case slot.Active:
		r.Warn(trouble.SlotInUse, "slot", fmt.Sprintf("%s is in use by pid %d: %s", slot.Name, slot.ActivePID, slot.Holder))
	default:
		r.OK("slot", fmt.Sprintf("%s stands at %s, keeps %s of WAL, %s", slot.Name, slot.ConfirmedFlushLSN, service.FormatBytes(slot.KeptBytes), slot.WALStatus))
	}
	if slot != nil && slot.Standbys != "" {
		r.Warn(trouble.WALBudget, "standbys", fmt.Sprintf("the standby of slot %s is away: the server sends nothing without it (synchronized_standby_slots), and keeps its WAL", slot.Standbys),
			"let it come back, or take its slot out of synchronized_standby_slots")
	}
	if slot != nil && !slot.Making {
		c.checkOpen(ctx, r, cat, trouble.OldTransaction, oldTransactionTold, "the WAL since it began is kept, and a table that joins is read when it has ended")
	}
}

func (c *Capture) checkRole(ctx context.Context, r *terminal.Check, cat *catalog.Catalog, s *catalog.Server) {
	made, err := cat.HavePublications(ctx, c.config.Source.publications())
	if err != nil {
		r.Failed("publications", err)
		return
	}
	var lacking []string
	if !s.Replication {
		lacking = append(lacking, fmt.Sprintf("ALTER ROLE %s REPLICATION;", postgres.Ident(s.Role)))
	}
	if !s.CanCreate && !made {
		lacking = append(lacking, fmt.Sprintf("GRANT CREATE ON DATABASE %s TO %s;", postgres.Ident(s.Database), postgres.Ident(s.Role)))
	}
	less, err := cat.LackingPublications(ctx, c.config.Source.publications())
	if err != nil {
		r.Failed("publications", err)
		return
	}
	for _, l := range less {
		switch text := fmt.Sprintf("somebody has had %q publish less: no %s", l.Name, l.Lacks); {
		case l.Mended:
			r.Warn(trouble.Publication, "publication", text+". Capture mends that when it runs, and reads its tables anew", l.Help)
		default:
			r.Fail(trouble.SourceRights, "publication", text+fmt.Sprintf(". It is not %q's, so that capture cannot mend it", s.Role), l.Help)
		}
	}
	if len(lacking) == 0 {
		r.OK("role", fmt.Sprintf("%q: REPLICATION, may have its publications", s.Role))
		return
	}
	r.Fail(trouble.SourceRights, "role", fmt.Sprintf("%q lacks rights", s.Role), strings.Join(lacking, "\n"))
}

// checkOpen tells of transactions that are open for long; means is what that does.
func (c *Capture) checkOpen(ctx context.Context, r *terminal.Check, cat *catalog.Catalog, code trouble.Code, olderThan time.Duration, means string) {
	blockers, err := cat.Blockers(ctx, olderThan)
	if err != nil {
		r.Failed("transactions", err)
	}
	if n := cat.Hidden(); n > 0 {
		r.Note("transactions", fmt.Sprintf("for how long %s of other roles have been open is shown to roles with pg_read_all_stats only; capture counts from when it first sees them", service.Plural(n, "transaction")))
	}
	for _, b := range blockers {
		otherwise := "or wait"
		if b.PID == 0 {
			otherwise = "or COMMIT PREPARED"
		}
		r.Warn(code, "transaction", fmt.Sprintf("%s, open for %s: %s", b.Whose(), service.FormatDuration(b.Age), means), b.End()+"   "+otherwise)
	}
}

func (c *Capture) checkTables(ctx context.Context, r *terminal.Check, cat *catalog.Catalog, tables []*catalog.Table) {
	captured, all := 0, 0
	for _, t := range tables {
		if t.Level != catalog.LeftOut {
			captured++
		}
		if t.Level == catalog.All {
			all++
		}
	}
	r.Part("Tables", fmt.Sprintf("%d to capture, %d cannot be", captured, len(tables)-captured))
	c.checkPatterns(ctx, r, cat, tables, captured)
	if all > 0 {
		r.OK(service.Plural(all, "table"), "with a usable replica identity; all operations are captured")
	}
	covers, _, err := c.config.covers()
	if err != nil {
		r.Failed("columns", err)
	}
	var there []string
	for _, t := range tables {
		there = append(there, t.Relation.QualifiedName())
	}
	for _, idle := range c.config.idleColumns(tables) {
		r.Warn(trouble.Config, "columns", fmt.Sprintf("no table is called %s%s. Where it has another name, what columns leaves out or masks is published", idle, terminal.Meant(idle, there)),
			"mend columns in capture.yaml, or leave it: a table that is made later is covered from its first row on")
	}
	names := map[string]string{}
	for _, t := range tables {
		name := t.Relation.QualifiedName()
		switch t.Level {
		case catalog.InsertOnly:
			r.WarnUnless(service.Accepts(c.config.accepted(), trouble.TableWithoutIdentity, name), trouble.TableWithoutIdentity, "1 table", name+": "+t.Reason+". INSERT and TRUNCATE only; the application's UPDATE and DELETE go on working, but do not arrive", t.Help)
		case catalog.LeftOut:
			if t.Foreign {
				r.Warn(trouble.SourceRights, "1 table", name+": "+t.Reason, t.Help, fmt.Sprintf("or \"!%s\" in source.tables, if it is not to be captured", name))
			} else {
				r.Note("1 table", name+": "+t.Reason, t.Help)
			}
			continue
		case catalog.All:
			if t.Partitioned {
				r.OK("1 table", fmt.Sprintf("%s: %s, captured through the root", name, service.Plural(len(t.Leaves), "partition")))
			}
		}
		for _, l := range t.Silent {
			r.Note("1 table", fmt.Sprintf("%s: its partition %s.%s is unlogged, or a foreign table: what is written to it does not arrive", name, l.Schema, l.Name), "ALTER TABLE "+postgres.Ident(l.Schema, l.Name)+" SET LOGGED;")
		}
		if len(t.Generated) > 0 {
			c.checkGenerated(ctx, r, cat, t)
		}
		if err := publish.CheckCovers(covers, &t.Relation); err != nil {
			r.Failed("columns", err)
		}
		topic, err := record.Topic(c.config.Source.Name, t.Relation.Schema, t.Relation.Name)
		switch {
		case err != nil:
			r.Fail(trouble.TopicName, "1 table", err.Error())
		case topic == record.ProgressTopic(c.config.Source.Name) || names[topic] != "":
			r.Fail(trouble.TopicName, "1 table", fmt.Sprintf("%s: topic %s is taken", name, topic))
		}
		names[topic] = name
	}
	unread, err := cat.Unreadable(ctx, tables)
	if err != nil {
		r.Failed("rights", err)
	}
	for _, u := range unread {
		switch text := u.Table.Relation.QualifiedName() + ": its rows may not be read"; c.config.Snapshot.Mode {
		case "never":
			r.Warn(trouble.SourceRights, "1 table", text+". With snapshot.mode never they are not, but for one whose key goes to another partition of the topic without its large value: the first of these holds the table", u.Help)
		default:
			r.Fail(trouble.SourceRights, "1 table", text, u.Help)
		}
	}
	breaking, err := cat.BreakingPublications(ctx, tables)
	if err != nil {
		r.Failed("publications", err)
	}
	for _, b := range breaking {
		r.Fail(trouble.PublicationBreaksApp, "1 table", fmt.Sprintf("%s.%s has no replica identity, and publication %q publishes its UPDATE and DELETE: the application's own UPDATE fails", b.Schema, b.Table, b.Publication),
			fmt.Sprintf("ALTER PUBLICATION %s DROP TABLE %s;", postgres.Ident(b.Publication), postgres.Ident(b.Schema, b.Table)))
	}
}

// checkPatterns names what is in source.tables for nothing: a name that is wrong would be missed only when its rows are.
func (c *Capture) checkPatterns(ctx context.Context, r *terminal.Check, cat *catalog.Catalog, tables []*catalog.Table, captured int) {
	patterns, err := catalog.ParsePatterns(c.config.Source.Tables)
	if err != nil {
		return // which has been told
	}
	idle := patterns.Idle(tables)
	var there []string
	if len(idle) > 0 || captured == 0 {
		every, err := catalog.ParsePatterns([]string{"*.*"})
		if err == nil {
			all, _ := cat.Tables(ctx, every)
			for _, t := range all {
				there = append(there, t.Relation.QualifiedName())
			}
		}
	}
	if captured == 0 {
		r.Fail(trouble.Config, "none", fmt.Sprintf("no table matches source.tables: %s%s", strings.Join(c.config.Source.Tables, ", "), terminal.Meant(strings.Join(idle, ", "), there)),
			"there are: "+strings.Join(there, ", "))
		return
	}
	for _, name := range idle {
		r.Warn(trouble.Config, "pattern", fmt.Sprintf("no table fits %s of source.tables%s", name, terminal.Meant(name, there)), "mend it, or leave it: a table that is made later is taken up")
	}
}

// checkGenerated names the generated columns of t that are not in the stream, and how a target has them.
func (c *Capture) checkGenerated(ctx context.Context, r *terminal.Check, cat *catalog.Catalog, t *catalog.Table) {
	definitions, err := cat.Definitions(ctx, t)
	if err != nil {
		r.Failed("generated", err)
		return
	}
	var help []string
	for _, d := range definitions {
		help = append(help, "to have it in the warehouse, there: ALTER TABLE ... ADD COLUMN "+d+";")
	}
	r.Note("1 table", fmt.Sprintf("%s: generated %s not captured", t.Relation.QualifiedName(), strings.Join(t.Generated, ", ")), strings.Join(help, "\n"))
}

func (c *Capture) checkKafka(ctx context.Context, r *terminal.Check, tables []*catalog.Table) {
	opts, err := c.config.Kafka.Options(c.log)
	if err != nil {
		r.Blocked("settings", err)
		return
	}
	client, err := kgo.NewClient(opts...)
	if err != nil {
		r.Blocked("settings", err)
		return
	}
	defer client.Close()
	pingCtx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if err := kafka.Ping(pingCtx, client); err != nil {
		r.Failed("brokers", c.config.Kafka.Grant(err, c.rights()))
	} else {
		r.OK("brokers", "reachable; transactional.id "+publish.TransactionalID(c.config.Source.Name))
		c.checkTopics(pingCtx, r, client, tables)
	}
	if err := c.registry.Ping(pingCtx); err != nil {
		r.Failed("registry", registry.Trouble("reach", c.config.Registry.URL, err))
	} else {
		r.OK("registry", c.config.Registry.URL)
	}
}

// checkTopics says which topics of tables are there and which are to be made, and whether the brokers take what is to be written.
func (c *Capture) checkTopics(ctx context.Context, r *terminal.Check, client *kgo.Client, tables []*catalog.Table) {
	there, err := kadm.NewClient(client).ListTopics(ctx)
	if err != nil {
		r.Failed("topics", c.config.Kafka.Grant(kafka.Trouble("list topics of", "Kafka", err), c.rights()))
		return
	}
	var have []string
	made := map[string]kafka.Topic{} // one of each kind that is to be made
	count := 0
	for _, t := range tables {
		topic, err := c.config.Topics.Of(c.config.Source.Name, &t.Relation)
		switch {
		case t.Level == catalog.LeftOut || err != nil: // which the part of the tables tells
		case there.Has(topic.Name):
			have = append(have, topic.Name)
		default:
			count++
			kind := service.Plural(int(topic.Partitions), "partition")
			if topic.Configs["cleanup.policy"] == "compact" {
				kind += ", the newest of each key kept"
			} else {
				kind += ", kept for ever"
			}
			if _, known := made[kind]; !known {
				made[kind] = topic
			}
		}
	}
	for _, kind := range slices.Sorted(maps.Keys(made)) {
		if err := kafka.CanCreate(ctx, client, made[kind]); err != nil {
			r.Failed("topics", c.config.Kafka.Grant(err, c.rights()))
			return
		}
	}
	size := int64(c.config.Topics.MaxMessageBytes)
	if count+len(have) > 0 {
		text := fmt.Sprintf("%d there, %d to be made", len(have), count)
		if count > 0 {
			text += ": " + strings.Join(slices.Sorted(maps.Keys(made)), "; ")
		}
		r.OK("topics", text+fmt.Sprintf("; a record has up to %s", service.FormatBytes(size)))
	}
	if len(have) == 0 {
		return
	}
	configs, err := kadm.NewClient(client).DescribeTopicConfigs(ctx, have...)
	if err != nil {
		r.Note("record size", "what the topics take is not told: "+err.Error())
		return
	}
	for _, described := range configs {
		topic := TopicInfo{MaxMessageBytes: size}
		topic.read(described.Configs)
		if limit := topic.MaxMessageBytes; limit < size {
			r.Warn(trouble.RecordTooLarge, "record size", fmt.Sprintf("%s takes records up to %s, topics.max_message_bytes is %s: a greater row holds that table", described.Name, service.FormatBytes(limit), service.FormatBytes(size)),
				fmt.Sprintf("capture topics set %s --max-message-bytes %s --yes", service.Quote(described.Name), c.config.Topics.MaxMessageBytes))
		}
	}
}
