package capture

import (
	"encoding/json"
	"flag"
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
)

var pictures = flag.String("pictures", "", "directory for the pictures of the documentation, which are taken anew")

// shown is a moment of a capture.
type shown struct {
	at      time.Time
	st      *Status
	unmoved time.Duration
	table   string // whose page is shown; "" for the page of all
}

// calm is a moment in which all is well.
func calm(at time.Time) *shown {
	s := &shown{at: at, st: &Status{
		Schema: statusSchema, Source: "shop", Instance: "db1-4711-9f3a", State: service.StateUpToDate, Slot: "tributary_shop", SystemID: "7361", Timeline: 1, Era: 1,
		Build: service.Build{Version: "1.2.3", Revision: "9f3ac01"}, Since: at.Add(-3 * time.Hour).UTC(), ServerVersion: "16.9", SeenAt: at.UTC(), LagSeconds: 0.04,
		WAL:          WAL{RetainedBytes: 300 << 20, BudgetBytes: 50 << 30, SlotStatus: "reserved", AsOf: at.UTC()},
		PublishedLSN: "16/B2F01A20", ServerLSN: "16/B2F01A20", PublishedTime: at.Add(-time.Second).UTC(), ChangesPerSecond: 6130, ChangesPerSecondHour: new(5284.0),
		PublishedBytesPerSecond: 6.7 * 1024 * 1024, SourceBytesPerSecond: 6.7 * 1024 * 1024, LatencyP50: new(0.04), LatencyP99: new(0.21),
		Snapshot: SnapshotStatus{TablesDone: 5, Tables: 5, Rows: 14_021_224, RowsExpected: new(int64(14_021_224)), EndedAt: at.Add(-2 * time.Hour).UTC()},
		Tables:   []TableStatus{}, Alarms: []TroubleStatus{},
		Stages: goes(0.12, 0.31, 0, 0.22),
		Events: []service.Event{{At: at.Add(-20 * time.Minute).UTC(), Text: "new table, table public.stock"}, {At: at.Add(-3 * time.Hour).UTC(), Text: "streaming, slot tributary_shop, tables 4"}},
	}}
	for i, table := range []string{"public.customer", "public.event", "public.orders", "public.payment", "public.stock"} {
		one := TableStatus{
			Table: table, State: service.StateStreaming, Level: "all", Topic: "shop." + table, SnapshotRows: int64(1_204_871 * i * i), ChangesPerSecond: 310 * float64(i*i), Partitions: 4, SchemaID: 7 + i,
			LastChange: at.Add(-time.Duration(i) * time.Second).UTC(), Key: "(id)", States: nil,
		}
		one.ExpectedRows = new(one.SnapshotRows)
		for minute := range 60 {
			one.LastHour = append(one.LastHour, float32(one.ChangesPerSecond*(1+0.3*math.Sin(float64(minute)/4+float64(i)))))
		}
		s.st.Tables = append(s.st.Tables, one)
	}
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

// late is a moment in which much is to be published, with a table that has no key.
func late(at time.Time) *shown {
	s := calm(at)
	s.st.LagSeconds, s.st.ToPublish, s.st.ETASeconds, s.st.ServerLSN = 161, 4<<30, new(360.0), "17/B2F01A20"
	s.st.PublishedBytesPerSecond, s.st.ChangesPerSecond, s.st.LatencyP50, s.st.LatencyP99 = 18.4*1024*1024, 61_300, new(164.0), new(398.0)
	s.st.WAL.RetainedBytes, s.st.WAL.GrowthBytesPerSecond = 10_307_921_510, -1
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
	"up_to_date":  calm,
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
		return s
	},
	"standby": func(at time.Time) *shown {
		s := calm(at)
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
		return s
	},
	"waiting_kafka": func(at time.Time) *shown {
		s := late(at)
		s.st.Stages = waits(goes(0, 0.02, 0, 0.93), stageEncode, waitKafka, at.Add(-20*time.Second))
		s.unmoved = 20 * time.Second
		return s
	},
	"snapshotting": func(at time.Time) *shown {
		s := calm(at)
		s.st.Snapshot = SnapshotStatus{TablesDone: 2, Tables: 5, Rows: 14_021_224, TablesReading: 3, RowsPerSecond: 28_200}
		for i, of := range []*int64{new(int64(16_000_000)), new(int64(2_000_000)), nil} {
			t := &s.st.Tables[2+i]
			t.State, t.SnapshotRows, t.ExpectedRows = service.StateSnapshotting, 2_118_004, of
		}
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
	st.accept = s.st.accept
	st.judge(s.at, s.unmoved)
	for i := range st.Tables {
		t := &st.Tables[i]
		t.LastHour = t.LastHour[max(0, len(t.LastHour)-points):]
	}
	history := page.NewHistory(charts...)
	for i := range points {
		at, x := s.at.Add(time.Duration(i-points)*10*time.Second), float64(i)
		behind := max(0, st.LagSeconds-0.6*float64(points-i))
		history.Sample(at, behind, st.ChangesPerSecond*(1+0.2*math.Sin(x/11)), st.Snapshot.RowsPerSecond, float64(st.WAL.RetainedBytes)*(1-float64(points-i)/720), float64(st.WAL.BudgetBytes), 0.04+0.01*math.Sin(x/5), 0.2+0.1*math.Sin(x/7))
	}
	return page.Config{View: st.page, History: history, Log: slog.New(slog.DiscardHandler), Table: func(name string) (v page.View, ok bool) {
		one := *st
		one.Tables, one.Needs = slices.Clone(st.Tables), slices.Clone(st.Needs)
		if !one.alone(name) {
			return v, false
		}
		return one.tablePage(), true
	}}
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
	browsertest.Pictures(t, server, filepath.Join(*pictures, "capture"))
}
