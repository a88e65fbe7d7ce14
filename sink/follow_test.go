package sink_test

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/terminal"
	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/schema/record"
	"github.com/tributary-cdc/tributary/sink"
	"github.com/tributary-cdc/tributary/sink/rule"
)

// TestSourcesTogether: what many sources say is taken in by one transaction, as a transaction of each is four round trips to a warehouse
// that may be far away; and one of which that is refused holds up none of the others.
func TestSourcesTogether(t *testing.T) {
	w := newWorld(t)
	var sources []*source
	for i := range 8 {
		s := w.source(fmt.Sprintf("s%d", i))
		s.tx()
		sources = append(sources, s)
	}
	running := w.start(w.cfg)
	for _, s := range sources {
		w.complete(s)
	}
	w.eventually(true, func() any {
		for _, s := range sources {
			s.tx()
		}
		for _, s := range sources {
			w.complete(s)
		}
		var transactions int
		if err := w.conn.QueryRow(t.Context(), `SELECT count(DISTINCT xmin::text) FROM tributary.source`).Scan(&transactions); err != nil {
			t.Fatal(err)
		}
		return transactions <= 4 // as they come in one by one, too
	})
	for _, sql := range []string{
		`CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not this one' USING ERRCODE = '22000'; END $$`,
		`CREATE TRIGGER refuse BEFORE UPDATE ON tributary.source FOR EACH ROW WHEN (NEW.source = 's3') EXECUTE FUNCTION public.refuse()`,
	} {
		w.exec(sql)
	}
	for _, s := range sources {
		s.tx()
	}
	for i, s := range sources {
		if i != 3 {
			w.complete(s)
		}
	}
	w.eventually(1, func() any {
		return len(w.query(`SELECT topic FROM tributary.quarantine WHERE topic = 's3.tributary.progress'`))
	})
	running.stop()
	w.rows(`SELECT count(*) FROM tributary.quarantine`, "1")
}

// fence is tx with a fence in its progress.
func (s *source) fence(id string, events ...event) {
	s.w.t.Helper()
	s.lsn += 0x100
	if err := s.client.BeginTransaction(); err != nil {
		s.w.t.Fatal(err)
	}
	s.publish(s.lsn, s.now(), events...)
	s.progress(id)
	if err := s.client.EndTransaction(s.w.t.Context(), kgo.TryCommit); err != nil {
		s.w.t.Fatal(err)
	}
}

// TestProgressTopicMadeAnew: what the topic of before said is forgotten with its checkpoint: its milestones and fences have offsets that the new one
// comes to only much later.
func TestProgressTopicMadeAnew(t *testing.T) {
	for _, consistency := range []string{"table", "source"} {
		for _, era := range []uint16{1, 2} {
			t.Run(fmt.Sprint(consistency, era), func(t *testing.T) {
				w := newWorld(t, rule.Table{From: "public.*"})
				w.cfg.Sources = []rule.Source{{Name: "shop", Consistency: consistency}}
				shop := w.source("shop")
				r := relation("t", "id integer key", "v text")
				for i := range 50 {
					shop.tx(ins(r, i, "x"))
				}
				s := w.start(w.cfg)
				w.complete(shop)
				before := w.query(`SELECT complete_lsn FROM tributary.progress`)
				s.stop()
				deleteTopic(t, shop, "shop.tributary.progress")
				again := w.source("shop")
				again.era, again.lsn, again.vector, again.counts, again.encoder = era, shop.lsn, shop.vector, shop.counts, shop.encoder
				w.exec(`DELETE FROM tributary.checkpoint WHERE topic = 'shop.tributary.progress'`)
				s = w.start(w.cfg)
				again.tx(ins(r, 100, "y"))
				w.complete(again)
				if after := w.query(`SELECT complete_lsn FROM tributary.progress`); fmt.Sprint(after) == fmt.Sprint(before) {
					t.Errorf("complete up to %s still", after)
				}
				w.rows(`SELECT count(*) FROM public.t`, "51")
				w.rows(`SELECT era, n FROM tributary.source`, fmt.Sprintf("%d|1", era))
				if consistency == "source" {
					return // there is no state of it with a table that waits
				}
				// A fence is reached when what is before it is here, and not at once.
				if err := w.operator().Pause(t.Context(), "shop", "public.t", "", 0); err != nil {
					t.Fatal(err)
				}
				w.eventually("paused", func() any { return s.Status().Tables[0].State })
				again.fence("late", ins(r, 101, "y"))
				w.rows(`SELECT n FROM tributary.source`, "2")
				w.rows(`SELECT fences FROM tributary.progress`, "{}")
			})
		}
	}
}

// TestProgressMadeAnew: where Kafka has lost everything a source counts from the beginning again. Up to where it is complete stood where
// it had been, and was told as if all were well.
func TestProgressMadeAnew(t *testing.T) {
	w := newWorld(t)
	shop := w.source("shop")
	shop.era = 2
	r := relation("t", "id integer key")
	for i := range 5 {
		shop.tx(ins(r, i))
	}
	s := w.start(w.cfg)
	w.complete(shop)
	deleteTopic(t, shop, "shop.public.t")
	deleteTopic(t, shop, record.ProgressTopic("shop"))
	lsn := shop.lsn
	shop = w.source("shop")
	shop.lsn = lsn
	shop.tx(ins(r, 7))
	w.rows(`SELECT topic FROM tributary.quarantine WHERE code = 'topic-recreated' ORDER BY 1`, "shop.public.t", record.ProgressTopic("shop"))
	w.eventually(true, func() any {
		return slices.ContainsFunc(s.Status().Needs, func(n service.Need) bool {
			return n.Code == trouble.TopicRecreated && n.Subject == record.ProgressTopic("shop")
		})
	})
	w.exec(`DELETE FROM tributary.checkpoint WHERE topic LIKE 'shop.%'; DELETE FROM tributary.quarantine`)
	w.complete(shop)
	w.rows(`SELECT s.era, p.complete_lsn > '0/1', p.fences FROM tributary.source s JOIN tributary.progress p USING (grp, source)`, "1|t|{}")
	w.eventually(true, func() any {
		return !slices.ContainsFunc(s.Status().Needs, func(n service.Need) bool { return n.Code == trouble.TopicRecreated })
	})
}

// TestSourceNoLongerNamed: of a source that sources names no more nothing is read. It is told to be left out, and not to be complete up to
// now; the others are told as if it were not there.
func TestSourceNoLongerNamed(t *testing.T) {
	w := newWorld(t)
	shop, bank := w.source("shop"), w.source("bank")
	r := relation("t", "id integer key")
	shop.tx(ins(r, 1))
	bank.tx(ins(relation("u", "id integer key"), 2))
	s := w.start(w.cfg)
	w.complete(shop)
	w.complete(bank)
	s.stop()
	w.cfg.Sources = []rule.Source{{Name: "shop"}}
	s = w.start(w.cfg)
	told := func(st *sink.Status) string {
		text := ""
		for i := range st.Sources {
			src := &st.Sources[i]
			text += fmt.Sprintf("%s %s %s, complete %v, now %v; ", src.Name, src.State, src.Reason, src.CompleteLSN != "", src.AgeSeconds != nil)
		}
		return text + st.State
	}
	const want = "bank left_out sources does not name it, complete true, now false; shop up_to_date , complete true, now true; up_to_date"
	w.reported(want, func() any { return told(s.Status()) }, shop)
	if st := s.Status(); !strings.Contains(st.Headline, "complete up to") || !strings.Contains(st.Headline, "1 source and 1 that is not read, 1 table") {
		t.Error(st.Headline)
	}
	r2, err := w.operator().Ask(t.Context(), w.cfg, service.Whom{Direct: true})
	if err != nil || told(r2.Status) != want {
		t.Errorf("%s, %v", told(r2.Status), err)
	}
	w.cfg.Sources = nil // of who asks: what the sink runs with counts
	asked, err := w.operator().Ask(t.Context(), w.cfg, service.Whom{URL: "http://" + s.Addr()})
	if err != nil {
		t.Fatal(err)
	}
	var text bytes.Buffer
	out := terminal.Output{Terminal: true, Out: &text, Err: &text, Width: 500}
	if err := asked.Show(&out, &terminal.Look{}); err != nil || !strings.Contains(text.String(), `1 topic matches no rule: bank.public.u (sources does not name "bank"`) || strings.Contains(text.String(), "skip") {
		t.Errorf("%v: %s", err, &text)
	}
	if _, page := s.get("/metrics"); !strings.Contains(page, "group_members") {
		t.Error("nobody tells Prometheus of the group")
	}
	// Nor is one complete up to now of which nothing is known to be.
	w.exec(`DELETE FROM tributary.milestone_part; DELETE FROM tributary.milestone`)
	w.rows(`SELECT count(complete_lsn) FROM tributary.progress`, "0")
	w.reported("bank left_out sources does not name it, complete false, now false; shop up_to_date , complete false, now false; up_to_date", func() any { return told(s.Status()) })
}

// TestHeldProgressIsItsSources: a source whose progress topic is held is quarantined, though its tables go on.
func TestHeldProgressIsItsSources(t *testing.T) {
	w := newWorld(t)
	shop := w.source("shop")
	r := relation("t", "id integer key")
	shop.tx(ins(r, 1))
	s := w.start(w.cfg)
	w.complete(shop)
	if err := shop.client.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	shop.produce(&kgo.Record{Topic: record.ProgressTopic("shop"), Value: []byte("no progress")})
	if err := shop.client.EndTransaction(t.Context(), kgo.TryCommit); err != nil {
		t.Fatal(err)
	}
	told := func(st *sink.Status) string {
		if len(st.Sources) == 0 {
			return "" // not looked yet
		}
		return st.Sources[0].State + ", table " + st.Tables[0].State
	}
	const want = service.StateQuarantined + ", table " + service.StateUpToDate
	w.eventually(want, func() any { return told(s.Status()) })
	direct, err := w.operator().Ask(t.Context(), w.cfg, service.Whom{Direct: true})
	if err != nil || told(direct.Status) != want {
		t.Errorf("%s, %v", told(direct.Status), err)
	}
}
