package sink_test

import (
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/tributary-cdc/tributary/pkg/kafkatest"
	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/schema"
	"github.com/tributary-cdc/tributary/sink"
	"github.com/tributary-cdc/tributary/sink/rule"
)

// status is what a sink says over HTTP.
func (r *running) status() *sink.Status {
	r.t.Helper()
	var st sink.Status
	if _, text := r.get("/status"); json.Unmarshal([]byte(text), &st) != nil {
		r.t.Fatalf("no status: %s", text)
	}
	return &st
}

func tableOf(st *sink.Status, name string) sink.TableStatus {
	for _, t := range st.Tables {
		if t.Table == name {
			return t
		}
	}
	return sink.TableStatus{Unknown: "there is no such table"}
}

// pair is a group of two sinks, with a source whose tables t0, t1 … they write.
type pair struct {
	*world
	shop   *source
	tables []*schema.Relation
	sinks  []*running
}

func (w *world) pair(source string, tables int, partitions int32) *pair {
	w.t.Helper()
	p := &pair{world: w, shop: w.source(source)}
	for i := range tables {
		r := relation(fmt.Sprintf("t%d", i), "id integer key")
		p.tables = append(p.tables, r)
		p.shop.table(r, partitions)
		p.shop.tx(ins(r, 0))
	}
	p.sinks = []*running{w.start(w.cfg), w.start(w.cfg)}
	w.complete(p.shop)
	return p
}

// late lets changes of an hour ago come to a table while nothing can be written to it, until the end of told.
func (p *pair) late(table int, rows int, told func(name string)) {
	p.t.Helper()
	name := p.tables[table].Name
	blocker := p.connect(p.dsn)
	if _, err := blocker.Exec(p.t.Context(), `BEGIN; LOCK TABLE public.`+name+` IN EXCLUSIVE MODE`); err != nil {
		p.t.Fatal(err)
	}
	p.shop.now = func() time.Time { return time.Now().Add(-time.Hour) }
	for i := range rows { // a commit marker behind each
		p.shop.tx(ins(p.tables[table], 100+i))
	}
	p.shop.now = time.Now
	told("public." + name)
	if _, err := blocker.Exec(p.t.Context(), `COMMIT`); err != nil {
		p.t.Fatal(err)
	}
	p.complete(p.shop)
}

// says gives in words what a status says of a table.
func says(t sink.TableStatus) string {
	if t.BehindSeconds == nil || t.Records == nil {
		return "unknown: " + t.Unknown
	}
	behind := "no time"
	if *t.BehindSeconds > 0 {
		behind = fmt.Sprintf("%d h", int(*t.BehindSeconds)/3600)
	}
	return fmt.Sprintf("%s, %s behind, %d records", t.State, behind, *t.Records)
}

// TestMembersTellOfEachOther: whichever member is asked tells of all tables how far they are, and how fast they go; nobody is asked while
// nobody looks. So does the verb without any.
func TestMembersTellOfEachOther(t *testing.T) {
	kafkatest.Each(t, func(t *testing.T, cluster kafkatest.Cluster) {
		w := newWorldOn(t, cluster)
		name := kafkatest.Name(t) // the broker is shared
		w.cfg.Group, w.cfg.Sources = name, []rule.Source{{Name: name}}
		p := w.pair(name, 6, 1)
		w.eventually("7 in all, each some", func() any {
			one, two := p.sinks[0].Status().Partitions, p.sinks[1].Status().Partitions
			return fmt.Sprintf("%d in all, %s", one+two, map[bool]string{true: "each some", false: "one none"}[one > 0 && two > 0])
		})
		elsewhere := 0 // the first table of which the first sink knows nothing
		for tableOf(p.sinks[0].Status(), fmt.Sprintf("public.t%d", elsewhere)).Partitions > 0 {
			elsewhere++
		}
		if got := says(tableOf(p.sinks[0].Status(), fmt.Sprintf("public.t%d", elsewhere))); got != "unknown: not looked yet" {
			t.Errorf("nobody looks, but it is %s", got)
		}
		for _, s := range p.sinks {
			asked := time.Now()
			first := s.status() // waits for the first look
			waited := time.Since(asked)
			for i := range p.tables {
				name := fmt.Sprintf("public.t%d", i)
				if got := says(tableOf(first, name)); got == "unknown: not looked yet" && waited < sink.FirstLook {
					t.Errorf("t%d is %s after %s", i, got, waited)
				}
				w.eventually("up_to_date, no time behind, 0 records", func() any { return says(tableOf(s.status(), name)) })
			}
		}
		o := w.operator()
		// The marker behind what was written before may be behind the checkpoint, or not: then it is one of the records.
		marked := strings.NewReplacer(", 11 records", ", 10 records", ">11<", ">10<")
		p.late(elsewhere, 5, func(name string) {
			for i, s := range p.sinks {
				w.eventually("1 h behind, 10 records", func() any { // after some seconds its owner says what it waits for
					_, far, _ := strings.Cut(says(tableOf(s.status(), name)), ", ")
					return marked.Replace(far)
				})
				if got := tableOf(s.status(), name).Partitions; got != i {
					t.Errorf("sink %d has %d partitions of it", i, got)
				}
				w.eventually(true, func() any {
					_, html := s.get("/")
					_, row, _ := strings.Cut(html, ">"+p.shop.name+"/"+name+"</a>")
					row, _, _ = strings.Cut(row, "</tr>")
					return strings.Contains(row, `data-label="behind">1 h `) && strings.Contains(marked.Replace(row), `data-label="records">10<`)
				})
			}
			w.eventually("catching_up, 1 h behind, 10 records", func() any { // without a sink
				r, err := o.Ask(t.Context(), w.cfg, service.Whom{Direct: true})
				if err != nil {
					return err
				}
				return marked.Replace(says(tableOf(r.Status, name)))
			})
		})
		for _, s := range p.sinks {
			w.eventually("up_to_date, no time behind, 0 records", func() any { return says(tableOf(s.status(), fmt.Sprintf("public.t%d", elsewhere))) })
			w.eventually("2 members, true true true", func() any {
				st := s.status()
				rate := func(n *float64) bool { return n != nil && *n > 0 }
				member := false
				for _, m := range st.Members {
					member = member || rate(m.RowsPerSec)
				}
				return fmt.Sprintf("%d members, %v %v %v", len(st.Members), rate(tableOf(st, fmt.Sprintf("public.t%d", elsewhere)).RowsPerSec), rate(st.RowsPerSecGroup), member)
			})
		}
	})
}

// TestMembersTellOfWholeSources: likewise, of a source that one of them writes as a whole, the others not at all. Commit markers, which stay
// behind the last change, are no lag.
func TestMembersTellOfWholeSources(t *testing.T) {
	w := newWholeWorld(t)
	p := w.pair("shop", 2, 3)
	writes := func(s *running) any { return tableOf(s.status(), "public.t0").Partitions }
	w.eventually(3, func() any { return writes(p.sinks[0]).(int) + writes(p.sinks[1]).(int) })
	p.late(0, 4, func(name string) {
		for _, s := range p.sinks {
			w.eventually("1 h behind", func() any {
				_, behind, _ := strings.Cut(says(tableOf(s.status(), name)), ", ")
				behind, _, _ = strings.Cut(behind, ", ")
				return behind
			})
		}
	})
	for _, s := range p.sinks {
		for _, name := range []string{"public.t0", "public.t1"} {
			w.eventually("up_to_date, no time behind, 0 records", func() any { return says(tableOf(s.status(), name)) })
		}
	}
	w.eventually(true, func() any { // not only the one that writes
		one, two := tableOf(p.sinks[0].status(), "public.t0").RowsPerSec, tableOf(p.sinks[1].status(), "public.t0").RowsPerSec
		return one != nil && two != nil && *one > 0 && *two > 0
	})
}

// TestBehindAsCapture: a warehouse that has all there is in Kafka is behind its source as capture is, be it that this is paused or that
// it catches up.
func TestBehindAsCapture(t *testing.T) {
	w := newWorld(t)
	shop, r := w.source("shop"), relation("t", "id integer key")
	shop.tx(ins(r, 1))
	s := w.start(w.cfg)
	w.complete(shop)
	age := func() any {
		for _, src := range s.Status().Sources {
			if src.AgeSeconds != nil {
				if until := time.Since(*src.CompleteUntil).Seconds(); math.Abs(until-*src.AgeSeconds) > 5 {
					t.Errorf("complete until %s, %f s ago", src.CompleteUntil, *src.AgeSeconds)
				}
				return int(*src.AgeSeconds) / 60
			}
		}
		return "unknown"
	}
	w.eventually(0, age)
	shop.behind = 10*time.Minute + time.Second
	shop.tx(ins(r, 2))
	w.complete(shop)
	w.rows(`SELECT lag > '10 min' AND lag < '11 min', complete_ts > now() - interval '1 min' FROM tributary.progress`, "t|t") // it has the commit of now
	w.eventually(10, age)
	shop.behind = 0
	shop.tx(ins(r, 3))
	w.eventually(0, age)
}

func TestOffsetsForLagTools(t *testing.T) {
	w := newWorld(t)
	shop := w.source("shop")
	r := relation("t", "id integer key")
	shop.tx(ins(r, 1))
	shop.tx(ins(r, 2))
	w.start(w.cfg)
	w.complete(shop)
	// Two records and two commit markers.
	w.eventually(int64(4), func() any { return committedOffset(t, shop, "warehouse", "shop.public.t") })
	w.rows(`SELECT next_offset, applied_rows FROM tributary.checkpoint WHERE topic = 'shop.public.t'`, "4|2")
}
