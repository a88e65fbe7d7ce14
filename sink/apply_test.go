package sink_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/schema/change"
	"github.com/tributary-cdc/tributary/schema/record"
	"github.com/tributary-cdc/tributary/sink"
	"github.com/tributary-cdc/tributary/sink/rule"
	"github.com/tributary-cdc/tributary/sink/warehouse"
)

// sizes runs a test with transactions of different sizes: as parameters, some with new rows by COPY, and all by COPY.
func sizes(t *testing.T, run func(t *testing.T, n int)) {
	t.Run("3", func(t *testing.T) { run(t, 3) })
	t.Run("500", func(t *testing.T) { run(t, 500) })
	t.Run("staged", func(t *testing.T) {
		was := warehouse.FewValues
		t.Cleanup(func() { warehouse.FewValues = was }) // when the sink has ended
		warehouse.FewValues = 0
		run(t, 500)
	})
}

// TestOperations runs every kind of change through the warehouse, as few rows and as many.
func TestOperations(t *testing.T) {
	sizes(t, func(t *testing.T, n int) {
		w := newWorld(t)
		shop := w.source("shop")
		r := relation("t", "id integer key", "note text", "big text")
		shop.tx(many(n, func(i int) event { return ins(r, i, fmt.Sprint("n", i), "big") })...)
		w.start(w.cfg)
		w.complete(shop)
		sum := `SELECT count(*), count(DISTINCT id), min(id), max(id), string_agg(DISTINCT note, ',' ORDER BY note) FILTER (WHERE id % 100 = 1), string_agg(DISTINCT big, ',') FROM public.t`
		first := "n1"
		if n > 100 {
			first = "n1,n101,n201,n301,n401"
		}
		w.rows(sum, fmt.Sprintf("%d|%d|0|%d|%s|big", n, n, n-1, first))
		// The TOASTed value is not sent.
		shop.tx(many(n, func(i int) event { return upd(r, i, "x", keep) })...)
		w.complete(shop)
		w.rows(sum, fmt.Sprintf("%d|%d|0|%d|x|big", n, n, n-1))
		// Whole rows.
		shop.tx(many(n, func(i int) event { return upd(r, i, "y", "BIG") })...)
		w.complete(shop)
		w.rows(sum, fmt.Sprintf("%d|%d|0|%d|y|BIG", n, n, n-1))
		// All keys move up by one, from the top, each to where another row was: the TOASTed value goes along.
		var moves []event
		for i := n - 1; i >= 0; i-- {
			moves = append(moves, move(r, []any{i}, i+1, "m", keep)...)
		}
		shop.tx(moves...)
		w.complete(shop)
		w.rows(sum, fmt.Sprintf("%d|%d|1|%d|m|BIG", n, n, n))
		// Whole rows move too.
		moves = nil
		for i := n; i > 0; i-- {
			moves = append(moves, move(r, []any{i}, i+1000, "w", nil)...)
		}
		shop.tx(moves...)
		w.complete(shop)
		w.rows(sum, fmt.Sprintf("%d|%d|1001|%d|w|∅", n, n, n+1000))
		shop.tx(many(n-1, func(i int) event { return del(r, i+1001) })...)
		w.complete(shop)
		w.rows(`SELECT id FROM public.t`, fmt.Sprint(n+1000))
		shop.tx(trunc(r), ins(r, 7, "after", nil))
		w.complete(shop)
		w.rows(`SELECT id, note FROM public.t`, "7|after")
		// New rows of which some are there already, as a snapshot's are: COPY cannot take them.
		shop.tx(many(n, func(i int) event { return snap(r, i, "again", "b") })...)
		w.complete(shop)
		total := max(n, 8)
		if n <= 7 {
			total = n + 1
		}
		w.rows(`SELECT count(*), count(*) FILTER (WHERE note = 'again') FROM public.t`, fmt.Sprintf("%d|%d", total, n))
	})
}

func TestKeySwapKeepsWhatWasNotSent(t *testing.T) {
	w := newWorld(t)
	shop := w.source("shop")
	r := relation("t", "id integer key", "note text", "big text")
	shop.tx(ins(r, 1, "one", "BIG1"), ins(r, 2, "two", "BIG2"))
	w.start(w.cfg)
	w.complete(shop)
	var swap []event
	swap = append(swap, move(r, []any{1}, 3, "one", keep)...)
	swap = append(swap, move(r, []any{2}, 1, "two", keep)...)
	swap = append(swap, move(r, []any{3}, 2, "one", keep)...)
	shop.tx(swap...)
	w.rows(`SELECT * FROM public.t ORDER BY id`, "1|two|BIG2", "2|one|BIG1")
}

// TestInsertThenUpdateInOneBatch: the update does not carry the big value; it must not become null.
func TestInsertThenUpdateInOneBatch(t *testing.T) {
	w := newWorld(t)
	shop := w.source("shop")
	r := relation("t", "id integer key", "note text", "big text")
	shop.tx(ins(r, 1, "a", "BIG"))
	shop.tx(upd(r, 1, "b", keep))
	w.start(w.cfg)
	w.rows(`SELECT * FROM public.t`, "1|b|BIG")
}

func TestKeyless(t *testing.T) {
	sizes(t, func(t *testing.T, n int) {
		w := newWorld(t)
		shop := w.source("shop")
		r := relation("log", "a integer", "b text", "c numeric", "d character(5)", "e jsonb")
		row := func(i int) []any { return []any{i, "x", nil, "ab   ", `{"k": 1}`} }
		shop.tx(append(many(n, func(i int) event { return ins(r, row(i)...) }), many(n, func(i int) event { return ins(r, row(i)...) })...)...)
		w.start(w.cfg)
		w.complete(shop)
		w.rows(`SELECT count(*) FROM public.log`, fmt.Sprint(2*n))
		// One of two equal rows each.
		shop.tx(many(n, func(i int) event { return del(r, row(i)...) })...)
		w.complete(shop)
		w.rows(`SELECT count(*), count(DISTINCT a) FROM public.log`, fmt.Sprintf("%d|%d", n, n))
		shop.tx(many(n, func(i int) event {
			e := upd(r, i, "y", "1.50", "ab   ", nil)
			e.before = row(i)
			return e
		})...)
		w.complete(shop)
		w.rows(`SELECT DISTINCT b, c, e FROM public.log`, "y|1.50|∅")
		w.rows(`SELECT count(*) FROM public.log`, fmt.Sprint(n))
		shop.tx(trunc(r))
		w.complete(shop)
		w.rows(`SELECT count(*) FROM public.log`, "0")
	})
}

// TestValues: what the source prints is what the warehouse prints.
func TestValues(t *testing.T) {
	sizes(t, func(t *testing.T, n int) {
		w := newWorld(t)
		w.exec(`CREATE TYPE public.mood AS ENUM ('sad', 'ok')`)
		shop := w.source("shop")
		r := relation("v", "id integer key", "t text", "n numeric", "f double precision", "b bytea", "j jsonb", "bit bit(3)", "c character(5)", "m public.mood", "ts timestamp with time zone", "d date", "flag boolean")
		row := func(i int) []any {
			return []any{i, "tab\there\\ \"quoted\" \n\r {a,b} NULL \\N", "NaN", "1e+20", `\x00ff`, `{"a": "\n"}`, "101", "ab   ", "ok", "2024-03-10 12:34:56.789+00", "infinity", "t"}
		}
		shop.tx(many(n, func(i int) event { return ins(r, row(i)...) })...)
		shop.tx(ins(r, -1, "", "-0.00", "-0", `\x`, "null", "000", "     ", nil, "infinity", "0044-03-15 BC", nil))
		w.start(w.cfg)
		w.complete(shop)
		conn := w.connect(w.dsn + "&options=-c%20TimeZone%3DUTC%20-c%20extra_float_digits%3D3")
		w.conn = conn
		w.rows(`SELECT t, n, f, b, j, bit, c, m, ts, d, flag FROM public.v WHERE id = 1`,
			"tab\there\\ \"quoted\" \n\r {a,b} NULL \\N|NaN|1e+20|\\x00ff|{\"a\": \"\\n\"}|101|ab   |ok|2024-03-10 12:34:56.789+00|infinity|t")
		w.rows(`SELECT t, n, f, b, j, bit, c, m, ts, d, flag FROM public.v WHERE id = -1`, "|0.00|-0|\\x|null|000|     |∅|infinity|0044-03-15 BC|∅")
		w.rows(`SELECT string_agg(format_type(atttypid, atttypmod), ',' ORDER BY attnum) FROM pg_attribute WHERE attrelid = 'public.v'::regclass AND attnum > 0`,
			"integer,text,numeric,double precision,bytea,jsonb,bit(3),character(5),mood,timestamp with time zone,date,boolean")
		w.rows(`SELECT count(*) FROM public.v`, fmt.Sprint(n+1))
	})
}

func TestConsolidation(t *testing.T) {
	w := newWorld(t, rule.Table{From: "public.orders", To: "sales.orders", SID: "tenant"})
	w.cfg.Sources = []rule.Source{{Name: "shop_eu", SID: "eu"}, {Name: "shop_*"}}
	orders := relation("orders", "id integer key", "note text")
	eu, us, other := w.source("shop_eu"), w.source("shop_us"), w.source("other")
	eu.tx(ins(orders, 1, "eu1"), ins(orders, 2, "eu2"))
	us.tx(ins(orders, 1, "us1"), ins(orders, 2, "us2"))
	other.tx(ins(orders, 1, "other"))
	w.start(w.cfg)
	w.complete(eu)
	w.complete(us)
	all := `SELECT tenant, id, note FROM sales.orders ORDER BY 1, 2`
	w.rows(all, "eu|1|eu1", "eu|2|eu2", "shop_us|1|us1", "shop_us|2|us2")
	// Each source's rows are its own.
	eu.tx(trunc(orders), ins(orders, 9, "eu9"))
	us.tx(append(move(orders, []any{1}, 9, "us9"), del(orders, 2))...)
	w.complete(eu)
	w.complete(us)
	w.rows(all, "eu|9|eu9", "shop_us|9|us9")
	w.rows(`SELECT a.attname FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)
		WHERE i.indrelid = 'sales.orders'::regclass AND indisprimary ORDER BY a.attnum`, "tenant", "id")
}

// steps gives the commands of what needs somebody, "" for those that are said by their note alone.
func steps(st *sink.Status) []string {
	commands := []string{}
	for i := range st.Needs {
		for _, step := range st.Needs[i].Do {
			commands = append(commands, step.Command)
		}
	}
	return commands
}

// TestTwoSourcesWithoutSIDAreRefused: what is said of it leads out of it, and puts no row aside after the other.
func TestTwoSourcesWithoutSIDAreRefused(t *testing.T) {
	w := newWorld(t)
	orders, items := relation("orders", "id integer key", "note text"), relation("items", "id integer key", "note text")
	a, b := w.source("a"), w.source("b")
	a.tx(ins(orders, 1, "a"))
	s := w.start(w.cfg)
	w.complete(a)
	b.tx(ins(orders, 1, "b"), ins(items, 1, "b"))
	w.rows(`SELECT code, topic FROM tributary.quarantine`, "rule-conflict|b.public.orders")
	w.rows(`SELECT source, complete_lsn IS NULL, complete_ts IS NULL, lag IS NULL FROM tributary.progress ORDER BY 1`, "a|f|f|f", "b|t|t|t")
	w.reported([]string{"", `DELETE FROM tributary.feed WHERE grp = 'warehouse' AND topic = 'a.public.orders' AND target_schema = 'public' AND target_table = 'orders' AND sid = '';`, "sink resume b/public.orders"}, func() any { return steps(s.Status()) }, a, b)
	if st := s.Status(); st.Sources[1].CompleteUntil != nil || st.Sources[1].AgeSeconds != nil || !strings.HasSuffix(st.Needs[0].Means, "; b is not complete yet") {
		t.Errorf("a source of which nothing is complete: %+v, %q", st.Sources[1], st.Needs[0].Means)
	}
	w.rows(`SELECT note FROM public.items`, "b")
	a.tx(ins(orders, 2, "a"))
	w.rows(`SELECT note FROM public.orders ORDER BY id`, "a", "a")
}

func TestAppendAndColumns(t *testing.T) {
	w := newWorld(t, rule.Table{From: "public.secret", Skip: true},
		rule.Table{From: "public.*", To: "{source}.{table}", Mode: "append", Columns: []rule.Column{{From: "mail", As: "email"}, {From: "id", As: "id"}}})
	shop := w.source("shop")
	people, secret := relation("people", "id integer key", "name text", "mail text"), relation("secret", "id integer key")
	shop.tx(ins(people, 1, "Ann", "a@x"), ins(people, 2, "Bob", "b@x"), ins(secret, 1))
	w.start(w.cfg)
	w.complete(shop)
	all := `SELECT * FROM shop.people ORDER BY id`
	w.rows(all, "a@x|1", "b@x|2")
	shop.tx(del(people, 1), trunc(people))
	shop.tx(append(move(people, []any{2}, 3, "Bob", keep), upd(people, 3, "Bob", "c@x"))...)
	w.complete(shop)
	w.rows(all, "a@x|1", "c@x|3")
	w.rows(`SELECT count(*) FROM pg_tables WHERE tablename = 'secret'`, "0")
}

// TestExistingTarget: users bring their own tables: without a usable index, with other types, more columns, and
// generated ones.
func TestExistingTarget(t *testing.T) {
	sizes(t, func(t *testing.T, n int) {
		w := newWorld(t)
		w.exec(`CREATE TABLE public.t (note varchar(100), id bigint, mine text DEFAULT 'mine', doubled bigint GENERATED ALWAYS AS (id * 2) STORED)`)
		shop := w.source("shop")
		r := relation("t", "id integer key", "note text", "added text")
		shop.tx(many(n, func(i int) event { return ins(r, i, "a", "added") })...)
		w.start(w.cfg)
		w.complete(shop)
		sum := `SELECT count(*), count(DISTINCT id), sum(doubled) = sum(id) * 2, string_agg(DISTINCT note, ','), string_agg(DISTINCT mine, ','), string_agg(DISTINCT added, ',') FROM public.t`
		w.rows(sum, fmt.Sprintf("%d|%d|t|a|mine|added", n, n))
		w.exec(`UPDATE public.t SET mine = 'edited'`)
		shop.tx(many(n, func(i int) event { return upd(r, i, "b", keep) })...)
		w.complete(shop)
		w.rows(sum, fmt.Sprintf("%d|%d|t|b|edited|added", n, n))
		shop.tx(move(r, []any{0}, 10000, "b", keep)...)
		w.complete(shop)
		w.rows(sum, fmt.Sprintf("%d|%d|t|b|edited|added", n, n))
		shop.tx(many(n-1, func(i int) event { return upd(r, i+1, "c", "whole") })...)
		shop.tx(del(r, 10000))
		w.complete(shop)
		w.rows(`SELECT count(*), string_agg(DISTINCT note, ',') FROM public.t`, fmt.Sprintf("%d|c", n-1))
	})
}

func TestSchemaChanges(t *testing.T) {
	w := newWorld(t)
	shop := w.source("shop")
	v1 := relation("t", "id integer key", "note text", "old integer")
	shop.tx(ins(v1, 1, "a", 5))
	w.start(w.cfg)
	w.complete(shop)
	w.exec(`ALTER TABLE public.t ALTER COLUMN old SET NOT NULL`)
	v2 := relation("t", "id bigint key", "note text", "status text")
	def := "new"
	v2.Columns[2].Default, v2.Columns[2].AttNum = &def, 4
	shop.tx(ins(v2, 5_000_000_000, "b", "x"), upd(v2, 1, "aa", "y"))
	w.complete(shop)
	w.rows(`SELECT id, note, status, old FROM public.t ORDER BY id`, "1|aa|y|5", "5000000000|b|x|∅")
	w.rows(`SELECT column_name, data_type FROM information_schema.columns WHERE table_name = 't' AND table_schema = 'public' ORDER BY ordinal_position`,
		"id|bigint", "note|text", "old|integer", "status|text")
}

func TestNumericKeys(t *testing.T) {
	w := newWorld(t)
	shop := w.source("shop")
	r := relation("t", "id numeric key", "note text")
	shop.tx(ins(r, "1.0", "a"), ins(r, "2", "b"))
	w.start(w.cfg)
	w.complete(shop)
	shop.tx(append(move(r, []any{"1.0"}, "1.00", keep), del(r, "2"), ins(r, "2.00", "c"))...)
	w.complete(shop)
	w.rows(`SELECT * FROM public.t ORDER BY id`, "1.00|a", "2.00|c")
}

// TestUnresolvedToast: while the snapshot runs, the row is still to come and the update is left out; afterwards it is
// trouble.
func TestUnresolvedToast(t *testing.T) {
	sizes(t, func(t *testing.T, n int) {
		w := newWorld(t)
		shop := w.source("shop")
		r := relation("t", "id integer key", "note text", "big text")
		shop.tables = []record.TableProgress{{Schema: "public", Table: "t", Level: "all"}}
		shop.tx(many(n, func(i int) event { return upd(r, i, "b", keep) })...)
		w.start(w.cfg)
		w.complete(shop)
		w.rows(`SELECT count(*) FROM public.t`, "0")
		shop.tables[0].Done = true
		shop.tx(many(n, func(i int) event { return snap(r, i, "b", "BIG") })...)
		w.complete(shop)
		w.rows(`SELECT count(*), string_agg(DISTINCT big, ',') FROM public.t`, fmt.Sprintf("%d|BIG", n))
		shop.tx(upd(r, 100_000, "c", keep))
		w.rows(`SELECT code FROM tributary.quarantine`, "unresolved-toast")
		w.rows(`SELECT count(*) FROM public.t`, fmt.Sprint(n))
	})
}

// TestUnresolvedToastWithoutProgress: only the progress of a source says whether a snapshot still brings a row. Where it is held, nobody waits for it, and
// nobody else behind.
func TestUnresolvedToastWithoutProgress(t *testing.T) {
	t.Parallel() // it waits most of its time
	w := newWorld(t)
	w.cfg.Warehouse.Connections = 1
	shop, other := w.source("shop"), w.source("other")
	r, fine, plain := relation("t", "id integer key", "note text", "big text"), relation("fine", "id integer key"), relation("plain", "id integer key")
	shop.tables = []record.TableProgress{{Schema: "public", Table: "t", Level: "all"}}
	shop.tx(ins(r, 1, "a", "b"), ins(fine, 1))
	other.tx(ins(plain, 1))
	s := w.start(w.cfg)
	w.complete(shop)
	w.complete(other)
	if err := shop.client.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	shop.produce(&kgo.Record{Topic: "shop.tributary.progress", Key: []byte("k"), Value: []byte("{")})
	if err := shop.client.EndTransaction(t.Context(), kgo.TryCommit); err != nil {
		t.Fatal(err)
	}
	w.rows(`SELECT topic FROM tributary.quarantine`, "shop.tributary.progress")
	shop.tx(upd(r, 7, "b", keep), ins(fine, 2))
	w.rows(`SELECT topic, code, hint FROM tributary.quarantine WHERE table_name <> ''`, "shop.public.t|unresolved-toast|mend what holds the progress, and have it go on; then sink resume SOURCE/TABLE")
	// Nothing is put aside: which record it is nobody knows, and the row may still come with the snapshot.
	w.eventually([]string{"", "sink resume shop/public.t", "sink resume shop"}, func() any {
		all := steps(s.Status())
		return all[:min(len(all), 3)] // of a capture that writes nothing any more it may be told, too
	})
	other.tx(ins(plain, 2))
	w.complete(other)
	w.rows(`SELECT count(*) FROM public.fine`, "2")
}

func TestRepeatsAreDropped(t *testing.T) {
	w := newWorld(t)
	shop := w.source("shop")
	r := relation("t", "id integer key", "note text")
	shop.quiet = true
	shop.tx(ins(r, 1, "a"))
	shop.tx(upd(r, 1, "b"))
	shop.lsn -= 0x200
	shop.tx(ins(r, 1, "a")) // another session sends it all again
	shop.tx(upd(r, 1, "b"))
	shop.quiet = false
	shop.tx(ins(r, 2, "c"))
	s := w.start(w.cfg)
	w.complete(shop)
	w.rows(`SELECT * FROM public.t ORDER BY id`, "1|b", "2|c")
	w.eventually(int64(2), func() any { return s.Status().Tables[0].Duplicates })
	// What the time has gone into is told, COMMIT by itself.
	for _, name := range []string{"fetch", "decode and fold", "apply", "commit"} {
		if !slices.ContainsFunc(s.Status().Stages, func(st service.StageState) bool { return st.Name == name && st.Busy > 0 }) {
			t.Errorf("stage %s was never busy: %+v", name, s.Status().Stages)
		}
	}
}

// TestForeignRecords: a topic of another tool has no positions; offsets alone keep it exactly-once.
func TestForeignRecords(t *testing.T) {
	w := newWorld(t)
	shop := w.source("shop")
	r := relation("t", "id integer key", "note text")
	enc := shop.table(r, 1)
	w.start(w.cfg)
	for i := range 3 {
		if err := shop.client.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		value, err := enc.AppendValue(nil, &change.Event{Op: change.Create, After: tuple(r, []any{i, "x"}), Position: change.Position{Era: 1, CommitLSN: 1, Seq: 1}})
		if err != nil {
			t.Fatal(err)
		}
		shop.produce(&kgo.Record{Topic: enc.Topic(), Value: value})
		if err := shop.client.EndTransaction(t.Context(), kgo.TryCommit); err != nil {
			t.Fatal(err)
		}
	}
	w.rows(`SELECT id FROM public.t ORDER BY id`, "0", "1", "2")
}

// TestWideRow: a row larger than every buffer.
func TestWideRow(t *testing.T) {
	w := newWorld(t)
	w.cfg.Batch.Bytes = 1 << 10
	shop := w.source("shop")
	r := relation("t", "id integer key", "big text")
	big := strings.Repeat("wide ", 150_000)
	shop.tx(ins(r, 1, big), ins(r, 2, "small"))
	w.start(w.cfg)
	w.complete(shop)
	w.rows(`SELECT id, length(big) FROM public.t ORDER BY id`, "1|750000", "2|5")
}

// TestRowsThatAreThere: rows that ought to be new are copied straight into the target; where one of them is there, they are
// written once more, as what may be there, and so is what was sent behind them.
func TestRowsThatAreThere(t *testing.T) {
	w := newWorld(t)
	shop := w.source("shop")
	orders := relation("orders", "id integer key", "v text")
	events := func(from, to int, event func(id int) event) (out []event) {
		for id := from; id < to; id++ {
			out = append(out, event(id))
		}
		return out
	}
	fresh := func(id int) event { return ins(orders, id, "new") }
	shop.tx(events(0, 1000, fresh)...)
	s := w.start(w.cfg)
	w.complete(shop)
	s.stop()
	w.exec(`INSERT INTO public.orders VALUES (2250, 'there'), (2251, 'there')`)
	all := events(2000, 2500, fresh)
	all = append(all, events(0, 300, func(id int) event { return del(orders, id) })...)
	all = append(all, events(300, 600, func(id int) event { return upd(orders, id, "later") })...)
	shop.tx(all...)
	w.start(w.cfg)
	w.complete(shop)
	w.rows(`SELECT v, count(*), min(id), max(id) FROM public.orders GROUP BY 1 ORDER BY 1`, "later|300|300|599", "new|900|600|2499")
	shop.tx(events(3000, 3500, fresh)...) // not by COPY for a while
	w.complete(shop)
	w.rows(`SELECT count(*) FROM public.orders WHERE id >= 3000`, "500")
}

// TestHalvesOfAKeyChangeApart: the halves come in two fetches; they must still be one move.
func TestHalvesOfAKeyChangeApart(t *testing.T) {
	w := newWorld(t)
	w.cfg.Batch.Rows = 1
	shop := w.source("shop")
	r := relation("t", "id integer key", "big text")
	shop.tx(ins(r, 1, "BIG"))
	var moves []event
	for i := range 30 {
		moves = append(moves, move(r, []any{i + 1}, i+2, keep)...)
	}
	shop.tx(moves...)
	w.start(w.cfg)
	w.complete(shop)
	w.rows(`SELECT * FROM public.t`, "31|BIG")
}

// TestKeyChangeAcrossPartitions: the halves go to two partitions and are independent, the row whole.
func TestKeyChangeAcrossPartitions(t *testing.T) {
	w := newWorld(t, rule.Table{From: "public.t", Mode: "append"})
	shop := w.source("shop")
	r := relation("t", "id integer key", "v text")
	shop.table(r, 4)
	shop.tx(many(20, func(i int) event { return ins(r, i, "a") })...)
	var moves []event
	for i := range 20 {
		moves = append(moves, move(r, []any{i}, i+100, "b")...)
	}
	shop.tx(moves...)
	w.start(w.cfg)
	w.complete(shop)
	w.rows(`SELECT count(*), min(id), string_agg(DISTINCT v, ',') FROM public.t`, "20|100|b")
}
