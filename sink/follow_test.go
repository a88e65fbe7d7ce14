package sink_test

import (
	"fmt"
	"testing"
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
