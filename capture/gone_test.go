package capture

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tributary-cdc/tributary/pkg/kafkatest"
)

// TestLastWordsOfADroppedTable: while capture is away tables are altered, have a row that is too large, and one whose key goes to another
// partition without its large value; then they are dropped. Each ended capture by a panic, again and again, as the catalog has them not.
func TestLastWordsOfADroppedTable(t *testing.T) {
	r := newRig(t, 0, kafkatest.Fake(t), `create table altered (id int primary key, v text); create table large (id int primary key, v text);
		create table moved (id int primary key, v text); alter table moved alter v set storage external; insert into moved select i, repeat('x', 3000) from generate_series(1, 20) i;
		create table other (id int primary key)`)
	r.config.Topics.MaxMessageBytes = 64 << 10
	r.config.Topics.Partitions = 4
	_, stop := r.start()
	r.fence()
	must(t, stop())
	r.exec(`insert into altered values (1, 'a'); alter table altered add w text; insert into altered values (2, 'b', 'c'); drop table altered;
		insert into large values (1, 'a'); insert into large values (2, ` + huge + `); insert into large values (3, 'c'); drop table large;
		update moved set id = id + 100; drop table moved; insert into other values (1)`)
	_, stop = r.start()
	r.fence()
	r.same("public", "other")
	r.count("public", "altered", 2)
	r.count("public", "large", 1) // and nothing behind what cannot be published
	must(t, stop())
}

// TestLastWordsUnderACapturedName: a table has a name that is not captured by the time its last rows under the one before come. What they need
// is not read under that.
func TestLastWordsUnderACapturedName(t *testing.T) {
	r := newRig(t, 0, kafkatest.Fake(t), `create table moved (id int primary key, v text); alter table moved alter v set storage external;
		insert into moved select i, repeat('x', 3000) from generate_series(1, 20) i; create table other (id int primary key)`)
	r.config.Topics.Partitions = 4
	r.config.Source.Tables = []string{"public.moved", "public.other"}
	_, stop := r.start()
	r.fence()
	must(t, stop())
	r.exec(`update moved set id = id + 100; alter table moved rename to secret; insert into other values (1)`)
	_, stop = r.start()
	r.fence()
	r.same("public", "other")
	if subjects := subjectsAt(t, r.config.Registry.URL); slices.Contains(subjects, r.config.Source.Name+".public.secret-value") {
		t.Errorf("it is captured: %q", subjects)
	}
	must(t, stop())
}

// TestLastWordsAreLeftOutToTheEnd: behind a row that cannot be published, nothing of a table that is gone is published by the next session either.
func TestLastWordsAreLeftOutToTheEnd(t *testing.T) {
	for _, known := range []bool{true, false} {
		t.Run(fmt.Sprintf("known before %t", known), func(t *testing.T) { leftOutToTheEnd(t, known) })
	}
}

// leftOutToTheEnd has a table that capture has known, or one that was made while it was away, and that only its publication knew.
func leftOutToTheEnd(t *testing.T, known bool) {
	const table = `create table large (id int primary key, v text)`
	r := newRig(t, 0, kafkatest.Fake(t), `create table bag (id int); alter table bag replica identity full`)
	if known {
		r.exec(table)
	}
	r.config.Topics.MaxMessageBytes, r.config.Publish.Linger = 64<<10, time.Nanosecond
	verbs := r.verbs()
	_, stop := r.start()
	r.fence()
	must(t, stop())
	must(t, verbs.Pause(t.Context(), PauseRequest{}))
	if !known {
		r.exec(table + "; alter publication " + r.config.Source.publications().Full + " add table large")
	}
	for _, sql := range []string{
		`insert into large values (1, 'a')`, `insert into large values (2, ` + huge + `)`,
		`select pg_logical_emit_message(true, 'tributary', '{"snapshot": {"tables": ["public.bag"]}}')`, `insert into bag values (1)`, // at which the first session ends
		`insert into large values (3, 'c')`, `drop table large`,
	} {
		r.exec(sql)
	}
	c, stop := r.start()
	standsStill(t, c)
	locker, err := pgx.Connect(t.Context(), r.dsn)
	must(t, err)
	defer locker.Close(context.Background()) //nolint:errcheck // the test is over
	_, err = locker.Exec(t.Context(), `begin; lock table bag in access exclusive mode`)
	must(t, err)
	must(t, verbs.Resume(t.Context()))
	eventually(t, "it waits for the rows of bag", func() bool { return c.Status().WaitingOn == waitSnapshot })
	_ = stop()
	_, err = locker.Exec(t.Context(), `rollback`)
	must(t, err)
	_, stop = r.start()
	r.fence()
	r.same("public", "bag")
	r.count("public", "large", 1)
	must(t, stop())
}

// TestDroppedBehindThePresent: the catalog has lost a table, or has another one of its name, while rows of it are still to come.
func TestDroppedBehindThePresent(t *testing.T) {
	for _, anew := range []string{``, `create table t (id int, k int, v text, primary key (id, k)); insert into t values (1, 1, 'new')`} {
		r := newRig(t, 0, kafkatest.Fake(t), `create table t (id int primary key, v text); create table other (id int primary key)`)
		verbs := r.verbs()
		c, stop := r.start()
		r.fence()
		r.exec(`insert into t values (1, 'a')`)
		r.fence()
		must(t, verbs.Pause(t.Context(), PauseRequest{}))
		standsStill(t, c)
		r.exec(`insert into t values (2, 'last words')`)
		r.exec(`drop table t; ` + anew + `; create table later (id int primary key)`)
		eventually(t, "the catalog is known", func() bool {
			return slices.ContainsFunc(c.Status().Tables, func(one TableStatus) bool { return one.Table == "public.later" })
		})
		must(t, verbs.Resume(t.Context()))
		r.exec(`insert into other values (1)`)
		r.fence()
		r.same("public", "other")
		if anew == "" {
			r.count("public", "t", 2)
		} else {
			eventually(t, "the topic has the rows of the later table", func() bool {
				r.fence()
				return slices.Equal(r.read("public", "t").rows, r.source("public.t"))
			})
		}
		must(t, stop())
	}
}

// TestLastWordsWhileTheLaterIsHeld: somebody lets the later table go on while rows of the earlier one are still to come.
func TestLastWordsWhileTheLaterIsHeld(t *testing.T) {
	r := newRig(t, 0, kafkatest.Fake(t), `create table t (id int primary key, v text)`)
	verbs := r.verbs()
	_, stop := r.start()
	r.fence()
	subject := "/" + r.config.Source.Name + ".public.t-key"
	r.compatibility(subject, "BACKWARD")
	must(t, verbs.Pause(t.Context(), PauseRequest{}))
	must(t, stop())
	r.exec(`insert into t values (55, 'last words');
		select pg_logical_emit_message(true, 'tributary', '{"snapshot": {"tables": ["public.t"], "reload": true}}')`)
	r.exec(`insert into t values (56, 'last words')`)
	r.exec(`drop table t; create table t (id int, k int, v text, primary key (id, k)); insert into t values (1, 1, 'new')`)
	c, stop := r.start()
	eventually(t, "the later table is held", func() bool { st := c.Status(); return st.held() == 1 })
	r.compatibility(subject, "NONE")
	must(t, verbs.Resume(t.Context()))
	r.settles("t")
	must(t, stop())
}
