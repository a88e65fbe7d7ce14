package capture

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tributary-cdc/tributary/capture/catalog"
	"github.com/tributary-cdc/tributary/capture/publish"
	"github.com/tributary-cdc/tributary/pkg/kafka"
	"github.com/tributary-cdc/tributary/pkg/postgres"
	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/schema/record"
)

// finding is one line of capture check.
type finding struct {
	verdict string // ok, warn, FAIL, note
	subject string
	text    string
	help    string // what to do, lines
	code    trouble.Code
}

// Verdicts.
const (
	ok   = "ok"
	warn = "warn"
	fail = "FAIL"
	note = "note"
)

// report collects findings and prints them as they come.
type report struct {
	out   io.Writer
	count map[string]int
	code  trouble.Code // of the first failure
}

func (r *report) head(title, text string) {
	fmt.Fprintf(r.out, "\n%s\n", strings.TrimRight(fmt.Sprintf("%-22s %s", title, text), " "))
}

func (r *report) add(f finding) {
	r.count[f.verdict]++
	if f.verdict == fail && r.code == "" {
		r.code = f.code
	}
	for i, line := range strings.Split(f.text, "\n") {
		if i == 0 {
			fmt.Fprintf(r.out, "  %-5s %-14s %s\n", f.verdict, f.subject, line)
		} else {
			fmt.Fprintf(r.out, "%23s%s\n", "", line)
		}
	}
	for _, line := range strings.Split(f.help, "\n") {
		if line != "" {
			fmt.Fprintf(r.out, "%23s-> %s\n", "", line)
		}
	}
}

// Check prints everything that capture needs and finds, and changes nothing. The error, a trouble, says that capture
// could not run.
func (c *Capture) Check(ctx context.Context, out io.Writer) error {
	began := time.Now()
	r := &report{out: out, count: map[string]int{}}
	dsn, err := c.dsn()
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "Source %s   %s\n", c.config.Source.Name, postgres.Redact(dsn))
	c.checkSource(ctx, r, dsn)
	c.checkKafka(ctx, r)
	fmt.Fprintf(out, "\n%s, %s, %d ok, %s. Nothing was changed.\n", plural(r.count[fail], "failure"), plural(r.count[warn], "warning"),
		r.count[ok], service.FormatDuration(time.Since(began)))
	if n := r.count[fail]; n > 0 {
		return &trouble.Error{
			Code: r.code, Op: "check", Subject: fmt.Sprintf("source %q", c.config.Source.Name),
			Cause: fmt.Errorf("capture is not ready: %s", plural(n, "check")+" failed"), Hint: "mend it as shown",
		}
	}
	return nil
}

func plural(n int, word string) string {
	if n == 1 {
		return "1 " + word
	}
	return fmt.Sprintf("%d %ss", n, word)
}

// failed turns err into a finding.
func failed(subject string, err error) finding {
	f := finding{verdict: fail, subject: subject, text: err.Error(), code: trouble.CodeOf(err)}
	if t, isTrouble := asTrouble(err); isTrouble {
		f.help = t.Hint
	}
	return f
}

func asTrouble(err error) (*trouble.Error, bool) {
	var t *trouble.Error
	return t, errors.As(err, &t)
}

func (c *Capture) checkSource(ctx context.Context, r *report, dsn string) {
	r.head("Server", "")
	cat, err := catalog.Open(ctx, dsn, "tributary check")
	if err != nil {
		r.add(failed("connection", err))
		return
	}
	defer cat.Close(context.WithoutCancel(ctx)) //nolint:errcheck // the server forgets the connection by itself
	server, err := cat.Server(ctx)
	if err != nil {
		r.add(failed("settings", err))
		return
	}
	c.checkServer(ctx, r, cat, server)
	patterns, err := catalog.ParsePatterns(c.config.Source.Tables)
	if err != nil {
		r.add(failed("tables", err))
		return
	}
	tables, err := cat.Tables(ctx, patterns)
	if err != nil {
		r.add(failed("tables", err))
		return
	}
	c.checkTables(ctx, r, cat, tables)
	if n, err := cat.TemporaryTables(ctx); err != nil {
		r.add(failed("temporary", err))
	} else if n > 0 {
		r.add(finding{verdict: note, subject: plural(n, "table"), text: "temporary, of the sessions that are open now: they have no WAL to read"})
	}
}

func (c *Capture) checkServer(ctx context.Context, r *report, cat *catalog.Catalog, s *catalog.Server) {
	role := "primary"
	if s.InRecovery {
		role = "standby"
	}
	version := finding{verdict: ok, subject: "version", text: fmt.Sprintf("PostgreSQL %s, %s", s.Version, role)}
	if s.Major() < 14 {
		version = finding{verdict: fail, subject: "version", text: version.text + ": 14 or later is needed", code: trouble.ServerVersion}
	}
	r.add(version)
	if s.InRecovery {
		r.add(finding{verdict: fail, subject: "primary", text: "this server is a standby: publications and slot are made on the primary", code: trouble.SourceRights})
	}
	if s.WALLevel == "logical" {
		r.add(finding{verdict: ok, subject: "wal_level", text: s.WALLevel})
	} else {
		r.add(finding{verdict: fail, subject: "wal_level", text: s.WALLevel, help: "ALTER SYSTEM SET wal_level = 'logical';   then restart the server", code: trouble.WALLevel})
	}
	c.checkRole(ctx, r, cat, s)
	if s.SlotsUsed < s.SlotsMax && s.SendersUsed < s.SendersMax {
		r.add(finding{verdict: ok, subject: "slots", text: fmt.Sprintf("%d of %d slots used, %d of %d WAL senders used", s.SlotsUsed, s.SlotsMax, s.SendersUsed, s.SendersMax)})
	} else {
		r.add(finding{
			verdict: warn, subject: "slots", text: fmt.Sprintf("%d of %d slots used, %d of %d WAL senders used", s.SlotsUsed, s.SlotsMax, s.SendersUsed, s.SendersMax),
			help: "raise max_replication_slots and max_wal_senders, unless ours are among them",
		})
	}
	budget := int64(c.config.Source.WALBudget)
	if s.SlotKeepBytes >= 0 && s.SlotKeepBytes < budget {
		r.add(finding{verdict: warn, subject: "WAL limit", text: fmt.Sprintf("wal_budget is %s, but the server drops the slot at %s\n(max_slot_wal_keep_size): the slot would be lost before we alarm",
			service.FormatBytes(budget), service.FormatBytes(s.SlotKeepBytes)), help: fmt.Sprintf("ALTER SYSTEM SET max_slot_wal_keep_size = '%dMB'; SELECT pg_reload_conf();", budget>>20)})
	}
	slot, err := cat.Slot(ctx, c.config.Source.slot())
	switch {
	case err != nil:
		r.add(failed("slot", err))
	case slot == nil:
		r.add(finding{verdict: ok, subject: "slot", text: fmt.Sprintf("%s is to be made", c.config.Source.slot())})
		c.checkBlockers(ctx, r, cat)
	case slot.Active:
		r.add(finding{verdict: warn, subject: "slot", text: fmt.Sprintf("%s is in use by pid %d: %s", slot.Name, slot.ActivePID, slot.Holder), code: trouble.SlotInUse})
	default:
		r.add(finding{verdict: ok, subject: "slot", text: fmt.Sprintf("%s stands at %s, keeps %s of WAL, %s", slot.Name, slot.ConfirmedFlushLSN, service.FormatBytes(slot.KeptBytes), slot.WALStatus)})
	}
}

func (c *Capture) checkRole(ctx context.Context, r *report, cat *catalog.Catalog, s *catalog.Server) {
	made, err := cat.HavePublications(ctx, c.config.Source.publications())
	if err != nil {
		r.add(failed("publications", err))
		return
	}
	var lacking []string
	if !s.Replication {
		lacking = append(lacking, fmt.Sprintf("ALTER ROLE %s REPLICATION;", postgres.Ident(s.Role)))
	}
	if !s.CanCreate && !made {
		lacking = append(lacking, fmt.Sprintf("GRANT CREATE ON DATABASE %s TO %s;", postgres.Ident(s.Database), postgres.Ident(s.Role)))
	}
	if len(lacking) == 0 {
		r.add(finding{verdict: ok, subject: "role", text: fmt.Sprintf("%q: REPLICATION, may have its publications", s.Role)})
		return
	}
	r.add(finding{verdict: fail, subject: "role", text: fmt.Sprintf("%q lacks rights", s.Role), help: strings.Join(lacking, "\n"), code: trouble.SourceRights})
}

func (c *Capture) checkBlockers(ctx context.Context, r *report, cat *catalog.Catalog) {
	blockers, err := cat.Blockers(ctx, time.Minute)
	if err != nil {
		r.add(failed("transactions", err))
	}
	for _, b := range blockers {
		r.add(finding{
			verdict: warn, subject: "open snapshot", text: fmt.Sprintf("pid %d, app %q, transaction open for %s: creating the\nslot waits until it ends", b.PID, b.Application, service.FormatDuration(b.Age)),
			help: fmt.Sprintf("SELECT pg_terminate_backend(%d);   or wait", b.PID), code: trouble.SlotWaits,
		})
	}
}

func (c *Capture) checkTables(ctx context.Context, r *report, cat *catalog.Catalog, tables []*catalog.Table) {
	captured, all := 0, 0
	for _, t := range tables {
		if t.Level != catalog.LeftOut {
			captured++
		}
		if t.Level == catalog.All {
			all++
		}
	}
	r.head("Tables", fmt.Sprintf("%d to capture, %d cannot be", captured, len(tables)-captured))
	if captured == 0 {
		r.add(finding{verdict: fail, subject: "none", text: fmt.Sprintf("no table matches source.tables: %s", strings.Join(c.config.Source.Tables, ", ")), code: trouble.Config})
	}
	if all > 0 {
		r.add(finding{verdict: ok, subject: plural(all, "table"), text: "with a usable replica identity; all operations are captured"})
	}
	covers, _, err := c.config.covers()
	if err != nil {
		r.add(failed("columns", err))
	}
	names := map[string]string{}
	for _, t := range tables {
		name := t.Relation.QualifiedName()
		switch t.Level {
		case catalog.InsertOnly:
			r.add(finding{verdict: warn, subject: "1 table", text: name + ": " + t.Reason + ".\nINSERT and TRUNCATE only; the application's UPDATE and DELETE go on\nworking, but do not arrive", help: t.Help, code: trouble.TableWithoutIdentity})
		case catalog.LeftOut:
			r.add(finding{verdict: note, subject: "1 table", text: name + ": " + t.Reason, help: t.Help})
			continue
		case catalog.All:
			if t.Partitioned {
				r.add(finding{verdict: ok, subject: "1 table", text: fmt.Sprintf("%s: %s, captured through the root", name, plural(len(t.Leaves), "partition"))})
			}
		}
		if len(t.Generated) > 0 {
			c.checkGenerated(ctx, r, cat, t)
		}
		if err := publish.CheckCovers(covers, &t.Relation); err != nil {
			r.add(failed("columns", err))
		}
		topic, err := record.Topic(c.config.Source.Name, t.Relation.Schema, t.Relation.Name)
		switch {
		case err != nil:
			r.add(finding{verdict: fail, subject: "1 table", text: err.Error(), code: trouble.TopicName})
		case topic == record.ProgressTopic(c.config.Source.Name) || names[topic] != "":
			r.add(finding{verdict: fail, subject: "1 table", text: fmt.Sprintf("%s: topic %s is taken", name, topic), code: trouble.TopicName})
		}
		names[topic] = name
	}
	breaking, err := cat.BreakingPublications(ctx, tables)
	if err != nil {
		r.add(failed("publications", err))
	}
	for _, b := range breaking {
		r.add(finding{
			verdict: fail, subject: "1 table", text: fmt.Sprintf("%s.%s has no replica identity, and publication %q\npublishes its UPDATE and DELETE: the application's own UPDATE fails", b.Schema, b.Table, b.Publication),
			help: fmt.Sprintf("ALTER PUBLICATION %s DROP TABLE %s;", postgres.Ident(b.Publication), postgres.Ident(b.Schema, b.Table)), code: trouble.PublicationBreaksApp,
		})
	}
}

// checkGenerated names the generated columns of t that are not in the stream, and how a target has them.
func (c *Capture) checkGenerated(ctx context.Context, r *report, cat *catalog.Catalog, t *catalog.Table) {
	definitions, err := cat.Definitions(ctx, t)
	if err != nil {
		r.add(failed("generated", err))
		return
	}
	var help []string
	for _, d := range definitions {
		help = append(help, "to have it in the warehouse, there: ALTER TABLE ... ADD COLUMN "+d+";")
	}
	r.add(finding{
		verdict: note, subject: "1 table", help: strings.Join(help, "\n"),
		text: fmt.Sprintf("%s: generated %s not captured", t.Relation.QualifiedName(), strings.Join(t.Generated, ", ")),
	})
}

func (c *Capture) checkKafka(ctx context.Context, r *report) {
	r.head("Kafka", strings.Join(c.config.Kafka.Brokers, ", "))
	opts, err := c.config.Kafka.Options(c.log)
	if err != nil {
		r.add(failed("settings", err))
		return
	}
	client, err := kgo.NewClient(opts...)
	if err != nil {
		r.add(failed("settings", err))
		return
	}
	defer client.Close()
	pingCtx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if err := kafka.Ping(pingCtx, client); err != nil {
		r.add(failed("brokers", c.config.Kafka.Grant(err, c.rights())))
	} else {
		r.add(finding{verdict: ok, subject: "brokers", text: "reachable; transactional.id " + publish.TransactionalID(c.config.Source.Name)})
	}
	if err := c.registry.Ping(pingCtx); err != nil {
		r.add(finding{verdict: fail, subject: "registry", text: err.Error(), help: publish.RegistryHint(err), code: trouble.RegistryUnreachable})
	} else {
		r.add(finding{verdict: ok, subject: "registry", text: c.config.Registry.URL})
	}
}
