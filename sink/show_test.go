package sink

import (
	"bytes"
	"cmp"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/terminal"
	"github.com/tributary-cdc/tributary/schema/record"
)

var update = flag.Bool("update", false, "write golden files anew")

// golden compares what is printed with a file.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", "status", name)
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s: got\n%s\nwant\n%s", path, got, want)
	}
}

// TestStatusText: what sink status prints, at a terminal, in a pipe, as JSON. The forms are promised: go test -update
// writes them anew.
func TestStatusText(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(14 * time.Hour) // of the day
		now := time.Now().UTC()
		number := func(v float64) *float64 { return &v }
		source := func(name string, age float64) SourceStatus {
			at := now.Add(-time.Duration(age * float64(time.Second)))
			return SourceStatus{
				Name: name, CompleteLSN: "16/A8810F20", CompleteAt: &at, AgeSeconds: number(age), Fences: []string{}, ReportedAt: now,
				Capture: record.Health{State: "up_to_date", BehindSeconds: 0.3, WALKept: 300 << 20, WALBudget: 50 << 30},
			}
		}
		table := func(source, name, state string, behind float64, records int64) TableStatus {
			return TableStatus{
				Source: source, Table: name, Target: "sales." + name[len("public."):], State: state, BehindSeconds: &behind, Records: &records, RowsPerSec: new(1044.0),
				LastHour: []float32{}, LastCommit: &now, Partitions: 4, Mode: "clone", Topic: source + "." + name,
			}
		}
		base := func(tables ...TableStatus) *Report {
			st := &Status{
				Schema: statusSchema, Group: "warehouse", Instance: "dwh-1-9f3a", Build: service.Build{Version: "1.2.3"}, Since: now.Add(-time.Hour), WarehouseUp: true,
				BufferBytes: 38 << 20, BufferLimit: 256 << 20, RowsPerSec: 1236, Waiting: []Waiting{}, Sources: []SourceStatus{}, Tables: tables, Unmatched: []string{},
				Stages: []service.StageState{}, Events: []service.Event{}, Members: []Member{}, FreshnessSeconds: 60,
			}
			for _, s := range []SourceStatus{source("tenant_b", 0.4), source("shop_eu", 2575)} {
				s.State = service.StateUpToDate
				for _, t := range tables {
					if t.Source == s.Name {
						s.State, s.Tables = service.WorseState(s.State, t.State), s.Tables+1
					}
				}
				if s.Tables > 0 {
					st.Sources = append(st.Sources, s)
				}
			}
			return &Report{Status: st, Asked: "the sink at http://127.0.0.1:9192"}
		}
		tell := true
		show := func(name string, r *Report, out terminal.Output, look terminal.Look) {
			t.Helper()
			if tell {
				r.summarise()
			}
			var b, beside bytes.Buffer
			out.Out, out.Err, out.Width = &b, &b, cmp.Or(out.Width, 130)
			if !out.Terminal {
				out.Err = &beside
			}
			if err := r.Show(&out, &look); err != nil {
				t.Fatal(err)
			}
			golden(t, name, b.Bytes())
			if !out.Terminal {
				golden(t, name+".err", beside.Bytes())
			}
		}
		person := terminal.Output{Terminal: true}
		well := func() *Report {
			return base(table("tenant_b", "public.orders", service.StateUpToDate, 0.3, 0), table("tenant_b", "public.x\x1b[2J", service.StateUpToDate, 0, 0))
		}
		show("well.txt", well(), person, terminal.Look{})
		apart := well()
		apart.UnmatchedHint = `say {from: "…", skip: true} if that is meant; sources does not name "billing": name it there, if it is to be written`
		apart.Unmatched, apart.Tables[1].Gone = []string{"billing.public.draft", "tenant_b.public.profiles"}, true
		show("unmatched.txt", apart, person, terminal.Look{})
		left := source("billing", 0)
		left.State, left.Reason, left.AgeSeconds = service.StateLeftOut, notNamed, nil
		apart.Sources = append(apart.Sources, left)
		show("unmatched-all.txt", apart, terminal.Output{Terminal: true, Wide: true}, terminal.Look{All: true})
		show("well-all.txt", well(), terminal.Output{Terminal: true, Wide: true}, terminal.Look{All: true})
		show("well.tsv", well(), terminal.Output{}, terminal.Look{})

		stock := table("shop_eu", "public.stock", service.StateQuarantined, 2575, 1204)
		stock.Trouble = &Trouble{
			Code: "constraint-violation", Message: `cannot write to sales.stock: new row violates check constraint "stock_price_check"`, Hint: "mend the target or the rule; then sink resume SOURCE/TABLE",
			Topic: "shop_eu.public.stock", Offset: 88120, Since: now.Add(-2575 * time.Second),
		}
		parked := table("tenant_b", "public.order_line", service.StateUpToDate, 0.3, 12)
		parked.Parked = 3
		bad := base(stock, parked, table("tenant_b", "public.orders", service.StateUpToDate, 0.3, 0))
		bad.LatencyP50, bad.LatencyP99, bad.RowsPerSecHour = number(0.62), number(131), number(12470)
		bad.Stages = []service.StageState{{Name: "fetch", BusyShare: 0.08}, {Name: "apply", BusyShare: 0.88}}
		bad.Members = []Member{ // the third is of a version before
			{
				Instance: "sink-0", Partitions: 53, AppliedAt: &now, RowsPerSec: number(1236), Host: "dwh-1", Version: "1.2.3", Since: new(now.Add(-time.Hour)), MemoryBytes: 212 << 20, BusyShare: number(0.88),
				SeenAt: new(now.Add(-4 * time.Second)),
			},
			{
				Instance: "sink-1", Partitions: 26, AppliedAt: &now, Host: "dwh-2\x1b[2J", Version: "1.2.2\nno", Since: new(now.Add(-30 * time.Hour)), MemoryBytes: 96 << 20, BusyShare: number(0.02),
				SeenAt: new(now.Add(-41 * time.Second)), SilentSeconds: 41,
			},
			{Instance: "sink-2", Partitions: 27, AppliedAt: &now},
		}
		bad.RebalancedAt = new(now.Add(-3 * 24 * time.Hour))
		show("quarantined.txt", bad, person, terminal.Look{})
		show("narrow.txt", bad, terminal.Output{Terminal: true, Width: 60}, terminal.Look{})
		show("source.txt", bad.Of("tenant_b"), person, terminal.Look{})
		bad.Of("")

		// What is another sink's is not known here; nor is anything where no sink is asked.
		unknown := func(t TableStatus) TableStatus {
			t.Partitions, t.BehindSeconds, t.Records, t.RowsPerSec, t.Unknown = 0, nil, nil, nil, notLooked
			return t
		}
		two := base(table("tenant_b", "public.orders", service.StateCatchingUp, 130, 4200), unknown(table("shop_eu", "public.stock", service.StateCatchingUp, 0, 0)))
		show("members.txt", two, person, terminal.Look{})
		show("members.tsv", two, terminal.Output{}, terminal.Look{})
		show("table.tsv", two, terminal.Output{}, terminal.Look{Tables: []string{"*"}})
		show("quiet.tsv", two, terminal.Output{Quiet: true}, terminal.Look{Tables: []string{"shop_eu/*"}})
		starting := base(unknown(table("tenant_b", "public.orders", service.StateUpToDate, 0, 0)))
		starting.Step = "joining the group"
		starting.tell(true, true, false)
		down := base(unknown(table("tenant_b", "public.orders", service.StateUpToDate, 0, 0)), unknown(table("shop_eu", "public.stock", service.StateCatchingUp, 0, 0)))
		down.Tables[1].BehindSeconds, down.Tables[1].Records, down.Tables[1].Unknown = new(2575.0), new(int64(1204)), ""
		down.Instance, down.Asked = "", "the warehouse: no sink answers at http://127.0.0.1:9192: connection refused"
		down.Members = append([]Member{}, bad.Members...)
		down.summarise()
		down.notRunning()
		tell = false
		show("starting.txt", starting, person, terminal.Look{All: true})
		show("down.txt", down, person, terminal.Look{})
		tell = true
		if bad.Well() || !well().Well() {
			t.Error("what is well")
		}
		for name, r := range map[string]*Report{"quarantined.json": bad, "members.json": two, "empty.json": base()} {
			if r.Tables == nil {
				r.Tables = []TableStatus{}
			}
			r.summarise()
			b, err := json.MarshalIndent(r, "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			golden(t, name, append(b, '\n'))
		}
		look, out := terminal.Look{}, terminal.Output{}
		if err := well().Of("tenant_d").Show(&out, &look); err == nil || err.Error() != `no source "tenant_d"; did you mean tenant_b?` {
			t.Errorf("%v", err)
		}
	})
}
