package sink_test

import (
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tributary-cdc/tributary/pkg/certtest"
	"github.com/tributary-cdc/tributary/pkg/config"
	"github.com/tributary-cdc/tributary/pkg/pgtest"
	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/schema/change"
	"github.com/tributary-cdc/tributary/sink"
)

// A warehouse that takes no writes for a while, as in a failover, is waited for.
func TestWarehouseReadOnly(t *testing.T) {
	w := newWorld(t)
	shop, item := w.source("shop"), relation("item", "id integer key")
	s := w.start(w.cfg)
	shop.tx(ins(item, 1))
	w.complete(shop)
	w.eventually(200, func() any { code, _ := s.get("/readyz"); return code })
	database := w.query(`SELECT quote_ident(current_database())`)[0]
	set := func(how string) {
		w.exec(`ALTER DATABASE ` + database + how)
		w.exec(`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()`)
	}
	set(" SET default_transaction_read_only = on")
	shop.tx(ins(item, 2))
	w.eventually(true, func() any {
		return slices.ContainsFunc(s.Status().Waiting, func(wait sink.Waiting) bool { return wait.Code == string(trouble.WarehouseReadOnly) })
	})
	if code, text := s.get("/readyz"); code != 200 {
		t.Errorf("it was ready, and a warehouse that takes no writes makes it %d, %s", code, text)
	}
	set(" RESET default_transaction_read_only")
	w.complete(shop)
	w.rows(`SELECT id FROM public.item ORDER BY id`, "1", "2")
}

func TestWarehouseAway(t *testing.T) {
	w := newWorld(t)
	cluster := pgtest.New(t, pgtest.Options{})
	if err := cluster.CreateDatabase(t.Context(), "dwh"); err != nil {
		t.Fatal(err)
	}
	w.dsn = cluster.DSN("dwh")
	w.cfg.Warehouse.DSN = config.Secret(w.dsn)
	if err := cluster.Stop(); err != nil {
		t.Fatal(err)
	}
	shop := w.source("shop")
	done := shop.load(200)
	s := w.start(w.cfg)
	w.eventually(false, func() any { return s.Status().WarehouseUp })
	w.eventually(true, func() any {
		for _, wait := range s.Status().Waiting {
			if wait.For == "warehouse" && wait.Tries > 1 && wait.Code == "warehouse-unreachable" {
				return true
			}
		}
		return false
	})
	for range 2 {
		if err := cluster.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.conn = w.connect(w.dsn)
		w.eventually(true, func() any { return s.Status().WarehouseUp })
		w.eventually(true, func() any { return len(w.query(`SELECT 1 FROM public.log`)) > 10 })
		if err := cluster.Kill(); err != nil {
			t.Fatal(err)
		}
	}
	<-done
	if err := cluster.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.conn = w.connect(w.dsn)
	w.loaded(shop, 200)
}

// TestFilesBeingReplaced: a sink that was let in waits while what it connects with is being replaced, and holds nothing: a certificate is
// there whose key is not yet, or the file of the connection string is not. Who starts so ends.
func TestFilesBeingReplaced(t *testing.T) {
	w := newWorld(t)
	authority := certtest.New(t)
	pair, next := authority.Issue(t, "sink"), authority.Issue(t, "sink")
	file := filepath.Join(t.TempDir(), "dsn")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.WriteFile(file, []byte(strings.Replace(w.dsn, "sslmode=disable", "sslmode=prefer&sslcert="+pair.Cert+"&sslkey="+pair.Key, 1)), 0o600))
	w.cfg.Warehouse.DSN = config.Secret("file:" + file)
	shop, item := w.source("shop"), relation("item", "id integer key")
	s := w.start(w.cfg)
	shop.tx(ins(item, 1))
	w.complete(shop)
	n := 1
	for what, step := range map[string]struct{ begin, end func() }{
		"another certificate": {func() { certtest.Copy(t, next.Cert, pair.Cert) }, func() { certtest.Copy(t, next.Key, pair.Key) }},
		"no file":             {func() { must(os.Rename(file, file+".old")) }, func() { must(os.Rename(file+".old", file)) }},
	} {
		step.begin()
		w.exec(`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'tributary%'`)
		n++
		shop.tx(ins(item, n))
		for _, who := range []string{"supervision", "warehouse"} { // a worker, too
			w.eventually(true, func() any {
				return slices.ContainsFunc(s.Status().Waiting, func(wait sink.Waiting) bool {
					return wait.For == who && wait.Code == string(trouble.WarehouseRights)
				})
			})
		}
		step.end()
		w.complete(shop)
		if held := w.query(`SELECT topic FROM tributary.quarantine`); len(held) != 0 {
			t.Errorf("%s: it holds %q", what, held)
		}
	}
	w.rows(`SELECT id FROM public.item ORDER BY id`, "1", "2", "3")
	s.stop()
	certtest.Copy(t, authority.Issue(t, "sink").Cert, pair.Cert)
	again, err := sink.New(w.cfg, slog.New(slog.DiscardHandler))
	must(err)
	if err := again.Run(t.Context()); trouble.CodeOf(err) != trouble.Config {
		t.Errorf("a start ends with %v, want %s", err, trouble.Config)
	}
}

// noRoom has what is written to a table fail as on a full disk, until room is called.
func (w *world) noRoom(events, table string) (room func()) {
	w.t.Helper()
	w.exec(`CREATE FUNCTION public.no_room() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION USING ERRCODE = 'disk_full'; END $$`)
	w.exec(`CREATE TRIGGER no_room BEFORE ` + events + ` ON ` + table + ` FOR EACH ROW EXECUTE FUNCTION public.no_room()`)
	return func() {
		w.t.Helper()
		w.exec(`DROP TRIGGER no_room ON ` + table)
	}
}

// TestFullForOneTable: on a full disk there is room for progress, and for what goes into the pages of another table. That such things
// are written does not make the sink forget how long it has waited with the one that is not.
func TestFullForOneTable(t *testing.T) {
	w := newWorld(t)
	shop := w.source("shop")
	r, log := relation("t", "id integer key", "v integer"), relation("log", "id integer")
	shop.table(r, 1)
	shop.table(log, 1)
	s := w.start(w.cfg)
	shop.tx(ins(r, 1, 1), ins(log, 1))
	w.complete(shop)
	room := w.noRoom("INSERT", "public.t")
	waits := func() (since time.Time) {
		for _, wait := range s.Status().Waiting {
			if wait.For == "warehouse" && wait.Code == "warehouse-full" {
				since = wait.Since
			}
		}
		return since
	}
	shop.tx(ins(r, 2, 2))
	w.eventually(false, func() any { return waits().IsZero() })
	since := waits()
	for i := range 3 {
		shop.tx(ins(log, 2+i))
		w.eventually(change.LSN(shop.last.CommitLSN), func() any { return w.query(`SELECT published_lsn FROM tributary.progress`)[0] })
	}
	w.eventually(true, func() any { return waits().Equal(since) }) // a try may just be under way
	room()
	w.complete(shop)
	w.eventually(0, func() any { return len(s.Status().Waiting) })
}

// TestFullAtStart: a sink that starts while the warehouse's disk is full cannot claim what Kafka gives it. Nobody reads its tables, and they say so.
func TestFullAtStart(t *testing.T) {
	t.Parallel() // it waits most of its time
	w := newWorld(t)
	shop := w.source("shop")
	r := relation("t", "id integer key", "v integer")
	shop.table(r, 1)
	s := w.start(w.cfg)
	shop.tx(ins(r, 1, 1))
	w.complete(shop)
	s.stop()
	shop.tx(many(100, func(i int) event { return ins(r, 2+i, 2) })...)
	room := w.noRoom("INSERT OR UPDATE", "tributary.checkpoint")
	s = w.start(w.cfg)
	told := func() any {
		st, text := s.Status(), ""
		for i := range st.Tables {
			text += st.Tables[i].Table + " " + st.Tables[i].State + " " + st.Tables[i].WaitingOn + "; "
		}
		for i := range st.Sources {
			text += st.Sources[i].Name + " " + st.Sources[i].State + "; "
		}
		for i := range st.Needs {
			text += string(st.Needs[i].Code) + "; "
		}
		return text + st.State
	}
	w.eventually("public.t waiting the warehouse; shop waiting; warehouse-full; waiting", told)
	room()
	w.complete(shop)
	w.reported("public.t up_to_date ; shop up_to_date; up_to_date", told, shop)
}

// TestWarehouseGoesBack: a warehouse that has crashed, or a standby in its place, has not all that was confirmed. Nothing is
// written any more that would find it out.
func TestWarehouseGoesBack(t *testing.T) {
	w := newWorld(t)
	shop := w.source("shop")
	r, log := relation("t", "id integer key", "v integer"), relation("log", "id integer")
	shop.table(r, 2)
	shop.table(log, 1)
	s := w.start(w.cfg)
	shop.tx(ins(r, 1, 1), ins(r, 2, 1), ins(r, 3, 1), ins(log, 1))
	w.complete(shop)
	tables := []string{"tributary.checkpoint", "tributary.source", "tributary.milestone", "tributary.fence", "public.t", "public.log"}
	back := "BEGIN;"
	for i, name := range tables {
		w.exec(fmt.Sprintf("CREATE TABLE public.before_%d AS SELECT * FROM %s", i, name))
		back += fmt.Sprintf("DELETE FROM %s; INSERT INTO %[1]s SELECT * FROM public.before_%d;", name, i)
	}
	shop.tx(upd(r, 1, 2), del(r, 2), ins(r, 4, 2), ins(log, 2))
	w.complete(shop)
	goBack := func() {
		w.exec(back + "COMMIT")
		w.rows(`SELECT id, v FROM public.t ORDER BY id`, "1|1", "2|1", "3|1")
		w.exec(`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'tributary sink%' AND datname = current_database()`)
	}
	goBack()
	w.complete(shop)
	w.rows(`SELECT id, v FROM public.t ORDER BY id`, "1|2", "3|1", "4|2")
	w.rows(`SELECT id FROM public.log ORDER BY id`, "1", "2")
	goBack() // now whoever has something to write finds it out, too
	shop.tx(upd(r, 3, 3))
	w.complete(shop)
	w.rows(`SELECT id, v FROM public.t ORDER BY id`, "1|2", "3|3", "4|2")
	if _, page := s.get("/metrics"); !strings.Contains(page, `tributary_sink_errors_total{code="checkpoint-fenced",group="warehouse"} 0`) {
		t.Error("it says that another sink has its partitions")
	}
	w.rows(`SELECT count(*) FROM tributary.quarantine`, "0")
}

func TestKafkaAway(t *testing.T) {
	w := newWorld(t)
	shop := w.source("shop")
	<-shop.load(50)
	if err := w.kafka.Stop(); err != nil {
		t.Fatal(err)
	}
	s := w.start(w.cfg)
	w.eventually(true, func() any {
		for _, wait := range s.Status().Waiting {
			if wait.For == "kafka" && wait.Code == "kafka-unreachable" {
				return true
			}
		}
		return false
	})
	if err := w.kafka.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.loaded(shop, 50)
}

// TestAskedWithoutKafka: where no sink is asked and Kafka does not answer, nobody knows what waits there. That is no good health.
func TestAskedWithoutKafka(t *testing.T) {
	w := newWorld(t)
	shop := w.source("shop")
	shop.tx(ins(relation("t", "id integer key"), 1))
	s := w.start(w.cfg)
	w.complete(shop)
	o := w.operator()
	ask := func() any {
		r, err := o.Ask(t.Context(), w.cfg, service.Whom{Direct: true})
		if err != nil {
			t.Fatal(err)
		}
		said, _, _ := strings.Cut(r.Headline, " up to")
		return r.State + " " + said
	}
	w.eventually("up_to_date is healthy: complete", ask)
	if err := w.kafka.Stop(); err != nil {
		t.Fatal(err)
	}
	w.eventually("waiting may have more to do than the warehouse tells: Kafka does not say where its topics end. The warehouse is complete", ask)
	w.cfg.Freshness = time.Nanosecond // it is late by now
	w.eventually("waiting may have more to do than the warehouse tells: Kafka does not say where its topics end. The warehouse is complete", ask)
	s.stop() // which it says in the warehouse
	w.eventually("not_running is not running: no sink is in the group. The warehouse is complete", ask)
}

// TestRegistryAway: only what needs a new schema waits.
func TestRegistryAway(t *testing.T) {
	w := newWorld(t)
	shop := w.source("shop")
	r := relation("t", "id integer key")
	away := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		http.Error(rw, "down", http.StatusServiceUnavailable)
	}))
	defer away.Close()
	shop.tx(ins(r, 1))
	w.cfg.Registry.URL = away.URL
	s := w.start(w.cfg)
	w.eventually(true, func() any {
		for _, wait := range s.Status().Waiting {
			if wait.For == "registry" && wait.Tries > 1 && wait.Code == "registry-unreachable" {
				return true
			}
		}
		return false
	})
	s.stop()
	w.rows(`SELECT count(*) FROM tributary.quarantine`, "0")
	w.cfg.Registry.URL = w.registry
	w.start(w.cfg)
	w.complete(shop)
}
