package sink_test

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tributary-cdc/tributary/pkg/postgres"
	"github.com/tributary-cdc/tributary/schema"
	"github.com/tributary-cdc/tributary/sink"
	"github.com/tributary-cdc/tributary/sink/rule"
	"github.com/tributary-cdc/tributary/sink/warehouse"
)

// twoWhole has a sink write two sources as a whole, of which each has one table, with row 0.
func (w *world) twoWhole() (s *running, a, b *source, ra, rb *schema.Relation) {
	w.t.Helper()
	w.cfg.Sources = []rule.Source{{Name: "*", Consistency: "source"}}
	a, b = w.source("a"), w.source("b")
	ra, rb = relation("ta", "id integer key"), relation("tb", "id integer key")
	s = w.start(w.cfg)
	a.tx(ins(ra, 0))
	b.tx(ins(rb, 0))
	w.complete(a)
	w.complete(b)
	return s, a, b, ra, rb
}

// TestSourceThatWaitsKeepsNoOtherWaiting: a person has locked what one source is written to, and others that are written as a whole, too, go on meanwhile.
func TestSourceThatWaitsKeepsNoOtherWaiting(t *testing.T) {
	t.Parallel() // it waits most of its time
	w := newWorld(t)
	s, a, b, ra, rb := w.twoWhole()
	person := w.connect(w.dsn)
	if _, err := person.Exec(t.Context(), `BEGIN; LOCK TABLE public.ta`); err != nil {
		t.Fatal(err)
	}
	a.tx(ins(ra, 1))
	w.waiting("", 1)
	for i := range 3 {
		b.tx(ins(rb, i+1))
		w.complete(b)
	}
	w.rows(`SELECT id FROM public.tb ORDER BY 1`, "0", "1", "2", "3")
	w.eventually("lock-wait true", func() any {
		st := s.Status()
		if len(st.Waiting) == 0 {
			return ""
		}
		return fmt.Sprint(st.Waiting[0].Code, " ", st.WarehouseUp)
	})
	w.eventually(1, func() any { return len(s.Status().Locks) })
	if _, err := person.Exec(t.Context(), `COMMIT`); err != nil {
		t.Fatal(err)
	}
	w.complete(a)
	w.rows(`SELECT id FROM public.ta ORDER BY 1`, "0", "1")
	w.rows(`SELECT code FROM tributary.quarantine`)
	w.eventually(0, func() any { return len(s.Status().Waiting) })
}

// TestWaitThatIsOverIsNotTold: sources that are written as a whole wait for different things, and what one of them waited for is over before the other goes on.
func TestWaitThatIsOverIsNotTold(t *testing.T) {
	w := newWorld(t)
	s, a, b, ra, rb := w.twoWhole()
	w.exec(`CREATE TABLE ill (name text); INSERT INTO ill VALUES ('full'), ('altered'); GRANT SELECT ON ill TO PUBLIC;
		CREATE FUNCTION ill() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
		  IF EXISTS (SELECT FROM public.ill WHERE name = TG_ARGV[0]) THEN
		    IF TG_ARGV[0] = 'full' THEN RAISE EXCEPTION 'the disk is full' USING ERRCODE = '53100'; END IF;
		    UPDATE tributary.feed SET shape = jsonb_set(shape, '{columns}', '[]') WHERE topic = 'b.public.tb';
		  END IF; RETURN NEW; END $$;
		CREATE TRIGGER ill BEFORE INSERT ON public.ta FOR EACH ROW EXECUTE FUNCTION ill('full');
		CREATE TRIGGER ill BEFORE INSERT ON public.tb FOR EACH ROW EXECUTE FUNCTION ill('altered')`)
	a.tx(ins(ra, 1))
	b.tx(ins(rb, 1))
	told := func() any {
		var all []string
		for _, one := range s.Status().Waiting {
			all = append(all, one.For)
		}
		slices.Sort(all)
		return strings.Join(all, " ")
	}
	w.eventually("target warehouse", told)
	w.exec(`DELETE FROM ill WHERE name = 'altered'`)
	w.complete(b)
	w.eventually("warehouse", told)
	w.exec(`DELETE FROM ill`)
	w.complete(a)
	w.eventually("", told)
}

// TestSourceThatWaitedAndIsHeld: of one that is held when it has waited, nobody reads in the log that it goes on.
func TestSourceThatWaitedAndIsHeld(t *testing.T) {
	w := newWorld(t)
	w.cfg.Sources = []rule.Source{{Name: "*", Consistency: "source"}}
	shop := w.source("shop")
	r := relation("t", "id integer key")
	var log strings.Builder
	s := w.startLogging(w.cfg, slog.New(slog.NewTextHandler(&log, nil)))
	shop.tx(ins(r, 0))
	w.complete(shop)
	const raises = `CREATE OR REPLACE FUNCTION raises() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '%s'; END $$;`
	w.exec(fmt.Sprintf(raises, "lock_not_available") + `CREATE TRIGGER raises BEFORE INSERT ON public.t FOR EACH ROW EXECUTE FUNCTION raises()`)
	shop.tx(ins(r, 1))
	w.eventually(1, func() any { return len(s.Status().Waiting) })
	w.exec(fmt.Sprintf(raises, "check_violation"))
	w.rows(`SELECT code FROM tributary.quarantine`, "constraint-violation")
	w.eventually(0, func() any { return len(s.Status().Waiting) })
	s.stop()
	if text := log.String(); strings.Contains(text, "goes on") || !strings.Contains(text, "waiting, and trying again") {
		t.Error(text)
	}
}

// TestTargetThatIsAlteredAllTheTime: a target that turns out to have changed each time, as when somebody makes hundreds of partitions one by one, is
// nothing that holds a table: it is written when that is over.
func TestTargetThatIsAlteredAllTheTime(t *testing.T) {
	t.Parallel() // it waits most of its time
	for _, consistency := range []string{"table", "source"} {
		t.Run(consistency, func(t *testing.T) {
			w := newWorld(t)
			w.cfg.Sources = []rule.Source{{Name: "*", Consistency: consistency}}
			shop := w.source("shop")
			r, other := relation("t", "id integer key"), relation("other", "id integer key")
			s := w.start(w.cfg)
			shop.tx(ins(r, 0), ins(other, 0))
			w.complete(shop)
			w.exec(`CREATE SEQUENCE tries; GRANT ALL ON SEQUENCE tries TO PUBLIC;
				CREATE FUNCTION altered() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
				  IF nextval('public.tries') <= 12 THEN -- what is noted of the target is another than it was
				    UPDATE tributary.feed SET shape = jsonb_set(shape, '{columns}', '[]') WHERE topic = 'shop.public.t';
				  END IF; RETURN NEW; END $$;
				CREATE TRIGGER altered BEFORE INSERT ON public.t FOR EACH ROW EXECUTE FUNCTION altered()`)
			shop.tx(ins(r, 1), ins(other, 1))
			w.eventually("target true true", func() any {
				st := s.Status()
				if len(st.Waiting) == 0 {
					return ""
				}
				return fmt.Sprint(st.Waiting[0].For, " ", strings.Contains(st.Waiting[0].Error, ": target table has changed while it was written"), " ", st.WarehouseUp)
			})
			w.complete(shop)
			w.rows(`SELECT count(*) FROM public.t`, "2")
			w.rows(`SELECT last_value > 12 FROM tries`, "t")
			w.rows(`SELECT code FROM tributary.quarantine`)
			w.eventually(0, func() any { return len(s.Status().Waiting) })
		})
	}
}

// TestTargetThatIsAlteredForTooLong: only what is altered for so long counts, not what a flush has waited for before.
func TestTargetThatIsAlteredForTooLong(t *testing.T) {
	const patience = 3 * time.Second
	was := sink.AlteredPatience(patience)
	t.Cleanup(func() { sink.AlteredPatience(was) }) // when the sink has ended
	w := newWorld(t)
	shop := w.source("shop")
	r := relation("t", "id integer key")
	s := w.start(w.cfg)
	shop.tx(ins(r, 0))
	w.complete(shop)
	w.exec(`CREATE SEQUENCE tries; GRANT ALL ON SEQUENCE tries TO PUBLIC;
		CREATE FUNCTION altered() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
		  IF clock_timestamp() < TG_ARGV[0]::timestamptz THEN
		    RAISE EXCEPTION 'later' USING ERRCODE = 'lock_not_available';
		  ELSIF nextval('public.tries') <= 4 OR NEW.id = 2 THEN
		    UPDATE tributary.feed SET shape = jsonb_set(shape, '{columns}', '[]') WHERE topic = 'shop.public.t';
		  END IF; RETURN NEW; END $$`)
	w.exec(fmt.Sprintf(`CREATE TRIGGER altered BEFORE INSERT ON public.t FOR EACH ROW EXECUTE FUNCTION altered(%s)`, postgres.Literal(time.Now().Add(patience+time.Second).Format(time.RFC3339Nano))))
	shop.tx(ins(r, 1))
	w.complete(shop)
	w.rows(`SELECT last_value > 4 FROM tries`, "t")
	w.rows(`SELECT code FROM tributary.quarantine`)
	shop.tx(ins(r, 2))
	w.rows(`SELECT code, hint FROM tributary.quarantine`, "schema-change-blocked|wait until nobody alters it any more; then sink resume SOURCE/TABLE")
	w.reported([]string{"", "sink resume shop/public.t"}, func() any { return steps(s.Status()) }, shop)
	w.exec(`DROP TRIGGER altered ON public.t`)
	if _, err := w.operator().Resume(t.Context(), warehouse.Going{Source: "shop", Table: "public.t"}); err != nil {
		t.Fatal(err)
	}
	w.complete(shop)
	w.rows(`SELECT id FROM public.t ORDER BY 1`, "0", "1", "2")
}
