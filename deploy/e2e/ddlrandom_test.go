package e2e

import (
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tributary-cdc/tributary/pkg/kafkatest"
	"github.com/tributary-cdc/tributary/pkg/pgtest"
	"github.com/tributary-cdc/tributary/pkg/postgres"
)

// TestRandomDDL: whatever is done to tables and rows, in several connections, while capture and sink are ended and begun, the warehouse
// comes to hold what the source holds; or it is told of a table that it does not, and what is told brings it there. TRIBUTARY_SEED repeats
// what a seed does, as far as time lets it; TRIBUTARY_RANDOM_DDL says from how many seeds, the next ones, and for longer each.
func TestRandomDDL(t *testing.T) {
	seed, seeds, rounds := setting(t, "TRIBUTARY_SEED", 1004), setting(t, "TRIBUTARY_RANDOM_DDL", 0), 3
	if seeds == 0 {
		seeds, rounds = 1, 2
	}
	for i := range seeds {
		t.Run(fmt.Sprintf("seed%d", seed+i), func(t *testing.T) { alterAtRandom(t, seed+i, rounds) })
	}
}

// rest lets capture look, or not.
func (a *altering) rest() { time.Sleep(time.Duration(a.IntN(800)) * time.Millisecond) }

func alterAtRandom(t *testing.T, seed uint64, rounds int) {
	t.Logf("TRIBUTARY_SEED=%d", seed)
	a := &altering{Rand: rand.New(rand.NewPCG(seed, 7)), t: t, unwitted: map[string]bool{}}
	majors := pgtest.Majors(t)
	a.major = majors[a.IntN(len(majors))]
	kafka, registry := kafkatest.Fake(t), kafkatest.Registry(t)
	cluster := pgtest.Shared(t, a.major)
	dsn, warehouse := pgtest.Database(t, cluster), pgtest.Database(t, cluster)
	a.s = newSource(t, fmt.Sprintf("ddl%d", seed), dsn, kafka, registry)
	a.s.config.Source.Tables = []string{"public.*", "other*.*"}
	a.s.config.Topics.Partitions = 1 + 2*a.IntN(2)
	t.Cleanup(func() { dropSlot(t, dsn, "tributary_"+a.s.name) })
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("TRIBUTARY_SEED=%d TRIBUTARY_RANDOM_DDL=1, PostgreSQL %d, %d partitions\n%s", seed, a.major, a.s.config.Topics.Partitions, strings.Join(a.said, "\n"))
		}
	})
	a.dwh = connect(t, warehouse)
	for range 3 {
		conn := connect(t, dsn)
		exec(t, conn, `set lock_timeout = '150ms'`)
		a.conns = append(a.conns, conn)
	}
	a.do("create schema other; create schema away; create type mood as enum ('sad', 'ok')")
	for i := range 4 {
		name := "t" + strconv.Itoa(i)
		if i == 3 {
			a.do("%s", a.createPartitioned(name))
		} else {
			a.do("%s", a.create(name))
		}
		a.insert(name, 40)
	}
	// How the group writes is the seed's as well.
	members, mode, consistency := 1, "clone", "table"
	switch seed % 4 {
	case 1:
		consistency = "source"
	case 2:
		mode, a.history = "history", true
	case 3:
		members = 2
	}
	startSink := func(group string) (stop func()) {
		rules := fmt.Sprintf(`{from: "*.*", to: "%s{schema}.{table}", mode: %s}`, map[string]string{"rebuilt": "re_"}[group], mode)
		var stops []func()
		for range members {
			stops = append(stops, startGroup(t, kafka, registry, warehouse, group, rules, fmt.Sprintf("sources: [{name: %s, consistency: %s}]", a.s.name, consistency)))
		}
		return func() {
			for _, stop := range stops {
				stop()
			}
		}
	}
	stopSink := startSink("copy")
	stop := a.s.startCapture(t)
	for round := range rounds {
		a.say("round %d", round)
		for range 25 + a.IntN(20) {
			a.at = a.IntN(len(a.conns))
			switch n := a.IntN(100); {
			case n < 4:
				a.say("capture ends")
				stop()
				for range a.IntN(8) {
					a.act()
				}
				stop = a.s.startCapture(t)
				a.say("capture begins")
			case n < 6:
				stopSink()
				for range a.IntN(8) {
					a.act()
				}
				stopSink = startSink("copy")
				a.say("the sink is another one")
			case n < 8:
				a.do(`select pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = 'tributary_%s'`, a.s.name)
			case n < 16:
				a.rest()
			default:
				a.act()
			}
		}
		for a.at = range a.conns {
			if a.conn().PgConn().TxStatus() != 'I' {
				a.do("%s", a.one([]string{"commit", "commit", "rollback"}))
			}
		}
		a.at = 0
		a.settle("copy", "", fmt.Sprintf("round%d", round))
		if t.Failed() {
			return
		}
	}
	startSink("rebuilt")
	a.settle("rebuilt", "re_", "rebuilt")
}

// act does one thing in one connection.
func (a *altering) act() {
	table := a.table()
	if strings.HasPrefix(table, "away.") && a.IntN(2) == 0 {
		a.do("alter table %s set schema public", table)
		return
	}
	status := a.conn().PgConn().TxStatus()
	switch n := a.IntN(100); {
	case n < 8 && status == 'I':
		a.do("begin")
	case n < 16 && status != 'I':
		a.do("%s", a.one([]string{"commit", "commit", "commit", "rollback"}))
	case n < 20:
		a.do("%s", a.create(a.name()))
	case n < 21:
		a.do("alter schema %s", a.one([]string{"other rename to other2", "other2 rename to other"}))
	case n < 29:
		a.partition()
	case table == "":
		a.do("%s", a.create(a.name()))
	case n < 30:
		a.do(`select pg_logical_emit_message(true, 'tributary', '{"snapshot": {"tables": ["%s"], "reload": %t}}')`, "public.*", a.IntN(2) == 0)
	case n < 60:
		a.alter(table)
	default:
		a.change(table)
	}
}

var alterInHint = regexp.MustCompile(`(?m)(ALTER (?:TABLE|TYPE) .*?);? ?(?:; or leave|; then|$)`)

// settle waits until the warehouse has what the source has, and does meanwhile what is told.
func (a *altering) settle(group, prefix, id string) {
	a.t.Helper()
	fences := 0
	var wrong []string
	told := map[string]int{}
	began := time.Now()
	same := 0
	reloaded, touched := false, false
	for {
		if time.Since(began) > patience {
			a.t.Errorf("%s: it does not come to hold what the source holds:\n%s", id, strings.Join(wrong, "\n"))
			return
		}
		// A fence that is passed says that all before it is in: twice, as what the first round has found to be read again comes after it.
		fences++
		fence := fmt.Sprintf("%s-%d", id, fences)
		exec(a.t, a.s.conn, `select pg_logical_emit_message(true, 'tributary', $1)`, fmt.Sprintf(`{"fence": %q}`, fence))
		var passed bool
		for until := time.Now().Add(5 * time.Second); !passed && time.Now().Before(until); time.Sleep(50 * time.Millisecond) {
			passed = scalar[bool](a.t, a.dwh, `select coalesce((select $3 = any(fences) from tributary.progress where grp = $1 and source = $2), false)`, group, a.s.name, fence)
			if a.mend(group, told) && time.Since(began) < patience {
				until = time.Now().Add(5 * time.Second)
			}
		}
		a.heed(told)
		if !reloaded {
			reloaded = true
			a.reload()
			continue
		}
		st := a.s.capture.Status()
		if st.Snapshot.TablesDone < st.Snapshot.Tables || st.Trouble != nil {
			wrong = []string{fmt.Sprintf("capture: %d of %d tables are read, %+v", st.Snapshot.TablesDone, st.Snapshot.Tables, st.Trouble)}
			continue
		}
		wrong = a.wrong(prefix)
		if !passed {
			wrong = append(wrong, "the fence is not passed")
		}
		if len(wrong) > 0 {
			same = 0
			if !touched && time.Since(began) > 3*time.Second {
				touched = true
				a.touch()
			}
			continue
		}
		if same++; same > 1 {
			return
		}
	}
}

// touch changes a row of each table: a target is altered when a row comes that has the new form.
func (a *altering) touch() {
	for _, table := range a.tables(`'r', 'p'`) {
		a.insert(table, 1)
		a.do("update %[1]s set id = id where id = (select min(id) from %[1]s)", table)
	}
}

// reload does what docs/schema-changes.md says of what is not noticed.
func (a *altering) reload() {
	for table := range a.unwitted {
		if !strings.Contains(table, ".") {
			table = "public." + table
		}
		a.say("reload of %s", table)
		exec(a.t, a.s.conn, `select pg_logical_emit_message(true, 'tributary', $1)`, fmt.Sprintf(`{"snapshot": {"tables": [%q], "reload": true}}`, table))
	}
	clear(a.unwitted)
}

// heed does what capture's status says.
func (a *altering) heed(told map[string]int) {
	for _, st := range a.s.capture.Status().Tables {
		switch {
		case st.Held != nil:
			if told["held "+st.Table]++; told["held "+st.Table] > 3 {
				continue
			}
			a.say("capture holds %s: %s: %s; %s", st.Table, st.Held.Code, st.Held.Cause, st.Held.Hint)
			exec(a.t, a.s.conn, `select pg_logical_emit_message(true, 'tributary', $1)`, fmt.Sprintf(`{"snapshot": {"tables": [%q], "reload": true}}`, st.Table))
		case st.Level == "insert":
			if told["insert "+st.Table]++; told["insert "+st.Table] > 3 {
				continue
			}
			a.say("capture has only INSERT of %s: %s; %s", st.Table, st.Reason, st.Help)
			a.do("%s", st.Help)
		}
	}
}

// mend does what the sink tells of tables that are quarantined, and says whether there were any.
func (a *altering) mend(group string, told map[string]int) bool {
	rows, err := a.dwh.Query(a.t.Context(), `select topic, table_name, code, message, hint from tributary.quarantine where grp = $1`, group)
	must(a.t, err)
	type held struct{ Topic, Table, Code, Message, Hint string }
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[held])
	must(a.t, err)
	for _, h := range list {
		told[h.Topic]++
		var did []string
		if told[h.Topic]%6 == 5 || strings.Contains(h.Hint, "another key") {
			// A target that does not fit is dropped by whoever has no more patience: it is made anew, and the table is loaded anew.
			target := scalar[string](a.t, a.dwh, `select format('%I.%I', target_schema, target_table) from tributary.feed where topic = $1 and grp = $2`, h.Topic, group)
			exec(a.t, a.dwh, `drop table if exists `+target+` cascade`)
			did = append(did, "drop of "+target)
			a.unwitted[h.Table] = true
			defer a.reload()
		}
		for _, m := range alterInHint.FindAllStringSubmatch(h.Hint, -1) {
			_, err := a.dwh.Exec(a.t.Context(), m[1])
			did = append(did, fmt.Sprint(m[1], ": ", err))
			if err != nil {
				// It empties the column, of rows too that other partitions have brought in its new form.
				a.unwitted[h.Table] = true
				defer a.reload()
				other := regexp.MustCompile(`(ALTER TABLE \S+ ALTER COLUMN (\S+) TYPE (.*))`).ReplaceAllString(m[1], `$1 USING NULL`)
				_, err := a.dwh.Exec(a.t.Context(), other)
				did = append(did, fmt.Sprint(other, ": ", err))
			}
		}
		a.say("quarantined %s: %s: %s; %s: did %q", h.Table, h.Code, h.Message, h.Hint, did)
		exec(a.t, a.dwh, `delete from tributary.quarantine where grp = $1 and topic = $2`, group, h.Topic)
	}
	return len(list) > 0
}

// wrong says what differs.
func (a *altering) wrong(prefix string) (list []string) {
	source, err := postgres.Connect(a.t.Context(), a.s.dsn, "oracle")
	must(a.t, err)
	defer source.Close(a.t.Context())
	for _, table := range textsOf(a.t, source, `select relnamespace::regnamespace || '.' || quote_ident(relname) from pg_class where relkind in ('r', 'p') and not relispartition
		and relnamespace::regnamespace::text in ('public', 'other', 'other2') order by 1`) {
		var columns []string
		for _, c := range textsOf(a.t, source, `select quote_ident(attname) from pg_attribute where attrelid = '`+table+`'::regclass and attnum > 0 and not attisdropped
			and (attgenerated = '' or current_setting('server_version_num')::int >= 180000 and attgenerated = 's') order by attname`) {
			columns = append(columns, fmt.Sprintf("case when num_nulls(%[1]s) = 1 then '<null>' else left(format('%%s', %[1]s), 60) end", c))
		}
		sql := "select r from (select concat_ws(' | ', " + strings.Join(columns, ", ") + ") as r from TABLE) q order by r collate \"C\""
		want := textsOf(a.t, source, strings.Replace(sql, "TABLE", table, 1))
		target := prefix + table
		if a.history {
			target += " where valid_to = 'infinity'"
		}
		rows, err := a.dwh.Query(a.t.Context(), strings.Replace(sql, "TABLE", target, 1))
		var got []string
		if err == nil {
			got, err = pgx.CollectRows(rows, pgx.RowTo[string])
		}
		switch {
		case err != nil && postgres.SQLState(err) == "42P01" && len(want) == 0: // it comes with its first row
		case err != nil && postgres.SQLState(err) == "42703" && len(want) == 0:
		case err != nil:
			list = append(list, fmt.Sprintf("%s: %v", table, err))
		case !slices.Equal(want, got):
			only := func(a, b []string) []string {
				return slices.DeleteFunc(slices.Clone(a), func(s string) bool { return slices.Contains(b, s) })
			}
			list = append(list, fmt.Sprintf("%s %s: %d rows, want %d; only at the source\n  %s\nonly in the warehouse\n  %s", table, columns, len(got), len(want),
				strings.Join(first(only(want, got)), "\n  "), strings.Join(first(only(got, want)), "\n  ")))
		}
	}
	return list
}

func first(list []string) []string { return list[:min(len(list), 6)] }
