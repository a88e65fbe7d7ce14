package capture

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/terminal"
	"github.com/tributary-cdc/tributary/pkg/trouble"
)

var update = flag.Bool("update", false, "write golden files anew")

// golden compares what is printed with a file.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", "status", name)
	if *update {
		must(t, os.MkdirAll(filepath.Dir(path), 0o755))
		must(t, os.WriteFile(path, got, 0o644))
	}
	want, err := os.ReadFile(path)
	must(t, err)
	if !bytes.Equal(got, want) {
		t.Errorf("%s: got\n%s\nwant\n%s", path, got, want)
	}
}

// What is printed for people is in local time. It is set before anything runs: clients of other tests read it.
func init() { time.Local = time.UTC }

// TestStatusText: what capture status prints, at a terminal, in a pipe, as JSON. The forms are promised: go test -update
// writes them anew.
func TestStatusText(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(14 * time.Hour) // of the day
		now := time.Now()
		number := func(v float64) *float64 { return &v }
		table := func(name, state string, rate float64, rows, of int64) TableStatus {
			return TableStatus{
				Table: name, State: state, Level: "all", Topic: "shop." + name, ChangesPerSecond: rate, LastChange: now.Add(-time.Second).UTC(),
				SnapshotRows: rows, ExpectedRows: &of, Key: "(id)", Partitions: 4, SchemaID: 7, LastHour: []float32{},
			}
		}
		base := func() *Report {
			return &Report{Asked: "the service at http://127.0.0.1:9191", Status: Status{
				Schema: statusSchema, Source: "shop", Instance: "db1-4711-9f3a", State: service.StateUpToDate, Slot: "tributary_shop", Era: 1,
				Build: service.Build{Version: "1.2.3"}, ServerVersion: "16.9", PublishedLSN: "16/B2F01A20", ServerLSN: "16/B2F01A20", PublishedTime: now.Add(-161 * time.Second).UTC(),
				WAL:      WAL{RetainedBytes: 300 << 20, BudgetBytes: 50 << 30, SlotStatus: "reserved", AsOf: now.UTC()},
				Snapshot: SnapshotStatus{TablesDone: 3, Tables: 3, Rows: 5, RowsExpected: new(int64(5))},
				Tables:   []TableStatus{table("public.orders", "streaming", 1239, 184220871, 184220871), table("public.order_line", "streaming", 1, 0, 0), table("public.x\x1b[2J", "streaming", 0, 0, 0)},
				Alarms:   []TroubleStatus{}, Stages: []service.StageState{}, Events: []service.Event{}, ChangesPerSecond: 1240, LagSeconds: 0.04,
			}}
		}
		show := func(name string, r *Report, out terminal.Output, look terminal.Look) {
			t.Helper()
			r.judge(now, 0)
			var b, beside bytes.Buffer
			out.Out, out.Err, out.Width = &b, &b, 120
			if !out.Terminal {
				out.Err = &beside
			}
			must(t, r.Show(&out, &look))
			golden(t, name, b.Bytes())
			if !out.Terminal {
				golden(t, name+".err", beside.Bytes())
			}
		}
		person := terminal.Output{Terminal: true}
		show("well.txt", base(), person, terminal.Look{})
		show("well-all.txt", base(), terminal.Output{Terminal: true, Wide: true}, terminal.Look{All: true})

		late := base()
		late.LagSeconds, late.ToPublish, late.ETASeconds, late.ServerLSN = 161, 4<<30, number(360), "17/B2F01A20"
		late.PublishedBytesPerSecond, late.SourceBytesPerSecond, late.ChangesPerSecond, late.ChangesPerSecondHour = 18.4*1024*1024, 6.7*1024*1024, 61300, number(22840)
		late.LatencyP50, late.LatencyP99, late.LatencyUsual = number(164), number(398), number(0.04)
		late.WAL.RetainedBytes, late.WAL.GrowthBytesPerSecond = 10307921510, -1
		late.Stages = goes(0.05, 0.21, 0.01, 0.71)
		late.Snapshot = SnapshotStatus{TablesDone: 1, Tables: 3, Rows: 14_021_224, RowsExpected: new(int64(25_800_000)), RowsPerSecond: 28200, ETASeconds: number(550)}
		late.Tables[0] = table("public.rental", "snapshotting", 98, 11_903_220, 16_000_000)
		late.Tables[1] = table("public.payment", "snapshotting", 1210, 2_118_004, 9_800_000)
		late.Tables[0].Snapshot = &TableSnapshot{State: readReading, RowsPerSecond: 14_200, ETASeconds: number(289)}
		late.Tables[1].Snapshot = &TableSnapshot{State: readReading, RowsPerSecond: 14_000, ETASeconds: number(550)}
		event := table("public.event", "streaming", 28, 48112, 48112)
		event.Level, event.Reason, event.Help = "insert", "it has no key", "ALTER TABLE public.event REPLICA IDENTITY FULL;"
		late.Tables = append(late.Tables, event)
		show("late.txt", late, person, terminal.Look{})
		show("late.tsv", late, terminal.Output{}, terminal.Look{})

		held := base()
		held.Tables[1].State, held.Tables[1].HeldLSN = service.StateHeld, "16/B2F00000"
		held.Tables[1].Held = &TroubleStatus{
			Code: trouble.RecordTooLarge, Op: "publish a change of", Subject: "table \"public.order_line\"", Cause: "a row is 7.4 MiB",
			Means: "nothing of it is published", Hint: "capture snapshot --table public.order_line --reload", Since: now.Add(-time.Hour).UTC(),
		}
		show("held.txt", held, person, terminal.Look{})
		starting := base()
		starting.State, starting.SeenAt, starting.WAL, starting.PublishedLSN, starting.ChangesPerSecond = service.StateStarting, time.Time{}, WAL{BudgetBytes: 50 << 30}, "", 0
		starting.Tables, starting.Snapshot = []TableStatus{}, SnapshotStatus{}
		show("starting.txt", starting, person, terminal.Look{})
		away := base()
		away.WAL.AsOf = now.Add(-41 * time.Second).UTC()
		away.Trouble = &TroubleStatus{Code: trouble.SourceUnreachable, Op: "connect to", Subject: "the source", Cause: "connection refused", Since: now.Add(-41 * time.Second).UTC()}
		show("away.txt", away, person, terminal.Look{})
		never := base() // as its source cannot be reached
		never.Since, never.State, never.SeenAt, never.WAL, never.PublishedLSN, never.ServerLSN, never.PublishedTime, never.Era = now.Add(-41*time.Second).UTC(), service.StateStarting, time.Time{}, WAL{BudgetBytes: 50 << 30}, "", "", time.Time{}, 0
		never.Tables, never.Snapshot, never.ChangesPerSecond, never.LagSeconds = []TableStatus{}, SnapshotStatus{}, 0, 0
		never.Stages = waits(goes(0, 0, 0, 0), stageEncode, waitRetry, now.Add(-3*time.Second))
		never.Trouble = &TroubleStatus{Code: trouble.SourceUnreachable, Op: "connect to", Subject: "the source", Cause: "connection refused", Since: now.Add(-41 * time.Second).UTC(), Tries: 7, NextTry: now.Add(4 * time.Second).UTC()}
		show("never.txt", never, person, terminal.Look{})
		idle := base()
		idle.Wanted, idle.Idle = []string{"public.*", "public.ordres"}, []string{"public.ordres"}
		show("idle.txt", idle, person, terminal.Look{})
		if held.Well() || !base().Well() {
			t.Error("what is well")
		}

		down := base()
		down.State, down.Asked = service.StateNotRunning, "the source and Kafka: http://127.0.0.1:9191 does not answer: connection refused"
		down.WAL.RetainedBytes, down.WAL.GrowthBytesPerSecond, down.WAL.FullInSeconds, down.ToPublish = 6<<30, 6.7*1024*1024, number(6720), 5<<30
		for i := range down.Tables {
			down.Tables[i].State = service.StateNotRunning
		}
		show("down.txt", down, person, terminal.Look{})
		for i := range down.Tables {
			down.Tables[i].Partitions, down.Tables[i].SchemaID = 0, 0 // the progress record does not say
		}
		show("down.tsv", down, terminal.Output{}, terminal.Look{})

		paused := base()
		paused.WAL.RetainedBytes, paused.WAL.GrowthBytesPerSecond, paused.ToPublish, paused.LagSeconds = 6<<30, 6.7*1024*1024, 5<<30, 750
		paused.Paused = &PauseStatus{Since: now.Add(-750 * time.Second).UTC(), Until: now.Add(17 * time.Minute).UTC(), By: "capture", Reason: "Kafka is moved", EndsBytes: 40 << 30}
		show("paused.txt", paused, person, terminal.Look{})

		for name, r := range map[string]*Report{"late.json": late, "empty.json": {Status: Status{Schema: statusSchema, Tables: []TableStatus{}, Alarms: []TroubleStatus{}, Stages: []service.StageState{}, Events: []service.Event{}}}} {
			r.judge(now, 0)
			b, err := json.MarshalIndent(r, "", "  ")
			must(t, err)
			golden(t, name, append(b, '\n'))
		}

		look, out := terminal.Look{Tables: []string{"public.ordres"}}, terminal.Output{}
		if err := base().Show(&out, &look); err == nil || err.Error() != `no table "public.ordres"; did you mean public.orders?` {
			t.Errorf("%v", err)
		}
	})
}

// A budget that is used up is not used up in a while.
func TestBudgetIsUsedUp(t *testing.T) {
	st := Status{WAL: WAL{RetainedBytes: 2 << 20, BudgetBytes: 1 << 20, GrowthBytesPerSecond: 1 << 10, FullInSeconds: new(0.0), AsOf: time.Now()}}
	if got := st.means(trouble.KafkaUnreachable); got != "nothing is lost: the source keeps its WAL, 2.0 MiB of 1.0 MiB; the budget is used up" {
		t.Errorf("it says %q", got)
	}
	if tile := st.page().Tiles[3]; tile.Lines[len(tile.Lines)-1] != "the budget is used up" {
		t.Errorf("the page says %q", tile.Lines)
	}
	st.WAL.FullInSeconds = new(90.0)
	if got := st.means(trouble.KafkaUnreachable); got != "nothing is lost: the source keeps its WAL, 2.0 MiB of 1.0 MiB; at this rate the budget is used up in about 90 s" {
		t.Errorf("it says %q", got)
	}
}
