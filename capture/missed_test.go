package capture

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/tributary-cdc/tributary/pkg/kafkatest"
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
		})
	}
}
