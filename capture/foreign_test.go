package capture

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tributary-cdc/tributary/capture/catalog"
	"github.com/tributary-cdc/tributary/pkg/config"
	"github.com/tributary-cdc/tributary/pkg/kafkatest"
	"github.com/tributary-cdc/tributary/pkg/terminal"
	"github.com/tributary-cdc/tributary/pkg/trouble"
)

// member lets capture log in as a role that has the rights of the owner of all tables that there are, and no others.
func (r *rig) member() (role, owner string) {
	r.t.Helper()
	admin := r.dsn
	owner = fmt.Sprintf("owner_%d", time.Now().UnixNano())
	role = owner + "_capture"
	r.exec("create role " + owner + "; create role " + role + " login replication in role " + owner)
	r.t.Cleanup(func() {
		conn, err := pgx.Connect(context.Background(), admin)
		must(r.t, err)
		defer conn.Close(context.Background())
		_, err = conn.Exec(context.Background(), fmt.Sprintf("reassign owned by %[1]s, %[2]s to postgres; drop owned by %[1]s, %[2]s; drop role %[1]s, %[2]s", role, owner))
		must(r.t, err)
	})
	r.exec(`do $$ declare t regclass; begin
		execute format('grant create on database %I to ` + role + `', current_database());
		for t in select oid::regclass from pg_class where relnamespace = 'public'::regnamespace and relkind in ('r', 'p') loop
			execute format('alter table %s owner to ` + owner + `', t);
		end loop; end $$`)
	dsn, err := pgx.ParseConfig(admin)
	must(r.t, err)
	r.config.Source.DSN = config.Secret(fmt.Sprintf("postgres://%s@%s:%d/%s", role, dsn.Host, dsn.Port, dsn.Database))
	return role, owner
}

// alarmed says whether the status tells of this trouble of this table.
func alarmed(c *Capture, code trouble.Code, subject string) *TroubleStatus {
	for _, a := range c.Status().Alarms {
		if a.Code == code && a.Subject == subject {
			return &a
		}
	}
	return nil
}

// A table that somebody else had made kept capture from starting, and from taking up any other, since publishing it takes the rights of
// its owner.
func TestTableOfAnotherOwner(t *testing.T) {
	r := newRig(t, 0, kafkatest.Fake(t), tables)
	role, owner := r.member()
	r.exec("create table theirs (id int primary key); insert into theirs values (1)")
	r.config.Source.Tables = append(r.config.Source.Tables, "public.lather", "public.later")
	var out strings.Builder
	must(t, r.verbs().Check(t.Context(), terminal.NewCheck("capture", &out)))
	for _, want := range []string{`its owner is "`, "\"!public.theirs\"", "1 cannot be"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("check does not say %q:\n%s", want, out.String())
		}
	}
	c, stop := r.start()
	r.fence()
	a := alarmed(c, trouble.SourceRights, `table "public.theirs"`)
	if a == nil {
		t.Fatalf("the status does not tell of it: %+v", c.Status().Alarms)
	}
	if idle := c.Status().Idle; !slices.Equal(idle, []string{"public.lather", "public.later"}) {
		t.Errorf("no table fits %q", idle)
	}
	r.exec("create table later (id int primary key); alter table later owner to " + owner + "; insert into later values (1)")
	r.exec("create table keyless_theirs (v int)")
	eventually(t, "it is taken up", func() bool {
		return slices.ContainsFunc(c.Status().Tables, func(one TableStatus) bool { return one.Table == "public.later" })
	})
	r.fence()
	r.same("public", "later")
	if idle := c.Status().Idle; !slices.Equal(idle, []string{"public.lather"}) {
		t.Errorf("no table fits %q", idle)
	}
	eventually(t, "the other is told, too", func() bool { return alarmed(c, trouble.SourceRights, `table "public.keyless_theirs"`) != nil })

	help, _, _ := strings.Cut(a.Hint, "\n\"!")
	r.exec(help) // as it says
	eventually(t, "it is captured", func() bool { return alarmed(c, trouble.SourceRights, a.Subject) == nil })
	r.fence()
	r.same("public", "theirs")
	r.exec("alter table keyless_theirs owner to " + owner)
	eventually(t, "none is left out", func() bool { return len(c.Status().Alarms) == 0 })
	r.exec("revoke " + owner + " from " + role) // what is published already stays so
	r.exec("insert into theirs values (2)")
	r.fence()
	r.same("public", "theirs")
	must(t, stop())
}

// What helps with a table of a superuser was not enough where its schema is closed to the role, and the check said that all was well.
func TestTableInAClosedSchema(t *testing.T) {
	r := newRig(t, 0, kafkatest.Fake(t), tables)
	role, _ := r.member()
	r.exec("create schema stock; create table stock.item (id int primary key); insert into stock.item values (1)")
	r.config.Source.Tables = append(r.config.Source.Tables, "stock.item")
	c, stop := r.start()
	r.fence()
	a := alarmed(c, trouble.SourceRights, `table "stock.item"`)
	if a == nil {
		t.Fatalf("the status does not tell of it: %+v", c.Status().Alarms)
	}
	help, _, _ := strings.Cut(a.Hint, "\n\"!")
	publish, grants, _ := strings.Cut(help, "\n")
	check := func() (string, error) {
		var out strings.Builder
		err := r.verbs().Check(t.Context(), terminal.NewCheck("capture", &out))
		return strings.Join(strings.Fields(out.String()), " "), err
	}

	r.exec(publish)
	if text, err := check(); trouble.CodeOf(err) != trouble.SourceRights || !strings.Contains(text, "stock.item: its rows may not be read") || !strings.Contains(text, "GRANT USAGE") {
		t.Errorf("check says %v:\n%s", err, text)
	}
	r.config.Snapshot.Mode = "never" // with which hardly any row is read
	if text, err := check(); err != nil || !strings.Contains(text, "warn 1 table stock.item: its rows may not be read. With snapshot.mode never") {
		t.Errorf("check says %v:\n%s", err, text)
	}
	r.config.Snapshot.Mode = "initial"
	eventually(t, "it is held", func() bool {
		return slices.ContainsFunc(c.Status().Tables, func(one TableStatus) bool { return one.Held != nil })
	})
	r.fence()
	if held := r.isHeld(c, "stock.item", trouble.SourceRights); !strings.Contains(held.Hint, grants) {
		t.Errorf("the hint is %q, want %q", held.Hint, grants)
	}
	r.exec(grants) // as it says
	if text, err := check(); err != nil {
		t.Errorf("check says %v:\n%s", err, text)
	}
	r.exec("alter table stock.item enable row level security")
	if text, err := check(); trouble.CodeOf(err) != trouble.SourceRights || !strings.Contains(text, fmt.Sprintf("ALTER ROLE %q BYPASSRLS;", role)) {
		t.Errorf("check says %v:\n%s", err, text)
	}
	r.exec("alter table stock.item disable row level security")
	r.reload("stock.item")
	r.same("stock", "item")
	must(t, stop())
}

// TestForeignTableIsPublishedMeanwhile: somebody publishes a table of another owner, as capture has said, while capture makes the publications
// what it has just found them to lack: it took the table out again.
func TestForeignTableIsPublishedMeanwhile(t *testing.T) {
	r := newRig(t, 0, kafkatest.Fake(t), `create table item (id int primary key)`)
	r.member()
	r.exec("create table theirs (id int primary key)")
	cat, err := catalog.Open(t.Context(), string(r.config.Source.DSN), "test")
	must(t, err)
	defer cat.Close(context.Background()) //nolint:errcheck // the test is over
	patterns, err := catalog.ParsePatterns(r.config.Source.Tables)
	must(t, err)
	names := r.config.Source.publications()
	look := func() (tables, foreign []*catalog.Table) {
		tables, err := cat.Tables(t.Context(), patterns)
		must(t, err)
		foreign, err = cat.LeaveOut(t.Context(), names, tables)
		must(t, err)
		return tables, foreign
	}
	tables, foreign := look()
	ensure := func() {
		t.Helper()
		_, err := cat.Ensure(t.Context(), names, tables, nil)
		must(t, err)
	}
	ensure()
	if len(foreign) != 1 {
		t.Fatalf("%d tables are foreign", len(foreign))
	}
	r.exec("alter publication " + names.Full + " add table only theirs")
	ensure()
	if _, foreign = look(); len(foreign) != 0 {
		t.Error("the table was taken out")
	}
}

// TestPublicationOfAnotherOwner: somebody has a publication publish less, which capture may not put right: it said so in its log alone.
func TestPublicationOfAnotherOwner(t *testing.T) {
	r := newRig(t, 0, kafkatest.Fake(t), `create table item (id int primary key, v text); insert into item select i, 'old' from generate_series(1, 5) i`)
	r.member()
	check := func() (string, error) {
		var out strings.Builder
		err := r.verbs().Check(t.Context(), terminal.NewCheck("capture", &out))
		return strings.Join(strings.Fields(out.String()), " "), err
	}
	c, stop := r.start()
	r.fence()
	publication := r.config.Source.publications().Full
	must(t, stop())
	r.exec("alter publication " + publication + " set (publish = 'insert')")
	if text, err := check(); err != nil || !strings.Contains(text, "publish less: no UPDATE, DELETE, TRUNCATE. Capture mends that when it runs") {
		t.Errorf("check says %v:\n%s", err, text)
	}
	c, stop = r.start()
	r.exec("alter publication " + publication + " owner to postgres")
	r.exec("alter publication " + publication + " set (publish = 'insert')")
	r.exec("update item set v = 'unseen' where id = 1; delete from item where id = 2")
	var told *TroubleStatus
	eventually(t, "the status tells of it", func() bool {
		told = alarmed(c, trouble.SourceRights, fmt.Sprintf("%q", publication))
		return told != nil
	})
	if !strings.Contains(told.Means, "changes of its tables do not arrive") {
		t.Errorf("it says %+v", told)
	}
	if !strings.HasPrefix(told.Hint, fmt.Sprintf("ALTER PUBLICATION %q SET (publish", publication)) {
		t.Errorf("the hint is %q", told.Hint)
	}
	text, err := check()
	_, help, _ := strings.Cut(text, "FAIL publication")
	_, help, _ = strings.Cut(help, "-> ")
	help, _, _ = strings.Cut(help, ";")
	if trouble.CodeOf(err) != trouble.SourceRights || !strings.HasPrefix(help, "ALTER PUBLICATION") {
		t.Fatalf("check says %v:\n%s", err, text)
	}
	r.exec(help) // as it says
	eventually(t, "nothing is said of it any more", func() bool { return len(c.Status().Alarms) == 0 })
	r.settles("item")
	must(t, stop())
}

// TestPublicationHandedOver: who puts a publication right hands it over at once, so that its last change is that of its owner. What was missed is
// read, also where the session that was told of it has ended meanwhile, or there was none.
func TestPublicationHandedOver(t *testing.T) {
	for name, c := range map[string]struct{ before, ended bool }{
		"while it runs":    {before: true},
		"the session ends": {before: true, ended: true},
		"while it is away": {ended: true},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, 0, kafkatest.Fake(t), `create table item (id int primary key, v text); insert into item select i, 'old' from generate_series(1, 5) i`)
			_, owner := r.member()
			running, stop := r.start()
			r.fence()
			publication := r.config.Source.publications().Full
			if !c.before {
				must(t, stop())
			}
			r.exec("begin; alter publication " + publication + " owner to pg_monitor; alter publication " + publication + " set (publish = 'insert'); commit")
			r.exec("update item set v = 'unseen' where id = 1; delete from item where id = 2")
			if c.before {
				eventually(t, "the status tells of it", func() bool { return alarmed(running, trouble.SourceRights, fmt.Sprintf("%q", publication)) != nil })
			}
			if c.ended {
				must(t, stop())
			}
			r.exec("begin; alter publication " + publication + " set (publish = 'insert, update, delete, truncate'); alter publication " + publication + " owner to " + owner + "; commit")
			if c.ended {
				_, stop = r.start()
			}
			r.settles("item")
			must(t, stop())
		})
	}
}

// TestLeftOutIsToldOnce: each change of the catalog told of all tables that are not captured, as new ones.
func TestLeftOutIsToldOnce(t *testing.T) {
	r := newRig(t, 0, kafkatest.Fake(t), `create table item (id int primary key); create unlogged table unlogged (id int primary key)`)
	_, owner := r.member()
	r.exec("create table theirs (id int primary key)")
	var log strings.Builder
	c, err := New(r.config, r.options, slog.New(slog.NewTextHandler(io.MultiWriter(&log, testWriter{t}), nil)))
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	for _, name := range []string{"item", "a", "b"} {
		if name != "item" {
			r.exec("begin; create unlogged table unlogged_" + name + " (id int); create table " + name + " (id int primary key); alter table " + name + " owner to " + owner + "; commit")
		}
		eventually(t, "it is captured", func() bool {
			return slices.ContainsFunc(c.Status().Tables, func(one TableStatus) bool { return one.Table == "public."+name })
		})
	}
	cancel()
	must(t, <-done)
	text := strings.ReplaceAll(log.String(), " source="+r.config.Source.Name, "")
	for line, want := range map[string]int{
		`msg="new table" table=public.theirs`: 0, `msg="new table" table=public.unlogged`: 0, `msg="new table" table=public.b`: 1,
		`msg="table is left out" table=public.unlogged `: 1, `msg="table is left out" table=public.unlogged_a `: 1, `msg="table is left out" table=public.unlogged_b `: 1,
	} {
		if n := strings.Count(text, line); n != want {
			t.Errorf("%s is said %d times, want %d", line, n, want)
		}
	}
}

// Membership is in no catalog of the database.
func TestGrantIsNoticed(t *testing.T) {
	r := newRig(t, 0, kafkatest.Fake(t), tables)
	role, _ := r.member()
	other := fmt.Sprintf("other_%d", time.Now().UnixNano())
	r.exec("create role " + other + "; create table theirs (id int primary key); insert into theirs values (1); alter table theirs owner to " + other)
	t.Cleanup(func() {
		must(t, func() error {
			_, err := r.conn.Exec(context.Background(), "drop table theirs; drop role "+other)
			return err
		}())
	})
	c, stop := r.start()
	r.fence()
	a := alarmed(c, trouble.SourceRights, `table "public.theirs"`)
	if want := fmt.Sprintf("GRANT %q TO %q;", other, role); a == nil || !strings.HasPrefix(a.Hint, want) {
		t.Fatalf("the status says %+v, want %s", a, want)
	}
	r.exec("grant " + other + " to " + role)
	eventually(t, "it is captured", func() bool { return alarmed(c, trouble.SourceRights, a.Subject) == nil })
	r.fence()
	r.same("public", "theirs")
	must(t, stop())
}

// A name in source.tables that was wrong was said by nobody.
func TestPatternThatNothingFits(t *testing.T) {
	r := newRig(t, 0, kafkatest.Fake(t), "create table invoices (id int primary key); create table other (id int primary key)")
	check := func() (string, error) {
		var out strings.Builder
		err := r.verbs().Check(t.Context(), terminal.NewCheck("capture", &out))
		return strings.Join(strings.Fields(out.String()), " "), err
	}
	r.config.Source.Tables = []string{"public.other", "public.invoces", "!public.audit"}
	if text, err := check(); err != nil || !strings.Contains(text, "warn pattern no table fits public.invoces of source.tables; did you mean public.invoices?") || strings.Contains(text, "audit") {
		t.Errorf("%v\n%s", err, text)
	}
	r.config.Source.Tables = []string{"public.invoces"}
	if text, err := check(); trouble.CodeOf(err) != trouble.Config || !strings.Contains(text, "did you mean public.invoices?") || !strings.Contains(text, "there are: public.invoices, public.other") {
		t.Errorf("%v\n%s", err, text)
	}
	c, stop := r.start()
	eventually(t, "the status says that there is nothing", func() bool { return alarmed(c, trouble.Config, "source.tables") != nil })
	r.exec("create table invoces (id int primary key)")
	eventually(t, "now there is", func() bool { return alarmed(c, trouble.Config, "source.tables") == nil })
	must(t, stop())
}

// A check of a slot that was lost said ok, and advised to drop another source's.
func TestCheckOfSlot(t *testing.T) {
	r := newRig(t, 0, kafkatest.Fake(t), tables)
	_, stop := r.start()
	r.fence()
	must(t, stop())
	other := *r
	neighbour := newRig(t, 0, r.kafka, tables)
	other.config.Source.DSN = neighbour.config.Source.DSN
	var out strings.Builder
	err := other.verbs().Check(t.Context(), terminal.NewCheck("capture", &out))
	if trouble.CodeOf(err) != trouble.Gap || !strings.Contains(out.String(), "source.name") || strings.Contains(out.String(), "or drop that slot") {
		t.Errorf("%v\n%s", err, out.String())
	}
	if e := other.fails(trouble.Gap); !strings.Contains(e.Hint, "source.name") {
		t.Errorf("hint %q", e.Hint)
	}
	// One of this database that is another program's.
	r.exec(fmt.Sprintf(`select pg_drop_replication_slot('%[1]s'); select pg_create_logical_replication_slot('%[1]s', 'pgoutput', false, true)`, r.config.Source.slot()))
	out.Reset()
	if err := r.verbs().Check(t.Context(), terminal.NewCheck("capture", &out)); trouble.CodeOf(err) != trouble.Gap || !strings.Contains(out.String(), "two_phase true") {
		t.Errorf("%v\n%s", err, out.String())
	}
}
