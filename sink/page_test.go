package sink

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tributary-cdc/tributary/pkg/config"
	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/service/page"
	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/schema/record"
	"github.com/tributary-cdc/tributary/sink/rule"
	"github.com/tributary-cdc/tributary/sink/warehouse"
)

// Each code that can hold a table, or that the sink can wait with, is told whole.
func TestEveryTroubleIsTold(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, code := range trouble.Codes() {
		held := Trouble{Code: string(code), Message: "the server says no", Hint: "", Topic: "shop.public.x", Offset: 7, Since: at}
		f := service.Facts{Quarantined: true, Stopped: held.stops()}
		st := Status{
			Group: "warehouse", Sources: []SourceStatus{{Name: "shop", CompleteAt: &at}},
			Tables:  []TableStatus{{Source: "shop", Table: "public.x; y", State: f.State(), Trouble: &held, Records: new(int64(1204))}},
			Waiting: []Waiting{{For: "warehouse", Since: at, Tries: 7, Code: string(code), Error: "refused"}},
		}
		st.summarise()
		headline := "needs you: 1 table is quarantined."
		if held.stops() {
			headline = "needs you: 1 table has stopped."
		}
		if st.Headline != headline || len(st.Needs) != 2 {
			t.Fatalf("%s: %q, %+v", code, st.Headline, st.Needs)
		}
		for _, n := range st.Needs {
			if n.What == "" || n.Why == "" || n.Means == "" || len(n.Do) == 0 || n.See != "/explain/"+string(code) {
				t.Errorf("%s: %+v", code, n)
			}
		}
		n := st.Needs[0]
		if !n.Urgent || !strings.Contains(n.Means, "1,204 records wait in Kafka") || !strings.Contains(n.Means, "shop is complete only up to 2026-01-02 03:04:05 UTC") || !strings.Contains(n.Why, "offset 7") {
			t.Errorf("%s: %+v", code, n)
		}
		if last := n.Do[len(n.Do)-1].Command; slices.Contains(parkableCodes, code) != strings.HasSuffix(last, " --park") {
			t.Errorf("%s: %q", code, last)
		}
		if v := st.page(); len(v.Needs) != 2 || v.Tables[1].Rows[0].State != st.Tables[0].State {
			t.Errorf("%s: %+v", code, v)
		}
	}
}

// What the group as a whole says of its parts.
func TestSummary(t *testing.T) {
	at, age := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), 0.4
	well := SourceStatus{Name: "a", State: service.StateUpToDate, CompleteAt: &at, AgeSeconds: &age}
	table := func(state string) TableStatus {
		return TableStatus{Source: "a", Table: "public.x", State: state, Records: new(int64(3))}
	}
	for _, one := range []struct {
		name   string
		status Status
		state  string
		words  string
		needs  string
	}{
		{"well", Status{Sources: []SourceStatus{well}, Tables: []TableStatus{table(service.StateUpToDate)}}, service.StateUpToDate, "is healthy: complete up to 03:04:05 UTC (0.40 s ago). 1 source, 1 table.", ""},
		{"catching up", Status{Tables: []TableStatus{table(service.StateCatchingUp), table(service.StateUpToDate)}}, service.StateCatchingUp, "is catching up: 1 of 2 tables.", ""},
		{"falling behind", Status{Tables: []TableStatus{table(service.StateBehind)}}, service.StateBehind, "falling behind", "falling-behind"},
		{"stuck", Status{Tables: []TableStatus{table(service.StateStuck)}}, service.StateStuck, "stuck", "stuck"},
		{"paused", Status{Tables: []TableStatus{table(service.StatePaused)}}, service.StatePaused, "is paused: 1 table.", ""},
		{"silent", Status{Sources: []SourceStatus{{Name: "a", SilentSeconds: 41}}, Tables: []TableStatus{table(service.StateUpToDate)}}, service.StateSilent, "a capture is silent", "capture-silent"},
		{
			"parked, accepted",
			Status{Tables: []TableStatus{{Source: "a", Table: "public.x", State: service.StateUpToDate, Parked: 3}}, accept: []service.Accept{{Code: trouble.Parked, Subject: "a/public.*"}}},
			service.StateUpToDate, "is healthy", "",
		},
		{"parked", Status{Tables: []TableStatus{{Source: "a", Table: "public.x", State: service.StateUpToDate, Parked: 3}}}, service.StateUpToDate, "needs you: 3 rows are parked. All tables go on.", "parked"},
		{"parked, paused", Status{Tables: []TableStatus{{Source: "a", Table: "public.x", State: service.StateUpToDate, Parked: 3}, table(service.StatePaused)}}, service.StatePaused, "needs you: 3 rows are parked. 1 table is paused.", "parked"},
	} {
		st := one.status
		st.summarise()
		codes := ""
		for _, n := range st.Needs {
			codes += string(n.Code)
		}
		if st.State != one.state || !strings.Contains(st.Headline, one.words) || codes != one.needs {
			t.Errorf("%s: %s, %q, %q", one.name, st.State, st.Headline, codes)
		}
	}
}

// What a capture has said last is told of one that says nothing any more.
func TestSilentCapture(t *testing.T) {
	told := func(h record.Health) service.Need { //nolint:gocritic // once
		st := Status{Sources: []SourceStatus{{Name: "a", SilentSeconds: 41, Capture: h}}, Tables: []TableStatus{{Source: "a", Table: "public.x", State: service.StateUpToDate}}}
		st.summarise()
		if len(st.Needs) != 1 || st.Needs[0].Code != trouble.CaptureSilent || st.Needs[0].Why == "" || st.State != service.StateSilent {
			t.Fatalf("%s, %+v", st.State, st.Needs)
		}
		return st.Needs[0]
	}
	since := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	n := told(record.Health{State: service.StateStopped, Trouble: "slot-lost", TroubleSince: since.UnixMicro(), HTTP: "db-1:9191"})
	if n.What != "the capture of a has stopped: slot-lost; it answered at db-1:9191" || !n.Since.Equal(since) {
		t.Errorf("%+v", n)
	}
	if n := told(record.Health{State: service.StateWaiting, Trouble: "source-unreachable", TroubleSince: 1}); n.What != "the capture of a has said nothing for 41 s; its last word is that it waits: source-unreachable" {
		t.Errorf("%+v", n)
	}
	if n := told(record.Health{State: service.StateNotRunning}); n.What != "the capture of a was ended in order, 41 s ago" {
		t.Errorf("%+v", n)
	}
	for want, src := range map[string]SourceStatus{
		"stopped: slot-lost":                            {SilentSeconds: 41, Capture: record.Health{State: service.StateStopped, Trouble: "slot-lost"}},
		"not_running: for 41 s":                         {SilentSeconds: 41, Capture: record.Health{State: service.StateNotRunning}},
		"silent: for 41 s":                              {SilentSeconds: 41, Capture: record.Health{State: service.StateUpToDate}},
		"up_to_date: 0.50 s":                            {ReportedAt: time.Now(), Capture: record.Health{State: service.StateUpToDate, BehindSeconds: 0.5}},
		"up_to_date: 0 s, holds 1 table, 1 h 0 min ago": {ReportedAt: time.Now().Add(-time.Hour), Capture: record.Health{State: service.StateUpToDate, Held: 1}},
	} {
		if state, beside := src.reported(); state+": "+beside != want {
			t.Errorf("%s: %s, want %s", state, beside, want)
		}
	}
	for _, h := range []record.Health{{State: service.StateUpToDate}, {State: service.StateStopped, Trouble: "of-a-later-version"}, {State: service.StateUpToDate, Trouble: "slot-lost"}} {
		if n := told(h); n.What != "the capture of a has said nothing for 41 s" {
			t.Errorf("%+v", n)
		}
	}
}

// Whoever does not answer is waited for once, whatever asks it, and the sentence says how far all is complete.
func TestWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		since, at, age := time.Now(), time.Now().Add(-time.Second), 49.0
		time.Sleep(48 * time.Second)
		st := Status{
			Group: "warehouse", Sources: []SourceStatus{{Name: "shop", CompleteAt: &at, AgeSeconds: &age}},
			Tables: []TableStatus{{Source: "shop", Table: "public.x", State: service.StateWaiting, WaitingOn: "Kafka"}},
			Waiting: []Waiting{
				{For: "group", Since: since, Tries: 3, Code: string(trouble.KafkaUnreachable), Error: "i/o timeout"},
				{For: "kafka", Since: since.Add(time.Second), Tries: 2, Code: string(trouble.KafkaUnreachable), Error: "i/o timeout"},
				{For: "retention", Since: since.Add(2 * time.Second), Tries: 1, Code: string(trouble.WarehouseUnreachable), Error: "refused"},
				{For: "kafka", Since: since.Add(3 * time.Second), Tries: 1, Code: string(trouble.KafkaAuth), Error: "denied"},
			},
		}
		st.tell(true, true, true)
		what := ""
		for _, n := range st.Needs {
			what += n.What + "; "
		}
		if want := "waiting for Kafka, try 1; waiting for the warehouse, try 1; waiting for Kafka, try 3; "; what != want {
			t.Errorf("%q", what)
		}
		if want := "is waiting for Kafka, for 48 s: complete up to " + at.UTC().Format(time.TimeOnly) + " UTC (49 s ago)."; st.Headline != want {
			t.Errorf("%q", st.Headline)
		}
		waits := ""
		for _, f := range (&Report{Status: &st}).facts(false) {
			if f.Name == "waits" {
				waits += f.Value + " " + f.Note + "; "
			}
		}
		if want := "for Kafka for 48 s, try 3; for the warehouse for 46 s, try 1; "; waits != want {
			t.Errorf("%q", waits)
		}
		v := st.page()
		if v.Tiles[0].Value != "–" || v.Tiles[4].Value != "–" || v.Tables[1].Rows[0].Cells[3].Text != "–" {
			t.Errorf("nobody knows how far it is, but the page says %+v, %+v", v.Tiles, v.Tables[1].Rows)
		}
		if st.tried(false) != "Kafka" || st.tried(true) != "Kafka" || (&Status{Waiting: st.Waiting[2:3]}).tried(true) != "" {
			t.Error("it is not said for whom it waits")
		}
		st.Tables[0].Parked = 1
		if st.tell(true, true, true); st.Headline != "needs you: 1 row is parked. It waits for Kafka." {
			t.Errorf("%q", st.Headline)
		}
	})
}

// What is removed beside the tables holds none of them: its own words are told, and not those of a runbook that speaks of tables that are held.
func TestUpkeep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := Status{Group: "warehouse", Tables: []TableStatus{{Source: "shop", Table: "public.x", State: service.StateUpToDate}}}
		for what, hint := range map[string]string{"retention": "leave drop out of the rule", "sweep": "put it back"} {
			w := wait{since: time.Now(), tries: 7, err: fmt.Errorf("and: %w", &trouble.Error{Code: trouble.TargetType, Op: "remove", Subject: "rows", Cause: errors.New("x"), Means: "no row is removed; all else goes on", Hint: hint})}
			st.Waiting = append(st.Waiting, w.tell(what))
		}
		slices.SortFunc(st.Waiting, func(a, b Waiting) int { return strings.Compare(a.For, b.For) })
		time.Sleep(time.Minute)
		st.tell(true, true, true)
		told := st.Headline
		for _, n := range st.Needs {
			told += fmt.Sprintf("\n%s; %s; %v", n.What, n.Means, n.Do)
		}
		if want := "is waiting for the removal of old rows, for 1 min 0 s.\n" +
			"waiting for the removal of old rows, try 7; no row is removed; all else goes on; [{ leave drop out of the rule}]\n" +
			"waiting for the removal of rows that are gone at the source, try 7; no row is removed; all else goes on; [{ put it back}]"; told != want {
			t.Errorf("it is told as\n%s\nwant\n%s", told, want)
		}
	})
}

// A table waits for a lock only where its own lane does.
func TestLocksAreOfLanes(t *testing.T) {
	st := Status{Locks: []Lock{{Table: "sales.a", PID: 1}, {Table: "sales.b", PID: 2, Here: true, lane: 1}}, Stages: []service.StageState{{WaitingOn: waitWarehouse}}}
	for lane, want := range []string{waitWarehouse, "a lock held by pid 2", waitWarehouse} {
		if on, _ := st.waitOf([]int{lane}); on != want {
			t.Errorf("lane %d: %q", lane, on)
		}
	}
}

// A capture that has said nothing for three of its reports is silent; not where it is we who have not looked.
func TestSilence(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for looked, want := range map[time.Time]string{at.Add(14 * time.Second): service.StateUpToDate, at.Add(15 * time.Second): service.StateSilent, {}: service.StateUpToDate} {
		src := SourceStatus{State: service.StateUpToDate, ReportedAt: at}
		if src.hush(looked); src.State != want {
			t.Errorf("looked at %s: %s", looked, src.State)
		}
	}
}

// What is said of topics that no rule wants depends on whether their source is named.
func TestUnmatched(t *testing.T) {
	var cfg Config
	if err := config.Decode("sink.yaml", []byte(`
warehouse: {dsn: "x"}
kafka: {brokers: [a:1]}
registry: {url: "http://a"}
sources: [{name: "shop_*"}]
tables: [{from: "public.a"}]
`), &cfg); err != nil {
		t.Fatal(err)
	}
	rules, err := cfg.Rules()
	if err != nil {
		t.Fatal(err)
	}
	for want, topics := range map[string][]string{
		`say {from: "…", skip: true} if that is meant`:                                                                      {"shop_eu.public.b"},
		`sources does not name "bank": name it there, if it is to be written`:                                               {"bank.public.a", "bank.public.b"},
		`say {from: "…", skip: true} if that is meant; sources does not name "bank": name it there, if it is to be written`: {"bank.public.a", "shop_eu.public.b"},
	} {
		if got := unmatched(rules, topics); got != want {
			t.Errorf("%q: %s, want %s", topics, got, want)
		}
	}
	// What sources leaves out is left out on purpose, and no warning.
	if named, elsewhere := byNamed(rules, []string{"bank.public.a", "shop_eu.public.b", "bank.public.b"}); !slices.Equal(named, []string{"shop_eu.public.b"}) || !slices.Equal(elsewhere, []string{"bank.public.a", "bank.public.b"}) {
		t.Errorf("%q, %q", named, elsewhere)
	}
}

// The page has the configuration as config show prints it, without the passwords that are in it; who asks of a table does not get it.
func TestPageHasTheConfiguration(t *testing.T) {
	s := idle(t, true)
	s.cfg.Warehouse.DSN = "postgres://nobody:geheim@127.0.0.1:1/nothing" //nolint:gosec // to be looked for
	if text := config.Show(s.cfg); s.StatusOf(service.Asked{}).Configuration != text || strings.Contains(text, "geheim") || !strings.Contains(text, "from: public.orders") {
		t.Errorf("%s", s.Status().Configuration)
	}
	if text := s.StatusOf(service.Asked{Table: "shop/public.orders"}).Configuration; text != "" {
		t.Error(text)
	}
	html, err := page.Config{View: s.view, History: s.vitals.history, Log: s.log}.Main("")
	if err != nil || !strings.Contains(string(html), "dsn: &#39;***&#39;") || !strings.Contains(string(html), "from: public.orders") {
		t.Errorf("%v: %s", err, html)
	}
}

// What changes for a moment is in the status, for alerts and scripts, but not on the page, nor for who watches; unless it is red.
func TestPageIsSteady(t *testing.T) {
	s, began := idle(t, true), time.Now()
	s.sample(began)
	s.step = "" // it has begun
	for second := range 6 {
		s.sample(began.Add(time.Duration(second) * time.Second))
		want := service.StateStarting
		if second >= 3 {
			want = service.StateUpToDate
		}
		v, watched := s.view(), s.StatusOf(service.Asked{Steady: true})
		if v.State != want || watched.State != want || strings.Contains(v.Headline, "is starting") != (second < 3) {
			t.Errorf("after %d s: %s, %s, %q", second, v.State, watched.State, v.Headline)
		}
		if now := s.StatusOf(service.Asked{}); now.State != service.StateUpToDate {
			t.Errorf("after %d s the status is %s", second, now.State)
		}
	}
	s.waiting[waiter{what: "warehouse"}] = &wait{since: began.Add(-time.Minute), tries: 3, err: &trouble.Error{Code: trouble.WarehouseUnreachable, Op: "connect to", Subject: "the warehouse"}}
	if v := s.view(); v.State != service.StateWaiting || len(v.Needs) != 1 {
		t.Errorf("what has lasted is not told at once: %s, %q", v.State, v.Headline)
	}
}

// TestTogether: what several tables of a source have alike is told once, and on the page of each.
func TestTogether(t *testing.T) {
	st := moments["alike"](time.Now()).st
	st.tell(true, true, false)
	what, of := "", map[string]int{}
	for _, n := range st.Needs {
		what += n.What + "; "
	}
	if want := "shop_us/public.orders is quarantined; 3 tables of shop_eu are quarantined: public.customer, public.orders, public.stock; "; what != want {
		t.Errorf("%q, want %q", what, want)
	}
	for _, name := range []string{"shop_eu/public.customer", "shop_eu/public.stock", "shop_us/public.orders", "shop_us/public.stock"} {
		one := *st
		one.Needs, one.Tables, one.Sources = slices.Clone(st.Needs), slices.Clone(st.Tables), slices.Clone(st.Sources)
		if !one.alone(name) {
			t.Fatal(name)
		}
		of[name] = len(one.Needs)
	}
	if want := map[string]int{"shop_eu/public.customer": 1, "shop_eu/public.stock": 1, "shop_us/public.orders": 1, "shop_us/public.stock": 0}; !maps.Equal(of, want) {
		t.Errorf("the pages of tables tell %v", of)
	}
	st.Tables[3].Trouble.Message = "write to column \"tenant\" of table \"sales.stock\": something else"
	if st.tell(true, true, false); len(st.Needs) != 3 {
		t.Errorf("another trouble is told with the others: %+v", st.Needs)
	}
}

// TestGone: a table that its source captures no more says so, and one that is new there does not.
func TestGone(t *testing.T) {
	at := time.Now()
	sources := []warehouse.Source{
		{Name: "shop", CompleteAt: &at, Tables: map[string]warehouse.TableProgress{"shop.public.orders": {Done: true}}},
		{Name: "mute", CompleteAt: &at},
	}
	for name, one := range map[string]struct {
		source, table string
		age           time.Duration
		gone          bool
	}{
		"captured": {"shop", "orders", time.Hour, false}, "dropped": {"shop", "old", time.Hour, true}, "new": {"shop", "young", time.Second, false}, "nobody says": {"mute", "old", time.Hour, false},
	} {
		last := at.Add(-one.age)
		table := TableStatus{Source: one.source, Table: "public." + one.table, Topic: one.source + ".public." + one.table, LastCommit: &last, State: service.StateUpToDate}
		if table.captured(sources); table.Gone != one.gone || strings.Contains(table.note(), "captured no more") != one.gone {
			t.Errorf("%s: %t, %q", name, table.Gone, table.note())
		}
		st := Status{Sources: []SourceStatus{{Name: one.source}}, Tables: []TableStatus{table}}
		if st.summarise(); strings.Contains(st.Headline, "1 table, 1 of which is captured no more.") != one.gone {
			t.Errorf("%s: %q", name, st.Headline)
		}
	}
}

// TestInsertsOnly: of a table without replica identity the sink said that it is up to date, and complete, as if it were the source's.
func TestInsertsOnly(t *testing.T) {
	at := time.Now()
	sources := []warehouse.Source{{Name: "shop", CompleteAt: &at, Tables: map[string]warehouse.TableProgress{"shop.public.event": {Done: true, Level: "insert"}, "shop.public.orders": {Done: true, Level: "all"}}}}
	st := Status{Sources: []SourceStatus{{Name: "shop"}}}
	for name, only := range map[string]bool{"event": true, "orders": false} {
		table := TableStatus{Source: "shop", Table: "public." + name, Topic: "shop.public." + name, State: service.StateUpToDate}
		if table.captured(sources); table.InsertsOnly != only || strings.Contains(table.note(), "INSERT, TRUNCATE only") != only {
			t.Errorf("%s: %t, %q", name, table.InsertsOnly, table.note())
		}
		st.Tables = append(st.Tables, table)
	}
	if st.summarise(); !strings.Contains(st.Headline, "2 tables, 1 of which is captured without UPDATE and DELETE.") {
		t.Errorf("%s", st.Headline)
	}
}

// TestHeldWith: the log said of a progress topic that is held that a table was.
func TestHeldWith(t *testing.T) {
	rules, err := rule.New([]rule.Source{{Name: "whole", Consistency: "source"}, {Name: "shop"}}, []rule.Table{{From: "*.*", To: "{source}.{table}"}}, "")
	if err != nil {
		t.Fatal(err)
	}
	for topic, want := range map[string]string{
		"shop.public.orders":        "table is quarantined, all others go on",
		"shop.tributary.progress":   "progress of a source is quarantined: tables go on",
		"whole.tributary.progress":  "source is quarantined with all of its tables",
		"other.public.with.a.point": "table is quarantined",
	} {
		if got := heldWith(rules, topic); !strings.HasPrefix(got, want) {
			t.Errorf("%s: %s", topic, got)
		}
	}
}

// A table of rows alone that were there before has no commit, and is not said to have nothing.
func TestTableOfRowsThatWereThere(t *testing.T) {
	st := Status{Group: "warehouse", Tables: []TableStatus{{Source: "shop", Table: "public.x", State: service.StateUpToDate, Position: "1:0/10.140737488355328"}}}
	i := slices.IndexFunc(st.tablePage().Tiles, func(tile page.Tile) bool { return tile.Name == "Last commit" })
	if tile := st.tablePage().Tiles[i]; tile.Value != "–" || tile.Lines[0] != "no change has come yet" {
		t.Errorf("%+v", tile)
	}
}
