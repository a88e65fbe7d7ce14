package capture

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tributary-cdc/tributary/capture/catalog"
	"github.com/tributary-cdc/tributary/pkg/config"
	"github.com/tributary-cdc/tributary/pkg/kafkatest"
	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/service/page"
	"github.com/tributary-cdc/tributary/pkg/terminal"
	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/schema/record"
)

const huge = `repeat('x', 200000)`

// isHeld checks that table, and no other, is held with this code, and that all who tell it say the same.
// reads waits until a page says all of these words; it never says the key of a row.
func (r *rig) reads(c *Capture, query string, words ...string) {
	r.t.Helper()
	cfg := page.Config{View: func() page.View { st := c.Status(); return st.page() }, Table: c.tableView, History: c.vitals.history, Log: c.log}
	eventually(r.t, "the page says "+strings.Join(words, ", "), func() bool {
		text, err := cfg.Main(query)
		must(r.t, err)
		if strings.Contains(string(text), "(id) = (") {
			r.t.Fatalf("the page shows a key:\n%s", text)
		}
		return !slices.ContainsFunc(words, func(word string) bool { return !strings.Contains(string(text), word) })
	})
}

func (r *rig) isHeld(c *Capture, table string, code trouble.Code) *record.Held {
	r.t.Helper()
	held := r.tableProgress(table).Held
	if held == nil || held.Code != string(code) || held.LSN == 0 || held.Since == 0 || held.Message == "" {
		r.t.Fatalf("progress says %+v, want %s", held, code)
	}
	eventually(r.t, "status says that it is held", func() bool {
		n := 0
		for _, one := range c.Status().Tables {
			if one.Held == nil {
				continue
			}
			n++
			if one.Table != table || one.State != "held" || one.Held.Code != code || one.HeldLSN == "" || !strings.Contains(one.Held.Hint, "--reload") {
				r.t.Errorf("status says %+v", one)
			}
		}
		return n == 1
	})
	if n := c.Status(); n.held() != 1 {
		r.t.Errorf("the metric says that %v tables are held", n)
	}
	report, err := c.Ask(r.t.Context(), service.Whom{})
	must(r.t, err)
	var out strings.Builder
	must(r.t, report.Show(&terminal.Output{Out: &out, Err: &out, Terminal: true, Width: 200}, &terminal.Look{}))
	if report.Well() || !strings.Contains(out.String(), "nothing of it is published") || !strings.Contains(out.String(), string(code)) {
		r.t.Errorf("healthy %t:\n%s", report.Well(), out.String())
	}
	return held
}

// reload asks for table anew and waits until it goes on.
func (r *rig) reload(table string) {
	r.t.Helper()
	if p := r.reloaded(table); p.Held != nil || !p.Done {
		r.t.Fatalf("it does not go on: %+v", p)
	}
}

// reloaded has a table loaded anew, and gives what became of that.
func (r *rig) reloaded(table string) record.TableProgress {
	r.t.Helper()
	r.request(SnapshotRequest{ID: "again", Tables: []string{table}, Reload: true})
	r.fence()
	return r.tableProgress(table)
}

func (r *rig) count(schemaName, table string, n int) {
	r.t.Helper()
	if got := r.read(schemaName, table); len(got.events) != n {
		r.t.Errorf("%s.%s: %d events, want %d:\n%s", schemaName, table, len(got.events), n, strings.Join(got.events, "\n"))
	}
}

// A row that is too large ended capture, for every table.
func TestRowTooLargeHoldsItsTable(t *testing.T) {
	each(t, func(t *testing.T, major int, kafka kafkatest.Cluster) {
		r := newRig(t, major, kafka, tables)
		r.config.Topics.MaxMessageBytes = 64 << 10
		_, stop := r.start()
		r.fence()
		r.exec(`begin; insert into item (id) values (1), (2); insert into pair values (1, 'a', 'a');
			update item set id = 3, big = ` + huge + ` where id = 2;
			insert into item (id) values (4); insert into pair values (2, 'a', 'a'); commit; insert into item (id) values (5); insert into pair values (3, 'a', 'a')`)
		r.fence()
		must(t, stop())
		c, stop := r.start()
		r.exec(`insert into item (id) values (6); insert into pair values (4, 'a', 'a'); truncate item, full_bag; insert into item values (7, ` + huge + `)`)
		r.fence()
		r.count("public", "item", 3) // two rows, and the first half of the key change
		r.same("public", "pair")
		r.count("public", "full_bag", 2) // behind the truncate before its snapshot
		held := r.isHeld(c, "public.item", trouble.RecordTooLarge)
		if !strings.Contains(held.Message, `table "public.item"`) || !strings.Contains(held.Message, `key (id) = (3): it takes 200`) {
			t.Errorf("it says %s", held.Message)
		}
		if n := counterValue(t, c.meter.skipped.WithLabelValues(skipHeld)); n != 3 {
			t.Errorf("%v changes are counted as not published, want 3", n)
		}

		r.reads(c, "", "needs you: 1 table is held", "public.item", "held", "key (id): it takes 200", "capture snapshot --table public.item --reload", "record-too-large: runbook")
		r.reads(c, "table=public.item", "public.item is held: record-too-large", "capture snapshot --table public.item --reload")

		// Rows without those that are gone would be wrong.
		r.request(SnapshotRequest{Tables: []string{"public.item"}})
		r.fence()
		r.count("public", "item", 3)
		// What is wrong is wrong still.
		r.request(SnapshotRequest{ID: "early", Tables: []string{"public.item"}, Reload: true})
		r.fence()
		again := r.isHeld(c, "public.item", trouble.RecordTooLarge)
		if again.LSN <= held.LSN {
			t.Errorf("it is held since %x, want since after %x", again.LSN, held.LSN)
		}
		r.exec(`update item set name = 'small' where id = 7`)
		r.reload("public.item")
		r.exec(`update item set price = 1`)
		r.fence()
		r.same("public", "item")
		r.same("public", "pair")
		eventually(t, "nothing is said of it any more", func() bool {
			return !slices.ContainsFunc(c.Status().Alarms, func(one TroubleStatus) bool { return one.Code == trouble.RecordTooLarge })
		})
		must(t, stop())
	})
}

// TestHeldBeforeItIsTakenUp: somebody has published a new table, a row of which comes before capture has looked, and is too large. Capture takes
// the table up as a new one, reads it, and says no more that it is held.
func TestHeldBeforeItIsTakenUp(t *testing.T) {
	r := newRig(t, 0, kafkatest.Fake(t), `create table other (id int primary key)`)
	r.config.Topics.MaxMessageBytes, r.config.Source.Refresh = 64<<10, time.Hour
	c, stop := r.start()
	r.fence()
	for range 20 { // which are passed over; the look at its start, which comes in between, is none of these
		c.looks <- look{}
	}
	r.exec(`create table large (id int primary key, v text); alter publication ` + r.config.Source.publications().Full + ` add table large`)
	r.exec(`insert into large values (1, ` + huge + `); delete from large; insert into large values (2, 'a')`)
	r.fence()
	eventually(t, "it is held", func() bool { return alarmed(c, trouble.RecordTooLarge, `table "public.large"`) != nil })

	cat, err := catalog.Open(t.Context(), r.dsn, "test")
	must(t, err)
	defer cat.Close(context.Background()) //nolint:errcheck // the test is over
	seen, err := cat.Look(t.Context(), r.config.Source.slot(), r.config.Source.publications())
	must(t, err)
	c.looks <- look{time.Now(), seen}
	eventually(t, "it is taken up", func() bool { p := r.tableProgress("public.large"); return p.Done && p.Held == nil })
	eventually(t, "nothing is said of it any more", func() bool { st := c.Status(); return st.held() == 0 && len(st.Alarms) == 0 && len(st.Needs) == 0 })
	r.fence()
	r.same("public", "large")
	must(t, stop())
}

// startHeld starts a capture that holds public.item for a row that is too large.
func (r *rig) startHeld() (c *Capture, stop func() error) {
	r.t.Helper()
	r.config.Topics.MaxMessageBytes = 64 << 10
	c, stop = r.start()
	r.fence()
	r.exec(`insert into item (id, name) values (1, ` + huge + `)`)
	r.fence()
	r.isHeld(c, "public.item", trouble.RecordTooLarge)
	return c, stop
}

// TestHeldTableIsRenamed: a table that is renamed while it is held is told, asked for and loaded anew by the name that it has.
func TestHeldTableIsRenamed(t *testing.T) {
	r := newRig(t, 0, kafkatest.Fake(t), tables)
	c, stop := r.startHeld()
	r.exec(`update item set name = 'small'; alter table item rename to thing; insert into thing (id) values (2)`)
	eventually(t, "the status has its name", func() bool {
		return slices.ContainsFunc(c.Status().Tables, func(one TableStatus) bool {
			return one.Table == "public.thing" && one.Held != nil && strings.Contains(one.Held.Hint, "--table public.thing --reload")
		})
	})
	r.reload("public.thing")
	r.exec(`insert into thing (id) values (3)`)
	r.fence()
	r.same("public", "thing")
	must(t, stop())
}

// TestHeldTableIsRenamedWhileAway: so it is where capture was away, and reads nothing by itself. It went on under its new name, without what it misses.
func TestHeldTableIsRenamedWhileAway(t *testing.T) {
	r := newRig(t, 0, kafkatest.Fake(t), tables)
	r.config.Snapshot.Mode = "never"
	_, stop := r.startHeld()
	must(t, stop())
	r.exec(`update item set name = 'small'; alter table item rename to thing; insert into thing (id) values (2)`)
	for range 2 {
		var c *Capture
		c, stop = r.start()
		r.fence()
		r.isHeld(c, "public.thing", trouble.RecordTooLarge)
		must(t, stop())
	}
	_, stop = r.start()
	r.reload("public.thing")
	r.exec(`insert into thing (id) values (3)`)
	r.fence()
	r.same("public", "thing")
	must(t, stop())
}

// A table whose rows must not be read ended capture, for every table.
func TestTableThatMayNotBeRead(t *testing.T) {
	r := newRig(t, 0, kafkatest.Fake(t), tables)
	admin := r.dsn
	role := fmt.Sprintf("reader_%d", time.Now().UnixNano())
	r.exec("create role " + role + " login replication")
	t.Cleanup(func() {
		conn, err := pgx.Connect(context.Background(), admin)
		must(t, err)
		defer conn.Close(context.Background())
		_, err = conn.Exec(context.Background(), "reassign owned by "+role+" to postgres; drop owned by "+role+"; drop role "+role)
		must(t, err)
	})
	r.exec(`do $$ declare t regclass; begin
		execute format('grant create on database %I to ` + role + `', current_database());
		grant all on schema public to ` + role + `;
		for t in select oid::regclass from pg_class where relnamespace = 'public'::regnamespace and relkind in ('r', 'p') loop
			execute format('alter table %s owner to ` + role + `', t);
		end loop; end $$`)
	dsn, err := pgx.ParseConfig(admin)
	must(t, err)
	r.config.Source.DSN = config.Secret(fmt.Sprintf("postgres://%s@%s:%d/%s", role, dsn.Host, dsn.Port, dsn.Database))
	for _, table := range []string{"item", "full_bag"} {
		t.Run(table, func(t *testing.T) {
			c, stop := r.start()
			r.fence()
			r.exec("revoke select on " + table + " from " + role)
			r.request(SnapshotRequest{Tables: []string{"public." + table}})
			r.exec(`insert into pair values (` + fmt.Sprint(len(table)) + `, 'a', 'a')`)
			r.fence()
			if held := r.isHeld(c, "public."+table, trouble.SourceRights); !strings.Contains(held.Hint, "GRANT SELECT") {
				t.Errorf("the hint is %q", held.Hint)
			}
			r.same("public", "pair")
			r.exec("grant select on " + table + " to " + role)
			r.reload("public." + table)
			r.same("public", table)
			must(t, stop())
		})
	}
}

func TestRowTooLargeStopsWhereItIsToldTo(t *testing.T) {
	r := newRig(t, 0, kafkatest.Fake(t), tables+`insert into item (id, big) values (1, `+huge+`)`)
	r.config.Topics.MaxMessageBytes, r.config.Source.OnError = 64<<10, "stop"
	r.fails(trouble.RecordTooLarge)
}

// A broker whose limit is lower than ours refuses what we have taken for good.
func TestRowTooLargeForTheBroker(t *testing.T) {
	each(t, func(t *testing.T, major int, kafka kafkatest.Cluster) {
		r := newRig(t, major, kafka, tables)
		_, stop := r.start()
		r.fence()
		topic, err := record.Topic(r.config.Source.Name, "public", "item")
		must(t, err)
		limit := func(bytes string) {
			client, err := kgo.NewClient(kgo.SeedBrokers(kafka.Addrs()...))
			must(t, err)
			defer client.Close()
			answers, err := kadm.NewClient(client).AlterTopicConfigs(t.Context(), []kadm.AlterConfig{{Name: "max.message.bytes", Value: &bytes}}, topic)
			must(t, err)
			must(t, answers[0].Err)
		}
		limit("50000")
		r.exec(`insert into item (id) values (1)`)
		r.fence()
		r.exec(`begin; insert into item (id) values (2); insert into pair values (1, 'a', 'a');
			insert into item (id, big) values (3, (select string_agg(md5(i::text), '') from generate_series(1, 10000) i));
			insert into item (id) values (4); insert into pair values (2, 'a', 'a'); commit`)
		r.fence()
		must(t, stop())
		c, stop := r.start()
		r.exec(`insert into item (id) values (5); insert into pair values (3, 'a', 'a')`)
		r.fence()
		r.count("public", "pair", 3)
		r.isHeld(c, "public.item", trouble.RecordTooLarge)
		if got := r.read("public", "item"); len(got.events) == 0 || len(got.events) > 2 {
			t.Errorf("events %q", got.events)
		}
		limit("1000000")
		eventually(t, "the broker takes the row", func() bool { // Kafka answers before it does
			p := r.reloaded("public.item")
			return p.Held == nil && p.Done
		})
		r.same("public", "item")
		must(t, stop())
	})
}

// Without a topic there is nothing to publish to, from the start on.
func TestTableWithoutTopicIsHeld(t *testing.T) {
	name := strings.Repeat("ü", 31)
	r := newRig(t, 0, kafkatest.Fake(t), tables+`create schema "`+name+`"; create table "`+name+`"."`+name+`" (id int primary key); insert into "`+name+`"."`+name+`" values (1)`)
	c, stop := r.start()
	r.exec(`insert into pair values (1, 'a', 'a'); insert into "` + name + `"."` + name + `" values (2); truncate "` + name + `"."` + name + `", item`)
	r.fence()
	r.same("public", "pair")
	r.isHeld(c, name+"."+name, trouble.TopicName)
	r.request(SnapshotRequest{Tables: []string{name + ".*"}, Reload: true})
	r.fence()
	must(t, stop())
	c, stop = r.start()
	r.exec(`insert into pair values (2, 'a', 'a'); insert into "` + name + `"."` + name + `" values (3)`)
	r.fence()
	r.same("public", "pair")
	r.isHeld(c, name+"."+name, trouble.TopicName)
	must(t, stop())
}

// compatibility sets the level of a subject, "/" in front, or the registry's with "".
func (r *rig) compatibility(subject, level string) {
	r.t.Helper()
	q, err := http.NewRequestWithContext(r.t.Context(), http.MethodPut, r.config.Registry.URL+"/config"+subject, strings.NewReader(`{"compatibility": "`+level+`"}`))
	must(r.t, err)
	answer, err := http.DefaultClient.Do(q)
	must(r.t, err)
	must(r.t, answer.Body.Close())
	if answer.StatusCode != http.StatusOK {
		r.t.Fatal(answer.Status)
	}
}

func TestRefusedSchemaHoldsItsTable(t *testing.T) {
	r := newRig(t, 0, kafkatest.Fake(t), tables)
	c, stop := r.start()
	r.exec(`insert into item (id, price) values (1, 1); insert into pair values (1, 'a', 'a')`)
	r.fence()
	subject := "/" + r.config.Source.Name + ".public.item-value"
	r.compatibility(subject, "BACKWARD")
	events := len(r.read("public", "item").events)
	r.exec(`begin; alter table item alter price type boolean using true; insert into item (id, price) values (2, false); insert into pair values (2, 'a', 'a'); commit`)
	r.exec(`alter table item add more text; insert into item (id, more) values (3, 'more')`)
	r.fence()
	r.count("public", "item", events)
	r.same("public", "pair")
	r.isHeld(c, "public.item", trouble.SchemaIncompatible)
	r.compatibility(subject, "NONE")
	r.reload("public.item")
	r.exec(`update item set more = 'yet more'`)
	r.fence()
	r.same("public", "item")
	must(t, stop())
}

// A schema that the registry does not take for one, or that is too large for what stands before it, holds its table. It stopped the source, as
// if no registry answered.
func TestSchemaThatIsNotTakenHoldsItsTable(t *testing.T) {
	for status, body := range map[int]string{
		http.StatusUnprocessableEntity: `{"error_code": 42201, "message": "Invalid schema"}`, http.StatusRequestEntityTooLarge: `<html>nginx</html>`,
	} {
		t.Run(http.StatusText(status), func(t *testing.T) {
			r := newRig(t, 0, kafkatest.Fake(t), tables)
			to, err := url.Parse(r.config.Registry.URL)
			must(t, err)
			var takes atomic.Bool
			proxy := httputil.NewSingleHostReverseProxy(to)
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
				sent, err := io.ReadAll(q.Body)
				if q.Body = io.NopCloser(bytes.NewReader(sent)); err != nil || !takes.Load() && bytes.Contains(sent, []byte("refused")) {
					w.WriteHeader(status)
					_, _ = io.WriteString(w, body)
					return
				}
				proxy.ServeHTTP(w, q)
			}))
			t.Cleanup(server.Close)
			r.config.Registry.URL = server.URL
			c, stop := r.start()
			r.exec(`insert into item (id) values (1); insert into pair values (1, 'a', 'a')`)
			r.fence()
			r.exec(`alter table item add refused text default 'long'; insert into item (id) values (2); insert into pair values (2, 'a', 'a')`)
			r.fence()
			r.same("public", "pair")
			r.isHeld(c, "public.item", trouble.SchemaIncompatible)
			takes.Store(true)
			r.reload("public.item")
			r.fence()
			r.same("public", "item")
			must(t, stop())
		})
	}
}

func TestChangedPartitionsHoldTheirTable(t *testing.T) {
	each(t, func(t *testing.T, major int, kafka kafkatest.Cluster) {
		r := newRig(t, major, kafka, tables)
		_, stop := r.start()
		r.exec(`insert into item (id) values (1); insert into pair values (1, 'a', 'a')`)
		r.fence()
		must(t, stop())
		events := len(r.read("public", "item").events)
		topic, err := record.Topic(r.config.Source.Name, "public", "item")
		must(t, err)
		client, err := kgo.NewClient(kgo.SeedBrokers(kafka.Addrs()...))
		must(t, err)
		defer client.Close()
		answers, err := kadm.NewClient(client).UpdatePartitions(t.Context(), 3, topic)
		must(t, err)
		must(t, answers.Error())
		for range 2 {
			c, stop := r.start()
			r.exec(`update item set price = 1; update pair set a = a + 1`)
			r.fence()
			r.count("public", "item", events)
			r.same("public", "pair")
			r.isHeld(c, "public.item", trouble.TopicPartitionsChanged)
			must(t, stop())
		}
	})
}
