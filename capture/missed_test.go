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

	"github.com/tributary-cdc/tributary/pkg/kafkatest"
	"github.com/tributary-cdc/tributary/pkg/pgtest"
	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/trouble"
)

// lives are what is done to tables of five rows each, while capture runs or while it is away. T is the table's name, P that of
// its publication.
type lives []string

// leave stands for waiting until the table is noticed to be gone.
const leave = "LEAVE"

// live has all tables live their lives, at once, and waits until their topics have their rows.
func (l lives) live(t *testing.T, away bool) {
	r := newRig(t, 0, kafkatest.Fake(t), `create schema away`)
	r.config.Source.Tables = []string{"public.*"}
	for i := range l {
		r.exec(fmt.Sprintf(`create table t%d (id int primary key, v text, w text); insert into t%[1]d select i, 'old', 'old' from generate_series(1, 5) i`, i))
	}
	c, stop := r.start()
	r.fence()
	captured := func(i int) bool {
		return slices.ContainsFunc(c.Status().Tables, func(one TableStatus) bool {
			return one.Table == fmt.Sprintf("public.t%d", i) && one.State == "streaming"
		})
	}
	if away {
		must(t, stop())
	}
	for i, life := range l {
		life = strings.NewReplacer("T", fmt.Sprintf("t%d", i), "P", r.config.Source.publications().Full).Replace(life)
		for n, sql := range strings.Split(life, strings.ReplaceAll(leave, "T", "t")) {
			if n > 0 && !away {
				eventually(t, "the table is gone", func() bool { return !captured(i) })
			}
			_, err := r.conn.Exec(t.Context(), sql, pgx.QueryExecModeSimpleProtocol)
			must(t, err)
		}
	}
	if away {
		c, stop = r.start()
	}
	for i, life := range l {
		eventually(t, "it is captured: "+life, func() bool { return captured(i) })
		var got, want []string
		eventually(t, "the topic has the rows: "+life, func() bool {
			r.fence()
			got, want = r.read("public", fmt.Sprintf("t%d", i)).rows, r.source(fmt.Sprintf("public.t%d", i))
			return slices.Equal(got, want)
		})
		r.exec(fmt.Sprintf(`update t%d set w = 'seen' where id = 1; delete from t%[1]d where id = 3`, i))
	}
	r.fence()
	for i := range l {
		r.same("public", fmt.Sprintf("t%d", i))
	}
	must(t, stop())
}

// TestEarlierTableOfTheName: a table takes the name of an earlier one, whose rows are in the topic of that name.
func TestEarlierTableOfTheName(t *testing.T) {
	for _, away := range []bool{false, true} {
		t.Run(fmt.Sprintf("away %t", away), func(t *testing.T) {
			const anew = `create table T (id int primary key, v text, w text); insert into T values (2, 'new')`
			lives{
				`drop table T; LEAVE; ` + anew,
				`alter table T rename to old_T; LEAVE; ` + anew,
				`alter table T set schema away; LEAVE; update away.T set v = 'away' where id = 1; delete from away.T where id = 2; alter table away.T set schema public`,
				`alter table T set schema away; update away.T set v = 'away' where id = 1; delete from away.T where id = 2; alter table away.T set schema public`,
				`alter table T set schema away; update away.T set v = 'away' where id = 1; alter table away.T set schema public; update T set v = 'back' where id = 3`,
				// Events of the earlier table are still to come when the later one is known.
				`update T set v = 'last words' where id = 3; drop table T; ` + anew,
			}.live(t, away)
		})
	}
}

// TestLastWordsOfAnEarlierTable: while capture is away, a table is written to, dropped, and made anew. The later table is known before the
// rows of the earlier one come, which are in the topic all the same: they go when those of the later one have come.
func TestLastWordsOfAnEarlierTable(t *testing.T) {
	for name, c := range map[string]struct{ before, between string }{
		"the topic is empty":     {},
		"it is to be read anew":  {before: `insert into t values (1, 'old'), (2, 'old')`},
		"somebody asks for that": {`insert into t values (1, 'old'), (2, 'old')`, `select pg_logical_emit_message(true, 'tributary', '{"snapshot": {"tables": ["public.t"], "reload": true}}')`},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, 0, kafkatest.Fake(t), `create table t (id int primary key, v text); `+c.before)
			r.config.Source.Refresh = time.Hour
			_, stop := r.start()
			r.fence()
			must(t, stop())
			r.exec(`insert into t values (55, 'last words')`)
			if c.between != "" {
				r.exec(c.between)
			}
			r.exec(`insert into t values (56, 'last words')`)
			r.exec(`drop table t`)
			r.exec(`create table t (id int, k int, v text, primary key (id, k))`)
			r.exec(`insert into t values (1, 1, 'new')`)
			_, stop = r.start()
			r.settles("t")
			must(t, stop())
		})
	}
}

// TestKeyOfADroppedTable: rows of a table that is gone by the time its stream comes are published as those before them, with its key in the
// key's order: else they would be in other partitions than those that they follow.
func TestKeyOfADroppedTable(t *testing.T) {
	for _, away := range []bool{true, false} {
		for _, identity := range []string{"default", "full"} {
			t.Run(fmt.Sprintf("%s, away %t", identity, away), func(t *testing.T) {
				r := newRig(t, 0, kafkatest.Fake(t), `create table t (a int, b int, v text, primary key (b, a)); create table u (id int primary key);
					alter table t replica identity `+identity+`; insert into t select i, i * 7, 'old' from generate_series(1, 60) i`)
				r.config.Topics.Partitions, r.config.Source.Refresh = 4, 100*time.Millisecond
				c, stop := r.start()
				r.fence()
				verbs := r.verbs()
				if away {
					must(t, stop())
				} else {
					must(t, verbs.Pause(t.Context(), PauseRequest{}))
					standsStill(t, c)
				}
				r.exec(`update t set v = 'last words' where a % 3 = 0`)
				for i := range 300 {
					r.exec(fmt.Sprintf(`delete from t where a = %d; insert into t values (%[1]d, %d, 'in turn')`, 20+i%20, i))
				}
				r.exec(`delete from t where a > 50`)
				want := r.source("public.t")
				r.exec(`drop table t`)
				r.exec(`insert into u values (1)`)
				if away {
					for range 2 { // the second one has it of the progress of the first alone
						must(t, verbs.Pause(t.Context(), PauseRequest{}))
						c, stop = r.start()
						standsStill(t, c)
						must(t, stop())
					}
					_, stop = r.start()
				} else {
					eventually(t, "it is noticed", func() bool {
						return !slices.ContainsFunc(c.Status().Tables, func(one TableStatus) bool { return one.Table == "public.t" })
					})
				}
				must(t, verbs.Resume(t.Context()))
				r.fence()
				if got := r.read("public", "t").rows; !slices.Equal(got, want) {
					t.Errorf("the topic has\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
				}
				must(t, stop())
			})
		}
	}
}

// TestPartitionWithAnotherIdentity: a table without key whose partition has one is not published in full for a while, and nobody has noticed. Its
// rows came as changes of which no reader could tell what they were of.
func TestPartitionWithAnotherIdentity(t *testing.T) {
	r := newRig(t, 0, kafkatest.Fake(t), `create table t (id int not null, v text) partition by range (id); alter table t replica identity full;
		create table t1 partition of t (primary key (id)) for values from (0) to (100); alter table t1 replica identity full; insert into t select i, 'old' from generate_series(1, 9) i`)
	r.config.Source.Refresh = time.Hour
	var log strings.Builder
	c, err := New(r.config, r.options, slog.New(slog.NewTextHandler(io.MultiWriter(&log, testWriter{t}), nil)))
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	eventually(t, "it streams", func() bool { return c.Status().State == service.StateUpToDate })
	r.fence()
	r.exec(`alter table t1 replica identity default`)
	r.exec(`update t set v = 'new' where id < 4; delete from t where id = 7; alter table t1 replica identity full`)
	r.exec(`insert into t values (10, 'later')`)
	r.settles("t")
	cancel()
	must(t, <-done)
	if n := strings.Count(log.String(), "which it was nobody can tell"); n != 1 {
		t.Errorf("that rows lack their old values is told %d times of one transaction", n)
	}
}

// TestPublicationAltered: somebody takes a table out of its publication, or has it published in part, for a while or for good.
// What happens to it meanwhile is not in the stream.
func TestPublicationAltered(t *testing.T) {
	for _, away := range []bool{false, true} {
		t.Run(fmt.Sprintf("away %t", away), func(t *testing.T) {
			const write = `; update T set v = 'unseen', w = 'unseen' where id = 1; delete from T where id = 2; insert into T values (9, 'unseen', 'unseen')`
			lives{
				`begin; alter publication P drop table T` + write + `; commit`,
				`alter publication P drop table T` + write + `; alter publication P add table T`,
				`begin; alter publication P drop table T; alter publication P add table T where (id > 100)` + write + `; commit`,
				`begin; alter publication P drop table T; alter publication P add table T (id, v)` + write + `; commit`,
				`alter publication P drop table T; alter publication P add table T (id, v)` + write + `; alter publication P drop table T; alter publication P add table T`,
			}.live(t, away)
			lives{`begin; alter publication P set (publish = 'insert')` + write + `; commit`}.live(t, away)
			lives{`alter publication P set (publish = 'insert')` + write + `; alter publication P set (publish = 'insert, update, delete, truncate')`}.live(t, away)
		})
	}
}

// TestPublicationGone: somebody drops or renames capture's publication, and the application writes before it is made again. A server
// before PostgreSQL 18 never gets past that; from then on it leaves those rows out.
func TestPublicationGone(t *testing.T) {
	for major, ends := range map[int]trouble.Code{pgtest.DefaultMajor: trouble.StreamBroken, 18: ""} {
		for _, away := range []bool{false, true} {
			for _, gone := range []string{`drop publication P`, `alter publication P rename to elsewhere`} {
				t.Run(fmt.Sprintf("pg%d %s away %t", major, gone[:5], away), func(t *testing.T) { publicationGone(t, major, ends, away, gone) })
			}
		}
	}
}

func publicationGone(t *testing.T, major int, ends trouble.Code, away bool, gone string) {
	r := newRig(t, major, kafkatest.Fake(t), `create table t (id int primary key, v text); insert into t select i, 'old' from generate_series(1, 5) i;
		create table p (id int, v text) partition by range (id); create table p1 partition of p for values from (0) to (100);
		alter table p1 replica identity full; insert into p select i, 'old' from generate_series(1, 5) i`)
	c, stop := r.start()
	r.fence()
	if away {
		must(t, stop())
	}
	gone = strings.Replace(gone, "P", r.config.Source.publications().Full, 1)
	r.exec("begin; " + gone + `; insert into t values (6, 'unseen'); delete from t where id = 1; update p set v = 'unseen' where id = 1; delete from p where id = 2; commit`)
	r.exec(`update t set v = 'behind' where id = 2`)
	if ends != "" {
		if !away {
			eventually(t, "capture stops", func() bool { return c.Status().State == "stopped" })
			if err := stop(); trouble.CodeOf(err) != ends {
				t.Errorf("capture ended with %v", err)
			}
		}
		e := r.fails(ends)
		if !strings.Contains(e.Cause.Error(), "does not exist") || !strings.Contains(e.Hint, "renamed the publication") {
			t.Errorf("%v: %s", e, e.Hint)
		}
		var out strings.Builder
		must(t, r.verbs().DropSlot(t.Context(), &out))
		r.options.OnGap = GapResnapshot
	}
	if away || ends != "" {
		_, stop = r.start()
	}
	for _, table := range []string{"t", "p"} {
		r.settles(table)
	}
	must(t, stop())
}

// TestMissedIsReadWhole: what a read was limited to once is forgotten where the table is loaded anew, also by the next session.
func TestMissedIsReadWhole(t *testing.T) {
	r := newRig(t, 0, kafkatest.Fake(t), `create schema away; create table t (id int primary key, v text); insert into t select i, 'old' from generate_series(1, 5) i`)
	r.config.Source.Tables, r.config.Snapshot.Conditions = []string{"public.*"}, true
	r.config.Source.Refresh = time.Hour // nobody but the stream tells that it was away
	_, stop := r.start()
	r.fence()
	r.request(SnapshotRequest{Tables: []string{"public.t"}, Where: "id = 1", Columns: []string{"v"}})
	r.fence()
	r.exec(`alter table t set schema away`)
	r.exec(`update away.t set v = 'away' where id = 2`)
	r.fence()
	must(t, stop())
	r.exec(`alter table away.t set schema public`)
	_, stop = r.start()
	r.fence()
	r.same("public", "t")
	must(t, stop())
}
