package sink_test

import (
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/sink"
	"github.com/tributary-cdc/tributary/sink/warehouse"
)

// TestCompactionHeadroom: from a topic that somebody has had compacted, records go that are not applied.
func TestCompactionHeadroom(t *testing.T) {
	w := newWorld(t)
	w.cfg.Freshness = time.Second
	shop := w.source("shop")
	a, b, c := relation("a", "id integer key"), relation("b", "id integer key"), relation("c", "id integer key")
	shop.tx(ins(a, 1), ins(b, 1), ins(c, 1))
	alter := func(name, value string, topics ...string) {
		t.Helper()
		altered, err := kadm.NewClient(shop.client).AlterTopicConfigs(t.Context(), []kadm.AlterConfig{{Name: name, Value: &value}}, topics...)
		if err != nil || altered[0].Err != nil {
			t.Fatal(err, altered)
		}
	}
	alter("cleanup.policy", "compact", "shop.public.a", "shop.public.b")
	alter("min.compaction.lag.ms", "3600000", "shop.public.b")
	s, o := w.start(w.cfg), w.operator()
	w.complete(shop)
	if err := o.Pause(t.Context(), "shop", "", "", 0); err != nil {
		t.Fatal(err)
	}
	w.eventually(false, func() any {
		return slices.ContainsFunc(s.Status().Tables, func(table sink.TableStatus) bool { return table.State != service.StatePaused })
	})
	shop.tx(ins(a, 2), ins(b, 2), ins(c, 2))
	w.eventually("Kafka may delete records of shop/public.a that are not applied at any time; the oldest record of shop/public.b that is not applied is deleted by Kafka", func() any {
		var told []string
		for _, n := range s.Status().Needs {
			if n.Code == trouble.RetentionHeadroom {
				what, _, _ := strings.Cut(n.What, " in ")
				told = append(told, what)
			}
		}
		slices.Sort(told)
		return strings.Join(told, "; ")
	})
}

// TestRetentionHeadroom: of a topic that keeps its records for an hour, a table that stands is in danger to lose what waits; one that does not
// stand, and one whose topic keeps all, are not. It is told until the table goes on.
func TestRetentionHeadroom(t *testing.T) {
	w := newWorld(t)
	w.cfg.Freshness = time.Second
	a, b, c := relation("a", "id integer key"), relation("b", "id integer key"), relation("c", "id integer key")
	shop := w.source("shop")
	shop.tx(ins(a, 1), ins(b, 1), ins(c, 1))
	altered, err := kadm.NewClient(shop.client).AlterTopicConfigs(t.Context(), []kadm.AlterConfig{{Name: "retention.ms", Value: new("3600000")}}, "shop.public.a", "shop.public.c")
	if err != nil || altered[0].Err != nil || altered[1].Err != nil {
		t.Fatal(err, altered)
	}
	one, o := w.start(w.cfg), w.operator()
	w.complete(shop)
	for _, table := range []string{"public.a", "public.b"} {
		if err := o.Pause(t.Context(), "shop", table, "", 0); err != nil {
			t.Fatal(err)
		}
	}
	paused := func() (n int) {
		for _, table := range one.Status().Tables {
			if table.State == service.StatePaused {
				n++
			}
		}
		return n
	}
	w.eventually(2, func() any { return paused() })
	shop.tx(ins(a, 2), ins(b, 2), ins(c, 2))
	told := func() (needs []service.Need) {
		for _, n := range one.Status().Needs {
			if n.Code == trouble.RetentionHeadroom {
				needs = append(needs, n)
			}
		}
		return needs
	}
	w.eventually(1, func() any { return len(told()) })
	n := told()[0]
	if !n.Urgent || n.Subject != "shop/public.a" || !strings.Contains(n.What, "about 60 min") || !strings.Contains(n.Why, "topic shop.public.a keeps records for 1 h 0 min; the table is paused") ||
		n.Do[0].Command != "sink resume shop/public.a" || n.Do[1].Command != "capture topics set shop.public.a --retention forever" {
		t.Errorf("%+v", n)
	}
	if _, metrics := one.get("/metrics"); !regexp.MustCompile(`(?m)^tributary_sink_retention_headroom_seconds{group="warehouse",source="shop",table="public.a"} 3[.5]`).MatchString(metrics) ||
		!strings.Contains(metrics, `tributary_sink_retention_headroom_seconds{group="warehouse",source="shop",table="public.c"} +Inf`) {
		t.Error("the metric does not say the same")
	}
	if _, err := o.Resume(t.Context(), warehouse.Going{Source: "shop", Table: "public.a"}); err != nil {
		t.Fatal(err)
	}
	w.eventually(0, func() any { return len(told()) })
}
