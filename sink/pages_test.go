package sink

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"math"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tributary-cdc/tributary/pkg/browsertest"
	"github.com/tributary-cdc/tributary/pkg/config"
	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/service/page"
	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/schema/record"
	"github.com/tributary-cdc/tributary/sink/warehouse"
)

var pictures = flag.String("pictures", "", "directory for the pictures of the documentation, which are taken anew")

// shown is a moment of a group.
type shown struct {
	at    time.Time
	st    *Status
	table string // whose page is shown; "" for the page of all
	query string
	topic bool // there is one
}

// calm is a moment in which eight tables of two sources are well. Their topics have four partitions each, and with those of progress two sinks share them.
func calm(at time.Time) *shown {
	s := &shown{at: at, topic: true, st: &Status{
		Schema: statusSchema, Group: "warehouse", Instance: "sink-0", Build: service.Build{Version: "1.2.3", Revision: "9f3ac01"}, Since: at.Add(-3 * time.Hour).UTC(), MemoryBytes: 84 << 20, WarehouseUp: true,
		Partitions: 17, Rebalances: 1, RebalancedAt: new(at.Add(-3 * time.Hour).UTC()), BufferBytes: 38 << 20, BufferLimit: 256 << 20, LatencyP50: new(0.31), LatencyP99: new(0.94), ApplyP99: new(0.12), SkippedPerSec: 240,
		Waiting: []Waiting{}, Sources: []SourceStatus{}, Unmatched: []string{"billing.public.draft"}, FreshnessSeconds: 60,
		Stages: []service.StageState{{Name: "fetch", BusyShare: 0.08}, {Name: "apply", Workers: 4, BusyShare: 0.41}, {Name: "sweep"}},
		Events: []service.Event{{At: at.Add(-20 * time.Minute).UTC(), Text: "new topic, topic shop_us.public.orders"}, {At: at.Add(-3 * time.Hour).UTC(), Text: "sink begins, instance sink-0"}},
		Members: []Member{
			{
				Instance: "sink-0", Partitions: 17, AppliedAt: new(at.UTC()), RowsPerSec: new(8104.0), Host: "dwh-1", Version: "1.2.3", Since: new(at.Add(-3 * time.Hour).UTC()), MemoryBytes: 84 << 20, BusyShare: new(0.41),
				SeenAt: new(at.Add(-4 * time.Second).UTC()),
			},
			{
				Instance: "sink-1", Partitions: 17, AppliedAt: new(at.UTC()), RowsPerSec: new(4105.4), Host: "dwh-2", Version: "1.2.3", Since: new(at.Add(-29 * time.Hour).UTC()), MemoryBytes: 71 << 20, BusyShare: new(0.22),
				SeenAt: new(at.Add(-7 * time.Second).UTC()),
			},
		},
	}}
	for _, source := range []string{"shop_eu", "shop_us"} {
		s.st.Sources = append(s.st.Sources, SourceStatus{
			Name: source, State: service.StateUpToDate, CompleteLSN: "16/A8810F20", CompleteAt: new(at.Add(-400 * time.Millisecond).UTC()), AgeSeconds: new(0.4), Fences: []string{}, ReportedAt: at.UTC(),
			Capture: record.Health{State: "up_to_date", BehindSeconds: 0.3, WALKept: 1181116006, WALBudget: 50 << 30, HTTP: "http://10.0.0.7:9191"},
		})
		src := &s.st.Sources[len(s.st.Sources)-1]
		for i, of := range []struct {
			table string
			rate  float64
		}{{"public.customer", 4.2}, {"public.orders", 2140}, {"public.payment", 3960}, {"public.stock", 0.5}} {
			table := of.table
			src.RowsPerSec += of.rate
			s.st.Tables = append(s.st.Tables, TableStatus{
				Source: source, Table: table, Target: "sales." + table[len("public."):], State: service.StateUpToDate, BehindSeconds: new(0.3), Records: new(int64(0)), FreshnessSeconds: 60, RowsPerSec: new(of.rate), Applied: int64(of.rate * 3 * 3600),
				LastHour: hour(func(step int) float64 { return 0.3 * browsertest.Waver(table, 0.5, step) }), LastCommit: new(at.Add(-time.Duration(i) * time.Second).UTC()), Position: "0001.16/A8810F20.3",
				Partitions: 2, Mode: []string{"history", "clone"}[min(i, 1)], Topic: source + "." + table, Rule: "tables[1]",
			})
		}
		s.st.RowsPerSecGroup = new(value(s.st.RowsPerSecGroup) + src.RowsPerSec)
	}
	s.st.RowsPerSec = *s.st.Members[0].RowsPerSec
	sum := 0.0
	for step := range 360 {
		sum += applied(s.st, step)
	}
	s.st.RowsPerSecHour = new(sum / 360)
	return s
}

// hour gives a point for each minute, of what was so many steps of ten seconds ago.
func hour(value func(step int) float64) []float32 {
	var out []float32
	for i := range 60 {
		out = append(out, float32(value(6*(59-i))))
	}
	return out
}

func applied(st *Status, step int) float64 {
	return st.RowsPerSec * browsertest.Waver("applied", 0.2, step)
}

// was gives what the charts had so many steps of ten seconds ago, so that they end with what the tiles say: a table that is late
// stands since then, and what waits has come since.
func was(st *Status, step int) []float64 {
	ago, behind, waiting := float64(10*step), 0.0, 0.0
	skipped, p50, p99, apply := math.NaN(), math.NaN(), math.NaN(), math.NaN()
	for i := range st.Tables {
		t := &st.Tables[i]
		if t.BehindSeconds == nil || t.Records == nil {
			continue
		}
		behind = max(behind, min(*t.BehindSeconds, 0.3)*browsertest.Waver("behind", 0.5, step), *t.BehindSeconds-ago)
		waiting += float64(*t.Records) * max(0, 1-ago/max(*t.BehindSeconds, 10))
	}
	if st.LatencyP50 != nil && st.LatencyP99 != nil {
		p50, p99 = *st.LatencyP50*browsertest.Waver("p50", 0.2, step), *st.LatencyP99*browsertest.Waver("p99", 0.3, step)
	}
	if st.ApplyP99 != nil {
		apply = *st.ApplyP99 * browsertest.Waver("apply", 0.3, step)
	}
	if st.SkippedPerSec > 0 {
		skipped = st.SkippedPerSec * browsertest.Waver("skipped", 0.2, step)
	}
	return []float64{behind, st.FreshnessSeconds, applied(st, step), skipped, math.Round(waiting), p50, p99, apply}
}

// aside is what is put aside of a table, for two reasons.
func aside(at time.Time) map[trouble.Code]warehouse.ParkedCount {
	first, last := at.Add(-16*time.Minute), at.Add(-2*time.Minute)
	return map[trouble.Code]warehouse.ParkedCount{
		trouble.ValueOutOfRange: {Records: 1, Oldest: first, Newest: first}, trouble.ConstraintViolation: {Records: 2, Oldest: first, Newest: last},
	}
}

// poisoned is one in which a table is quarantined, and rows of another are parked.
func poisoned(at time.Time) *shown {
	s := calm(at)
	stock, orders := &s.st.Tables[3], &s.st.Tables[5]
	stock.State, stock.BehindSeconds, stock.Records, stock.RowsPerSec = service.StateQuarantined, new(2575.0), new(int64(1204)), new(0.0)
	stock.LastHour = hour(func(step int) float64 { return max(0.3, *stock.BehindSeconds-float64(10*step)) })
	stock.LastCommit = new(at.Add(-2575 * time.Second).UTC())
	stock.Trouble = &Trouble{
		Code: "constraint-violation", Topic: stock.Topic, Offset: 88120, Since: at.Add(-2575 * time.Second).UTC(),
		Message: `write to table "sales.stock", topic "shop_eu.public.stock" partition 0 offset 88120, key (id): new row for relation "stock" violates check constraint "stock_price_check" (SQLSTATE 23514), column "price"`,
		Hint:    "drop the constraint from the target, or mend its rows; then sink resume SOURCE/TABLE\nor put the row aside: sink resume SOURCE/TABLE --park",
	}
	orders.aside(aside(at))
	s.st.Sources[0].State, s.st.Sources[0].CompleteAt, s.st.Sources[0].AgeSeconds = service.StateQuarantined, stock.LastCommit, new(2575.0)
	return s
}

// moments have a page for each state that a table, a source or a group may be in, and for what is empty or broken.
var moments = map[string]func(at time.Time) *shown{
	"up_to_date": func(at time.Time) *shown { // on this host alone, or with a token
		s := calm(at)
		s.st.Configuration = "warehouse:\n    dsn: '***'\n"
		return s
	},
	"quarantined": poisoned,
	"table": func(at time.Time) *shown {
		s := poisoned(at)
		s.table = "shop_eu/public.stock"
		s.st.Tables[3].States = []service.Turn{{At: at.Add(-2575 * time.Second).UTC(), State: service.StateQuarantined}, {At: at.Add(-3 * time.Hour).UTC(), State: service.StateUpToDate}}
		s.st.Tables[3].Index = "a unique one on exactly the key"
		s.st.Tables[3].Plan = "shop_eu public.stock -> sales.stock        tables[1], mode clone\n\nColumns\n  SOURCE  TYPE         TARGET  TYPE     HOW\n  id      integer, key id      integer  as is\n"
		return s
	},
	"table_missing": func(at time.Time) *shown { s := calm(at); s.table = "shop_eu/public.stok"; return s },
	"grouped":       func(at time.Time) *shown { s := poisoned(at); s.query = "group=target"; return s },
	"filtered":      func(at time.Time) *shown { s := calm(at); s.query = "q=public.ordres"; return s },
	"silent": func(at time.Time) *shown {
		s := calm(at)
		s.st.Sources[1].SilentSeconds, s.st.Sources[1].State, s.st.Sources[1].ReportedAt = 41, service.StateSilent, at.Add(-41*time.Second).UTC()
		return s
	},
	"source_stopped": func(at time.Time) *shown { // one capture has said why it stopped, the other that it ended
		s := calm(at)
		for i := range s.st.Sources {
			src := &s.st.Sources[i]
			src.SilentSeconds, src.State, src.ReportedAt = 41, service.StateSilent, at.Add(-41*time.Second).UTC()
			src.Capture.State = service.StateNotRunning
		}
		s.st.Sources[1].Capture.State, s.st.Sources[1].Capture.Trouble, s.st.Sources[1].Capture.TroubleSince = service.StateStopped, "slot-lost", at.Add(-41*time.Second).UnixMicro()
		return s
	},
	"stopped": func(at time.Time) *shown {
		s := calm(at)
		t := &s.st.Tables[2]
		t.State, t.Records = service.StateStopped, new(int64(70))
		t.Trouble = &Trouble{Code: "topic-truncated", Message: "the checkpoint 88120 is below the first offset 90001 of the topic", Topic: t.Topic, Offset: 88120, Since: at.Add(-time.Minute).UTC()}
		return s
	},
	"paused": func(at time.Time) *shown {
		s := calm(at)
		t := &s.st.Tables[1]
		t.State, t.Records, t.PausedSince, t.PausedReason = service.StatePaused, new(int64(3100)), new(at.Add(-time.Hour).UTC()), "index is being built"
		return s
	},
	"outdated": func(at time.Time) *shown { // the rule of two tables was changed, somebody has dropped the target of a third, and sources has a source no more
		s := calm(at)
		left := s.st.Sources[1]
		left.Name, left.State, left.Reason, left.AgeSeconds = "billing", service.StateLeftOut, notNamed, nil
		s.st.Sources = append(s.st.Sources, left)
		until := at.Add(-26 * time.Hour).UTC()
		for i := range s.st.Tables[1:3] {
			s.st.Tables[1+i].Rule = s.st.Tables[1].Rule
			s.st.Tables[1+i].Former = []FormerRule{{Until: until, Differs: []string{"they are in sales.ledger, and not in sales.orders", "they have no values of column note"}, Target: "sales.ledger"}}
		}
		s.st.Tables[4].Former = []FormerRule{{Until: until, Differs: []string{`table "sales.stock" was gone, and was made anew: it has what was written since`}}}
		return s
	},
	"headroom": func(at time.Time) *shown { // of one that somebody has paused, and of one that is too slow
		s := calm(at)
		for i, state := range []string{service.StatePaused, service.StateBehind} {
			t := &s.st.Tables[1+i]
			t.State, t.Records, t.BehindSeconds = state, new(int64(310_000)), new(6.6*24*3600)
			t.endangered(7 * 24 * time.Hour)
		}
		s.st.Tables[1].PausedSince = new(at.Add(-158 * time.Hour).UTC())
		return s
	},
	"member": func(at time.Time) *shown { // of a group in which another one has half of the tables: what it could ask, and what not
		s := calm(at)
		for i := range s.st.Tables[4:] {
			t := &s.st.Tables[4+i]
			t.Partitions, t.Applied = 0, 0
			t.LastHour = slices.Concat(t.LastHour[:20], hour(func(int) float64 { return math.NaN() })[:38], t.LastHour[58:])
		}
		t := &s.st.Tables[5]
		t.State, t.BehindSeconds, t.Records, t.ETASeconds = service.StateCatchingUp, new(130.0), new(int64(372_400)), new(40.0)
		lost := &s.st.Tables[7]
		lost.BehindSeconds, lost.Records, lost.RowsPerSec, lost.Unknown, s.st.RowsPerSecGroup = nil, nil, nil, "what waits is not seen yet", nil
		lost.LastHour = hour(func(int) float64 { return math.NaN() })
		s.st.Sources[0].Fences = []string{"nightly-0711", "nightly-0712"}
		silent := &s.st.Members[1] // and may be anybody's program; the third is of a version before
		silent.Host, silent.Version, silent.SilentSeconds, silent.SeenAt = `"><script>alert(1)</script>`, "1.2.3\u202e<b>", 41, new(at.Add(-41*time.Second).UTC())
		s.st.Members = append(s.st.Members, Member{Instance: "sink-2", AppliedAt: new(at.UTC())})
		return s
	},
	"alike": func(at time.Time) *shown { // three tables of one source have the same, one of the other source too
		s := calm(at)
		for i, of := range []int{0, 1, 3, 5} {
			t := &s.st.Tables[of]
			t.State, t.Records, t.BehindSeconds = service.StateQuarantined, new(int64(40*i+1)), new(130.0)
			t.Trouble = &Trouble{
				Code: "target-type", Topic: t.Topic, Partition: int32(i), Offset: int64(7 + i), Since: at.Add(-time.Duration(130-i) * time.Second).UTC(),
				Message: fmt.Sprintf("write to column \"tenant\" of table %q, topic %q partition %d offset %d: the sid %q is not a number of type integer, in its plain form", t.Target, t.Topic, i, 7+i, t.Source),
				Hint:    "give the source a sid that is one: sources: [{name: " + t.Source + ", sid: \"1\"}]; then restart, and sink resume SOURCE/TABLE",
			}
		}
		return s
	},
	"barrier": func(at time.Time) *shown {
		s := calm(at)
		t := &s.st.Tables[1]
		t.State, t.Records, t.BehindSeconds, t.WaitingOn = service.StateWaiting, new(int64(3100)), new(41.0), "the other partitions of a TRUNCATE"
		t.Barrier = &Barrier{
			Position: "1:16/A8810F20.2", Since: at.Add(-41 * time.Second).UTC(), There: []int32{0},
			Missing: []Missing{{Partition: 1, Code: "constraint-violation", Owner: "sink-0"}, {Partition: 2}, {Partition: 3, Owner: "sink-1"}},
		}
		return s
	},
	"starting": func(at time.Time) *shown {
		s := calm(at)
		s.st.Step, s.st.Members, s.st.LatencyP50, s.st.LatencyP99, s.st.RowsPerSecHour = "joining the group", []Member{}, nil, nil, nil
		for i := range s.st.Tables {
			t := &s.st.Tables[i]
			t.LastHour, t.Partitions, t.BehindSeconds, t.Records, t.RowsPerSec, t.Unknown = []float32{}, 0, nil, nil, nil, notLooked
		}
		return s
	},
	"stuck": func(at time.Time) *shown {
		s := calm(at)
		t := &s.st.Tables[2]
		t.State, t.Records, t.BehindSeconds, t.RowsPerSec = service.StateStuck, new(int64(5000)), new(130.0), new(0.0)
		return s
	},
	"waiting": func(at time.Time) *shown {
		s := calm(at)
		s.st.WarehouseUp = false
		s.st.Waiting = []Waiting{{For: "warehouse", Since: at.Add(-41 * time.Second).UTC(), Tries: 7, Code: "warehouse-unreachable", Error: "connect to the warehouse: connection refused"}}
		for i := range s.st.Tables {
			t := &s.st.Tables[i]
			t.State, t.Records, t.BehindSeconds, t.RowsPerSec, t.WaitingOn = service.StateWaiting, new(int64(900*i)), new(41.0), new(0.0), "the warehouse"
		}
		for i := range s.st.Sources {
			src := &s.st.Sources[i]
			src.ReportedAt, src.AgeSeconds = at.Add(-41*time.Second).UTC(), new(41.4)
		}
		return s
	},
	"waiting_kafka": func(at time.Time) *shown { // which is away for so long that the group has taken all partitions back
		s := calm(at)
		for i, what := range []string{"group", "kafka"} {
			s.st.Waiting = append(s.st.Waiting, Waiting{For: what, Since: at.Add(time.Duration(i-41) * time.Second).UTC(), Tries: 7 - i, Code: "kafka-unreachable", Error: "list topics of Kafka: unable to dial: connection refused"})
		}
		for i := range s.st.Tables {
			t := &s.st.Tables[i]
			t.State, t.Partitions, t.RowsPerSec, t.BehindSeconds, t.Records, t.WaitingOn = service.StateWaiting, 0, nil, nil, nil, "Kafka"
		}
		for i := range s.st.Sources {
			src := &s.st.Sources[i]
			src.ReportedAt, src.AgeSeconds = at.Add(-46*time.Second).UTC(), new(46.4)
		}
		return s
	},
	"parked": func(at time.Time) *shown { s := calm(at); s.st.Tables[5].aside(aside(at)); return s },
	"lock": func(at time.Time) *shown { // and one whose holder this role may see little of
		s := calm(at)
		s.st.Locks = []Lock{
			{Table: "sales.payment", Since: at.Add(-41 * time.Second).UTC(), Here: true, PID: 4711, Application: "psql", User: "ada", State: "idle in transaction", Began: new(at.Add(-2 * time.Minute).UTC()), Statement: "ALTER", lane: 1},
			{Table: "sales.stock", Since: at.Add(-8 * time.Second).UTC(), Here: true, PID: 4712, Application: "DBeaver", User: "bob", lane: 2},
		}
		for lane, i := range []int{2, 3} {
			t := &s.st.Tables[i]
			t.State, t.Records, t.BehindSeconds, t.RowsPerSec = service.StateWaiting, new(int64(312)), new(41.0), new(0.0)
			t.WaitingOn, _ = s.st.waitOf([]int{1 + lane})
		}
		return s
	},
	"falling_behind": func(at time.Time) *shown {
		s := calm(at)
		t := &s.st.Tables[2]
		t.State, t.Records, t.BehindSeconds = service.StateBehind, new(int64(372_400)), new(400.0)
		return s
	},
	"catching_up": func(at time.Time) *shown {
		s := calm(at)
		t := &s.st.Tables[2]
		t.State, t.Records, t.BehindSeconds, t.ETASeconds = service.StateCatchingUp, new(int64(372_400)), new(130.0), new(40.0)
		return s
	},
	"snapshotting": func(at time.Time) *shown {
		s := calm(at)
		t, again := &s.st.Tables[2], &s.st.Tables[6]
		t.State, t.Snapshot, t.SnapshotRows, t.Records = service.StateSnapshotting, true, 2_118_004, new(int64(312))
		again.State, again.Snapshot, again.ReloadSince = service.StateSnapshotting, true, new(at.Add(-10*time.Minute).UTC())
		return s
	},
	"accepted": func(at time.Time) *shown {
		s := calm(at)
		s.st.Tables[5].aside(aside(at))
		s.st.accept = []service.Accept{{Code: "parked", Subject: "shop_us/*"}}
		return s
	},
	"no_topics": func(at time.Time) *shown {
		s := calm(at)
		s.topic, s.st.Sources, s.st.Tables, s.st.Members = false, []SourceStatus{}, []TableStatus{}, []Member{}
		return s
	},
}

// config is what the page of the moment is made with. It is made of the status's JSON, and of nothing else.
func (s *shown) config(t *testing.T, points int) page.Config {
	t.Helper()
	text, err := json.Marshal(s.st)
	if err != nil {
		t.Fatal(err)
	}
	st := &Status{}
	if err := json.Unmarshal(text, st); err != nil {
		t.Fatal(err)
	}
	st.accept, st.wants = s.st.accept, []string{"public.orders", "shop_*/public.*"}
	for i := range st.Sources {
		for j := range st.Tables {
			if src := &st.Sources[i]; st.Tables[j].Source == src.Name {
				src.State, src.Tables = service.WorseState(src.State, st.Tables[j].State), src.Tables+1
			}
		}
	}
	st.tell(s.topic, true, len(st.Waiting) > 0)
	for i := range st.Tables {
		t := &st.Tables[i]
		t.LastHour = t.LastHour[max(0, len(t.LastHour)-points):]
	}
	history := page.NewHistory(charts...)
	for step := points - 1; step >= 0; step-- {
		history.Sample(s.at.Add(-10*time.Second*time.Duration(step)), was(st, step)...)
	}
	history.Mark(st.Events)
	return page.Config{View: st.page, History: history, Log: slog.New(slog.DiscardHandler), Table: func(name string) (v page.View, ok bool) {
		one := *st
		one.Tables, one.Needs, one.Sources = slices.Clone(st.Tables), slices.Clone(st.Needs), slices.Clone(st.Sources)
		if !one.alone(name) {
			return v, false
		}
		return one.tablePage(), true
	}}
}

// TestCalmAddsUp: what the pictures show can be so.
func TestCalmAddsUp(t *testing.T) {
	st := calm(time.Now()).st
	here, all := 0, 0
	for i := range st.Tables {
		here += st.Tables[i].Partitions
		all += 4
	}
	all += len(st.Sources) // of progress
	members := 0
	for _, m := range st.Members {
		members += m.Partitions
	}
	if here+1 != st.Partitions || st.Members[0].Partitions != st.Partitions || members != all {
		t.Errorf("%d partitions here, tables have %d of them, members %d of %d", st.Partitions, here, members, all)
	}
}

// TestPages: what the page says in each state, without a browser. go test -update writes it anew.
func TestPages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(14 * time.Hour) // of the day
		for name, of := range moments {
			s := of(time.Now())
			query := s.query
			if s.table != "" {
				query = "table=" + s.table
			}
			html, err := s.config(t, 3).Main(query)
			if err != nil {
				t.Fatal(err)
			}
			if name == "quarantined" { // which is pictured
				browsertest.Agree(t, string(html), map[string]string{"Worst behind": "Freshness", "Changes applied/s": "Applied, 1 min", "Records waiting": "Waiting", "Latency, p50": "Latency, 5 min"})
			}
			if bytes.Contains(html, []byte("<li>capture ")) || bytes.Contains(html, []byte("<li>sink ")) {
				t.Errorf("%s: a command cannot be copied", name)
			}
			golden(t, filepath.Join("..", "pages", name+".html"), html)
		}
	})
	files, err := filepath.Glob("testdata/pages/*.html")
	if err != nil || len(files) != len(moments) {
		t.Errorf("%d files of %d moments: %v", len(files), len(moments), err)
	}
	for _, state := range append(slices.Clone(service.TableStates), service.StateSilent, service.StateStarting) {
		if moments[state] == nil {
			t.Errorf("no page is of state %s", state)
		}
	}
}

// A page is as large as one of fifty rows, whatever there is: what is well is counted, and lists go on on further pages.
func TestPageOfManyTenants(t *testing.T) {
	s := calm(time.Now())
	source, table := s.st.Sources[0], s.st.Tables[1]
	s.st.Sources, s.st.Tables = nil, nil
	for i := range 200 {
		source.Name = fmt.Sprintf("tenant_%03d", i)
		s.st.Sources = append(s.st.Sources, source)
		for j := range 10 {
			one := table
			one.Source, one.Table, one.Target = source.Name, fmt.Sprintf("public.t%d", j), fmt.Sprintf("sales.t%d", j)
			s.st.Tables = append(s.st.Tables, one)
		}
	}
	paused, catching := &s.st.Tables[13], &s.st.Tables[23]
	paused.State, catching.State, catching.BehindSeconds = service.StatePaused, service.StateCatchingUp, new(130.0)
	cfg := s.config(t, 60)
	for _, query := range []string{"", "group=source", "group=none", "open=sales.t1&open=sales.t2", "in=sales.t3", "q=tenant_1", "group=source&q=t", "rest=2"} {
		html, err := cfg.Main(query)
		if err != nil {
			t.Fatal(err)
		}
		var zipped bytes.Buffer
		z := gzip.NewWriter(&zipped)
		_, _ = z.Write(html)
		_ = z.Close()
		if len(html) > 180<<10 || zipped.Len() > 20<<10 {
			t.Errorf("?%s: %d bytes, %d zipped", query, len(html), zipped.Len())
		}
		if line := "<span>clone</span> <span>worst 2 min 10 s behind</span> <span>428,000 changes/s</span> <span class=\"note\">1 paused, 1 catching up, 198 up to date</span>"; query == "" && !bytes.Contains(html, []byte(line)) {
			t.Errorf("no line says %s", line)
		}
	}
}

// TestPictures takes the pictures of the documentation: make pictures.
func TestPictures(t *testing.T) {
	if *pictures == "" {
		t.Skip("no picture is asked for: make pictures")
	}
	s := moments["quarantined"](time.Now())
	server := service.NewServer("sink", config.HTTP{Listen: "127.0.0.1:0"}, slog.New(slog.DiscardHandler), func(service.Asked) any { return s.st })
	page.Handle(server, s.config(t, 360))
	browsertest.Pictures(t, server, "#tables", filepath.Join(*pictures, "sink"))
}
