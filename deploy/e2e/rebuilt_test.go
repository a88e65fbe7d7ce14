package e2e

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tributary-cdc/tributary/capture/publish"
	"github.com/tributary-cdc/tributary/pkg/kafkatest"
	"github.com/tributary-cdc/tributary/pkg/pgtest"
	"github.com/tributary-cdc/tributary/pkg/postgres"
	regclient "github.com/tributary-cdc/tributary/pkg/registry"
	"github.com/tributary-cdc/tributary/schema"
	"github.com/tributary-cdc/tributary/schema/change"
	"github.com/tributary-cdc/tributary/schema/record"
	"github.com/tributary-cdc/tributary/sink/rule"
)

// named is a table whose rule names its columns. Each column has a mark for life, whatever it is called: the rule is written anew when
// one is renamed, so that it always says the same of the same columns.
type named struct {
	name    string
	columns []*namedColumn
	marks   int
	rows    int
	mode    string
}

type namedColumn struct {
	mark, name string
	typ        string
	how        string // what the rule does with it: "as is", "masked", "filter", "computed", "cast"
}

func (n *named) by(how string) *namedColumn {
	for _, c := range n.columns {
		if c.how == how {
			return c
		}
	}
	return nil
}

// rule names the columns as they are called now.
func (n *named) rule(schema string) string {
	list := []string{n.columns[0].name + " as id"}
	var set []string
	for _, c := range n.columns[1:] {
		switch c.how {
		case "as is":
			list = append(list, c.name+" as "+c.mark)
		case "masked":
			list = append(list, fmt.Sprintf("{from: %s, as: %s, mask: keep_last_4}", c.name, c.mark))
		case "cast":
			list = append(list, fmt.Sprintf("{from: %s, as: %s, cast: text}", c.name, c.mark))
		case "computed":
			set = append(set, fmt.Sprintf("{column: %[1]s, value: \"%[2]s == null ? null : text(%[2]s) + '!'\"}", c.mark, c.name))
		}
	}
	f := n.by("filter").name
	return fmt.Sprintf(`{from: public.%[1]s, to: %[2]s.%[1]s, mode: %[6]s, columns: [%[3]s], set: [%[4]s], filter: "%[5]s == null || %[5]s < 60"}`,
		n.name, schema, strings.Join(list, ", "), strings.Join(set, ", "), f, n.mode)
}

// rowsAtSource is what a target holds that is right.
func (n *named) rowsAtSource() string {
	list := []string{n.columns[0].name}
	for _, c := range n.columns[1:] {
		switch name := postgres.Ident(c.name); c.how {
		case "as is", "cast":
			list = append(list, name)
		case "masked":
			list = append(list, fmt.Sprintf("case when length(%s) < 8 then '****' else '****' || right(%[1]s, 4) end", name))
		case "computed":
			list = append(list, name+"::text || '!'")
		}
	}
	f := n.by("filter").name
	return rowsOf(list, "public."+n.name, fmt.Sprintf("%s is null or %[1]s < 60", f))
}

// rowsIn is what a target holds now; with all, all that it holds. Versions of a history that follow each other and are equal in what the rule writes
// now are one: a row that was read again is a version where it differs in a column that the rule wrote at that time. It may not any more, as when the source has
// dropped it.
func (n *named) rowsIn(schema string, all bool) string {
	list, where := []string{"id"}, "true"
	for _, c := range n.columns[1:] {
		if c.how != "filter" {
			list = append(list, c.mark)
		}
	}
	switch {
	case n.mode == "history" && all:
		return fmt.Sprintf(`select concat_ws(' | ', r, min(valid_from), max(valid_to), bool_or(deleted)) from (
			select *, count(*) filter (where begins) over (partition by id order by valid_from) version from (
				select *, valid_from is distinct from lag(valid_to) over keys or r is distinct from lag(r) over keys or lag(deleted) over keys begins from (
					select id, valid_from, valid_to, deleted, %s r from %s.%s) q window keys as (partition by id order by valid_from)) q) q
			group by id, version, r order by 1`, concat(list), schema, n.name)
	case n.mode == "history":
		where = "valid_to = 'infinity'"
	case n.mode == "log":
		list = append(list, "change_op", "change_era", "change_lsn", "change_seq", "change_unchanged")
	}
	return rowsOf(list, schema+"."+n.name, where)
}

func rowsOf(list []string, table, where string) string {
	return fmt.Sprintf(`select r from (select %s r from %s where %s) q order by r collate "C"`, concat(list), table, where)
}

func concat(list []string) string {
	for i := range list {
		list[i] = fmt.Sprintf("coalesce((%s)::text, '<null>')", list[i])
	}
	return "concat_ws(' | ', " + strings.Join(list, ", ") + ")"
}

// alter is one random change of the table, as statements of one transaction; "" for none.
func (n *named) alter(r *rand.Rand) (sql string) {
	table := "public." + n.name
	pick := n.columns[r.IntN(len(n.columns))]
	switch r.IntN(8) {
	case 0, 1: // to a name that is free
		old, to := pick.name, n.free(r)
		pick.name = to
		return fmt.Sprintf("alter table %s rename %s to %s", table, old, to)
	case 2, 3: // two change names
		other := n.columns[r.IntN(len(n.columns))]
		if other == pick || other.typ == "integer" != (pick.typ == "integer") {
			return ""
		}
		sql = fmt.Sprintf("alter table %[1]s rename %[2]s to swapping; alter table %[1]s rename %[3]s to %[2]s; alter table %[1]s rename swapping to %[3]s", table, pick.name, other.name)
		pick.name, other.name = other.name, pick.name
		return sql
	case 4, 5: // one more
		if len(n.columns) > 9 { // else there were no names for it
			return ""
		}
		c := &namedColumn{mark: n.mark(), name: n.free(r), typ: "text", how: []string{"as is", "masked", "computed", "cast"}[r.IntN(4)]}
		sql = fmt.Sprintf("alter table %s add %s text", table, c.name)
		if c.how != "computed" && r.IntN(2) == 0 {
			sql += " default 'of before 1234'"
		}
		n.columns = append(n.columns, c)
		return sql
	case 6: // one less, and perhaps another of its name
		if pick == n.columns[0] || pick.how == "filter" || len(n.columns) < 4 {
			return ""
		}
		n.columns = slices.DeleteFunc(n.columns, func(c *namedColumn) bool { return c == pick })
		sql = fmt.Sprintf("alter table %s drop %s", table, pick.name)
		if r.IntN(2) == 0 {
			sql += fmt.Sprintf("; alter table %s add %s text", table, pick.name)
			n.columns = append(n.columns, &namedColumn{n.mark(), pick.name, "text", "as is"})
		}
		return sql
	default: // another type
		if c := n.by("filter"); c.typ == "integer" {
			c.typ = "bigint"
			return fmt.Sprintf("alter table %s alter %s type bigint", table, c.name)
		}
		if c := n.by("cast"); c != nil && c.typ == "integer" {
			c.typ = "text"
			return fmt.Sprintf("alter table %s alter %s type text", table, c.name)
		}
	}
	return ""
}

func (n *named) mark() string { n.marks++; return fmt.Sprintf("m%d", n.marks) }

// free gives a name that no column has, though one may have had it.
func (n *named) free(r *rand.Rand) string {
	for {
		name := fmt.Sprintf("c%d", r.IntN(12))
		if !slices.ContainsFunc(n.columns, func(c *namedColumn) bool { return c.name == name }) {
			return name
		}
	}
}

// write changes rows.
func (n *named) write(t *testing.T, conn *pgx.Conn, r *rand.Rand) {
	t.Helper()
	value := func(c *namedColumn) string {
		switch {
		case r.IntN(8) == 0:
			return "null"
		case c.typ == "text":
			return fmt.Sprintf("'%s'", strings.Repeat(string(rune('a'+r.IntN(26))), 1+r.IntN(12)))
		}
		return strconv.Itoa(r.IntN(100))
	}
	for i := range 3 + r.IntN(20) {
		id, what := 1+r.IntN(n.rows+1), r.IntN(6)
		if i == 0 {
			what = 0 // else there may be no row of a version, and no target has its columns
		}
		switch what {
		case 0, 1:
			n.rows++
			names, values := []string{n.columns[0].name}, []string{strconv.Itoa(n.rows)}
			for _, c := range n.columns[1:] {
				names, values = append(names, c.name), append(values, value(c))
			}
			exec(t, conn, fmt.Sprintf("insert into public.%s (%s) values (%s)", n.name, strings.Join(names, ", "), strings.Join(values, ", ")))
		case 2:
			exec(t, conn, fmt.Sprintf("delete from public.%s where %s = %d", n.name, n.columns[0].name, id))
		case 3:
			n.rows++
			exec(t, conn, fmt.Sprintf("update public.%[1]s set %[2]s = %[3]d where %[2]s = %[4]d", n.name, n.columns[0].name, n.rows, id))
		default:
			c := n.columns[1+r.IntN(len(n.columns)-1)]
			exec(t, conn, fmt.Sprintf("update public.%s set %s = %s where %s = %d", n.name, c.name, value(c), n.columns[0].name, id))
		}
	}
}

// TestRebuiltAsLive: rules name columns, which are renamed, change their names with each other, come, go and get other types, while
// rows are written. The rules follow. A warehouse that lives through all of it has what one has that is made from the topics in the
// end, and what the source has. TRIBUTARY_SEED repeats a run.
func TestRebuiltAsLive(t *testing.T) {
	seed := setting(t, "TRIBUTARY_SEED", uint64(time.Now().UnixNano()))
	t.Logf("TRIBUTARY_SEED=%d", seed)
	r := rand.New(rand.NewPCG(seed, 0)) //nolint:gosec // a test's
	kafka, registry := kafkatest.Fake(t), kafkatest.Registry(t)
	cluster := pgtest.Shared(t, pgtest.DefaultMajor)
	s := newSource(t, fmt.Sprintf("named%d", seed%1000), pgtest.Database(t, cluster), kafka, registry)
	s.config.Topics.Partitions = 3
	t.Cleanup(func() { dropSlot(t, s.dsn, "tributary_"+s.name) })
	dwh := connect(t, pgtest.Database(t, cluster))
	tables := make([]*named, 4)
	for i := range tables {
		n := &named{name: fmt.Sprintf("t%d", i), rows: 30, mode: []string{"clone", "history", "log"}[seed%3]}
		n.columns = []*namedColumn{
			{"id", "id", "integer", ""},
			{n.mark(), "c1", "integer", "filter"},
			{n.mark(), "c2", "text", "masked"},
			{n.mark(), "c3", "text", "as is"},
			{n.mark(), "c4", "integer", "cast"},
			{n.mark(), "c5", "text", "computed"},
		}
		tables[i] = n
		exec(t, s.conn, fmt.Sprintf(`create table public.%s (id integer primary key, c1 integer, c2 text, c3 text, c4 integer, c5 text)`, n.name))
		exec(t, s.conn, fmt.Sprintf(`insert into public.%s select i, i * 3, 'secret' || i, 'open' || i, i, 'c' || i from generate_series(1, 30) i`, n.name))
	}
	start := func(schema string) (stop func()) {
		var rules []string
		for _, n := range tables {
			rules = append(rules, n.rule(schema))
		}
		return startGroup(t, kafka, registry, dwh.Config().ConnString(), schema, strings.Join(rules, ", "))
	}
	// reach waits until a warehouse has everything, rows that are read again with it, or a table is held.
	reach := func(schema, point string) {
		t.Helper()
		for _, fence := range []string{point, point + " and read"} { // what is to be read again is known behind the first
			exec(t, s.conn, `select pg_logical_emit_message(true, 'tributary', $1)`, fmt.Sprintf(`{"fence": %q}`, fence))
			eventually(t, schema+" has come to "+fence, func() bool {
				return scalar[bool](t, dwh, `select exists (select from tributary.quarantine where grp = $1) or exists (select from tributary.progress where grp = $1 and $2 = any(fences))`, schema, fence)
			})
			eventually(t, "tables are read", func() bool { st := s.capture.Status(); return st.Snapshot.TablesDone == st.Snapshot.Tables })
		}
	}
	client, err := regclient.New(s.config.Registry)
	must(t, err)
	version := func(id int) *schema.Relation {
		text, err := client.Schema(t.Context(), id)
		if errors.Is(err, regclient.ErrUnknownSchema) {
			return nil
		}
		must(t, err)
		decoder, err := record.NewDecoder(text)
		if err != nil {
			return &schema.Relation{} // of keys, or of the progress
		}
		return decoder.Relation()
	}
	numbered := func(p record.TableProgress) bool { return rule.Numbered(version(p.SchemaID)) }
	// guessed says whether a version of a table came without numbers, as the catalog was ahead: names were exchanged, and perhaps exchanged back. All rows are
	// read again behind it; until then a history has what is known of those that were written under it, which is not the same for each order of the partitions.
	guessed := func(n *named) bool {
		for id := 1; ; id++ {
			switch rel := version(id); {
			case rel == nil:
				return false
			case rel.Name == n.name && !rule.Numbered(rel):
				return true
			}
		}
	}
	// published waits until the topics have everything, and capture has seen what DDL has made of the tables: a rule that is written
	// anew before is of a version that nobody knows yet.
	published := func() {
		t.Helper()
		lsn, err := change.ParseLSN(scalar[string](t, s.conn, `select pg_logical_emit_message(true, 'tributary', '{"fence": "published"}')::text`))
		must(t, err)
		eventually(t, "everything is published", func() bool {
			pr, err := publish.ReadProgress(t.Context(), s.config.Kafka, s.name, slog.New(slog.DiscardHandler))
			must(t, err)
			return change.LSN(pr.CommitLSN) >= lsn && !slices.ContainsFunc(pr.Tables, func(p record.TableProgress) bool { return !numbered(p) })
		})
	}
	check := func(schema string) {
		t.Helper()
		for _, held := range textsOf(t, dwh, `select table_name || ': ' || message || ' -- ' || hint from tributary.quarantine where grp = '`+schema+`'`) {
			t.Errorf("quarantined: %s", held)
		}
		for _, n := range tables {
			if n.mode != "log" {
				differ(t, n.name+" in "+schema, texts(t, s.dsn, n.rowsAtSource()), texts(t, dwh.Config().ConnString(), n.rowsIn(schema, false)))
			}
			switch {
			case schema == "live":
			case n.mode == "history" && guessed(n):
				t.Logf("%s: a version came without numbers, what its history had meanwhile is not compared", n.name)
			default:
				if n.mode == "history" {
					differ(t, n.name+": versions that only the rebuilt has", nil, textsOf(t, dwh, fmt.Sprintf(
						"select concat_ws(' ', id, valid_from) from rebuilt.%[1]s where (id, valid_from) not in (select id, valid_from from live.%[1]s)", n.name)))
				}
				differ(t, n.name+" as rebuilt", texts(t, dwh.Config().ConnString(), n.rowsIn("live", true)), texts(t, dwh.Config().ConnString(), n.rowsIn("rebuilt", true)))
			}
		}
		if t.Failed() {
			t.FailNow()
		}
	}
	stop := start("live")
	s.startCapture(t)
	fence(t, dwh, "live", []*source{s}, "begun")
	check("live")
	for round := range 6 {
		stop()
		var done []string
		for _, n := range tables {
			for range 1 + r.IntN(3) {
				sql := n.alter(r)
				if sql == "" {
					continue
				}
				done = append(done, sql)
				if _, err := s.conn.PgConn().Exec(context.Background(), sql).ReadAll(); err != nil {
					t.Fatalf("%s: %v", sql, err)
				}
				n.write(t, s.conn, r)
			}
		}
		t.Logf("round %d:\n%s", round, strings.Join(done, "\n"))
		published()
		stop = start("live")
		reach("live", fmt.Sprint("altered ", round))
		check("live")
	}
	stop()
	published()
	start("rebuilt")
	reach("rebuilt", "rebuilt")
	check("rebuilt")
}
