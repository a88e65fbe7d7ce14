package sink_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/tributary-cdc/tributary/pkg/service/page"
	"github.com/tributary-cdc/tributary/schema"
	"github.com/tributary-cdc/tributary/sink"
	"github.com/tributary-cdc/tributary/sink/rule"
	"github.com/tributary-cdc/tributary/sink/warehouse"
)

// TestRules: columns that are computed, cast and masked, and rows that pass a filter, come and leave; as few rows, and
// as many.
func TestRules(t *testing.T) {
	sizes(t, func(t *testing.T, n int) {
		w := newWorld(t, rule.Table{
			From: "public.orders", To: "sales.orders", SID: "tenant", Filter: "amount > 10",
			Columns: []rule.Column{{From: "id", Cast: "bigint"}, {From: "amount"}, {From: "card", Mask: "keep_last_4"}, {From: "mail", Mask: "hash"}, {From: "at", As: "day", Cast: "date"}, {From: "doc", Mask: "null"}},
			Set: []rule.Computed{
				{Column: "region", Value: "'eu'"},
				{Column: "gross", Value: "amount * 1.19", Type: "numeric(10,2)"},
				{Column: "country", Value: "doc == null ? null : string(doc.country)"},
				{Column: "tags", Value: "[]"},
			},
		}, rule.Table{From: "public.*", Filter: "a > 0"})
		w.cfg.Tables[0].Set[3].Value = "[string(id), 'x y']"
		w.cfg.Salt = "pepper"
		shop := w.source("shop")
		r := relation("orders", "id integer key", "amount numeric", "card text", "mail text", "at timestamp with time zone", "doc jsonb")
		row := func(i int, amount string) []any {
			return []any{i, amount, "4111111111111234", "a@b.c", "2024-03-10 23:59:59+00", `{"country": "de"}`}
		}
		shop.tx(many(n, func(i int) event { return snap(r, row(i, []string{"5", "20.00"}[i%2])...) })...)
		shop.tx(ins(r, row(-1, "7")...), ins(r, -2, "100", nil, nil, nil, nil))
		w.start(w.cfg)
		w.complete(shop)
		odd := n / 2
		w.rows(`SELECT count(*), bool_and(id % 2 = 1) FROM sales.orders WHERE id >= 0`, fmt.Sprintf("%d|t", odd))
		w.rows(`SELECT tenant, id, amount, card, length(mail), day, doc, region, gross, country, tags FROM sales.orders WHERE id = 1`,
			"shop|1|20.00|****1234|64|2024-03-10|∅|eu|23.80|de|{1,\"x y\"}")
		w.rows(`SELECT * FROM sales.orders WHERE id = -2`, "shop|-2|100|∅|∅|∅|∅|eu|119.00|∅|{-2,\"x y\"}")
		w.rows(`SELECT string_agg(format_type(atttypid, atttypmod), ',' ORDER BY attnum) FROM pg_attribute WHERE attrelid = 'sales.orders'::regclass AND attnum > 0`,
			"text,bigint,numeric,text,text,date,jsonb,text,numeric(10,2),text,text[]")
		// All leave and all others enter.
		shop.tx(many(n, func(i int) event { return upd(r, row(i, []string{"11", "1"}[i%2])...) })...)
		w.complete(shop)
		w.rows(`SELECT count(*), bool_and(id % 2 = 0) FROM sales.orders WHERE id >= 0`, fmt.Sprintf("%d|t", n-odd))
		// Keys change: of rows that stay in, and of rows that leave by it; deletes of rows that are not there.
		var events []event
		for i := range n {
			events = append(events, move(r, []any{i}, row(i+1000, []string{"12", "13"}[i%2])...)...)
		}
		shop.tx(events...)
		w.complete(shop)
		w.rows(`SELECT count(*), min(id) FROM sales.orders WHERE id >= 0`, fmt.Sprintf("%d|1000", n))
		shop.tx(del(r, -1), del(r, 1000), upd(r, row(1001, "0")...))
		w.complete(shop)
		w.rows(`SELECT count(*) FROM sales.orders WHERE id >= 0`, fmt.Sprint(n-2))

		// A table without a key: each row is one of equal ones.
		log := relation("log", "a integer", "b text")
		shop.tx(append(many(n, func(i int) event { return ins(log, i%2, "x") }), many(n, func(int) event { return ins(log, 0, "y") })...)...)
		w.complete(shop)
		w.rows(`SELECT a, b, count(*) FROM public.log GROUP BY 1, 2`, fmt.Sprintf("1|x|%d", odd))
		change := func(was, now int) event {
			e := upd(log, now, "x")
			e.before = []any{was, "x"}
			return e
		}
		shop.tx(change(0, 1), change(1, 0), change(1, 2), del(log, 0, "y"))
		w.complete(shop)
		w.rows(`SELECT a, count(*) FROM public.log GROUP BY 1 ORDER BY 1`, append(map[bool][]string{true: {fmt.Sprintf("1|%d", odd-1)}}[odd > 1], "2|1")...)
	})
}

// TestCharts: the charts have what rules leave out, how long applying takes, and what happened.
func TestCharts(t *testing.T) {
	w := newWorld(t, rule.Table{From: "public.*", Filter: "a > 0", Ignore: []string{"delete"}})
	shop := w.source("shop")
	r := relation("t", "id integer key", "a integer")
	s := w.start(w.cfg)
	// line gives the last value of a line of the charts, "none" where it has none.
	line := func(name string) any {
		var series struct {
			Charts []struct {
				Lines []string
				Data  [][]*float64
			}
			Marks []page.Mark
		}
		_, body := s.get("/series")
		if err := json.Unmarshal([]byte(body), &series); err != nil {
			t.Fatal(err)
		}
		if len(series.Marks) == 0 || !strings.HasPrefix(series.Marks[0].Events[0].Text, "sink starts") {
			return "no mark"
		}
		for _, c := range series.Charts {
			if i := slices.Index(c.Lines, name); i >= 0 && c.Data[i][len(c.Data[i])-1] != nil {
				return *c.Data[i][len(c.Data[i])-1] > 0
			}
		}
		return "none"
	}
	shop.tx(ins(r, 1, 1))
	w.complete(shop)
	w.eventually("none", func() any { return line("ignored or filtered") })
	for i := range 20 {
		shop.tx(ins(r, 10+i, -1), ins(r, 100+i, 1), del(r, 1))
		w.complete(shop)
	}
	for _, name := range []string{"applied", "ignored or filtered", "p99 of applying"} {
		w.eventually(true, func() any { return line(name) })
	}
	if st := s.Status(); st.SkippedPerSec <= 0 || st.SkippedPerSec >= st.RowsPerSec || st.ApplyP99 == nil || *st.ApplyP99 <= 0 {
		t.Errorf("the status has %v of %v changes/s, %v", st.SkippedPerSec, st.RowsPerSec, st.ApplyP99)
	}
}

// TestRuleErrors: an expression without a result holds its table before the row, and nothing of the row is told.
func TestRuleErrors(t *testing.T) {
	w := newWorld(t, rule.Table{From: "public.parks", OnError: "park", Filter: "a > 0"}, rule.Table{From: "public.*", Filter: "a > 0"})
	shop := w.source("shop")
	r, p := relation("t", "id integer key", "a integer", "b text"), relation("parks", "id integer key", "a integer", "b text")
	full := relation("full", "id integer key", "a integer", "b text")
	full.Identity = schema.IdentityFull
	shop.tx(ins(r, 1, 1, "x"), ins(r, 2, nil, "secret"), ins(r, 3, 3, "x"), ins(p, 1, 1, "x"), ins(p, 2, nil, "secret"), ins(p, 3, 3, "x"), upd(p, 2, 2, "y"), ins(full, 1, 0, "big"))
	w.start(w.cfg)
	w.rows(`SELECT code, table_name, next_offset, message LIKE '%tables[1].filter%offset 1%character 3%a is null%', message LIKE '%secret%' FROM tributary.quarantine`,
		"rule-error|public.t|1|t|f")
	w.rows(`SELECT id FROM public.t`, "1")
	w.rows(`SELECT id FROM public.parks ORDER BY 1`, "1", "3")
	w.rows(`SELECT "offset", code, message LIKE '%secret%' FROM tributary.parked ORDER BY 1`, "1|rule-error|f", "3||f")

	// A row that enters by an UPDATE that does not carry its big value: the old row has it under REPLICA IDENTITY FULL.
	e := upd(full, 1, 5, keep)
	e.before = []any{1, 0, "big"}
	shop.tx(e)
	w.rows(`SELECT * FROM public."full"`, "1|5|big")
	if _, err := w.operator().Resume(t.Context(), warehouse.Going{Source: "shop", Table: "public.t", Remedy: warehouse.Park}); err != nil {
		t.Fatal(err)
	}
	w.rows(`SELECT id FROM public.t ORDER BY 1`, "1", "3")
}

// TestExplainAndTest: what is said of a rule before it runs.
func TestExplainAndTest(t *testing.T) {
	w := newWorld(t, rule.Table{
		From: "public.orders", To: "sales.orders", Filter: "amount > 10", Columns: []rule.Column{{From: "mail", Mask: "hash"}, {From: "note", As: "remark"}},
		Set: []rule.Computed{{Column: "n", Value: "id / 10", Key: true}},
	}, rule.Table{From: "public.moods", To: "sales.moods"})
	w.cfg.Salt = "pepper"
	shop := w.source("shop")
	r := relation("orders", "id integer key", "amount numeric", "mail text", "note text")
	shop.tx(ins(r, 1, "20", "a@b.c", "x"), ins(r, 2, "5", "a@b.c", "x"), ins(r, 3, "30", "a@b.c", "x"), upd(r, 3, "1", "a@b.c", keep), del(r, 1), ins(r, 4, nil, "a@b.c", "secret"))
	o := w.operator()
	has := func(text string, want ...string) {
		t.Helper()
		for _, line := range want {
			if !strings.Contains(strings.Join(strings.Fields(text), " "), line) {
				t.Errorf("%q is not in\n%s", line, text)
			}
		}
	}
	var out strings.Builder
	if err := o.ExplainRule(t.Context(), "shop.public.orders", &out); err != nil {
		t.Fatal(err)
	}
	has(out.String(),
		"shop public.orders -> sales.orders tables[0], mode clone, filter amount > 10",
		"id integer, key - - not chosen by columns", "mail text mail text mask: hash, salted", "note text remark text renamed", "- - n bigint set: id / 10, key",
		"DELETE the row of (n) is deleted", "one that does not pass is deleted", "which may be null", `CREATE TABLE IF NOT EXISTS "sales"."orders"`, `INSERT INTO "sales"."orders"`)
	out.Reset()
	if err := o.TestRule(t.Context(), w.cfg, "shop.public.orders", sink.Trial{Records: 100, Offset: -1, Values: true}, &out); err != nil {
		t.Fatal(err)
	}
	has(out.String(), "6 records, offsets 0 to 5", "2 written", "2 left out by the filter", "2 removed", "1 errors", "1 target keys of more than one row",
		"0/0 insert key (id) = (1) written", "0/3 update key (id) = (3) left out by the filter: deleted, if it was there", "error: at character 8: amount is null", "before id=1 amount=20 mail=*** note=x")
	if strings.Contains(out.String(), "a@b.c") || strings.Contains(out.String(), "secret") {
		t.Errorf("a value that is masked, or of a row that fails, is shown:\n%s", out.String())
	}
	out.Reset()
	if err := o.TestRule(t.Context(), w.cfg, "shop.public.orders", sink.Trial{Records: 2, Offset: 1}, &out); err != nil {
		t.Fatal(err)
	}
	has(out.String(), "2 records, offsets 1 to 2", "1 left out by the filter", "0/1 insert key (id) left out by the filter")
	before := w.cfg
	before.Tables = slices.Clone(w.cfg.Tables)
	before.Tables[0].Filter = "amount > 3"
	other, err := before.Rules()
	if err != nil {
		t.Fatal(err)
	}
	for _, values := range []bool{false, true} {
		out.Reset()
		if err := o.TestRule(t.Context(), w.cfg, "shop.public.orders", sink.Trial{Records: 5, Offset: 0, Other: other, Values: values}, &out); err != nil {
			t.Fatal(err)
		}
		key := map[bool]string{false: "key (id)", true: "key (id) = (2)"}[values]
		has(out.String(), "5 records, 1 of them otherwise", "0/1 insert "+key+" - sales.orders, clone: written", "+ sales.orders, clone: left out by the filter")
		if shown := strings.Contains(out.String(), "remark=x"); shown != values || strings.Contains(out.String(), "a@b.c") {
			t.Errorf("values %t:\n%s", values, out.String())
		}
	}
	var lines []string
	tail := func(values bool, subjects ...string) error {
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		return o.Tail(ctx, w.cfg, subjects, 100, values, func(int) {}, func(one *sink.Tailed) error {
			text, err := json.Marshal(one)
			if lines = append(lines, string(text)); one.Offset == 5 {
				stop()
			}
			return err
		})
	}
	if err := tail(false); err != nil || len(lines) != 6 || strings.Contains(strings.Join(lines, ""), `"value"`) {
		t.Errorf("%v, %q", err, lines)
	}
	lines = nil
	if err := tail(true, "nobody", "sh*/public.orders"); err != nil || len(lines) != 6 {
		t.Fatalf("%v, %q", err, lines)
	}
	has(lines[0], `"source":"shop","table":"public.orders","target":"sales.orders","partition":0,"offset":0`, `"op":"insert","key":[{"name":"id","value":"1"}]`,
		`{"name":"remark","value":"x"},{"name":"n","value":"0"}`, `"result":"written"`)
	has(lines[3], `"columns":[],"result":"left out by the filter: deleted, if it was there"`)
	has(lines[4], `"op":"delete","key":[{"name":"id","value":"1"}],"columns":[],"result":"deleted by its key"`)
	has(lines[5], `"result":"error: at character 8: amount is null`)
	if text := strings.Join(lines, ""); strings.Contains(text, "a@b.c") || strings.Contains(text, "secret") {
		t.Errorf("a value that is masked, or of a row that fails, is shown: %s", text)
	}
	if err := tail(true, "shop/public.odrers"); err == nil || !strings.Contains(err.Error(), "did you mean shop/public.orders?") {
		t.Errorf("got %v", err)
	}
	if err := o.ExplainRule(t.Context(), "shop.public.other", &out); err == nil || !strings.Contains(err.Error(), "no rule matches") {
		t.Errorf("got %v", err)
	}
	w.rows(`SELECT count(*) FROM pg_class WHERE relname = 'orders'`, "0")
	shop.tx(ins(relation("moods", "id integer key", "m public.mood"), 1, "sad"))
	out.Reset()
	if err := o.ExplainRule(t.Context(), "shop.public.moods", &out); err != nil {
		t.Fatal(err)
	}
	has(out.String(), "id integer, key id integer as is", "m public.mood m public.mood, else text as is", `"m" text`)
}
