package nemesis

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tributary-cdc/tributary/pkg/postgres"
	"github.com/tributary-cdc/tributary/schema/change"
)

// keptMode says in which mode the third group writes a table: by the seed, each in its turn.
func (m *machine) keptMode(name string) string {
	at := slices.IndexFunc(tables, func(t table) bool { return t.name == name })
	if at >= 0 && tables[at].keyless() || (uint64(at+1)+m.Seed)%2 == 0 {
		return "log"
	}
	return "history"
}

// keptRules are the rules of the group that keeps what the others overwrite.
func (m *machine) keptRules() string {
	var rules []string
	for _, name := range append(tableNames(), latePattern) {
		rules = append(rules, fmt.Sprintf(`{from: "public.%s", to: "kept.{table}", mode: %s}`, name, m.keptMode(name)))
	}
	return strings.Join(rules, ", ")
}

func tableNames() (names []string) {
	for i := range tables {
		names = append(names, tables[i].name)
	}
	return names
}

// current gives the condition under which a row of a target is one that the source has now; false where none of them is.
func (t target) current(m *machine, name string) (where string, ok bool) {
	switch {
	case t.schema != keptSchema:
		return "true", true
	case m.keptMode(ruleName(name)) == "history":
		return "valid_to = 'infinity'", true
	}
	return "", false
}

// ruleName is the name, or the pattern, by which a rule finds a table.
func ruleName(name string) string {
	if slices.Contains(tableNames(), name) {
		return name
	}
	return latePattern
}

// kept holds histories and logs against the ledger of the round, key by key, and then takes away what it has seen. The logs
// of the topics have the ledger already.
func (c *checker) kept(ctx context.Context, now []sourceTable) error {
	if len(c.m.targets) < 3 {
		return nil
	}
	conn, err := postgres.Connect(ctx, c.m.warehouse.DSN("postgres"), "nemesis check")
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	for i := range now {
		log := c.topics[now[i].Name]
		mode, where := c.m.keptMode(ruleName(now[i].Name)), "true"
		if mode == "history" {
			err, where = c.history(ctx, conn, log), "valid_to <> 'infinity'"
		} else {
			err = c.log(ctx, conn, log)
		}
		if postgres.SQLState(err) == "42P01" && len(log.keys) == 0 {
			continue // nothing was ever written
		}
		if err == nil {
			_, err = conn.Exec(ctx, fmt.Sprintf("DELETE FROM %s.%s WHERE %s", keptSchema, log.table.name, where))
		}
		if err != nil {
			return fmt.Errorf("check %s of table %s: %w", mode, log.table.name, err)
		}
	}
	return nil
}

// era is a version of a row, for as long as it was valid.
type era struct {
	ver           int64
	from, to      time.Time
	open, deleted bool
}

// history compares the versions of each key with what the ledger says that it went through: each change once, in order,
// each version from its commit until the next begins, none overlapping another.
func (c *checker) history(ctx context.Context, conn *pgx.Conn, log *topicLog) error {
	rows, err := conn.Query(ctx, fmt.Sprintf(`SELECT %s, h.ver, CASE WHEN isfinite(valid_from) THEN valid_from ELSE 'epoch' END,
		CASE WHEN isfinite(valid_to) THEN valid_to ELSE 'epoch' END, NOT isfinite(valid_to), deleted FROM %s.%s h ORDER BY 1, valid_from`,
		log.table.keyText("h"), keptSchema, log.table.name))
	if err != nil {
		return err
	}
	lives := map[string][]era{}
	var key string
	var e era
	n := int64(0)
	if _, err := pgx.ForEachRow(rows, []any{&key, &e.ver, &e.from, &e.to, &e.open, &e.deleted}, func() error {
		lives[key] = append(lives[key], e)
		n++
		return nil
	}); err != nil {
		return err
	}
	c.m.note(func(r *Report) { r.Versions += n })
	for key := range log.keys {
		if lives[key] == nil {
			lives[key] = nil
		}
	}
	for key, life := range lives {
		if wrong := log.lived(log.keys[key], life); wrong != "" {
			c.m.find("table %s.%s: key %q: %s; versions are %v; the ledger has %s", keptSchema, log.table.name, key, wrong, vers(life), log.keys[key])
		}
	}
	return nil
}

func vers(life []era) (out []int64) {
	for i := range life {
		out = append(out, life[i].ver)
	}
	return out
}

// lived says what is wrong with the versions of a key, "" for nothing. What the round began with is in none of its steps.
func (l *topicLog) lived(k *keyLog, life []era) string {
	for i := range life {
		switch {
		case !life[i].open && !life[i].from.Before(life[i].to):
			return fmt.Sprintf("version %d is valid for no time", life[i].ver)
		case i > 0 && (life[i-1].open || life[i-1].to.After(life[i].from)):
			return fmt.Sprintf("versions %d and %d overlap", life[i-1].ver, life[i].ver)
		}
	}
	if k == nil {
		k = &keyLog{}
	}
	at, gen := 0, l.before
	if len(life) > 0 && !slices.ContainsFunc(k.steps, func(s step) bool { return s.op != change.Delete && s.ver == life[0].ver }) {
		at = 1
	}
	gone := at == 0
	exact := !l.young && !l.table.toasted // else a snapshot may bring a row, as it is later
	known := at > 0 && exact              // that life[at-1] is what the step before has left
	for i, s := range k.steps {
		if known && !gone && s.gen > gen {
			if wrong := life[at-1].ended(l.truncated[gen+1], true); wrong != "" {
				return wrong
			}
			gone = true
		}
		switch {
		case s.op == change.Delete:
			if known && !gone {
				if wrong := life[at-1].ended(s.at, !s.moved); wrong != "" {
					return wrong
				}
			}
			gone = true
		case at < len(life) && life[at].ver == s.ver:
			e := &life[at]
			least := time.Time{} // two changes of one transaction are a microsecond apart
			if at > 0 {
				least = life[at-1].to
			}
			if !gone && s.gen == gen {
				least = life[at-1].from.Add(time.Microsecond)
				if life[at-1].to != e.from {
					return fmt.Sprintf("between versions %d and %d there is a hole", life[at-1].ver, s.ver)
				}
				if known && life[at-1].deleted {
					return fmt.Sprintf("version %d was followed by version %d, and is said to be deleted", life[at-1].ver, s.ver)
				}
			}
			if begins := later(s.at, least); exact && !s.quiet && !e.from.Equal(begins) {
				return fmt.Sprintf("version %d is valid from %s, it was committed at %s", e.ver, e.from, s.at)
			}
			at, gen, gone, known = at+1, s.gen, false, exact
		case !s.quiet && exact:
			return fmt.Sprintf("step %d, %s, is no version", i, s)
		default:
			known = false
		}
	}
	if known && !gone && l.gen > gen {
		if wrong := life[at-1].ended(l.truncated[gen+1], true); wrong != "" {
			return wrong
		}
	}
	if at < len(life) {
		return fmt.Sprintf("version %d comes once more, or from nowhere", life[at].ver)
	}
	return ""
}

// ended says what is wrong with the end of a version whose row a commit has removed; moved to another key, it is not
// deleted.
func (e *era) ended(at time.Time, deleted bool) string {
	if ends := later(at, e.from.Add(time.Microsecond)); e.open || !e.to.Equal(ends) || e.deleted != deleted {
		return fmt.Sprintf("version %d is valid until %s, deleted %t; its row was removed at %s, deleted %t", e.ver, e.to, e.deleted, at, deleted)
	}
	return ""
}

func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}

// log compares the changes of each key with the ledger: each once, in order, and each TRUNCATE once.
func (c *checker) log(ctx context.Context, conn *pgx.Conn, log *topicLog) error {
	version, old := "coalesce(h.ver, 0)", "''"
	if log.table.keyless() {
		version, old = "0", "coalesce(concat_ws('|', coalesce(change_before->>'a', '∅'), coalesce(change_before->>'b', '∅')), '')"
	}
	rows, err := conn.Query(ctx, fmt.Sprintf(`SELECT change_op, %s, %s, change_before IS NOT NULL, %s FROM %s.%s h ORDER BY change_era, change_lsn, change_seq`,
		log.table.keyText("h"), version, old, keptSchema, log.table.name))
	if err != nil {
		return err
	}
	var op, key, before string
	var ver, n int64
	var had bool
	truncates, told, bag := 0, map[string]int{}, map[string]int{}
	_, err = pgx.ForEachRow(rows, []any{&op, &key, &ver, &had, &before}, func() error {
		n++
		switch {
		case op == "t":
			truncates++
		case op == "s" || op == "r" && log.table.keyless():
		case log.table.keyless():
			if !had {
				before = ""
			}
			if op == "d" {
				key = ""
			}
			bag[fmt.Sprintf("%s %s > %s", op, before, key)]++
		default:
			told[key] = c.logged(log, key, change.Op(op[0]), ver, told[key])
		}
		return nil
	})
	if err != nil {
		return err
	}
	c.m.note(func(r *Report) { r.Logged += n })
	if truncates != log.gen-log.before && !log.reread {
		c.m.find("table %s.%s: it has %d truncates, the ledger %d", keptSchema, log.table.name, truncates, log.gen-log.before)
	}
	for key, k := range log.keys {
		at := told[key]
		for at < len(k.steps) && (k.steps[at].quiet || log.young && told[key] == 0) {
			at++
		}
		if at < len(k.steps) {
			c.m.find("table %s.%s: key %q: it ends behind step %d; the ledger has %s", keptSchema, log.table.name, key, at-1, k)
		}
	}
	if log.table.keyless() && !log.reread {
		want := map[string]int{}
		for _, of := range log.expected {
			for what, n := range of {
				want[what] += n
			}
		}
		if fmt.Sprint(bag) != fmt.Sprint(want) {
			c.m.find("table %s.%s: it has %d kinds of changes, the ledger %d, or of one not as many", keptSchema, log.table.name, len(bag), len(want))
		}
	}
	return nil
}

// logged takes a change of a log, and gives the step that is to come behind it, at being the one that was to come. A row of a
// snapshot stands for the step that made it.
func (c *checker) logged(log *topicLog, key string, op change.Op, ver int64, at int) int {
	k := log.key(key)
	if op == change.Read {
		for i := at; i < len(k.steps); i++ {
			if k.steps[i].op != change.Delete && k.steps[i].ver == ver {
				return i + 1
			}
		}
		return at
	}
	next := at
	is := func(s step) bool { return s.op == op && (op == change.Delete || s.ver == ver) }
	for next < len(k.steps) && !is(k.steps[next]) && (k.steps[next].quiet || log.young && at == 0) {
		next++
	}
	if next == len(k.steps) || !is(k.steps[next]) {
		c.m.find("table %s.%s: key %q: %c with ver %d was not to come behind step %d; the ledger has %s", keptSchema, log.table.name, key, op, ver, at-1, k)
		return at
	}
	return next + 1
}
