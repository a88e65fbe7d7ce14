package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tributary-cdc/tributary/pkg/pgtest"
	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/sink"
	"github.com/tributary-cdc/tributary/sink/warehouse"
)

// TestVerbs: on a warehouse that no sink is writing, as operators may find it.
func TestVerbs(t *testing.T) {
	dsn := pgtest.Database(t, pgtest.Shared(t, 0))
	file := filepath.Join(t.TempDir(), "sink.yaml")
	text := "warehouse: {dsn: \"" + dsn + "\"}\nkafka: {brokers: [\"localhost:1\"]}\nregistry: {url: http://127.0.0.1:1}\nhttp: {listen: \"127.0.0.1:1\"}\nsources: [{name: ledger, consistency: source}, {name: \"*\"}]\ntables: [{from: \"*.*\"}]\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(t.Context()) }()
	said := "" // on standard error, by the last one
	run := func(fails string, args ...string) string {
		t.Helper()
		var out, beside bytes.Buffer
		cmd := command()
		cmd.SetOut(&out)
		cmd.SetErr(&beside)
		cmd.SetArgs(append(args, "-c", file))
		err := cmd.ExecuteContext(t.Context())
		switch {
		case fails == "" && err != nil:
			t.Errorf("%v: %v", args, err)
		case fails != "" && (err == nil || !strings.Contains(err.Error(), fails)):
			t.Errorf("%v: error %v, want %q", args, err, fails)
		}
		said = beside.String()
		return out.String()
	}
	want := func(got string, parts ...string) {
		t.Helper()
		for _, part := range parts {
			if !strings.Contains(got, part) {
				t.Errorf("no %q in:\n%s", part, got)
			}
		}
	}
	want(run("not well", "status", "--json"), `"state": "not_running"`, "no sink has run in this warehouse yet")
	run("no sink has run in this database yet", "parked", "list")
	cfg := sink.Default()
	w := warehouse.New(warehouse.Config{DSN: func() (string, error) { return dsn, nil }, Group: cfg.Group})
	if err := w.Migrate(t.Context(), warehouse.LockPatience); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Exec(t.Context(), `
		INSERT INTO tributary.checkpoint (grp, topic, partition, topic_id, parked_n) VALUES ('warehouse', 'shop.public.t', 0, 'x', 1);
		INSERT INTO tributary.quarantine (grp, topic, partition, next_offset, source, table_name, code, message, hint, instance)
		VALUES ('warehouse', 'shop.public.t', 0, 7, 'shop', 'public.t', 'constraint-violation', 'cannot be', 'sink resume SOURCE/TABLE', 'x');
		INSERT INTO tributary.parked (grp, topic, partition, "offset", source, table_name, identity, headers, code, message)
		VALUES ('warehouse', 'shop.public.t', 0, 3, 'shop', 'public.t', 'x', '{}', 'record-invalid', 'damaged')`); err != nil {
		t.Fatal(err)
	}
	want(run("not well", "status"), "shop/public.t\tquarantined")
	want(said, "warehouse needs you: 1 table is quarantined, 1 row is parked.\n",
		"partition 0, offset 7", "next   sink resume shop/public.t", "sink parked retry shop/public.t")
	run("did you mean shop/public.t?", "status", "--table", "shop/public.x")
	run("either --direct or --url", "status", "--direct", "--url", "http://127.0.0.1:1")
	run("write caught-up", "status", "--wait", "forever")
	run("ask http://127.0.0.1:1", "status", "--url", "http://127.0.0.1:1")
	run("it is not complete=0/1 after", "status", "--wait", "complete=0/1", "--timeout", "10ms")
	want(run("not well", "status", "--json"), `"schema": "tributary.sink.status/1"`, `"parked": 1`)
	want(run("", "parked", "list"), "shop/public.t\t0\t3\t", "damaged")
	want(run("", "parked", "list", "other", "--json"), `"parked": []`)
	want(run("", "parked", "show", "shop/public.t"), "offset 3: cannot be decoded")
	want(run("", "parked", "discard", "shop/public.t", "--plan"), "1 record from offset 3 on is given up")
	want(run("1 key stays parked", "parked", "retry", "shop/public.t", "--yes"), "0 records written")
	want(run("", "parked", "discard", "shop/public.t", "--yes"), "1 record discarded")
	run("nothing is parked there", "parked", "discard", "shop/public.t", "--yes")
	want(run("", "resume", "shop/public.t", "--park", "--plan"), "offset 7 is put aside")
	run("either --park or --skip", "resume", "shop/public.t", "--park", "--skip", "7")
	run("which table", "resume", "--skip", "7")
	run("shop/public.t is not held at offset 8", "resume", "shop/public.t", "--skip", "8", "--yes")
	want(run("", "resume", "shop/public.t", "--skip", "7", "--reason", "test data", "--yes"), "offset 7 is passed over")
	want(run("", "pause", "shop", "--reason", "vacation", "--for", "1h", "--yes"), "for 1h0m0s", "paused")
	want(run("is not done after 1.0 s: no sink of the group has come past offset 7 of shop/public.t partition 0", "resume", "shop/public.t", "--yes", "--wait", "--timeout", "1s"),
		"1 partition is tried again")
	want(run("", "status", "--direct"), "vacation")
	want(said, "is paused: 1 table.")
	run("and shop is paused", "resume", "shop/public.t", "--yes")
	run("and shop is paused", "resume", "--yes")
	want(run("", "resume", "shop", "--yes"), "1 pause ended")
	want(run("", "resume", "shop/public.t", "--yes"), "nothing to resume: shop/public.t goes on")
	want(run("", "resume", "--yes", "--wait"), "nothing to resume: the group goes on")
	run("nothing to resume: the group has written nothing of shop/public.tt; did you mean shop/public.t?", "resume", "shop/public.tt", "--yes")
	run("nothing to put aside: no record holds shop/public.t", "resume", "shop/public.t", "--park", "--yes")
	if _, err := conn.Exec(t.Context(), `
		INSERT INTO tributary.quarantine (grp, topic, partition, next_offset, source, table_name, code, message, hint, instance)
		VALUES ('warehouse', 'ledger.tributary.progress', 0, 7, 'ledger', '', 'constraint-violation', 'cannot be', 'sink resume SOURCE/TABLE', 'x'),
		       ('warehouse', 'crm.tributary.progress', 0, 7, 'crm', '', 'topic-recreated', 'cannot be', 'sink resume SOURCE/TABLE', 'x')`); err != nil {
		t.Fatal(err)
	}
	run("written as a whole: mend what holds it, then sink resume ledger", "resume", "ledger/public.t", "--park", "--yes")
	run("written as a whole: mend what holds it, then sink resume ledger", "resume", "ledger/public.t", "--skip", "7", "--yes")
	run("no record of crm/public.t is put aside or passed over, as what is held of crm is its progress topic, and no table: mend what holds it, then sink resume crm", "resume", "crm/public.t", "--park", "--yes")
	want(run("", "resume", "ledger/public.t", "--yes"), "topic ledger.tributary.progress: offset 7 is tried again", "1 partition is tried again")

	if _, err := conn.Exec(t.Context(), `CREATE TABLE public.t (tenant text, id integer);
		INSERT INTO public.t SELECT CASE WHEN i % 2 = 0 THEN 'shop' ELSE 'other' END, i FROM generate_series(1, 50) i;
		INSERT INTO tributary.feed VALUES ('warehouse', 'public', 't', 'shop', 'shop.public.t')`); err != nil {
		t.Fatal(err)
	}
	want(run("", "tenant", "remove", "--help"), "sink tenant remove tenant_17 --plan")
	run("which tenant", "tenant", "pause")
	run(`"shop/public.t" is one table`, "tenant", "rebuild", "shop/public.t")
	run("unknown verb", "tenant", "remvoe")
	run("nothing of shpo; did you mean shop?", "tenant", "remove", "shpo", "--yes")
	run("there is no code \"constraint-violaton\"; did you mean constraint-violation?", "parked", "list", "--code", "constraint-violaton")
	run("no rule says any more", "tenant", "remove", "shop", "--yes")
	if err := os.WriteFile(file, []byte(strings.Replace(text, `"*.*"`, `"*.*", sid: tenant`, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	want(run("", "tenant", "pause", "shop", "--reason", "upgrade", "--yes"), "shop: not written by any sink")
	want(run("", "tenant", "list"), "shop\tshop\tpaused\t1\t", "upgrade")
	want(run("", "tenant", "resume", "shop", "--yes"), "1 pause ended")
	want(run("", "tenant", "remove", "shop", "--plan"), `public.t: rows with tenant = "shop" are removed`)
	want(run("", "tenant", "remove", "shop", "--reason", "gone", "--yes"), "25 rows removed; to bring it back: sink tenant resume shop")
	want(run("", "tenant", "list", "--json"), `"state": "removed"`, `"reason": "gone"`)
	want(run("", "tenant", "remove", "shop", "--yes"), "0 rows removed")
	run("it is removed", "tenant", "rebuild", "shop", "--yes")
	run("", "tenant", "resume", "shop", "--plan")
	want(run("list topics of Kafka", "tenant", "resume", "shop", "--yes", "--wait"), "is read again, from the beginning", "until it is done, sink tenant list shows shop as not complete")
	want(run("", "tenant", "list", "--json"), `"tenants": []`)

	run("not SOURCE/TABLE", "parked", "retry", "shop")
	role := fmt.Sprintf("poor_%d", time.Now().UnixNano())
	if _, err := conn.Exec(t.Context(), "CREATE ROLE "+role+" LOGIN"); err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = conn.Exec(context.WithoutCancel(t.Context()), "DROP ROLE "+role) }()
	t.Setenv("TRIBUTARY_WAREHOUSE_DSN", strings.Replace(dsn, "postgres@", role+"@", 1))
	cmd := command()
	cmd.SetArgs([]string{"parked", "list", "-c", file})
	if e, ok := errors.AsType[*trouble.Error](cmd.ExecuteContext(t.Context())); !ok || e.Code != trouble.WarehouseRights || !strings.Contains(e.Hint, "log in as the role") {
		t.Errorf("as another role: %+v", e)
	}
	run("unknown verb", "parked", "retyr")
	var verbs string
	if err := conn.QueryRow(t.Context(), `SELECT string_agg(verb || ' ' || subject, ', ' ORDER BY at) FROM tributary.operation`).Scan(&verbs); err != nil {
		t.Fatal(err)
	}
	if verbs != "parked discard shop/public.t, resume --skip 7 shop/public.t, pause shop, resume shop/public.t, resume shop, resume ledger/public.t, "+
		"pause shop, resume shop, tenant remove shop, tenant remove shop, tenant remove shop, tenant remove shop, resume shop" {
		t.Errorf("operations: %s", verbs)
	}
}
