package service

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"math"
	"regexp"
	"slices"
	"testing"
	"time"

	"github.com/tributary-cdc/tributary/pkg/trouble"
)

// The first state, from the top, that the facts fit.
func TestState(t *testing.T) {
	everything := Facts{
		LeftOut: true, Silent: time.Hour, Stopped: true, Held: true, Quarantined: true, Paused: true, Starting: true, Standby: true, Barred: true, Snapshot: true,
		Streams: true, Behind: time.Hour, Freshness: time.Minute, Falling: true, Known: true, Unmoved: time.Hour,
	}
	take := func(change func(*Facts)) Facts {
		change(&everything)
		return everything
	}
	late := Facts{Behind: 2 * time.Minute, Freshness: time.Minute, Snapshot: true}
	for _, one := range []struct {
		facts Facts
		want  string
	}{
		{take(func(*Facts) {}), StateLeftOut},
		{take(func(f *Facts) { f.LeftOut = false }), StateSilent},
		{take(func(f *Facts) { f.Silent = SilentAfter - 1 }), StateStopped},
		{take(func(f *Facts) { f.Stopped = false }), StateHeld},
		{take(func(f *Facts) { f.Held = false }), StateQuarantined},
		{take(func(f *Facts) { f.Quarantined = false }), StatePaused},
		{take(func(f *Facts) { f.Paused = false }), StateStarting},
		{take(func(f *Facts) { f.Starting = false }), StateStandby},
		{take(func(f *Facts) { f.Standby = false }), StateWaiting},
		{take(func(f *Facts) { f.Barred = false }), StateStuck},
		{take(func(f *Facts) { f.Waits = WaitingAfter }), StateWaiting}, // who waits for somebody that has a name is not stuck
		{take(func(f *Facts) { f.Waits = WaitingAfter - 1 }), StateBehind},
		{take(func(f *Facts) { f.Waits, f.Known = 0, false }), StateBehind}, // nothing to be done, so nothing need move
		{take(func(f *Facts) { f.Known, f.Unmoved = true, StuckAfter-1 }), StateBehind},
		{take(func(f *Facts) { f.Falling = false }), StateCatchingUp},
		{take(func(f *Facts) { f.Behind = f.Freshness }), StateSnapshotting},
		{take(func(f *Facts) { f.Snapshot = false }), StateStreaming},
		{take(func(f *Facts) { f.Streams = false }), StateUpToDate},
		{late, StateCatchingUp},
		{Facts{}, StateUpToDate},
	} {
		if got := one.facts.State(); got != one.want {
			t.Errorf("%+v: %s, want %s", one.facts, got, one.want)
		}
	}
}

func TestStatesLookDifferent(t *testing.T) {
	seen := map[string]bool{}
	for _, a := range appearances {
		if a.Sign == "" || a.Word == "" || seen[a.Word] {
			t.Errorf("%s is shown as %+v", a.state, a.Appearance)
		}
		seen[a.Word] = true
	}
	if Look("odd").Word != "odd" {
		t.Error("a state that is not known is not shown as it is")
	}
	if WorseState(StateUpToDate, StateQuarantined) != StateQuarantined || WorseState(StateCatchingUp, StateUpToDate) != StateCatchingUp {
		t.Error("the worse state does not win")
	}
}

func TestSteps(t *testing.T) {
	f := func(hint string, want ...Step) {
		t.Helper()
		if got := Steps(hint); !slices.Equal(got, want) {
			t.Errorf("%q: %+v, want %+v", hint, got, want)
		}
	}
	f("")
	f("capture run --on-gap=resnapshot     reads all tables again", Step{"capture run --on-gap=resnapshot", "reads all tables again"})
	f("wait, or SELECT pg_terminate_backend(5);", Step{"SELECT pg_terminate_backend(5);", "wait, or"})
	f("raise it\nsink resume a/public.b --park", Step{Note: "raise it"}, Step{Command: "sink resume a/public.b --park"})
	f("ALTER ROLE x REPLICATION;", Step{Command: "ALTER ROLE x REPLICATION;"})
	f("ALTER SYSTEM SET wal_level = 'logical';   then restart the server", Step{"ALTER SYSTEM SET wal_level = 'logical';", "then restart the server"})
	f("mend its rows; then sink resume a/public.b", Step{"", "mend its rows"}, Step{"sink resume a/public.b", ""})
	f("give it a sid: sources: [{name: a}]; then restart, and sink resume a/public.b", Step{"", "give it a sid: sources: [{name: a}]; then restart"}, Step{"sink resume a/public.b", ""})
	f("undo it; then restart capture, and capture snapshot --table a.b", Step{"", "undo it; then restart capture"}, Step{"capture snapshot --table a.b", ""})
	f("to try again: sink resume a/b.c; to put it aside: sink resume 'a/b c' --park",
		Step{"sink resume a/b.c", "to try again"}, Step{"sink resume 'a/b c' --park", "to put it aside"})
	f("capture run reads all tables when it first starts", Step{Note: "capture run reads all tables when it first starts"})
	f("ask again: capture snapshot --table schema.table", Step{"capture snapshot --table schema.table", "ask again"})
	f(trouble.Report("capture"), Step{"capture support-bundle", "this is a defect of Tributary: report it at " + trouble.Issues + " with the file that this writes"})
	f("sinks are no cause", Step{Note: "sinks are no cause"})
}

func TestQuote(t *testing.T) {
	for arg, want := range map[string]string{
		"shop/public.orders": "shop/public.orders", "a b": "'a b'", "x; rm -rf ~": "'x; rm -rf ~'", "it's": `'it'\''s'`, "": "''", "$(x)": "'$(x)'",
	} {
		if got := Quote(arg); got != want {
			t.Errorf("%q: %s, want %s", arg, got, want)
		}
	}
}

// Each code that is ever raised is told whole, also by an error that says nothing but its code.
func TestEveryCodeIsTold(t *testing.T) {
	codes := trouble.Codes()
	if len(codes) < 40 {
		t.Fatalf("%d runbooks are found", len(codes))
	}
	for _, code := range codes {
		n := Needs([]Need{{Code: code, What: "x"}})[0]
		if n.Why == "" || n.Means == "" || len(n.Do) == 0 || n.Do[0].Note == "" && n.Do[0].Command == "" || n.See != "/explain/"+string(code) {
			t.Errorf("%s: %+v", code, n)
		}
		for _, step := range n.Do { // what somebody copies, with an example's tables and offsets, changes nothing; and that they are an example's is said
			if regexp.MustCompile(`(?i)\b(update|insert|delete|drop|alter|truncate|create|pg_\w*(?:terminate|drop|advance)\w*|run|resume|retry|discard|reset|snapshot|tenant|pause)\b`).MatchString(step.Command) {
				t.Errorf("%s: %s of the runbook is there to be copied", code, step.Command)
			}
			if ofExample := regexp.MustCompile(`'warehouse'|'sales|kafka:9092`).MatchString(step.Command); step.Command != "" && ofExample != (step.Note == "the names in it are those of an example") {
				t.Errorf("%s: of %s is said %q", code, step.Command, step.Note)
			}
		}
	}
}

func TestNeedsComeUrgentFirst(t *testing.T) {
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	list := Needs([]Need{{What: "c", Since: at}, {What: "b", Urgent: true, Since: at}, {What: "d"}, {What: "a", Urgent: true, Since: at.Add(1)}})
	got := ""
	for _, n := range list {
		got += n.What
	}
	if got != "abcd" {
		t.Errorf("%s", got)
	}
}

func TestPace(t *testing.T) {
	var p Pace
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	total := 0.0
	for range 300 {
		total += 50
		now = now.Add(time.Second)
		p.Sample(now, total)
	}
	if got := p.PerSecond(); got != 50 {
		t.Errorf("%v a second", got)
	}
	if hour := p.Hour(); len(hour) != 4 || hour[3] != 50 || !p.Moved().Equal(now) {
		t.Errorf("%v, moved %s", hour, p.Moved())
	}
	if _, ok := p.UntilZero(); ok {
		t.Error("what grows has an end")
	}
	moved := now
	for range 120 {
		now = now.Add(time.Second)
		p.Sample(now, total)
	}
	if p.PerSecond() != 0 || !p.Moved().Equal(moved) {
		t.Errorf("%v a second after a minute of nothing, moved %s", p.PerSecond(), p.Moved())
	}
	var falls Pace
	for i := range 40 {
		falls.Sample(now.Add(time.Duration(i)*time.Second), float64(1000-10*i))
	}
	if left, ok := falls.UntilZero(); !ok || left != 61*time.Second {
		t.Errorf("%s, %v", left, ok)
	}

	// A guess does not jump with each minute; and one that begins to shrink is not judged by what it did before.
	var saws Pace
	value, at := 1e6, now
	run := func(seconds int, perSecond float64) {
		for range seconds {
			at, value = at.Add(time.Second), value+perSecond
			saws.Sample(at, value)
		}
	}
	run(600, 100)
	run(60, 100)
	if _, ok := saws.UntilZero(); ok {
		t.Error("what grows has an end")
	}
	run(300, -100)
	least, most := 1e18, 0.0
	for i := range 300 {
		run(1, []float64{-50, -150}[i/60%2])
		left, ok := saws.UntilZero()
		if !ok {
			t.Fatal("what shrinks has no end")
		}
		speed := value / left.Seconds()
		least, most = min(least, speed), max(most, speed)
	}
	if least < 75 || most > 125 {
		t.Errorf("a guess by speeds between %v and %v, of 50 and 150", least, most)
	}
	run(61, 0)
	if _, ok := saws.UntilZero(); ok {
		t.Error("what does not shrink has an end")
	}
}

func TestLine(t *testing.T) {
	var l Line
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for i := range 70 * 60 {
		l.Sample(now.Add(time.Duration(i)*time.Second), float64(i%60))
	}
	if hour := l.Hour(); len(hour) != 60 || hour[59] != 59 {
		t.Errorf("%v", hour)
	}
	var gaps Line
	for i := range 4*60 + 1 { // known in the first minute, and for a second of the third
		value := math.NaN()
		if i < 60 || i == 130 {
			value = float64(i)
		}
		gaps.Sample(now.Add(time.Duration(i)*time.Second), value)
	}
	text, err := json.Marshal(gaps.Hour())
	if err != nil || string(text) != "[59,null,130,null]" {
		t.Errorf("%s, %v", text, err)
	}
	var read Points
	if err := json.Unmarshal(text, &read); err != nil || fmt.Sprint(read) != "[59 NaN 130 NaN]" {
		t.Errorf("%v, %v", read, err)
	}
	if empty, err := json.Marshal((&Line{}).Hour()); err != nil || string(empty) != "[]" {
		t.Errorf("%s, %v", empty, err)
	}
}

func TestPaceRestarts(t *testing.T) {
	var p Pace
	now := time.Now()
	p.Sample(now, 1000)
	p.Sample(now.Add(time.Second), 900)
	p.Restart()
	p.Sample(now.Add(2*time.Second), 5)
	if rate := p.PerSecond(); rate != 0 || !p.Moved().IsZero() {
		t.Errorf("it moved by %v a second at %s", rate, p.Moved())
	}
}

func TestEvents(t *testing.T) {
	var e Events
	log := e.Log(slog.New(slog.DiscardHandler)).With("source", "shop")
	for i := range maxEvents + 5 {
		log.Info(fmt.Sprint("event ", i), "table", "a")
	}
	log.Debug("not worth a line")
	log.Warn("it ends", Err(&trouble.Error{Code: trouble.Gap, Op: "start"}))
	list := e.Newest()
	if len(list) != maxEvents || list[0].Text != "it ends, code gap, error start" || list[1].Text != fmt.Sprintf("event %d, table a", maxEvents+4) {
		t.Errorf("%d: %+v", len(list), list[:2])
	}
}

func TestFormatLeft(t *testing.T) {
	for d, want := range map[time.Duration]string{
		40 * time.Second: "about 40 s", 6 * time.Minute: "about 6 min", 3*time.Hour + 5*time.Minute: "about 3 h", 30 * time.Hour: "more than a day",
	} {
		if got := FormatLeft(d); got != want {
			t.Errorf("%s: %s, want %s", d, got, want)
		}
	}
}
