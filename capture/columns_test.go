package capture

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tributary-cdc/tributary/capture/publish"
	"github.com/tributary-cdc/tributary/pkg/config"
	"github.com/tributary-cdc/tributary/pkg/kafkatest"
	"github.com/tributary-cdc/tributary/pkg/pgtest"
	"github.com/tributary-cdc/tributary/pkg/terminal"
	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/schema/record"
)

// TestColumnsNeverLeave: what is excluded or masked is in no record and no schema, be it of a snapshot or of a change,
// under every replica identity, on the oldest server and the newest.
func TestColumnsNeverLeave(t *testing.T) {
	for _, major := range []int{14, 18} {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			r := newRig(t, major, kafkatest.Fake(t), `
				create table customer (password text, id int primary key, mail text not null, card text, note text);
				create table fulls (password text, id int primary key, mail text not null, card text, note text);
				alter table fulls replica identity full;
				create table keyless (password text, id int, mail text not null, card text, note text);
				alter table keyless replica identity full;`)
			r.config.Salt = "pepper"
			r.config.Columns = []publish.Columns{
				{Table: "public.*", Exclude: []string{"password"}, Mask: []publish.Mask{{Column: "mail", As: "hash"}, {Column: "card", As: "keep_last_4"}}},
				{Table: "public.fulls", Mask: []publish.Mask{{Column: "note", As: "null"}}},
			}
			tables := []string{"customer", "fulls", "keyless"}
			for _, table := range tables {
				r.exec(fmt.Sprintf(`insert into %s select 'hidden-pw' || i, i, 'hidden@mail', 'hidden-card-123456' || i, 'n' from generate_series(1, 3) i`, table))
			}
			_, stop := r.start()
			r.fence()
			big := strings.Repeat("hidden-", 2000)
			for _, table := range tables {
				r.exec(fmt.Sprintf(`insert into %s values ('%s', 9, 'hidden@mail', '%s', 'x')`, table, big, big))
				r.exec(fmt.Sprintf(`update %s set note = 'y', password = 'hidden' where id = 9; update %[1]s set id = 10 where id = 2; delete from %[1]s where id = 3`, table))
			}
			r.fence()
			must(t, stop())
			var hash string
			for _, table := range tables {
				got := r.read("public", table)
				row := func(id, card, note string) string { return fmt.Sprintf("%q,HASH,%q,%s", id, card, note) }
				for _, event := range got.events {
					if _, rest, ok := strings.Cut(event, `| "`); ok {
						h := strings.Split(rest, `"`)[2]
						if hash == "" {
							hash = h
						}
						if len(h) != 64 || h != hash {
							t.Errorf("%s: hash %q, want %q: %s", table, h, hash, event)
						}
					}
				}
				note := func(s string) string { return map[bool]string{true: "NULL", false: `"` + s + `"`}[table == "fulls"] }
				want := []string{row("1", "****4561", note("n")), row("10", "****4562", note("n")), row("9", "****den-", note("y"))}
				for i := range got.rows {
					got.rows[i] = strings.ReplaceAll(got.rows[i], `"`+hash+`"`, "HASH")
				}
				slices.Sort(want)
				slices.Sort(got.rows)
				if !slices.Equal(got.rows, want) {
					t.Errorf("%s:\ngot  %s\nwant %s", table, got.rows, want)
				}
			}
			r.nowhere(t, append(topicsOf(t, r, tables...), record.ProgressTopic(r.config.Source.Name)), "hidden", "password")
		})
	}
}

func topicsOf(t *testing.T, r *rig, tables ...string) (topics []string) {
	t.Helper()
	for _, table := range tables {
		topic, err := record.Topic(r.config.Source.Name, "public", table)
		must(t, err)
		topics = append(topics, topic)
	}
	return topics
}

// nowhere fails for a word in a record, or in the schema of one.
func (r *rig) nowhere(t *testing.T, topics []string, words ...string) {
	t.Helper()
	for _, topic := range topics {
		client := r.consumer(topic)
		ctx, cancel := context.WithTimeout(t.Context(), pgtest.Patience)
		ends := r.ends(topic)
		for missing := len(ends); missing > 0; {
			fetches := client.PollFetches(ctx)
			must(t, fetches.Err0())
			fetches.EachRecord(func(rec *kgo.Record) {
				if rec.Offset+1 == ends[rec.Partition] {
					missing--
				}
				if rec.Attrs.IsControl() {
					return
				}
				texts := [][]byte{rec.Key, rec.Value}
				if id, _, err := record.ParseFrame(rec.Value); err == nil {
					text, err := r.registry.Schema(ctx, id)
					must(t, err)
					texts = append(texts, []byte(text))
				}
				for _, text := range texts {
					for _, word := range words {
						if bytes.Contains(text, []byte(word)) {
							t.Errorf("%s offset %d: %q is in %.200q", topic, rec.Offset, word, text)
						}
					}
				}
			})
		}
		cancel()
		client.Close()
	}
}

// TestColumnsAreRefused: what would publish more than is meant keeps its table from being published.
func TestColumnsAreRefused(t *testing.T) {
	r := newRig(t, 0, kafkatest.Fake(t), `create table a (id int primary key, pw text); create table b (id int primary key); insert into a values (1, 'hidden'); insert into b values (1)`)
	refused := func(want string, columns ...publish.Columns) {
		t.Helper()
		r.config.Columns = columns
		c, stop := r.start()
		eventually(t, "the table is held", func() bool {
			for _, table := range c.Status().Tables {
				if table.Table == "public.a" && table.Held != nil && table.Held.Code == trouble.Config && strings.Contains(table.Held.Cause, want) {
					return true
				}
			}
			return false
		})
		r.fence()
		must(t, stop())
	}
	const rest = `
source: {name: x, dsn: x}
kafka: {brokers: ["x:1"]}
registry: {url: "http://x"}
`
	refused(`no such column`, publish.Columns{Table: "public.a", Exclude: []string{"pwd"}})
	if got := r.read("public", "b"); len(got.rows) != 1 {
		t.Errorf("the other table has %d rows", len(got.rows))
	}
	for yaml, want := range map[string]string{
		`columns: [{table: public.a, exclude: [id], mask: [{column: id, as: "null"}]}]`: "is excluded or masked already",
		`columns: [{table: public.a, exclude: [x, x]}]`:                                 "is named twice",
		`columns: [{table: public.a}]`:                                                  "says nothing",
		`columns: [{table: a, exclude: [x]}]`:                                           "not schema.table",
		`columns: [{table: public.a, mask: [{column: x, as: hash}]}]`:                   "hash needs a salt",
		`columns: [{table: public.a, mask: [{column: x, as: hush}]}]`:                   `did you mean "hash"?`,
	} {
		err := config.Decode("capture.yaml", []byte(rest+yaml), &Config{})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", yaml, err, want)
		}
	}
}

// TestColumnsOfARenamedTable: what columns leave out of a table by its name does not leave when it is renamed, be it before capture's eyes, while
// it is away, or by way of a name that is not captured; and goes on when the new name has an entry.
func TestColumnsOfARenamedTable(t *testing.T) {
	r := newRig(t, 0, kafkatest.Fake(t), `create schema aside; create table customer (id int primary key, pw text); create table user_a (id int primary key, pw text); create table user_b (id int primary key, pw text);
		insert into customer values (1, 'hidden'); insert into user_a values (1, 'hidden'); insert into user_b values (1, 'hidden')`)
	r.config.Source.Tables = []string{"public.*"}
	entry := func(table string) publish.Columns { return publish.Columns{Table: table, Exclude: []string{"pw"}} }
	r.config.Columns = []publish.Columns{entry("public.customer"), entry("public.user_a"), entry("public.user_b")}
	held := func(c *Capture, names ...string) {
		t.Helper()
		eventually(t, fmt.Sprint(names, " are held"), func() bool {
			var got []string
			for _, table := range c.Status().Tables {
				if table.Held != nil && table.Held.Code == trouble.Config && strings.Contains(table.Held.Cause, "as the table was called before") && strings.Contains(table.Held.Hint, "write an entry for "+table.Table) {
					got = append(got, table.Table)
				}
			}
			return slices.Equal(got, names)
		})
	}
	c, stop := r.start()
	r.fence()
	r.exec(`alter table customer rename to client; insert into client values (2, 'hidden'); alter table user_b set schema aside`)
	held(c, "public.client")
	eventually(t, "the other is gone", func() bool { return len(c.Status().Tables) == 2 })
	r.exec(`insert into client values (3, 'hidden'); alter table aside.user_b rename to person_b; alter table aside.person_b set schema public; insert into person_b values (2, 'hidden')`)
	held(c, "public.client", "public.person_b")
	eventually(t, "the status tells of entries without tables", func() bool {
		a := alarmed(c, trouble.Config, "columns")
		return a != nil && strings.Contains(a.Cause, "public.customer, public.user_b") && !strings.Contains(a.Cause, "user_a")
	})
	r.fence()
	must(t, stop())
	r.exec(`alter table user_a rename to person_a; insert into person_a values (2, 'hidden')`)
	for range 2 { // and it is known the second time, too
		c, stop = r.start()
		held(c, "public.client", "public.person_a", "public.person_b")
		r.request(SnapshotRequest{ID: fmt.Sprint("too early ", c.instance), Tables: []string{"public.client"}, Reload: true})
		r.fence()
		held(c, "public.client", "public.person_a", "public.person_b")
		must(t, stop())
	}
	r.config.Columns = []publish.Columns{entry("public.client"), entry("public.person_?"), entry("public.user_a"), entry("public.user_b")}
	c, stop = r.start()
	for _, table := range []string{"client", "person_a", "person_b"} {
		r.reload("public." + table)
	}
	held(c)
	r.exec(`insert into client values (4, 'hidden')`)
	r.fence()
	must(t, stop())
	for table, rows := range map[string]int{"client": 4, "person_a": 2, "person_b": 2} {
		if got := r.read("public", table); len(got.rows) != rows {
			t.Errorf("%s has %d rows, want %d", table, len(got.rows), rows)
		}
	}
	r.nowhere(t, topicsOf(t, r, "customer", "user_a", "user_b", "client", "person_a", "person_b"), "hidden", "pw")
}

// TestColumnsOfRowsBeforeARename: rows of when a table had another name, which columns do not have any more, hold it. What is told to be done is
// about the name that it has, whose entry is as it should be. An older transaction that somebody has forgotten changes nothing of that.
func TestColumnsOfRowsBeforeARename(t *testing.T) {
	for _, forgotten := range []bool{false, true} {
		t.Run(fmt.Sprintf("forgotten_%t", forgotten), func(t *testing.T) { columnsOfRowsBeforeARename(t, forgotten) })
	}
}

func columnsOfRowsBeforeARename(t *testing.T, forgotten bool) {
	r := newRig(t, 0, kafkatest.Fake(t), `create table customer (id int primary key, pw text)`)
	entry := func(table string) []publish.Columns {
		return []publish.Columns{{Table: table, Exclude: []string{"pw"}}}
	}
	r.config.Columns = entry("public.customer")
	_, stop := r.start()
	r.fence()
	must(t, stop())
	older := r.connect()
	if forgotten {
		_, err := older.Exec(t.Context(), `begin; select pg_current_xact_id()`)
		must(t, err)
	}
	r.exec(`insert into customer values (1, 'hidden'); alter table customer rename to client; insert into client values (2, 'hidden')`)
	r.config.Columns = entry("public.client")
	for range 2 { // and in the session behind it, which does not see these rows again
		var c *Capture
		c, stop = r.start()
		r.fence()
		st := c.Status()
		if len(st.Tables) != 1 || st.Tables[0].Table != "public.client" || st.Tables[0].Held == nil {
			t.Fatalf("it is not held: %+v", st.Tables)
		}
		held := st.Tables[0].Held
		for _, part := range []string{`"public.customer"`, "has nothing"} {
			if !strings.Contains(held.Cause, part) {
				t.Errorf("the cause does not say %s: %s", part, held.Cause)
			}
		}
		if hint := held.Hint; !strings.Contains(hint, "nothing is to be altered") || !strings.Contains(hint, "--table public.client --reload") || strings.Contains(hint, "--table public.customer") || strings.Contains(hint, "take out") {
			t.Errorf("the hint is %s", hint)
		}
		must(t, stop())
	}
	must(t, older.Close(t.Context())) // a read would wait for it
	_, stop = r.start()
	r.reload("public.client")
	r.exec(`insert into client values (3, 'hidden')`)
	r.fence()
	must(t, stop())
	if got := r.read("public", "client"); len(got.rows) != 3 {
		t.Errorf("it has %d rows", len(got.rows))
	}
	r.nowhere(t, topicsOf(t, r, "customer", "client"), "hidden", "pw")
}

// TestColumnsOfARenameThatIsNotVisible: the stream has a rename before the catalog shows it, as its transaction waits for a standby. That was taken for rows of
// before a rename: "nothing is to be altered", by the name of before, and it stayed so.
func TestColumnsOfARenameThatIsNotVisible(t *testing.T) {
	r := newRig(t, 0, kafkatest.Fake(t), "")
	r.own(0, map[string]string{"synchronous_standby_names": "nobody"})
	r.exec(`set synchronous_commit = local; create table customer (id int primary key, pw text); insert into customer values (1, 'hidden')`)
	r.config.Columns = []publish.Columns{{Table: "public.customer", Exclude: []string{"pw"}}}
	c, stop := r.start()
	r.fence()
	writer := r.connect()
	written := make(chan error, 1)
	go func() {
		_, err := writer.Exec(context.Background(), `alter table customer rename to client; insert into client values (2, 'hidden')`)
		written <- err
	}()
	held := func() string {
		if st := c.Status(); len(st.Tables) == 1 && st.Tables[0].Held != nil {
			return st.Tables[0].Held.Cause + "|" + st.Tables[0].Held.Hint
		}
		return ""
	}
	eventually(t, "it is held", func() bool { return held() != "" })
	if text := held(); !strings.Contains(text, "as the table was called before") || !strings.Contains(text, "write an entry for public.client") {
		t.Error(text)
	}
	r.exec(`alter system set synchronous_standby_names = ''`)
	r.exec(`select pg_reload_conf()`)
	must(t, <-written)
	eventually(t, "it is told by its name", func() bool { return c.Status().Tables[0].Table == "public.client" })
	must(t, stop())
	r.nowhere(t, topicsOf(t, r, "customer", "client"), "hidden", "pw")
}

// TestColumnsOfATableThatComesBack: nor does it leave when the table, under a name that is not captured, has been taken for gone, and has another
// one behind that: in one session or several. What leaves a table by another's pattern, or was a partition of one, is not published either.
func TestColumnsOfATableThatComesBack(t *testing.T) {
	r := newRig(t, 0, kafkatest.Fake(t), `create schema aside; create schema hr;
		create table root (id int primary key, pw text) partition by range (id); create table root_1 partition of root for values from (0) to (10);
		create table archive_2 partition of root for values from (10) to (20); insert into root values (1, 'hidden'), (11, 'hidden')`)
	names := []string{"seen", "twice", "away", "dropped"}
	for _, name := range append(names, "hr.wild") {
		r.exec(fmt.Sprintf(`create table %[1]s (id int primary key, pw text); insert into %[1]s values (1, 'hidden')`, name))
	}
	r.config.Source.Tables = []string{"public.*", "hr.*"}
	for _, table := range append(names, "root") {
		r.config.Columns = append(r.config.Columns, publish.Columns{Table: "public." + table, Exclude: []string{"pw"}})
	}
	r.config.Columns = append(r.config.Columns, publish.Columns{Table: "hr.*", Exclude: []string{"pw"}})
	held := func(c *Capture, names ...string) {
		t.Helper()
		eventually(t, fmt.Sprint(names, " are held"), func() bool {
			var got []string
			for _, table := range c.Status().Tables {
				if table.Held != nil && table.Held.Code == trouble.Config && strings.Contains(table.Held.Hint, "write an entry for "+table.Table) {
					got = append(got, table.Table)
				}
			}
			return slices.Equal(got, names)
		})
	}
	others := 0
	goes := func(c *Capture, name string) {
		r.exec(fmt.Sprintf(`alter table %s set schema aside`, name))
		eventually(t, name+" is gone", func() bool {
			return !slices.ContainsFunc(c.Status().Tables, func(t TableStatus) bool { return t.Table == "public."+name })
		})
		for range 2 { // by the second one it is forgotten that its last rows were to come
			others++
			r.exec(fmt.Sprintf(`create table other_%d (id int primary key)`, others))
			eventually(t, "another is there", func() bool { return r.tableProgress(fmt.Sprintf("public.other_%d", others)).Done })
			r.fence()
		}
	}
	comes := func(name string) {
		r.exec(fmt.Sprintf(`alter table aside.%[1]s rename to back_%[1]s; alter table aside.back_%[1]s set schema public; insert into back_%[1]s values (2, 'hidden')`, name))
	}
	c, stop := r.start()
	r.fence()
	goes(c, "seen")
	goes(c, "twice")
	goes(c, "dropped")
	r.exec(`drop table aside.dropped`)
	comes("seen")
	held(c, "public.back_seen")
	r.exec(`alter table root detach partition root_1; alter table hr.wild set schema public`)
	held(c, "public.back_seen", "public.root_1", "public.wild")
	must(t, stop())
	r.exec(`alter table away set schema aside; alter table root detach partition archive_2`)
	for range 2 {
		c, stop = r.start()
		held(c, "public.archive_2", "public.back_seen", "public.root_1", "public.wild")
		r.fence()
		must(t, stop())
	}
	c, stop = r.start()
	comes("away")
	comes("twice")
	held(c, "public.archive_2", "public.back_away", "public.back_seen", "public.back_twice", "public.root_1", "public.wild")
	r.fence()
	must(t, stop())
	if gone := r.progress().Gone; len(gone) != 0 {
		t.Errorf("of tables that are gone it is still known: %+v", gone)
	}
	topics := topicsOf(t, r, append(names, "root", "root_1", "archive_2", "wild", "back_seen", "back_away", "back_twice")...)
	r.nowhere(t, topics, "hidden", "pw")
}

// TestColumnsThatNoTableFits: a name in columns that is wrong is told before the start, and as long as it is so.
func TestColumnsThatNoTableFits(t *testing.T) {
	r := newRig(t, 0, kafkatest.Fake(t), `create table customer (id int primary key, pw text)`)
	r.config.Columns = []publish.Columns{{Table: "public.custmer", Exclude: []string{"pw"}}, {Table: "public.none*", Exclude: []string{"pw"}}}
	var out strings.Builder
	must(t, r.verbs().Check(t.Context(), terminal.NewCheck("capture", &out)))
	if text := strings.Join(strings.Fields(out.String()), " "); !strings.Contains(text, "warn columns no table is called public.custmer; did you mean public.customer?") || strings.Contains(text, "none") {
		t.Error(text)
	}
	c, stop := r.start()
	eventually(t, "the status tells of it", func() bool { return alarmed(c, trouble.Config, "columns") != nil })
	r.exec(`create table custmer (id int primary key, pw text)`)
	eventually(t, "it does not any more", func() bool { return alarmed(c, trouble.Config, "columns") == nil })
	must(t, stop())
}

// TestColumnsThatAreRenamed: what an entry with wildcards leaves out or masks stays so when the column is renamed: before capture's eyes, while it is
// away, with a swap of names, where the table gets another name, too, or leaves the captured ones meanwhile; and goes on when the new name has an entry.
// A column that is dropped, with another one added, holds nothing.
func TestColumnsThatAreRenamed(t *testing.T) {
	tables := []string{"away", "dropped", "ever", "hashed", "leave", "live", "swapped"}
	var ddl strings.Builder
	ddl.WriteString("create schema aside;")
	for _, table := range tables {
		fmt.Fprintf(&ddl, "create table %s (id int primary key, pw text, mail text, note text); insert into %[1]s values (1, 'hidden', 'hidden', 'a');", table)
	}
	r := newRig(t, 0, kafkatest.Fake(t), ddl.String())
	r.config.Source.Tables = []string{"public.*"}
	r.config.Columns = []publish.Columns{{Table: "public.*", Exclude: []string{"pw"}, Mask: []publish.Mask{{Column: "mail", As: "redact"}}}}
	held := func(c *Capture, names ...string) {
		t.Helper()
		eventually(t, fmt.Sprint(names, " are held"), func() bool {
			var got []string
			for _, table := range c.Status().Tables {
				if table.Held == nil {
					continue
				}
				if got = append(got, table.Table); table.Held.Code != trouble.Config ||
					!strings.Contains(table.Held.Cause, ", as it was called before, and nothing of ") || !strings.Contains(table.Held.Hint, ` beside "`) {
					t.Fatalf("%s is held for %s: %s", table.Table, table.Held.Cause, table.Held.Hint)
				}
			}
			return slices.Equal(got, names)
		})
	}
	c, stop := r.start()
	r.fence()
	r.exec(`alter table leave set schema aside`)
	eventually(t, "it is gone", func() bool { return len(c.Status().Tables) == len(tables)-1 })
	r.exec(`alter table live rename pw to secret; insert into live values (2, 'hidden', 'hidden', 'a');
		alter table hashed rename mail to email; insert into hashed values (2, 'hidden', 'hidden', 'a');
		begin; alter table swapped rename note to n; alter table swapped rename pw to note; alter table swapped rename n to pw; insert into swapped values (2, 'hidden', 'hidden', 'a'); commit;
		alter table dropped drop pw; alter table dropped add extra text; insert into dropped values (2, 'hidden', 'a', 'shown');
		alter table aside.leave rename pw to secret; alter table aside.leave set schema public; insert into leave values (2, 'hidden', 'hidden', 'a')`)
	held(c, "public.hashed", "public.leave", "public.live", "public.swapped")
	r.fence()
	must(t, stop())
	r.exec(`insert into away values (2, 'hidden', 'hidden', 'a'); alter table away rename pw to secret; insert into away values (3, 'hidden', 'hidden', 'a');
		alter table ever rename to other; alter table other rename pw to secret; insert into other values (2, 'hidden', 'hidden', 'a')`)
	all := []string{"public.away", "public.hashed", "public.leave", "public.live", "public.other", "public.swapped"}
	for range 2 { // and it is known the second time, too
		c, stop = r.start()
		held(c, all...)
		r.request(SnapshotRequest{ID: fmt.Sprint("too early ", c.instance), Tables: []string{"public.live"}, Reload: true})
		r.fence()
		held(c, all...)
		must(t, stop())
	}
	r.exec(`begin; alter table swapped rename note to n; alter table swapped rename pw to note; alter table swapped rename n to pw; commit`)
	r.config.Columns = []publish.Columns{{Table: "public.*", Exclude: []string{"pw", "secret"}, Mask: []publish.Mask{{Column: "mail", As: "redact"}, {Column: "email", As: "redact"}}}}
	c, stop = r.start()
	for _, table := range all {
		r.reload(table)
	}
	held(c)
	r.exec(`insert into live values (3, 'hidden', 'hidden', 'a')`)
	r.fence()
	must(t, stop())
	for table, rows := range map[string]int{"away": 3, "hashed": 2, "leave": 2, "live": 3, "other": 2, "swapped": 2, "dropped": 2} {
		if got := r.read("public", table); len(got.rows) != rows {
			t.Errorf("%s has %d rows, want %d", table, len(got.rows), rows)
		}
	}
	r.nowhere(t, topicsOf(t, r, "away", "dropped", "ever", "hashed", "leave", "live", "other", "swapped"), "hidden", "secret")
}

// TestColumnsOfRowsBeforeTheirRename: rows of when a column had another name, which an entry with wildcards does not have any more, hold their table.
// What is told to be done is about the name that it has, whose entry is as it should be.
func TestColumnsOfRowsBeforeTheirRename(t *testing.T) {
	r := newRig(t, 0, kafkatest.Fake(t), `create table customer (id int primary key, pw text); insert into customer values (1, 'hidden')`)
	r.config.Columns = []publish.Columns{{Table: "public.*", Exclude: []string{"pw"}}}
	_, stop := r.start()
	r.fence()
	must(t, stop())
	r.exec(`insert into customer values (2, 'hidden'); alter table customer rename pw to secret; insert into customer values (3, 'hidden')`)
	r.config.Columns[0].Exclude = []string{"secret"}
	c, stop := r.start()
	eventually(t, "it is held", func() bool {
		list := c.Status().Tables
		return len(list) == 1 && list[0].Held != nil && strings.Contains(list[0].Held.Cause, `when column "secret" was called "pw"`) && strings.HasPrefix(list[0].Held.Hint, "nothing is to be altered")
	})
	r.reload("public.customer")
	r.fence()
	if list := c.Status().Tables; list[0].Held != nil {
		t.Errorf("it is still held: %s", list[0].Held.Cause)
	}
	must(t, stop())
	if got := r.read("public", "customer"); len(got.rows) != 3 {
		t.Errorf("%d rows, want three", len(got.rows))
	}
	r.nowhere(t, topicsOf(t, r, "customer"), "hidden", "secret")
}

// TestColumnsRenamedBehindTheCatalog: rows of when the columns of a table had other names come when the catalog has those that they had before, or others,
// or the table no more. Of which column they are cannot be told then, and nothing of them leaves.
func TestColumnsRenamedBehindTheCatalog(t *testing.T) {
	// What is done to a table with these columns, of which pw, pw_new and mail are left out; and whether it is held.
	cases := map[string]struct {
		columns, sql string
		held         bool
	}{
		"added":   {"pw text", `alter table added rename pw to secret; alter table added add extra text; insert into added values (2, 'hidden', 'a')`, true},
		"dropped": {"pw text", `alter table dropped rename pw to secret; insert into dropped values (2, 'hidden'); drop table dropped`, false},
		"freed": {"pw text, note text, pw_new text", `begin; alter table freed rename pw to pw_old; alter table freed rename pw_new to pw; commit;
			insert into freed values (2, 'hidden', 'a', 'hidden'); alter table freed drop pw_old; insert into freed values (3, 'a', 'hidden')`, true},
		"leaves": {"pw text", `alter table leaves rename pw to secret; insert into leaves values (2, 'hidden'); alter table leaves set schema aside`, false},
		"ring": {"pw text, note text", `alter table ring rename pw to x; alter table ring rename note to pw; insert into ring values (2, 'hidden', 'a');
			alter table ring rename pw to note; alter table ring rename x to pw; insert into ring values (3, 'hidden', 'a')`, true},
		"mirror": {"pw text, note text", `alter table mirror rename note to y; alter table mirror rename pw to note; insert into mirror values (2, 'hidden', 'a');
			alter table mirror rename note to pw; alter table mirror rename y to note; insert into mirror values (3, 'hidden', 'a')`, true},
		"oops":  {"pw text", `alter table oops rename pw to extra; insert into oops values (2, 'hidden'); alter table oops rename extra to pw; alter table oops add extra text; insert into oops values (3, 'hidden', 'a')`, true},
		"razed": {"pw text, note text", `alter table razed drop note; alter table razed rename pw to note; insert into razed values (2, 'hidden'); drop table razed`, false},
		"root":  {"pw text", `alter table root detach partition part; alter table part rename pw to secret; insert into part values (2, 'hidden')`, false},
		"swapped": {"pw text, note text", `alter table swapped rename pw to x; alter table swapped rename note to pw; alter table swapped rename x to note; insert into swapped values (2, 'hidden', 'a');
			alter table swapped rename pw to x; alter table swapped rename note to pw; alter table swapped rename x to note; insert into swapped values (3, 'hidden', 'a')`, true},
		"two":  {"mail text, pw text", `alter table two rename pw to secret; insert into two values (2, 'hidden', 'hidden'); alter table two drop mail; insert into two values (3, 'hidden')`, true},
		"tidy": {"mail text, pw text, note text", `alter table tidy drop mail; alter table tidy add tmp text; insert into tidy values (2, 'hidden', 'a', 'b'); alter table tidy drop tmp; insert into tidy values (3, 'hidden', 'a')`, false},
	}
	ddl := "create schema aside;"
	for _, table := range slices.Sorted(maps.Keys(cases)) {
		if table == "root" {
			ddl += `create table root (id int primary key, pw text) partition by range (id); create table part partition of root for values from (0) to (100);`
		} else {
			ddl += fmt.Sprintf("create table %s (id int primary key, %s);", table, cases[table].columns)
		}
		ddl += fmt.Sprintf("insert into %s values (1, 'hidden');", table)
	}
	r := newRig(t, 0, kafkatest.Fake(t), ddl)
	r.config.Source.Tables = []string{"public.*"}
	r.config.Columns = []publish.Columns{{Table: "public.*", Exclude: []string{"pw", "pw_new"}, Mask: []publish.Mask{{Column: "mail", As: "redact"}}}}
	_, stop := r.start()
	r.fence()
	must(t, stop())
	held := []string{"public.part"}
	for _, table := range slices.Sorted(maps.Keys(cases)) {
		for _, sql := range strings.Split(cases[table].sql, ";") {
			r.exec(sql)
		}
		if cases[table].held {
			held = append(held, "public."+table)
		}
	}
	slices.Sort(held)
	for range 2 {
		c, stop := r.start()
		r.fence()
		eventually(t, fmt.Sprint(held, " are held"), func() bool {
			var got []string
			for _, table := range c.Status().Tables {
				if table.Held != nil {
					got = append(got, table.Table)
				}
			}
			return slices.Equal(got, held)
		})
		must(t, stop())
	}
	if got := r.read("public", "tidy"); len(got.rows) != 3 {
		t.Errorf("tidy has %d rows, want three", len(got.rows))
	}
	r.nowhere(t, topicsOf(t, r, append(slices.Collect(maps.Keys(cases)), "part")...), "hidden")
	// Those whose columns are called as they were are loaded anew, and go on.
	c, stop := r.start()
	for _, table := range []string{"public.freed", "public.mirror", "public.oops", "public.ring", "public.swapped"} {
		r.reload(table)
	}
	r.fence()
	for _, table := range c.Status().Tables {
		if table.Held != nil && !slices.Contains([]string{"public.added", "public.part", "public.two"}, table.Table) {
			t.Errorf("%s is still held: %s", table.Table, table.Held.Cause)
		}
	}
	must(t, stop())
	r.nowhere(t, topicsOf(t, r, "freed", "mirror", "oops", "ring", "swapped"), "hidden")
}

// TestColumnsOfOrdinaryAlterations: what happens to tables every day holds none of which columns are left out: columns that come and go, of which one may be
// left out, also while capture is away or behind, and partitions that are detached when they have lost one.
func TestColumnsOfOrdinaryAlterations(t *testing.T) {
	r := newRig(t, 0, kafkatest.Fake(t), `create table dropped (id int primary key, name text, pw text); create table gap (id int primary key, name text, odd text, pw text);
		create table later (id int primary key, name text); create table other (id int primary key, a text, pw text, note text); create table root (id int primary key, pw text, note text) partition by range (id);
		create table part partition of root for values from (0) to (10); create table trunk (id int primary key, pw text, note text) partition by range (id);
		create table branch partition of trunk for values from (0) to (10); create table quiet (id int primary key, pw text);
		insert into dropped values (1, 'a', 'hidden'); insert into gap values (1, 'a', 'b', 'hidden'); insert into later values (1, 'a'); insert into other values (1, 'a', 'hidden', 'b'); insert into root values (1, 'hidden', 'a')`)
	r.config.Columns = []publish.Columns{{Table: "public.*", Exclude: []string{"pw"}, Mask: []publish.Mask{{Column: "mail", As: "redact"}}}}
	r.config.Source.Refresh = time.Hour // what the stream tells comes first
	_, stop := r.start()
	r.fence()
	do := func(list ...string) {
		for _, sql := range list {
			r.exec(sql)
		}
	}
	do(`alter table dropped drop pw`, `insert into dropped values (2, 'b')`, `alter table dropped add x text`, `insert into dropped values (3, 'b', 'x')`,
		`alter table gap drop odd`, `alter table root drop pw`, `insert into root values (2, 'b')`, `create table fresh (id int primary key)`, `insert into fresh values (1)`, `alter table fresh add pw text`, `insert into fresh values (2, 'hidden')`)
	r.fence()
	must(t, stop())
	do(`insert into gap values (2, 'a', 'hidden')`, `alter table gap add x text`, `insert into gap values (3, 'a', 'hidden', 'x')`, `alter table gap rename x to y`, `insert into gap values (4, 'a', 'hidden', 'y')`,
		`insert into later values (2, 'b')`, `alter table later add pw text`, `insert into later values (3, 'b', 'hidden')`, `alter table later add mail text`, `insert into later values (4, 'b', 'hidden', 'hidden')`,
		`insert into other values (2, 'a', 'hidden', 'b')`, `alter table other drop a`, `alter table other add c text`, `insert into other values (3, 'hidden', 'b', 'c')`, `alter table other rename note to memo`, `insert into other values (4, 'hidden', 'b', 'c')`,
		`alter table root detach partition part`, `insert into part values (3, 'c')`, `insert into trunk values (1, 'hidden', 'a')`, `alter table trunk drop pw`, `alter table trunk detach partition branch`,
		`create table born (id int primary key, name text, pw text)`, `insert into born values (1, 'a', 'hidden')`, `alter table born drop name`, `insert into born values (2, 'hidden')`,
		`create table bred (id int primary key, name text)`, `insert into bred values (1, 'a')`, `alter table bred add pw text`, `insert into bred values (2, 'a', 'hidden')`,
		`alter table quiet drop pw`, `alter table quiet add pw text`)
	c, stop := r.start()
	r.fence()
	for _, table := range c.Status().Tables {
		if table.Held != nil {
			t.Errorf("%s is held: %s", table.Table, table.Held.Cause)
		}
	}
	do(`alter table quiet rename pw to secret`, `insert into quiet values (1, 'hidden')`) // this one is none of them
	eventually(t, "it is held", func() bool {
		return slices.ContainsFunc(c.Status().Tables, func(table TableStatus) bool { return table.Table == "public.quiet" && table.Held != nil })
	})
	must(t, stop())
	r.nowhere(t, topicsOf(t, r, "quiet"), "hidden")
	all := map[string]int{"born": 2, "branch": 1, "bred": 2, "dropped": 3, "fresh": 2, "gap": 4, "later": 4, "other": 4, "part": 3}
	for table, rows := range all {
		if got := r.read("public", table); len(got.rows) != rows {
			t.Errorf("%s has %d rows, want %d", table, len(got.rows), rows)
		}
	}
	r.nowhere(t, topicsOf(t, r, slices.Collect(maps.Keys(all))...), "hidden")
}
