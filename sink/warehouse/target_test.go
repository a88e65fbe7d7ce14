package warehouse

import (
	"context"
	"fmt"
	"testing"

	"github.com/tributary-cdc/tributary/sink/rule"
)

// BenchmarkLookAtTarget is what a target's first record asks of the catalog of a warehouse that has 2000 targets.
func BenchmarkLookAtTarget(b *testing.B) {
	w, _ := own(b)
	conn, err := w.connect(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = conn.Close(context.WithoutCancel(b.Context())) })
	for range 8 { // a transaction has room for so many locks
		if _, err := conn.Exec(b.Context(), `
			DO $$ BEGIN
				FOR i IN 1..250 LOOP
					EXECUTE (SELECT format('CREATE TABLE public.t%s (id bigint PRIMARY KEY, a text, b text, c timestamptz, d numeric, e int, f int, g text)', count(*)) FROM tributary.feed);
					INSERT INTO tributary.feed (grp, target_schema, target_table, sid, topic) SELECT 'warehouse', 'public', 't' || count(*), '', 'shop.public.t' || count(*) FROM tributary.feed;
				END LOOP;
			END $$`); err != nil {
			b.Fatal(err)
		}
	}
	target, s := rule.Target{Schema: "public", Table: "t1000"}, w.Session()
	b.Run("columns", func(b *testing.B) {
		for b.Loop() {
			if list, err := readColumns(b.Context(), conn, target); err != nil || len(list) != 8 {
				b.Fatal(list, err)
			}
		}
	})
	b.Run("guards", func(b *testing.B) {
		tx, err := conn.Begin(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		defer func() { _ = tx.Rollback(context.WithoutCancel(b.Context())) }()
		for b.Loop() { // and cascades
			if _, err := s.nature(b.Context(), tx, &rule.Plan{Route: &rule.Route{Target: target}}, "public.t1000"); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("cascades", func(b *testing.B) {
		for b.Loop() {
			if _, _, err := s.cascades(b.Context(), conn, target); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("forms", func(b *testing.B) { // of 500 targets, which one flush writes
		var units []Unit
		for i := range 500 {
			have, err := readColumns(b.Context(), conn, rule.Target{Schema: "public", Table: fmt.Sprintf("t%d", i)})
			if err != nil {
				b.Fatal(err)
			}
			t := &Target{}
			used := map[string]bool{}
			for _, c := range have {
				used[c.name] = true
			}
			t.formOf(have, used)
			units = append(units, Unit{Topic: fmt.Sprintf("shop.public.t%d", i), Target: t})
			if err := conn.QueryRow(b.Context(), `SELECT `+mappingForm+` FROM (SELECT 'warehouse'::text, $1::text, $2::text) s(grp, oid, topic)`, t.oid, units[i].Topic).Scan(&t.mapping); err != nil {
				b.Fatal(err)
			}
		}
		if err := s.open(b.Context()); err != nil {
			b.Fatal(err)
		}
		for b.Loop() {
			if err := s.run(b.Context(), []statement{w.sameForms(units)}); err != nil {
				b.Fatal(err)
			}
		}
	})
}
