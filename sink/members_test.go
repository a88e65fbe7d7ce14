package sink_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/tributary-cdc/tributary/pkg/pgtest"
	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/sink"
)

// said gives in words what is told of each member, under the names that the test has for them.
func said(st *sink.Status, names map[string]string) string {
	var all []string
	for _, m := range st.Members {
		text := names[m.Instance]
		if text == "" {
			text = m.Instance
		}
		switch {
		case m.SeenAt == nil:
			text += " says nothing"
		case m.Ended:
			text += " ended"
		case m.SilentSeconds > 0:
			text += " silent"
		}
		all = append(all, text)
	}
	return strings.Join(all, ", ")
}

// TestMembersTellOfThemselves: whichever member is asked tells of all with host, version, since when and memory, as they wrote it when
// they joined; when none is left, when they were seen last.
func TestMembersTellOfThemselves(t *testing.T) {
	w := newWorld(t)
	began := time.Now().Add(-time.Second)
	p := w.pair("shop", 4, 2)
	// Of another group, whatever it has.
	w.exec(`INSERT INTO tributary.member VALUES ('other', 'stranger', 'h', '1', now(), 1, 0, now()), ('other', 'gone', 'h', '1', now(), 1, 0, now() - interval '1 day')`)
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]string{p.sinks[0].status().Instance: "a", p.sinks[1].status().Instance: "b"}
	for _, s := range p.sinks {
		w.eventually(true, func() any { return said(s.status(), names) == "a, b" || said(s.status(), names) == "b, a" })
		partitions := 0
		for _, m := range s.status().Members {
			partitions += m.Partitions
			if m.Host != host || m.Version != service.ThisBuild().Version || m.Since.Before(began) || m.MemoryBytes < 1<<20 || m.BusyShare == nil || m.SeenAt.Before(began) {
				t.Errorf("%+v", m)
			}
		}
		if partitions != 4*2+1 {
			t.Errorf("they have %d partitions", partitions)
		}
		_, html := s.get("/")
		if n := strings.Count(html, `<td data-label="host">`+host+`</td>`); n != 2 {
			t.Errorf("the page tells %d hosts", n)
		}
	}
	p.sinks[1].stop()
	w.rows(`SELECT count(*) FROM tributary.member WHERE grp = 'warehouse' AND ended`, "1")
	w.eventually("a", func() any { return said(p.sinks[0].status(), names) })
	p.sinks[0].stop()
	r, err := w.operator().Ask(t.Context(), w.cfg, service.Whom{Direct: true})
	if err != nil {
		t.Fatal(err)
	}
	if got := said(r.Status, names); got != "a ended, b ended" && got != "b ended, a ended" || r.State != service.StateNotRunning {
		t.Errorf("%s: %s", r.State, got)
	}
	w.rows(`SELECT count(*), max(now() - seen_at) > '1 hour' FROM tributary.member WHERE grp = 'other'`, "2|t")
	w.exec(`DROP TABLE tributary.member; UPDATE tributary.version SET version = 10`) // a sink of before has made them
	if r, err = w.operator().Ask(t.Context(), w.cfg, service.Whom{Direct: true}); err != nil || len(r.Members) != 0 {
		t.Errorf("%+v, %v", r, err)
	}
}

// TestGoneMembers: who says nothing any more is told so, and is forgotten; who never did, as its version does not, is there as well.
func TestGoneMembers(t *testing.T) {
	w := newWorld(t)
	w.warehouse("first") // makes the own tables
	w.exec(`INSERT INTO tributary.member SELECT 'warehouse', name, 'h', '1', now(), 1, 0, now() - make_interval(secs => ago), ended
		FROM (VALUES ('0 fresh', 0, false), ('1 late', 15, false), ('2 quiet', 41, false), ('2 quiet, without a partition', 41, false), ('3 ended', 5, true), ('4 gone', 601, false), ('5 gone, but named', 601, false), ('6 gone', 480, true)) v(name, ago, ended);
		INSERT INTO tributary.checkpoint (grp, topic, partition, topic_id, owner) VALUES
		('warehouse', 'left.public.t', 0, 'x', '5 gone, but named'), ('warehouse', 'left.public.t', 1, 'x', '7 older'), ('warehouse', 'left.public.t', 2, 'x', '2 quiet'), ('other', 'left.public.t', 0, 'x', '4 gone')`)
	s := w.start(w.cfg)
	names := map[string]string{s.Status().Instance: "this"}
	w.rows(`SELECT string_agg(left(instance, 1), '' ORDER BY instance) FROM tributary.member WHERE instance ~ '^\d '`, "0122356")
	// It owns nothing, and is one all the same.
	w.eventually("0 fresh, 1 late, 2 quiet silent, 7 older says nothing, this", func() any {
		w.exec(`UPDATE tributary.member SET seen_at = now() - interval '15 s' WHERE instance = '1 late'`) // in as many more it would be silent
		return said(s.status(), names)
	})
	if _, metrics := s.get("/metrics"); strings.Contains(metrics, "group_members") {
		t.Error("who has no progress to tell by tells of members")
	}
}

// TestMembersHoldNothingUp: where the members cannot be written, all else goes on; it is done later.
func TestMembersHoldNothingUp(t *testing.T) {
	w := newWorld(t)
	w.warehouse("first")
	blocker := w.connect(w.dsn)
	if _, err := blocker.Exec(t.Context(), `BEGIN; LOCK TABLE tributary.member IN ACCESS EXCLUSIVE MODE`); err != nil {
		t.Fatal(err)
	}
	shop, r := w.source("shop"), relation("t", "id integer key")
	shop.tx(ins(r, 0))
	s := w.start(w.cfg)
	w.complete(shop)
	names := map[string]string{s.status().Instance: "this"}
	w.reported("healthy: this says nothing", func() any {
		st := s.status()
		if st.State != service.StateUpToDate || len(st.Needs) > 0 || len(st.Waiting) > 0 {
			return fmt.Sprintf("%s: %+v", st.Headline, st.Needs)
		}
		return "healthy: " + said(st, names)
	}, shop)
	o := w.operator()
	ctx, cancel := context.WithTimeout(t.Context(), pgtest.Patience) // the lock is held until the end of the test
	defer cancel()
	if r, err := o.Ask(ctx, w.cfg, service.Whom{Direct: true}); err != nil || said(r.Status, names) != "this says nothing" {
		t.Fatalf("%+v, %v", r, err)
	}
	if err := o.Pause(ctx, "shop", "", "test", 0); err != nil { // the supervisor sees it
		t.Fatal(err)
	}
	w.reported(service.StatePaused, func() any { return s.status().State }, shop)
	if _, err := blocker.Exec(t.Context(), `COMMIT`); err != nil {
		t.Fatal(err)
	}
	w.rows(`SELECT count(*), bool_or(ended) FROM tributary.member`, "1|f")
	w.eventually("this", func() any { return said(s.status(), names) })
}
