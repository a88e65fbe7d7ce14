package sink_test

import (
	"fmt"
	"testing"

	"github.com/tributary-cdc/tributary/pkg/config"
	"github.com/tributary-cdc/tributary/pkg/postgres"
	"github.com/tributary-cdc/tributary/schema"
	"github.com/tributary-cdc/tributary/sink/rule"
	"github.com/tributary-cdc/tributary/sink/warehouse"
)

// TestHistoryViews: the view and the function follow what happens to the columns of the source.
func TestHistoryViews(t *testing.T) {
	w := newWorld(t, rule.Table{From: "public.t", To: "dwh.t", Mode: "history", SID: "tenant", History: rule.HistoryColumns{
		From: "kvsz_start", To: "kvsz_end", Deleted: "kvsz_deleted", Beginning: "1900-01-01", End: "9999-01-01", First: "beginning", Views: true,
	}})
	shop, other := w.source("shop"), w.source("other")
	r := relation("t", "id integer key", "note text")
	foreign := relation("t", "id integer key", "note text")
	shop.second(1)
	other.second(1)
	shop.tx(ins(r, 1, "a"))
	other.tx(ins(foreign, 1, "x"))
	w.start(w.cfg)
	w.complete(shop)
	w.complete(other)
	shop.second(2)
	shop.tx(upd(r, 1, "b"))
	shop.second(3)
	v2 := relation("t", "id bigint key", "remark text", "added integer")
	shop.tx(upd(v2, 1, "c", 7), ins(v2, 2, "d", 8))
	shop.second(4)
	shop.tx(trunc(v2))
	w.complete(shop)
	w.rows(`SELECT tenant, id, remark, note, added, kvsz_start::text, kvsz_end::text, kvsz_deleted FROM dwh.t ORDER BY tenant, id, kvsz_start`,
		"other|1|∅|x|∅|1900-01-01 00:00:00+00|9999-01-01 00:00:00+00|f",
		"shop|1|a|∅|∅|1900-01-01 00:00:00+00|2024-05-01 12:00:02+00|f",
		"shop|1|b|∅|∅|2024-05-01 12:00:02+00|2024-05-01 12:00:03+00|f",
		"shop|1|c|∅|7|2024-05-01 12:00:03+00|2024-05-01 12:00:04+00|t",
		"shop|2|d|∅|8|1900-01-01 00:00:00+00|2024-05-01 12:00:04+00|t")
	w.rows(`SELECT tenant, id, remark, note, added FROM dwh.t_current`, "other|1|∅|x|∅")
	w.rows(`SELECT id, remark, added FROM dwh.t_as_of('2024-05-01 12:00:02.5+00') WHERE tenant = 'shop' ORDER BY id`, "1|b|∅", "2|d|8")
	w.rows(`SELECT a.attname FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)
		WHERE i.indrelid = 'dwh.t'::regclass AND indisprimary ORDER BY a.attnum`, "tenant", "id", "kvsz_start")
}

// TestHistoryViewOfOneSource: the target's columns are renamed and widened, and the view with them.
func TestHistoryViewOfOneSource(t *testing.T) {
	w := newWorld(t, rule.Table{From: "public.t", To: "dwh.t", Mode: "history", History: rule.HistoryColumns{Views: true}})
	shop := w.source("shop")
	r := relation("t", "id integer key", "note text")
	shop.tx(ins(r, 1, "a"))
	w.start(w.cfg)
	w.complete(shop)
	shop.tx(ins(relation("t", "id bigint key", "remark text", "added integer"), 5_000_000_000, "b", 7))
	w.complete(shop)
	w.rows(`SELECT id, remark, added FROM dwh.t_current ORDER BY id`, "1|a|∅", "5000000000|b|7")
	w.rows(`SELECT id, remark, added FROM dwh.t_as_of(now()) ORDER BY id`, "1|a|∅", "5000000000|b|7")
}

// TestHistoryViewsOfAnotherRule: the rule calls the times otherwise, or gives the end of a version that is valid another value. View and function go by it; what
// somebody has made of them stays.
func TestHistoryViewsOfAnotherRule(t *testing.T) {
	history := rule.HistoryColumns{Views: true}
	w := newWorld(t, rule.Table{From: "public.t", To: "dwh.t", Mode: "history", History: history})
	shop := w.source("shop")
	r := relation("t", "id integer key", "note text")
	shop.tx(ins(r, 1, "a"))
	s := w.start(w.cfg)
	next := func(id int) {
		t.Helper()
		s.stop()
		w.cfg.Tables[0].History = history
		s = w.start(w.cfg)
		shop.tx(ins(r, id, "b"))
		w.complete(shop)
	}
	w.complete(shop)
	history.End = "9999-01-01"
	next(2)
	w.rows(`SELECT id FROM dwh.t_current`, "2") // the other is told of: it has the end of before
	history.From, history.To = "since", "until"
	next(3)
	w.rows(`SELECT id FROM dwh.t_current WHERE id = 3`, "3")
	w.rows(`SELECT id FROM dwh.t_as_of(now()) WHERE id = 3`, "3")
	w.exec(`CREATE OR REPLACE VIEW dwh.t_current AS SELECT * FROM dwh.t WHERE until = '9999-01-01' AND note <> 'x'; CREATE OR REPLACE FUNCTION dwh.t_as_of(timestamptz) RETURNS SETOF dwh.t LANGUAGE sql BEGIN ATOMIC SELECT * FROM dwh.t; END`)
	history.End = "infinity"
	next(4)
	w.rows(`SELECT pg_get_viewdef('dwh.t_current') LIKE '%9999%x%', count(*) FROM dwh.t_as_of(now())`, "t|4")
}

// TestHistoryFunctionOfAnotherOwner: the function that a sink has made belongs to another role by now. It is not taken for somebody's own, which stays: it would go by columns
// of before.
func TestHistoryFunctionOfAnotherOwner(t *testing.T) {
	history := rule.HistoryColumns{Views: true}
	w := newWorld(t, rule.Table{From: "public.t", To: "public.t", Mode: "history", History: history})
	role, dsn := w.role(fmt.Sprintf(`CREATE ROLE tributary_sink LOGIN PASSWORD 'change me'; GRANT CREATE, TEMPORARY ON DATABASE %s TO tributary_sink; GRANT USAGE, CREATE ON SCHEMA public TO tributary_sink`,
		postgres.Ident(w.conn.Config().Database)))
	w.cfg.Warehouse.DSN = config.Secret(dsn)
	shop := w.source("shop")
	r := relation("t", "id integer key", "note text")
	shop.tx(ins(r, 1, "a"))
	s := w.start(w.cfg)
	w.complete(shop)
	s.stop()
	w.exec(`ALTER FUNCTION public.t_as_of(timestamptz) OWNER TO CURRENT_USER`)
	history.From, history.To = "since", "until"
	w.cfg.Tables[0].History = history
	w.start(w.cfg)
	shop.tx(ins(r, 2, "b"))
	w.rows(`SELECT code FROM tributary.quarantine`, "warehouse-rights")
	w.exec(`ALTER FUNCTION public.t_as_of(timestamptz) OWNER TO ` + postgres.Ident(role))
	if _, err := w.operator().Resume(t.Context(), warehouse.Going{Source: "shop", Table: "public.t"}); err != nil {
		t.Fatal(err)
	}
	w.complete(shop)
	w.rows(`SELECT id FROM public.t_as_of(now()) WHERE id = 2`, "2")
}

// TestCloneBecomesHistory: the rows that a clone has left are the first versions. The times may be without zone.
func TestCloneBecomesHistory(t *testing.T) {
	w := newWorld(t, rule.Table{From: "public.t", To: "public.t"})
	shop := w.source("shop")
	r := relation("t", "id integer key", "note text", "big text")
	shop.tx(ins(r, 1, "a", "A"), ins(r, 2, "b", "B"))
	s := w.start(w.cfg)
	w.complete(shop)
	s.stop()
	w.exec(`ALTER TABLE public.t ADD COLUMN valid_from timestamp NOT NULL DEFAULT '-infinity'`)
	w.cfg.Tables[0].Mode = "history"
	w.start(w.cfg)
	shop.second(2)
	shop.tx(upd(r, 1, "a2", keep), del(r, 2))
	w.complete(shop)
	w.rows(`SELECT id, note, big, valid_from::text, valid_to::text, deleted FROM public.t ORDER BY id, valid_from`,
		"1|a|A|-infinity|2024-05-01 12:00:02+00|f", "1|a2|A|2024-05-01 12:00:02|infinity|f", "2|b|B|-infinity|2024-05-01 12:00:02+00|t")
}

func TestModesRefuse(t *testing.T) {
	w := newWorld(t, rule.Table{From: "public.bag", To: "public.bag", Mode: "history"}, rule.Table{From: "public.named", To: "public.named", Mode: "history"},
		rule.Table{From: "public.full", To: "public.full", Mode: "log"}, rule.Table{From: "public.wrong", To: "public.wrong", Mode: "history"})
	w.exec(`CREATE TABLE public.full (id integer); INSERT INTO public.full VALUES (1);
		CREATE TABLE public.wrong (id integer, valid_from date)`)
	shop := w.source("shop")
	bag, named, full, wrong := relation("bag", "v text"), relation("named", "id integer key", "deleted boolean"), relation("full", "id integer key"), relation("wrong", "id integer key")
	w.start(w.cfg) // before its tables are there: else the start is refused
	shop.tx()
	w.complete(shop)
	shop.tx(ins(bag, "x"), ins(named, 1, true), ins(full, 1), ins(wrong, 1))
	w.rows(`SELECT topic, code FROM tributary.quarantine ORDER BY 1`, "shop.public.bag|rule-conflict", "shop.public.full|schema-change-blocked",
		"shop.public.named|rule-conflict", "shop.public.wrong|target-type")
}

// TestHistoryParked: a version that cannot be written is put aside with all that follows of its key, and comes in its place.
func TestHistoryParked(t *testing.T) {
	w := newWorld(t, rule.Table{From: "public.t", To: "public.t", Mode: "history", OnError: "park"}, rule.Table{From: "public.l", To: "public.l", Mode: "log", OnError: "park"})
	w.exec(`CREATE TABLE public.t (id integer, note text CHECK (note <> 'bad'), big text); CREATE TABLE public.l (id integer, note text CHECK (note <> 'bad'), big text)`)
	shop := w.source("shop")
	r, l := relation("t", "id integer key", "note text", "big text"), relation("l", "id integer key", "note text", "big text")
	shop.second(1)
	shop.tx(ins(r, 1, "a", "A"), ins(r, 2, "b", "B"), ins(l, 1, "a", "A"), ins(l, 2, "b", "B"))
	w.start(w.cfg)
	w.complete(shop)
	shop.second(2)
	shop.tx(upd(r, 1, "bad", keep), upd(r, 2, "b2", keep), upd(l, 1, "bad", keep), upd(l, 2, "b2", keep))
	shop.second(3)
	shop.tx(upd(r, 1, "a3", keep), del(r, 2), upd(l, 1, "a3", keep), trunc(l))
	w.complete(shop)
	w.rows(`SELECT topic, count(*) FROM tributary.parked GROUP BY 1 ORDER BY 1`, "shop.public.l|2", "shop.public.t|2")
	w.rows(fmt.Sprintf(versions, "public.t"), "1|a|A|1|∅|f", "2|b|B|1|2|f", "2|b2|B|2|3|t")
	w.exec(`ALTER TABLE public.t DROP CONSTRAINT t_note_check; ALTER TABLE public.l DROP CONSTRAINT l_note_check`)
	o := w.operator()
	w.retry(o, "public.t")
	w.retry(o, "public.l")
	w.rows(fmt.Sprintf(versions, "public.t"), "1|a|A|1|2|f", "1|bad|A|2|3|f", "1|a3|A|3|∅|f", "2|b|B|1|2|f", "2|b2|B|2|3|t")
	w.rows(fmt.Sprintf(changes, "public.l"), "c|1|a|A|∅|∅", "c|2|b|B|∅|∅", "u|1|bad|∅|∅|{big}", "u|2|b2|∅|∅|{big}", "u|1|a3|∅|∅|{big}", "t|∅|∅|∅|∅|∅")
}

// TestModesFilter: a row that leaves the filter ends, and one that enters it begins; of what was never in it nothing is known.
func TestModesFilter(t *testing.T) {
	const filter = `note != "out"`
	w := newWorld(t, rule.Table{From: "public.t", To: "public.t", Mode: "history", Filter: filter}, rule.Table{From: "public.l", To: "public.l", Mode: "log", Filter: filter})
	shop := w.source("shop")
	r, l := relation("t", "id integer key", "note text", "big text"), relation("l", "id integer key", "note text", "big text")
	for second, e := range []func(*schema.Relation) []event{
		func(r *schema.Relation) []event { return []event{ins(r, 1, "in", "A"), ins(r, 2, "out", "B")} },
		func(r *schema.Relation) []event { return []event{upd(r, 1, "out", "A"), upd(r, 2, "in", "B")} },
		func(r *schema.Relation) []event { return []event{upd(r, 1, "in", "A2"), del(r, 2)} },
		func(r *schema.Relation) []event {
			return append(move(r, []any{1}, 3, "out", "A2"), snap(r, 4, "out", "D"))
		},
	} {
		shop.second(second + 1)
		shop.tx(append(e(r), e(l)...)...)
		if second == 0 {
			w.start(w.cfg)
		}
		w.complete(shop)
	}
	w.rows(fmt.Sprintf(versions, "public.t"), "1|in|A|1|2|t", "1|in|A2|3|4|t", "2|in|B|2|3|t")
	w.rows(fmt.Sprintf(changes, "public.l"), "c|1|in|A|∅|∅", "d|1|∅|∅|∅|∅", "u|2|in|B|∅|∅", "u|1|in|A2|∅|∅", `d|2|∅|∅|{"id": "2"}|∅`, `d|1|∅|∅|{"id": "1"}|∅`)
}
