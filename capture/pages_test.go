package capture

import (
	"bytes"
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

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/tributary-cdc/tributary/pkg/browsertest"
	"github.com/tributary-cdc/tributary/pkg/config"
	"github.com/tributary-cdc/tributary/pkg/kafka"
	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/service/page"
	"github.com/tributary-cdc/tributary/pkg/trouble"
)

var pictures = flag.String("pictures", "", "directory for the pictures of the documentation, which are taken anew")

// shown is a moment of a capture.
type shown struct {
	at      time.Time
	st      *Status
	unmoved time.Duration
	table   string // whose page is shown; "" for the page of all
	outage  *outage
}

// outage is one of Kafka, after which capture publishes faster than the source writes.
type outage struct {
	began, ended float64 // so many seconds ago
	writes, net  float64 // bytes a second: of WAL that the source writes, by which the backlog becomes less
}

// backlog gives the bytes that were to be published so many seconds ago.
func (o *outage) backlog(ago float64) float64 {
	return o.writes*max(0, o.began-max(ago, o.ended)) - o.net*max(0, o.ended-ago)
}

func (o *outage) behind(ago float64) float64 { return o.backlog(ago) / o.writes }

// pace gives how often as fast as the source writes was published.
func (o *outage) pace(ago float64) float64 {
	switch {
	case ago > o.began:
		return 1
	case ago > o.ended:
		return 0
	}
	return 1 + o.net/o.writes
}

// latency gives that of what was published in the five minutes before.
func (o *outage) latency(ago, calm, part float64) float64 {
	const window = 300
	switch {
	case ago > o.began-window:
		return calm
	case ago >= o.ended:
		return math.NaN()
	}
	first, last := o.behind(min(o.ended, ago+window)), o.behind(ago)
	return first + (last-first)*(1-part)
}

// calm is a moment in which all is well.
func calm(at time.Time) *shown {
	s := &shown{at: at, st: &Status{
		Schema: statusSchema, Source: "shop", Instance: "db1-4711-9f3a", State: service.StateUpToDate, Slot: "tributary_shop", Wanted: []string{"public.*", "!public.audit_*"}, Publications: []string{"tributary_shop", "tributary_shop_insert"}, MemoryBytes: 84 << 20, SystemID: "7361", Timeline: 1, Era: 1,
		Build: service.Build{Version: "1.2.3", Revision: "9f3ac01"}, Since: at.Add(-3 * time.Hour).UTC(), ServerVersion: "16.9", SeenAt: at.UTC(), LagSeconds: 0.04,
		WAL:          WAL{RetainedBytes: 300 << 20, BudgetBytes: 50 << 30, SlotStatus: "reserved", AsOf: at.UTC()},
		PublishedLSN: "16/B2F01A20", ServerLSN: "16/B2F01A20", PublishedTime: at.Add(-time.Second).UTC(), ChangesPerSecond: 6130, ChangesPerSecondHour: new(5284.0),
		PublishedBytesPerSecond: 6.7 * 1024 * 1024, SourceBytesPerSecond: 6.7 * 1024 * 1024, LatencyP50: new(0.04), LatencyP99: new(0.21), LatencyUsual: new(0.04),
		Snapshot: SnapshotStatus{TablesDone: 5, Tables: 5, Rows: 14_021_224, RowsExpected: new(int64(14_021_224)), EndedAt: at.Add(-2 * time.Hour).UTC()},
		Tables:   []TableStatus{}, Alarms: []TroubleStatus{},
		Stages: goes(0.12, 0.31, 0, 0.22),
		Events: []service.Event{{At: at.Add(-20 * time.Minute).UTC(), Text: "new table, table public.stock"}, {At: at.Add(-3 * time.Hour).UTC(), Text: "streaming, slot tributary_shop, tables 4"}},
	}}
	for i, of := range []struct {
		table   string
		rows    int64
		changes float64
	}{{"public.customer", 48_210, 2}, {"public.event", 9_204_871, 4100}, {"public.orders", 1_204_118, 820}, {"public.payment", 1_187_902, 790}, {"public.stock", 2_376_123, 418}} {
		table := of.table
		one := TableStatus{
			Table: table, State: service.StateStreaming, Level: "all", Topic: "shop." + table, SnapshotRows: of.rows, ChangesPerSecond: of.changes, Partitions: 4, SchemaID: 7 + i,
			LastChange: at.Add(-time.Duration(i) * time.Second).UTC(), Key: "(id)", States: nil,
		}
		one.ExpectedRows = new(one.SnapshotRows)
		s.st.Tables = append(s.st.Tables, one)
	}
	s.lastHour()
	return s
}

// goes are the stages that a capture has, with how busy they are: its own, not made up.
func goes(shares ...float64) []service.StageState {
	c, err := New(Config{Source: Source{Name: "shop"}, Registry: config.Registry{URL: "http://127.0.0.1:1"}}, Options{}, slog.New(slog.DiscardHandler))
	if err != nil {
		panic(err)
	}
	stages := c.stages.Snapshot()
	for i := range stages {
		stages[i].BusyShare = shares[i]
	}
	return stages
}

// waits is stages in which the one of this name waits.
func waits(stages []service.StageState, name, on string, since time.Time) []service.StageState {
	i := slices.IndexFunc(stages, func(st service.StageState) bool { return st.Name == name })
	stages[i].WaitingOn, stages[i].Since = on, since
	return stages
}

// changes gives those a second so many steps of ten seconds ago, of a table or of all.
func (s *shown) changes(name string, now float64, step int) float64 {
	if s.outage == nil {
		return now * browsertest.Waver(name, 0.2, step)
	}
	return now * s.outage.pace(float64(10*step)) / s.outage.pace(0) * browsertest.Waver(name, 0.2, step)
}

// lastHour makes of the rates of now what they were for an hour.
func (s *shown) lastHour() {
	for i := range s.st.Tables {
		t := &s.st.Tables[i]
		t.LastHour = nil
		for minute := range 60 {
			t.LastHour = append(t.LastHour, float32(s.changes(t.Table, t.ChangesPerSecond, 6*(59-minute))))
		}
	}
	sum := 0.0
	for step := range 360 {
		sum += s.changes("all", s.st.ChangesPerSecond, step)
	}
	s.st.ChangesPerSecondHour = new(sum / 360)
}

// late is a moment in which much is to be published, with a table that has no key.
func late(at time.Time) *shown {
	s := calm(at)
	o := &outage{began: 2424, ended: 660, writes: s.st.SourceBytesPerSecond, net: 11.7 * 1024 * 1024}
	s.outage = o
	s.st.LagSeconds, s.st.ToPublish, s.st.ETASeconds, s.st.ServerLSN = o.behind(0), int64(o.backlog(0)), new(o.backlog(0)/o.net), "17/B2F01A20"
	s.st.PublishedBytesPerSecond, s.st.ChangesPerSecond = o.writes*o.pace(0), s.st.ChangesPerSecond*o.pace(0)
	s.st.PublishedTime = at.Add(-time.Duration(o.behind(0)) * time.Second).UTC()
	s.st.LatencyP50, s.st.LatencyP99 = new(o.latency(0, 0, 0.5)), new(o.latency(0, 0, 0.99))
	s.st.WAL.RetainedBytes, s.st.WAL.GrowthBytesPerSecond = s.st.WAL.RetainedBytes+s.st.ToPublish, -o.net
	for i := range s.st.Tables {
		t := &s.st.Tables[i]
		t.ChangesPerSecond, t.LastChange = t.ChangesPerSecond*o.pace(0), s.st.PublishedTime.Add(-time.Duration(i)*time.Second)
	}
	s.lastHour()
	s.st.Stages = goes(0.05, 0.21, 0.01, 0.71)
	keyless(&s.st.Tables[1])
	return s
}

func keyless(t *TableStatus) {
	t.Level, t.Key, t.Reason, t.Help = "insert", "none: all values", "it has no primary key", `ALTER TABLE "public"."event" REPLICA IDENTITY FULL;`
}

func troubled(code trouble.Code, op, subject, cause string, since time.Time) *TroubleStatus {
	return &TroubleStatus{Code: code, Op: op, Subject: subject, Cause: cause, Since: since.UTC()}
}

// moments have a page for each state that a capture or a table may be in, and for what is empty or broken.
var moments = map[string]func(at time.Time) *shown{
	"up_to_date": func(at time.Time) *shown { // on this host alone, or with a token
		s := calm(at)
		s.st.Configuration = "source:\n    dsn: '***'\n"
		return s
	},
	"catching_up": late,
	"quiet": func(at time.Time) *shown {
		s := calm(at)
		s.st.LagSeconds, s.st.ChangesPerSecond, s.st.PublishedTime = 0, 0, at.Add(-3*time.Hour).UTC()
		return s
	},
	"falling_behind": func(at time.Time) *shown {
		s := late(at)
		s.st.Falling, s.st.ETASeconds, s.st.SourceBytesPerSecond = true, nil, 21*1024*1024
		s.st.WAL.GrowthBytesPerSecond, s.st.WAL.FullInSeconds = 2.6*1024*1024, new(16_000.0)
		return s
	},
	"stopped": func(at time.Time) *shown {
		s := calm(at)
		s.st.State = service.StateStopped
		s.st.Trouble = troubled(trouble.SlotLost, "read WAL from", `slot "tributary_shop"`, "the server dropped the WAL that the slot needed (wal_status is lost)", at.Add(-time.Minute))
		return s
	},
	"starting": func(at time.Time) *shown {
		s := calm(at)
		s.st.State, s.st.Tables, s.st.Snapshot, s.st.WAL.AsOf, s.st.LatencyP50 = service.StateStarting, []TableStatus{}, SnapshotStatus{}, time.Time{}, nil
		s.st.SeenAt, s.st.ChangesPerSecondHour, s.st.ChangesPerSecond, s.st.PublishedBytesPerSecond = time.Time{}, nil, 0, 0
		s.st.Stages = waits(goes(0, 0, 0, 0), stageRead, waitOld, at.Add(-8*time.Minute))
		s.st.Oldest = &OpenTransaction{PID: 4711, Application: "psql", User: "ada", Since: at.Add(-2 * time.Hour).UTC()}
		return s
	},
	"standby": func(at time.Time) *shown {
		s := calm(at)
		s.st.HolderSince = at.Add(-2 * time.Hour).UTC()
		s.st.State, s.st.Holder, s.st.Tables, s.st.SeenAt, s.st.ChangesPerSecond = service.StateStandby, "db2-17-11aa", []TableStatus{}, time.Time{}, 0
		return s
	},
	"paused": func(at time.Time) *shown {
		s := calm(at)
		s.st.Paused = &PauseStatus{By: "ada", Reason: "disks are moved", Since: at.Add(-10 * time.Minute).UTC()}
		return s
	},
	"stuck": func(at time.Time) *shown { s := late(at); s.unmoved = 2 * time.Minute; return s },
	"waiting": func(at time.Time) *shown { // for the source, which does not answer
		s := calm(at)
		s.st.WAL.AsOf = at.Add(-41 * time.Second).UTC()
		s.st.Trouble = troubled(trouble.SourceUnreachable, "connect to", "the source", "dial tcp 10.0.0.5:5432: connection refused", at.Add(-41*time.Second))
		s.st.Trouble.Tries, s.st.Trouble.NextTry = 7, at.Add(8*time.Second).UTC()
		return s
	},
	"waiting_kafka": func(at time.Time) *shown {
		s := late(at)
		s.st.Stages = waits(goes(0, 0.02, 0, 0.93), stageEncode, waitKafka, at.Add(-20*time.Second))
		s.unmoved, s.st.brokers = 20*time.Second, []string{"10.0.0.3:9092", "10.0.0.4:9092"}
		return s
	},
	"waiting_replicas": func(at time.Time) *shown { // which it has learnt from a broker
		s := late(at)
		s.st.Stages = waits(goes(0, 0.02, 0, 0.93), stageEncode, waitKafka, at.Add(-41*time.Second))
		refused := kafka.Trouble("publish to", `topic "shop.public.orders" partition 2`, fmt.Errorf("broker 10.0.0.3:9092: %w", kerr.NotEnoughReplicas))
		s.st.Trouble, s.unmoved = new(tell(refused)), 41*time.Second
		s.st.Trouble.Since = at.Add(-36 * time.Second).UTC()
		return s
	},
	"snapshotting": func(at time.Time) *shown {
		s := calm(at)
		s.st.Snapshot = SnapshotStatus{TablesDone: 2, Tables: 5, Rows: 14_021_224, TablesReading: 3, RowsPerSecond: 28_200}
		for i, of := range []*int64{new(int64(16_000_000)), new(int64(2_000_000)), nil} {
			t := &s.st.Tables[2+i]
			t.State, t.SnapshotRows, t.ExpectedRows = service.StateSnapshotting, 2_118_004, of
			t.Snapshot = &TableSnapshot{State: []string{readReading, readHolding, readWaiting}[i], RowsPerSecond: []float64{14_200, 14_000, 0}[i], Rereads: 2 * i, BeganAt: at.Add(-150 * time.Second).UTC()}
		}
		s.st.Tables[2].Snapshot.ETASeconds, s.st.Tables[2].Snapshot.By = new(978.0), "ada"
		s.st.Tables[0].Snapshot = &TableSnapshot{State: readDone, RowsPerSecond: 9000, EndedAt: at.Add(-20 * time.Minute).UTC()}
		return s
	},
	"rereads": func(at time.Time) *shown { // of a commit that waits for a standby, of a transaction that is open, and of an alteration
		s := calm(at)
		s.st.Snapshot = SnapshotStatus{TablesDone: 2, Tables: 5, Rows: 14_021_224, TablesReading: 3}
		for i := range 3 {
			t := &s.st.Tables[2+i]
			t.State, t.SnapshotRows = service.StateSnapshotting, 2_118_004
			t.Snapshot = &TableSnapshot{State: readReading, BeganAt: at.Add(-150 * time.Second).UTC(), Rereads: 412, Unseen: 5 + 201*i, UnseenSince: at.Add(-time.Duration(6+30*i) * time.Second).UTC(), UnseenCommitted: i == 1, UnseenAltered: i == 2}
		}
		s.st.Oldest = &OpenTransaction{PID: 4711, Application: "psql", User: "ada", Since: at.Add(-8 * time.Minute).UTC()}
		return s
	},
	"held": func(at time.Time) *shown {
		s := calm(at)
		t := &s.st.Tables[2]
		t.State, t.HeldLSN = service.StateHeld, "16/B2F00000"
		t.Held = troubled(trouble.RecordTooLarge, "publish a change of", subject(t.Table), "a row is 7.4 MiB, the topic takes 1.0 MiB", at.Add(-time.Hour))
		t.Held.Hint = "capture topics set shop.public.orders --max-message-bytes 16MiB\ncapture snapshot --table public.orders --reload     when that is mended: the table goes on, and is loaded anew"
		return s
	},
	"wal_budget": func(at time.Time) *shown {
		s := calm(at)
		s.st.WAL.RetainedBytes, s.st.WAL.GrowthBytesPerSecond, s.st.WAL.FullInSeconds, s.st.WAL.SafeBytes = 40<<30, 9*1024*1024, new(1138.0), new(int64(5<<30))
		s.st.Alarms = append(s.st.Alarms, *troubled(trouble.WALBudget, "keep WAL for", `slot "tributary_shop"`, "40.0 GiB of 50.0 GiB are kept: an old transaction (pid 4711) is open", at.Add(-time.Minute)))
		return s
	},
	"accepted": func(at time.Time) *shown {
		s := calm(at)
		keyless(&s.st.Tables[1])
		s.st.accept = []service.Accept{{Code: trouble.TableWithoutIdentity, Subject: "public.*"}}
		return s
	},
	"nothing": func(at time.Time) *shown {
		s := calm(at)
		s.st.Tables, s.st.Snapshot, s.st.ChangesPerSecond = []TableStatus{}, SnapshotStatus{}, 0
		return s
	},
	"table": func(at time.Time) *shown {
		s := late(at)
		s.table = "public.event"
		s.st.Tables[1].States = []service.Turn{{At: at.Add(-2 * time.Hour).UTC(), State: service.StateStreaming}, {At: at.Add(-3 * time.Hour).UTC(), State: service.StateSnapshotting}}
		return s
	},
}

// config is what the page of the moment is made with. It is made of the status's JSON, and of nothing else.
func (s *shown) config(t *testing.T, points int) page.Config {
	t.Helper()
	text, err := json.Marshal(s.st)
	must(t, err)
	st := &Status{}
	must(t, json.Unmarshal(text, st))
	st.accept, st.brokers = s.st.accept, s.st.brokers
	st.judge(s.at, s.unmoved)
	for i := range st.Tables {
		t := &st.Tables[i]
		t.LastHour = t.LastHour[max(0, len(t.LastHour)-points):]
	}
	history := page.NewHistory(charts...)
	for step := points - 1; step >= 0; step-- {
		history.Sample(s.at.Add(-10*time.Second*time.Duration(step)), s.was(st, step)...)
	}
	history.Mark(st.Events)
	return page.Config{View: st.page, History: history, Log: slog.New(slog.DiscardHandler), Table: func(name string) (v page.View, ok bool) {
		one := *st
		one.Tables, one.Needs = slices.Clone(st.Tables), slices.Clone(st.Needs)
		if !one.alone(name) {
			return v, false
		}
		return one.tablePage(), true
	}}
}

// was gives what the charts had so many steps of ten seconds ago, so that they end with what the tiles say.
func (s *shown) was(st *Status, step int) []float64 {
	behind, kept, p50, p99 := st.LagSeconds*browsertest.Waver("behind", 0.3, step), float64(st.WAL.RetainedBytes)*browsertest.Waver("kept", 0.1, step), math.NaN(), math.NaN()
	if st.LatencyP50 != nil && st.LatencyP99 != nil {
		p50, p99 = *st.LatencyP50*browsertest.Waver("p50", 0.2, step), *st.LatencyP99*browsertest.Waver("p99", 0.3, step)
	}
	if !st.looked() {
		behind = math.NaN()
	}
	if st.WAL.AsOf.IsZero() {
		kept = math.NaN()
	}
	if o, ago := s.outage, float64(10*step); o != nil {
		before := calm(s.at).st
		behind, kept = max(o.behind(ago), before.LagSeconds), float64(before.WAL.RetainedBytes)+o.backlog(ago)
		p50 = o.latency(ago, *before.LatencyP50*browsertest.Waver("p50", 0.2, step), 0.5)
		p99 = o.latency(ago, *before.LatencyP99*browsertest.Waver("p99", 0.3, step), 0.99)
	}
	rows := math.NaN()
	if st.Snapshot.TablesDone < st.Snapshot.Tables {
		rows = st.Snapshot.RowsPerSecond
	}
	_, limit := st.WAL.chart()
	return []float64{behind, s.changes("all", st.ChangesPerSecond, step), rows, kept, float64(st.WAL.BudgetBytes), limit, p50, p99}
}

// TestPages: what the page says in each state, without a browser. go test -update writes it anew.
func TestPages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(14 * time.Hour) // of the day
		for name, of := range moments {
			s, query := of(time.Now()), ""
			if s.table != "" {
				query = "table=" + s.table
			}
			html, err := s.config(t, 3).Main(query)
			must(t, err)
			if name == "catching_up" { // which is pictured
				browsertest.Agree(t, string(html), map[string]string{"Behind": "Behind", "Changes/s": "Rate, 1 min", "WAL kept": "WAL kept", "Latency, p50": "Latency, 5 min"})
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
	for _, state := range append(slices.Clone(service.CaptureStates), service.StateHeld) {
		if moments[state] == nil {
			t.Errorf("no page is of state %s", state)
		}
	}
}

// TestPictures takes the pictures of the documentation: make pictures.
func TestPictures(t *testing.T) {
	if *pictures == "" {
		t.Skip("no picture is asked for: make pictures")
	}
	s := moments["catching_up"](time.Now())
	server := service.NewServer("capture", config.HTTP{Listen: "127.0.0.1:0"}, slog.New(slog.DiscardHandler), func(service.Asked) any { return s.st })
	page.Handle(server, s.config(t, 360))
	browsertest.Pictures(t, server, "#tables", filepath.Join(*pictures, "capture"))
}
