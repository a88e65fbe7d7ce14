package sink_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/schema/record"
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
