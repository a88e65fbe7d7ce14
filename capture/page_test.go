package capture

import (
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/tributary-cdc/tributary/pkg/config"
	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/terminal"
	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/schema/record"
)

// Each code that can stop or hold up a capture is told whole: in the JSON, in the sentence, with what it means and what to do.
func TestEveryTroubleIsTold(t *testing.T) {
	for _, code := range trouble.Codes() {
		told := tell(&trouble.Error{Code: code, Op: "do", Subject: `slot "x"`, Cause: errors.New("the server says no")})
		for _, base := range []string{service.StateStopped, service.StateUpToDate} {
			st := Status{Source: "shop", State: base, Trouble: &told}
			st.judge(time.Now(), 0)
			want := service.StateWaiting
			if base == service.StateStopped {
				want = service.StateStopped
			}
			if st.State != want || len(st.Needs) != 1 || st.Needs[0].Urgent != (want == service.StateStopped) {
				t.Fatalf("%s: %s, %+v", code, st.State, st.Needs)
			}
			n := st.Needs[0]
			if n.What != `cannot do slot "x"` || n.Why != "the server says no" || n.Means == "" || len(n.Do) == 0 || n.See != "/explain/"+string(code) {
				t.Errorf("%s: %+v", code, n)
			}
			if v := st.page(); len(v.Needs) != 1 || !strings.HasPrefix(v.Headline, "shop ") {
				t.Errorf("%s: %q", code, v.Headline)
			}
		}
	}
}

// The state comes from what moves, and the sentence from the state.
func TestJudge(t *testing.T) {
	now := time.Now()
	busy, reads := goes(0, 0.9, 0, 0.05), goes(0.9, 0, 0, 0.08)
	hangs := waits(goes(0, 0, 0, 0.3), stageEncode, waitKafka, now.Add(-20*time.Second))
	left := 360.0
	for _, one := range []struct {
		name    string
		status  Status
		unmoved time.Duration
		state   string
		words   string
		needs   string // codes
	}{
		{"starting", Status{State: "starting"}, 0, "starting", "is starting.", ""},
		{"starting, held up", Status{State: "starting", Stages: []service.StageState{{WaitingOn: waitOld, Since: now.Add(-time.Hour)}}}, 0, "starting", "waits for an old transaction, for 1 h 0 min", "slot-waits-for-transaction"},
		{"well", Status{}, 0, "up_to_date", "is healthy: 0 s behind", ""},
		{"well, with no table", Status{Tables: []TableStatus{}}, 0, "up_to_date", "captures nothing: no table fits source.tables", ""},
		{"a little behind", Status{LagSeconds: 59}, 0, "up_to_date", "59 s behind", ""},
		{"catching up", Status{LagSeconds: 161, ToPublish: 4 << 30, ETASeconds: &left}, 0, "catching_up", "4.0 GiB of WAL to publish, 2 min 41 s behind, about 6 min", ""},
		{"falling behind", Status{LagSeconds: 161, Falling: true, Stages: busy}, 0, "falling_behind", "and it grows", "falling-behind"},
		{"Kafka hangs", Status{LagSeconds: 10, Stages: hangs}, 20 * time.Second, "waiting", "waits for Kafka, for 20 s.", "kafka-unreachable"},
		{"Kafka hangs long", Status{LagSeconds: 100, ToPublish: 1 << 30, Stages: hangs}, time.Hour, "waiting", "waits for Kafka, for 20 s: 1.0 GiB of WAL to publish, 1 min 40 s behind.", "kafka-unreachable"},
		{"the source sends nothing", Status{LagSeconds: 100, ToPublish: 1 << 30, Stages: reads}, 2 * time.Minute, "waiting", "the source, which sends nothing", ""},
		{"a standby is away", Status{ToPublish: 1 << 30, WAL: WAL{Standbys: "db2"}}, 20 * time.Second, "waiting", "waits for the standby of slot db2 (synchronized_standby_slots), for 20 s", ""},
		{"stuck", Status{LagSeconds: 100, ToPublish: 1 << 30, Stages: busy}, 2 * time.Minute, "stuck", "nothing moves", "stuck"},
		{"not stuck yet", Status{LagSeconds: 59, ToPublish: 1 << 30, Stages: busy}, 59 * time.Second, "up_to_date", "healthy", ""},
		{"snapshot", Status{Snapshot: SnapshotStatus{TablesDone: 39, Tables: 41}}, 0, "snapshotting", "39 of 41 tables", ""},
		{"standby", Status{State: "standby", Holder: "b"}, time.Hour, "standby", "b streams", ""},
		{"told by others", Status{State: "not_running", Slot: "s"}, 0, "not_running", "no capture holds slot s", ""},
		{"has no slot to go on with", Status{State: "not_running", Trouble: &TroubleStatus{Code: "slot-lost"}}, 0, "not_running", "cannot go on: slot-lost", "slot-lost"},
		{"half a table", Status{Tables: []TableStatus{{Table: "public.event", Level: "insert", Reason: "it has no key", Help: "ALTER TABLE e;"}}}, 0, "up_to_date", "healthy", "table-without-identity"},
	} {
		st := one.status
		st.Source = "shop"
		if st.State == "" {
			st.State = service.StateUpToDate
		}
		if st.Tables == nil {
			st.Tables = []TableStatus{{Table: "public.orders", State: service.StateStreaming, Level: "all"}}
		}
		st.judge(now, one.unmoved)
		codes := ""
		for _, n := range st.Needs {
			codes += string(n.Code)
		}
		if st.State != one.state || !strings.Contains(st.Headline, one.words) || codes != one.needs {
			t.Errorf("%s: %s, %q, %q", one.name, st.State, st.Headline, codes)
		}
	}
}

// Of a table that was never analyzed nobody knows how many rows it has: no bar is full, no part is told.
func TestUnknownIsNotZero(t *testing.T) {
	st := Status{
		Snapshot: SnapshotStatus{Tables: 2, Rows: 1204},
		Tables: []TableStatus{
			{Table: "public.a", State: service.StateSnapshotting, SnapshotRows: 1204, Snapshot: &TableSnapshot{State: readReading}},
			{Table: "public.b", State: service.StateSnapshotting, SnapshotRows: 1204, ExpectedRows: new(int64(1000)), Snapshot: &TableSnapshot{State: readReading}},
		},
	}
	v := st.page()
	for i, want := range []string{"1,204 rows, of how many is not known: never analyzed", "1,204 rows, more than estimated"} {
		if row := v.Snapshot.Rows[i]; row.Bar != nil || row.Notes[0] != want {
			t.Errorf("%+v", row)
		}
	}
	if tile := v.Tiles[5]; tile.Value != "–" || tile.Bar != nil || !strings.Contains(strings.Join(tile.Lines, " "), "2,408 rows so far") {
		t.Errorf("%+v", tile)
	}
	st.Tables = nil // it is not known yet which are read
	if tile := st.page().Tiles[5]; tile.Value != "–" || tile.Bar != nil || len(tile.Lines) != 1 {
		t.Errorf("%+v", tile)
	}
}

// A warning that the configuration accepts is a note, and needs nobody; what stops a table is no warning.
func TestAcceptedIsANote(t *testing.T) {
	event := TableStatus{Table: "public.event", Level: "insert", Reason: "it has no key", Help: "ALTER TABLE e;"}
	log, held := event, TableStatus{Table: "public.held"}
	log.Table = "audit.log"
	held.tellHeld(&record.Held{Code: string(trouble.RecordTooLarge), Since: 1e15})
	cfg := Config{Accept: []Accept{{Code: trouble.TableWithoutIdentity, Table: "public.*"}, {Code: trouble.RecordTooLarge, Table: "*"}}}
	st := Status{State: service.StateUpToDate, Tables: []TableStatus{event, log, held}, accept: cfg.accepted()}
	st.judge(time.Now(), 0)
	if len(st.Needs) != 2 || st.Needs[0].Code != trouble.RecordTooLarge || st.Needs[1].Subject != "audit.log" || len(st.Accepted) != 1 || st.Accepted[0].Subject != "public.event" {
		t.Errorf("needs %+v, accepted %+v", st.Needs, st.Accepted)
	}
	if fold := st.page().Folds[0]; fold.Title != "Accepted warnings (1)" || fold.Facts[0][1] != "public.event: only INSERT and TRUNCATE arrive" {
		t.Errorf("%+v", fold)
	}
}

// A table that is held needs somebody at once, once, and its name cannot leave the command.
func TestHeldTableIsTold(t *testing.T) {
	one := TableStatus{Table: "public.x; rm -rf ~"}
	one.tellHeld(&record.Held{Code: "record-too-large", Message: "too large", Hint: "make it smaller", Since: 1e15})
	st := Status{State: service.StateUpToDate, Tables: []TableStatus{one}}
	st.judge(time.Now(), 0)
	if len(st.Needs) != 1 || !st.Needs[0].Urgent || st.Needs[0].Since.IsZero() {
		t.Fatalf("%+v", st.Needs)
	}
	do := st.Needs[0].Do
	if got := do[len(do)-1].Command; got != "capture snapshot --table 'public.x; rm -rf ~' --reload" {
		t.Errorf("%+v", do)
	}
	st.Alarms = []TroubleStatus{*one.Held}
	if st.judge(time.Now(), 0); len(st.Needs) != 1 {
		t.Errorf("it is told %d times", len(st.Needs))
	}
}

// The page has the configuration as config show prints it, without the passwords that are in it; who asks of a table does not get it.
func TestPageHasTheConfiguration(t *testing.T) {
	var cfg Config
	must(t, config.Decode("test.yaml", []byte(`
source: {name: shop, dsn: "postgres://nobody:geheim@127.0.0.1:1/nothing"}
kafka: {brokers: ["127.0.0.1:1"]}
registry: {url: "http://127.0.0.1:1"}
`), &cfg))
	c, err := New(cfg, Options{}, slog.New(slog.DiscardHandler))
	must(t, err)
	st := c.StatusOf(service.Asked{})
	if text := config.Show(cfg); st.Configuration != text || strings.Contains(text, "geheim") || !strings.Contains(text, "dsn: '***'") {
		t.Errorf("%s", st.Configuration)
	}
	if text := c.StatusOf(service.Asked{Table: "public.orders"}).Configuration; text != "" {
		t.Error(text)
	}
	fold := st.page().Folds[0]
	if fold.Title != "Source, configuration, build" || fold.Text != st.Configuration || fold.Facts[3][1] != "tributary_shop, tributary_shop_insert" {
		t.Errorf("%+v", fold)
	}
}

// What changes for a moment is in the status, for alerts and scripts, but not on the page, nor for who watches; unless it is red.
func TestPageIsSteady(t *testing.T) {
	var cfg Config
	must(t, config.Decode("test.yaml", []byte(`
source: {name: shop, dsn: "postgres://nobody@127.0.0.1:1/nothing"}
kafka: {brokers: ["127.0.0.1:1"]}
registry: {url: "http://127.0.0.1:1"}
`), &cfg))
	c, err := New(cfg, Options{}, slog.New(slog.DiscardHandler))
	must(t, err)
	began, table := time.Now(), TableStatus{Table: "public.orders", State: service.StateStreaming}
	become := func(state, ofTable string) {
		table.State = ofTable
		c.status.Store(&Status{Source: "shop", State: state, Tables: []TableStatus{table}, SeenAt: began})
	}
	become(service.StateUpToDate, service.StateStreaming)
	c.sample(began)
	c.troubled.Store(began.UnixMicro())
	c.trouble.Store(&trouble.Error{Code: trouble.KafkaUnreachable, Op: "publish to", Subject: "Kafka"})
	become(service.StateUpToDate, service.StateSnapshotting)
	for second := range 6 {
		c.sample(began.Add(time.Duration(second) * time.Second))
		want, ofTable := service.StateUpToDate, service.StateStreaming
		if second >= 3 {
			want, ofTable = service.StateWaiting, service.StateSnapshotting
		}
		st := c.StatusOf(service.Asked{Steady: true})
		if st.State != want || st.Tables[0].State != ofTable || strings.Contains(st.Headline, "waits") != (second >= 3) || (len(st.Needs) > 0) != (second >= 3) {
			t.Errorf("after %d s: %s, table %s, %q, %d cards", second, st.State, st.Tables[0].State, st.Headline, len(st.Needs))
		}
		if now := c.Status(); now.State != service.StateWaiting || now.Tables[0].State != service.StateSnapshotting {
			t.Errorf("after %d s the status is %s", second, now.State)
		}
	}
	if become(service.StateStopped, service.StateHeld); c.steady().State != service.StateStopped || c.steady().Tables[0].State != service.StateHeld {
		t.Errorf("red is not told at once: %+v", c.steady())
	}
}

// While capture is down, tables that are held stand before those that wait for it alone.
func TestHeldComesFirstWhileDown(t *testing.T) {
	r := Report{Status: Status{State: service.StateNotRunning, Tables: []TableStatus{
		{Table: "public.a", State: service.StateNotRunning}, {Table: "public.b", State: service.StateHeld},
	}}}
	shown, _, err := r.shown(&terminal.Output{}, &terminal.Look{})
	must(t, err)
	if first := shown.Rows[0][0].Text; first != "public.b" {
		t.Errorf("the first is %s", first)
	}
}
