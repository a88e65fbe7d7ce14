package sink_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/tributary-cdc/tributary/pkg/config"
	"github.com/tributary-cdc/tributary/pkg/postgres"
	"github.com/tributary-cdc/tributary/schema"
	"github.com/tributary-cdc/tributary/schema/record"
	"github.com/tributary-cdc/tributary/sink/rule"
	"github.com/tributary-cdc/tributary/sink/warehouse"
)

// keyIn gives the least whole number, none below from, that goes to a partition as the key of a row.
func keyIn(t *testing.T, s *source, rel *schema.Relation, partition int32, from int) int {
	t.Helper()
	enc := s.table(rel, 2)
	for i := from; ; i++ {
		row := make([]any, len(rel.Columns))
		row[0] = i
		key, err := enc.AppendKey(nil, tuple(rel, row))
		if err != nil {
			t.Fatal(err)
		}
		if record.Partition(key, s.counts[enc.Topic()]) == partition {
			return i
		}
	}
}

// TestTargetThatAnotherChanges: one sink has looked at the target, and another, which is further in its partition, renames
// columns, so that the names that the first one writes are those of other columns.
func TestTargetThatAnotherChanges(t *testing.T) {
	for name, v1 := range map[string]*schema.Relation{
		"swapped": relation("t", "id integer key", "a text", "b text"),
		"taken":   relation("t", "id integer key", "a text"),
	} {
		t.Run(name, func(t *testing.T) {
			v2 := relation("t", "id integer key", "b text", "a text")
			w := newWorld(t)
			shop := w.source("shop")
			shop.table(v1, 2)
			one, two := w.start(w.cfg), w.start(w.cfg)
			w.eventually(true, func() any {
				a, b := one.Status().Partitions, two.Status().Partitions
				return a > 0 && b > 0 && a+b == 3
			})
			slow, quick := keyIn(t, shop, v1, 0, 0), keyIn(t, shop, v1, 1, 0)
			row := func(id int, a string) []any { return []any{id, a, nil}[:len(v1.Columns)] }
			shop.tx(ins(v1, row(slow, "1")...), ins(v1, row(quick, "1")...))
			w.complete(shop)
			behind := shop.lsn
			shop.lsn += 0x10000
			shop.tx(upd(v2, quick, "3", "new"))
			w.complete(shop)
			shop.lsn = behind
			shop.tx(upd(v1, row(slow, "2")...))
			w.rows(fmt.Sprintf(`SELECT id = %d, b, a FROM public.t ORDER BY 1`, quick), "f|2|∅", "t|3|new")
		})
	}
}

// TestTargetOfTwoSourcesThatAnotherChanges: a target that another source writes, too, keeps its column when this one renames it. One sink copies
// the values, and another, which is behind in its partition, still knows the old name.
func TestTargetOfTwoSourcesThatAnotherChanges(t *testing.T) {
	w := newWorld(t, rule.Table{From: "public.t", To: "public.t", SID: "tenant"})
	shop, other := w.source("shop"), w.source("other")
	v1, v2 := relation("t", "id integer key", "a text"), relation("t", "id integer key", "b text")
	shop.table(v1, 2)
	other.tx(ins(relation("t", "id integer key", "a text"), -1, "other"))
	one, two := w.start(w.cfg), w.start(w.cfg)
	w.eventually(true, func() any {
		a, b := one.Status().Partitions, two.Status().Partitions
		return a > 0 && b > 0 && a+b == 5
	})
	slow, quick := keyIn(t, shop, v1, 0, 0), keyIn(t, shop, v1, 1, 0)
	shop.tx(ins(v1, slow, "1"), ins(v1, quick, "1"))
	w.complete(shop)
	w.complete(other)
	behind := shop.lsn
	shop.lsn += 0x10000
	shop.tx(upd(v2, quick, "3"))
	w.complete(shop)
	shop.lsn = behind
	shop.tx(upd(v1, slow, "2"))
	w.rows(fmt.Sprintf(`SELECT tenant, id = %d, a, b FROM public.t ORDER BY 1, 2`, quick), "other|f|other|∅", "shop|f|∅|2", "shop|t|∅|3")
}

// TestRenameAfterTenantRemove: a column gets another name after its tenant was removed and taken up again by sinks that ran all the while.
func TestRenameAfterTenantRemove(t *testing.T) {
	for _, consistency := range []string{"table", "source"} {
		t.Run(consistency, func(t *testing.T) {
			w := newWorld(t, rule.Table{From: "public.*", SID: "tenant"})
			w.cfg.Sources = []rule.Source{{Name: "a", Consistency: consistency}, {Name: "b"}}
			v1, v2 := relation("t", "id integer key", "mail text"), relation("t", "id integer key", "email text")
			a, b := w.source("a"), w.source("b")
			a.tx(many(50, func(i int) event { return ins(v1, i, "a") })...)
			b.tx(ins(v1, 1, "b"))
			w.start(w.cfg)
			w.complete(a)
			w.complete(b)
			o := w.operator()
			if removed, err := o.RemoveTenant(t.Context(), w.tenantPlan(o, "a"), "", untold); err != nil || removed != 50 {
				t.Fatalf("removed %d: %v", removed, err)
			}
			if _, err := o.Resume(t.Context(), warehouse.Going{Source: "a"}); err != nil {
				t.Fatal(err)
			}
			a.tx(upd(v1, 1, "a"))
			w.complete(a)
			w.rows(`SELECT tenant, mail, count(*) FROM public.t GROUP BY 1, 2 ORDER BY 1`, "a|a|50", "b|b|1")
			a.tx(upd(v2, 0, "new"))
			w.complete(a)
			w.rows(`SELECT tenant, mail, email, count(*) FROM public.t GROUP BY 1, 2, 3 ORDER BY 1, 3`, "a|∅|a|49", "a|∅|new|1", "b|b|∅|1")
		})
	}
}

// TestDeletedRowsThatStay: a trigger keeps rows from being deleted, which no number of rows tells.
func TestDeletedRowsThatStay(t *testing.T) {
	w := newWorld(t)
	shop := w.source("shop")
	r := relation("t", "id integer key")
	w.start(w.cfg)
	shop.tx(ins(r, 1), ins(r, 2))
	w.complete(shop)
	w.exec(`CREATE FUNCTION public.audit() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
		CREATE TRIGGER audit BEFORE DELETE ON public.t FOR EACH ROW EXECUTE FUNCTION public.audit()`)
	held := func(offset string) { w.rows(`SELECT code, next_offset FROM tributary.quarantine`, "row-count|"+offset) }
	shop.tx(del(r, 1))
	held("3")
	w.rows(`SELECT id FROM public.t ORDER BY id`, "1", "2")
	w.exec(`ALTER TABLE public.t DISABLE TRIGGER audit`)
	if _, err := w.operator().Resume(t.Context(), warehouse.Going{Source: "shop", Table: "public.t"}); err != nil {
		t.Fatal(err)
	}
	w.rows(`SELECT id FROM public.t ORDER BY id`, "2")
	w.exec(`ALTER TABLE public.t ENABLE TRIGGER audit`)
	shop.tx(trunc(r))
	held("5")
}

// TestTargetsThatLoseRows: one that a crash empties is held.
func TestTargetsThatLoseRows(t *testing.T) {
	w := newWorld(t, rule.Table{From: "*.*", To: "public.{table}", SID: "sid"})
	shop := w.source("shop")
	w.start(w.cfg)
	shop.tx(ins(relation("ok", "id integer key"), 1))
	w.complete(shop)
	w.exec(`CREATE UNLOGGED TABLE public.unlogged (sid text, id text, PRIMARY KEY (sid, id))`)
	shop.tx(ins(relation("unlogged", "id text key"), "A"))
	w.rows(`SELECT code, table_name FROM tributary.quarantine`, "target-type|public.unlogged")
}

// TestTargetThatSomebodyAlters: what a person does to a target between two flushes, and no statement of theirs fails by.
func TestTargetThatSomebodyAlters(t *testing.T) {
	const audit = `CREATE FUNCTION public.audit() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
		CREATE TRIGGER audit BEFORE DELETE ON public.t FOR EACH ROW EXECUTE FUNCTION public.audit();`
	const plain = `CREATE TABLE public.t (id integer PRIMARY KEY, v integer);`
	const parted = `CREATE TABLE public.t (id integer PRIMARY KEY, v integer) PARTITION BY RANGE (id); CREATE TABLE public.t_1 PARTITION OF public.t DEFAULT;`
	auditPart := strings.Replace(audit, "ON public.t ", "ON public.t_1 ", 1)
	r := relation("t", "id integer key", "v integer")
	again := many(1000, func(i int) event { return snap(r, i, i) }) // so many that they are copied
	for _, c := range []struct {
		name, before, between string
		then                  []event
		holds, rows           string
	}{
		{"the unique index is dropped", plain, `ALTER TABLE public.t DROP CONSTRAINT t_pkey`, again, "", "1000|1000|499500"},
		{
			"a column ceases to be generated", `CREATE TABLE public.t (id integer PRIMARY KEY, v integer GENERATED ALWAYS AS (id + 1) STORED)`,
			`ALTER TABLE public.t ALTER COLUMN v DROP EXPRESSION`,
			[]event{ins(r, 1000, 7), upd(r, 1, 7)},
			"", "1001|1001|500512",
		},
		{"a trigger more", plain, `CREATE TABLE public.other (t integer REFERENCES public.t (id)); ` + audit, []event{del(r, 1)}, "row-count", "1000|1000|499500"},
		{"a trigger that was off", plain + audit + `ALTER TABLE public.t DISABLE TRIGGER audit`, `ALTER TABLE public.t ENABLE TRIGGER audit`, []event{del(r, 1)}, "row-count", "1000|1000|499500"},
		{"a trigger of a partition", parted, auditPart, []event{del(r, 1)}, "row-count", "1000|1000|499500"},
		{"one that was off", parted + auditPart + `ALTER TABLE public.t_1 DISABLE TRIGGER audit`, `ALTER TABLE public.t_1 ENABLE TRIGGER audit`, []event{del(r, 1)}, "row-count", "1000|1000|499500"},
		{
			"a partition with a trigger",
			parted + `CREATE TABLE public.other (LIKE public.t INCLUDING INDEXES); INSERT INTO public.other SELECT 2000, 0;` + strings.Replace(audit, "ON public.t ", "ON public.other ", 1),
			`ALTER TABLE public.t ATTACH PARTITION public.other FOR VALUES FROM (2000) TO (3000)`,
			[]event{del(r, 2000)},
			"row-count", "1001|1001|499500",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			shop := w.source("shop")
			w.exec(c.before)
			w.start(w.cfg)
			shop.tx(many(1000, func(i int) event { return ins(r, i, i) })...)
			w.complete(shop)
			w.exec(c.between)
			shop.tx(c.then...)
			if c.holds == "" {
				w.complete(shop)
			} else {
				w.rows(`SELECT code FROM tributary.quarantine`, c.holds)
			}
			w.rows(`SELECT count(*), count(DISTINCT id), sum(v) FROM public.t`, c.rows)
		})
	}
}

// TestValuesOfOthersGoAlong: somebody has made the target wider, and writes there. What they have written stays with its row, also where its key changes.
func TestValuesOfOthersGoAlong(t *testing.T) {
	const columns = `(id integer, v text, part integer DEFAULT 1`
	for name, ddl := range map[string]string{
		"key": columns + `, PRIMARY KEY (id))`, "no index": columns + `)`, "index": columns + `); CREATE INDEX ON public.t (id)`,
		"parts": columns + `, PRIMARY KEY (id, part)) PARTITION BY LIST (part); CREATE TABLE public.t_1 PARTITION OF public.t FOR VALUES IN (1)`,
		"guarded": columns + `, PRIMARY KEY (id)); CREATE FUNCTION public.audit() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN OLD; END';
			CREATE TRIGGER audit BEFORE DELETE ON public.t FOR EACH ROW EXECUTE FUNCTION public.audit()`,
	} {
		t.Run(name, func(t *testing.T) {
			sizes(t, func(t *testing.T, n int) {
				w := newWorld(t)
				shop := w.source("shop")
				r := relation("t", "id integer key", "v text")
				w.exec(`CREATE TABLE public.t ` + ddl)
				w.start(w.cfg)
				shop.tx(many(n, func(i int) event { return ins(r, i, "a") })...)
				w.complete(shop)
				w.exec(`ALTER TABLE public.t ADD COLUMN mine text`)
				w.exec(`UPDATE public.t SET mine = 'of ' || id`)
				has := func(up int, v string) {
					t.Helper()
					w.complete(shop)
					w.rows(fmt.Sprintf(`SELECT count(*), count(*) FILTER (WHERE mine = 'of ' || id - %d), string_agg(DISTINCT v, ','), min(id) FROM public.t`, up), fmt.Sprintf("%d|%[1]d|%s|%d", n, v, up))
				}
				// All keys move up by one, from the top, each to where another row was.
				var moves []event
				for i := n - 1; i >= 0; i-- {
					moves = append(moves, move(r, []any{i}, i+1, "b")...)
				}
				shop.tx(moves...)
				has(1, "b")
				shop.tx(many(n, func(i int) event { return upd(r, i+1, "c") })...)
				has(1, "c")
				// Twice, and one after it was changed.
				shop.tx(append(append(move(r, []any{1}, 5000, "d"), upd(r, 5000, "d")), move(r, []any{5000}, 1, "c")...)...)
				has(1, "c")
				// One that comes with a key is another row than the one that has gone; one that moves there brings its own.
				shop.tx(del(r, 1), ins(r, 1, "new"), del(r, 2))
				shop.tx(append(move(r, []any{3}, 2, "moved"), ins(r, 3, "new"))...)
				w.complete(shop)
				w.rows(`SELECT id, v, mine FROM public.t WHERE id < 4 ORDER BY id`, "1|new|∅", "2|moved|of 2", "3|new|∅")
				// One that is not there, as the target was written by hand.
				w.exec(`DELETE FROM public.t WHERE id = 2`)
				shop.tx(append(move(r, []any{2}, 9000, "late"), move(r, []any{1}, 9001, "late")...)...)
				w.complete(shop)
				w.rows(`SELECT id, v, mine FROM public.t WHERE id > 5000 ORDER BY id`, "9000|late|∅", "9001|late|∅")
			})
		})
	}
}

// TestKeyThatIsThereTwiceMoves: without a unique index, two rows of one key do not stand for another that is not there.
func TestKeyThatIsThereTwiceMoves(t *testing.T) {
	w := newWorld(t)
	shop := w.source("shop")
	r := relation("t", "id integer key", "v text")
	w.exec(`CREATE TABLE public.t (id integer, v text, mine text);
		CREATE TRIGGER same BEFORE UPDATE ON public.t FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()`)
	w.start(w.cfg)
	shop.tx(ins(r, 1, "a"))
	w.complete(shop)
	w.exec(`INSERT INTO public.t SELECT * FROM public.t`)
	shop.tx(append(append(move(r, []any{1}, 2, "b"), ins(r, 5, "b")), move(r, []any{5}, 6, "b")...)...)
	w.complete(shop)
	shop.tx(append(move(r, []any{2}, 3, "c"), move(r, []any{8}, 9, "c")...)...)
	w.complete(shop)
	w.rows(`SELECT id, v FROM public.t ORDER BY id`, "3|c", "3|c", "6|b", "9|c")
}

// TestKeyThatIsThereTwiceIsUpdated: without a unique index, two rows of one key do not stand for another that is not there and cannot be written, as its change does
// not carry every value.
func TestKeyThatIsThereTwiceIsUpdated(t *testing.T) {
	r := relation("t", "id integer key", "v text", "big text")
	for name, events := range map[string][]event{
		"keys":   append(move(r, []any{1}, 2, "b", keep), move(r, []any{8}, 9, "b", keep)...),
		"values": {upd(r, 1, "b", keep), upd(r, 8, "b", keep)},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			shop := w.source("shop")
			w.exec(`CREATE TABLE public.t (id integer, v text, big text)`)
			w.start(w.cfg)
			shop.tx(ins(r, 1, "a", "BIG"))
			w.complete(shop)
			w.exec(`INSERT INTO public.t SELECT * FROM public.t`)
			shop.tx(upd(r, 1, "b", keep))
			w.complete(shop)
			w.rows(`SELECT * FROM public.t`, "1|b|BIG", "1|b|BIG")
			shop.tx(events...)
			w.rows(`SELECT code FROM tributary.quarantine`, "unresolved-toast")
		})
	}
}

// TestForeignKeysThatChangeRows: a foreign key between targets has the warehouse delete or alter rows that their source has.
func TestForeignKeysThatChangeRows(t *testing.T) {
	t.Parallel() // it waits most of its time
	parent, child := relation("parent", "id integer key"), relation("child", "id integer key", "p integer")
	const tables = `CREATE TABLE public.parent (id integer PRIMARY KEY); CREATE TABLE public.child (id integer PRIMARY KEY, p integer);`
	const plain = `ALTER TABLE public.child ADD CONSTRAINT "of parent" FOREIGN KEY (p) REFERENCES public.parent (id)`
	const partitioned = `CREATE TABLE public.parent (id integer PRIMARY KEY) PARTITION BY RANGE (id); CREATE TABLE public.parent_1 PARTITION OF public.parent DEFAULT;
		CREATE TABLE public.child (id integer PRIMARY KEY, p integer) PARTITION BY RANGE (id); CREATE TABLE public.child_1 PARTITION OF public.child DEFAULT;`
	for _, c := range []struct{ name, before, between, hint string }{
		{"on delete cascade", tables, plain + ` ON DELETE CASCADE`, `ALTER TABLE public.child DROP CONSTRAINT "of parent";`},
		{"on delete set null", tables, plain + ` ON DELETE SET NULL`, `ALTER TABLE public.child DROP CONSTRAINT "of parent";`},
		{"on update cascade", tables, plain + ` ON UPDATE CASCADE`, `ALTER TABLE public.child DROP CONSTRAINT "of parent";`},
		{"of partitioned ones", partitioned, plain + ` ON DELETE CASCADE`, `ALTER TABLE public.child DROP CONSTRAINT "of parent";`},
		{
			"of one partition each", partitioned, `ALTER TABLE public.child_1 ADD CONSTRAINT own FOREIGN KEY (p) REFERENCES public.parent_1 (id) ON DELETE CASCADE`,
			`ALTER TABLE public.child_1 DROP CONSTRAINT own;`,
		},
		{
			"through one that is none", tables,
			`CREATE TABLE public.other (id integer PRIMARY KEY, p integer REFERENCES public.parent (id) ON DELETE CASCADE); INSERT INTO public.other VALUES (2, 1);
			 ALTER TABLE public.child ADD CONSTRAINT "of other" FOREIGN KEY (p) REFERENCES public.other (id) ON DELETE SET NULL`, `ALTER TABLE public.child DROP CONSTRAINT "of other";`,
		},
		{
			"through one whose rows stay", tables,
			`CREATE TABLE public.other (id integer PRIMARY KEY, p integer REFERENCES public.parent (id) ON DELETE SET NULL); INSERT INTO public.other VALUES (2, 1);
			 ALTER TABLE public.child ADD CONSTRAINT "of other" FOREIGN KEY (p) REFERENCES public.other (id) ON DELETE CASCADE`, "",
		},
		{"of no target", tables, `CREATE TABLE public.other (p integer REFERENCES public.parent (id) ON DELETE CASCADE)`, ""},
		{"that is off", tables, plain + ` ON DELETE CASCADE; ALTER TABLE public.parent DISABLE TRIGGER ALL`, ""},
		{"no action", tables, plain + ` DEFERRABLE`, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			shop := w.source("shop")
			w.exec(c.before)
			w.start(w.cfg)
			shop.tx(ins(parent, 1), ins(parent, 2))
			shop.tx(ins(child, 1, 2))
			w.complete(shop)
			w.exec(c.between)
			shop.tx(del(parent, 1))
			if c.hint == "" {
				w.complete(shop)
				w.rows(`SELECT id FROM public.parent`, "2")
				return
			}
			w.rows(`SELECT code, table_name, split_part(hint, E'\n', 1) FROM tributary.quarantine`, "target-type|public.parent|"+c.hint)
			shop.tx(del(parent, 2), ins(parent, 3)) // the child is still 2's when the record of the parent is read
			w.rows(`SELECT id, p FROM public.child`, "1|2")
			w.exec(c.hint)
			if _, err := w.operator().Resume(t.Context(), warehouse.Going{Source: "shop"}); err != nil {
				t.Fatal(err)
			}
			w.complete(shop)
			w.rows(`SELECT id FROM public.parent`, "3")
			w.rows(`SELECT id, p FROM public.child`, "1|2")
		})
	}
	t.Run("of one that becomes a target", func(t *testing.T) {
		w := newWorld(t)
		shop := w.source("shop")
		w.exec(tables + plain + ` ON DELETE CASCADE`)
		w.start(w.cfg)
		shop.tx(ins(parent, 1))
		w.complete(shop)
		shop.tx(ins(child, 1, 1))
		w.rows(`SELECT code, table_name FROM tributary.quarantine`, "target-type|public.child")
	})
	t.Run("of one that becomes a target, through one that is none", func(t *testing.T) {
		w := newWorld(t)
		shop := w.source("shop")
		w.exec(tables + `CREATE TABLE public.other (id integer PRIMARY KEY REFERENCES public.parent (id) ON DELETE CASCADE);
			ALTER TABLE public.child ADD FOREIGN KEY (p) REFERENCES public.other (id) ON DELETE CASCADE`)
		w.start(w.cfg)
		shop.tx(ins(parent, 1))
		w.complete(shop)
		shop.tx(ins(child, 1, 1))
		w.rows(`SELECT code, table_name FROM tributary.quarantine`, "target-type|public.child")
	})
}

// TestInsertedRowsThatAreKeptOut: a trigger keeps rows of nothing but a key out, of which each may have been there.
func TestInsertedRowsThatAreKeptOut(t *testing.T) {
	w := newWorld(t)
	shop := w.source("shop")
	r := relation("t", "id integer key")
	w.start(w.cfg)
	shop.tx(ins(r, 1))
	w.complete(shop)
	w.exec(`CREATE FUNCTION public.drop_all() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
		CREATE TRIGGER drop_all BEFORE INSERT ON public.t FOR EACH ROW EXECUTE FUNCTION public.drop_all()`)
	shop.tx(ins(r, 2))
	w.rows(`SELECT code, message LIKE '%1 rows were not there after their INSERT, 0 were expected%' FROM tributary.quarantine`, "row-count|t")
}

// TestUpdatesThatAreKeptOut: a trigger keeps a row as it is of which not all values have been sent, and which is there.
func TestUpdatesThatAreKeptOut(t *testing.T) {
	w := newWorld(t)
	shop := w.source("shop")
	r := relation("t", "id integer key", "v text", "big text")
	w.start(w.cfg)
	shop.tx(ins(r, 1, "a", "BIG"), ins(r, 2, "a", "BIG"))
	w.complete(shop)
	w.exec(`CREATE FUNCTION public.keep_two() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN CASE WHEN NEW.id <> 2 THEN NEW END; END';
		CREATE TRIGGER keep_two BEFORE UPDATE ON public.t FOR EACH ROW EXECUTE FUNCTION public.keep_two()`)
	shop.tx(upd(r, 1, "b", keep), upd(r, 2, "b", keep))
	w.rows(`SELECT code, message LIKE '%0 rows were updated, 1 were expected%' FROM tributary.quarantine`, "row-count|t")
	w.rows(`SELECT id, v FROM public.t ORDER BY id`, "1|b", "2|a")
}

// TestRowSecurity: a role that does not see every row would not delete those that it does not see.
func TestRowSecurity(t *testing.T) {
	w := newWorld(t)
	role, dsn := w.role(fmt.Sprintf(`CREATE ROLE tributary_sink LOGIN PASSWORD 'change me'; GRANT CREATE, TEMPORARY ON DATABASE %s TO tributary_sink; GRANT USAGE, CREATE ON SCHEMA public TO tributary_sink`,
		postgres.Ident(w.conn.Config().Database)))
	shop := w.source("shop")
	r := relation("t", "id integer key", "v text")
	w.exec(`CREATE TABLE public.t (id integer PRIMARY KEY, v text); GRANT SELECT, INSERT, UPDATE, DELETE ON public.t TO ` + role)
	cfg := w.cfg
	cfg.Warehouse.DSN = config.Secret(dsn)
	w.start(cfg)
	shop.tx(ins(r, 1, "a"), ins(r, 2, "b"))
	w.complete(shop)
	w.exec(`ALTER TABLE public.t ENABLE ROW LEVEL SECURITY; CREATE POLICY part ON public.t USING (id > 1)`)
	shop.tx(del(r, 1))
	w.rows(`SELECT code, hint LIKE 'CREATE POLICY tributary ON "public"."t" TO `+role+` USING (true);%' FROM tributary.quarantine`, "target-type|t")
	w.exec(`CREATE POLICY tributary ON public.t TO ` + role + ` USING (true)`)
	if _, err := w.operator().Resume(t.Context(), warehouse.Going{Source: "shop"}); err != nil {
		t.Fatal(err)
	}
	w.complete(shop)
	w.rows(`SELECT id FROM public.t`, "2")
	w.exec(`CREATE POLICY strict ON public.t AS RESTRICTIVE USING (id > 1)`)
	shop.tx(del(r, 2))
	w.rows(`SELECT code FROM tributary.quarantine`, "target-type")
}

// TestCompositeTypeThatIsBehind: a composite type that somebody has made in the warehouse lacks what the source's has been given since.
func TestCompositeTypeThatIsBehind(t *testing.T) {
	w := newWorld(t)
	shop, r := w.source("shop"), relation("t", "id integer key", "p text")
	r.Columns[1].Type = schema.Type{OID: 20004, Typmod: -1, Name: "public.pair", Class: schema.ClassComposite}
	w.exec(`CREATE TYPE public.pair AS (a integer, b text)`)
	w.start(w.cfg)
	shop.tx(ins(r, 1, "(1,x)"))
	w.complete(shop)
	shop.tx(ins(r, 2, "(1,x,2)"))
	w.rows(`SELECT code, hint LIKE 'ALTER TYPE … ADD ATTRIBUTE%' FROM tributary.quarantine`, "value-out-of-range|t")
	w.exec(`ALTER TYPE public.pair ADD ATTRIBUTE c integer; DELETE FROM tributary.quarantine`)
	w.rows(`SELECT id, p FROM public.t ORDER BY id`, "1|(1,x,)", "2|(1,x,2)")
}
