package terminal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/tributary-cdc/tributary/pkg/config"
	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/trouble"
)

// TestClean: no name can paint the terminal.
func TestClean(t *testing.T) {
	for in, want := range map[string]string{
		"public.orders": "public.orders", "größe 表": "größe 表", "a\x1b[31mb": `a\x1b[31mb`, "a\nb\tc": `a\nb\tc`, "a\u202eb": `a\u202eb`,
		"a\x00\x7f\u009b": `a\x00\x7f\u009b`, "a\xffb": `a\xffb`, "a\u00a0b": `a\u00a0b`,
	} {
		if got := Clean(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
	var b bytes.Buffer
	o := Output{Out: &b, Terminal: true, Width: 80, Colour: true}
	must(t, o.Table(&Table{Columns: []Column{{Title: "t"}}, Rows: [][]Cell{Text("x\x1b]0;y\x07")}}))
	o.Printf("%s %v\n", "\x1b[2J", errors.New("\x1b[2J"))
	b.Reset()
	printer{w: &b, program: "capture"}.report(&trouble.Error{Code: trouble.Gap, Op: "do", Subject: "\x1b[2J", Cause: errors.New("\x1b[2J\nb"), Hint: "\x1b[2J"})
	printer{w: &b, program: "capture"}.report(&config.Faults{File: "f", List: []config.Fault{{Message: "\x1b[2J"}}})
	printer{w: &b, program: "capture", json: true}.report(errors.New("\x1b[2J"))
	if strings.ContainsRune(b.String(), '\x1b') {
		t.Errorf("%q", b.String())
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

var sample = &Table{
	Columns: []Column{{Title: "table"}, {Title: "state"}, {Title: "records", Number: true}, {Title: "key", Wide: true}, {Title: "note", Wraps: true}},
	Rows: [][]Cell{
		{{Text: "shop/public.表"}, {Text: "quarantined", State: service.StateQuarantined}, Number("1,204", 1204), {Text: "(id)"}, {Text: "they wait in Kafka until somebody has mended the target"}},
		{{Text: "shop/public.orders"}, {Text: "up to date", State: service.StateUpToDate}, Number("0", 0), {Text: "(id)"}, {}},
	},
}

func TestTable(t *testing.T) {
	shows := func(o Output, want string) {
		t.Helper()
		var b bytes.Buffer
		o.Out = &b
		must(t, o.Table(sample))
		if got := b.String(); got != want {
			t.Errorf("got\n%s\nwant\n%s", got, want)
		}
	}
	shows(Output{Terminal: true, Width: 120}, `TABLE               STATE        RECORDS  NOTE
shop/public.表      quarantined    1,204  they wait in Kafka until somebody has mended the target
shop/public.orders  up to date         0
`)
	shows(Output{Terminal: true, Width: 76, Colour: true}, "TABLE               STATE        RECORDS  NOTE\n"+
		"shop/public.表      \x1b[31mquarantined\x1b[0m    1,204  they wait in Kafka until somebody\n"+
		"                                          has mended the target\n"+
		"shop/public.orders  \x1b[32mup to date\x1b[0m         0\n")
	shows(Output{}, "TABLE\tSTATE\tRECORDS\tKEY\tNOTE\n"+
		"shop/public.表\tquarantined\t1204\t(id)\tthey wait in Kafka until somebody has mended the target\n"+
		"shop/public.orders\tup to date\t0\t(id)\t\n")
}

// A table gives way where the terminal is narrow: titles first, then the column that wraps. Names and numbers stay whole. Of an
// empty one it is said that nothing is there, and programs get the titles.
func TestTableFits(t *testing.T) {
	var b, told bytes.Buffer
	o := Output{Out: &b, Err: &told, Terminal: true, Width: 60}
	topics := &Table{Columns: []Column{{Title: "topic"}, {Title: "partitions", Number: true}, {Title: "kept", Wraps: true}, {Title: "greatest record", Number: true}}, Empty: "no topic"}
	must(t, o.Table(topics))
	if got := b.String(); got != "no topic\n" {
		t.Errorf("got %q", got)
	}
	b.Reset()
	must(t, (&Output{Out: &b, Err: &told}).Table(topics))
	if got := b.String() + told.String(); got != "TOPIC\tPARTITIONS\tKEPT\tGREATEST RECORD\nno topic\n" {
		t.Errorf("got %q", got)
	}
	b.Reset()
	topics.Rows = [][]Cell{Text("rental_eu.tributary_progress", "1", "newest of each key", "1.0 MiB")}
	must(t, o.Table(topics))
	if want := `TOPIC                         PARTITIONS  KEPT      GREATEST
                                                      RECORD
rental_eu.tributary_progress           1  newest     1.0 MiB
                                          of each
                                          key
`; b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
	b.Reset()
	must(t, o.Table(&Table{
		Columns: []Column{{Title: "table"}, {Title: "state"}, {Title: "rows sent", Number: true}, {Title: "note", Wraps: true}},
		Rows:    [][]Cell{Text("public.customer", "streaming", "300,004", "INSERT and TRUNCATE alone arrive")},
	}))
	if want := `TABLE            STATE         ROWS  NOTE
                               SENT
public.customer  streaming  300,004  INSERT and TRUNCATE
                                     alone arrive
`; b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
}

// Sentences of a check are wrapped, at 80 columns where there is no terminal; commands never are.
func TestCheckWraps(t *testing.T) {
	file, err := os.Create(filepath.Join(t.TempDir(), "check"))
	must(t, err)
	c := NewCheck("capture", file)
	c.Part("Server", "")
	sentence := strings.TrimSpace(strings.Repeat("twenty characters... ", 5))
	c.Warn(trouble.WALBudget, "WAL limit", sentence, "ALTER SYSTEM SET max_slot_wal_keep_size = '60GB'; SELECT pg_reload_conf();", "SELECT 1;",
		"ALTER SYSTEM SET wal_level = 'logical';   then restart the server",
		"wait until somebody has looked at it, or end the oldest one of those")
	must(t, file.Close())
	got, err := os.ReadFile(file.Name())
	must(t, err)
	if want := `
Server
  warn  WAL limit      twenty characters... twenty characters... twenty
                       characters... twenty characters... twenty characters...
        -> ALTER SYSTEM SET max_slot_wal_keep_size = '60GB'; SELECT pg_reload_conf();
                       -> SELECT 1;
                       -> ALTER SYSTEM SET wal_level = 'logical';
                          then restart the server
                       -> wait until somebody has looked at it, or end the
                          oldest one of those
`; string(got) != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if text := c.Found().Findings[0].Text; text != sentence {
		t.Errorf("the document has %q", text)
	}
}

func TestBar(t *testing.T) {
	for _, one := range []struct {
		part, whole float64
		want        string
	}{{0, 0, "[----]"}, {1, 2, "[##--]"}, {9, 2, "[####]"}, {-1, 2, "[----]"}} {
		if got := Bar(one.part, one.whole, 4); got != one.want {
			t.Errorf("%v of %v: %s", one.part, one.whole, got)
		}
	}
}

func TestCommands(t *testing.T) {
	verb := &cobra.Command{Use: "status", Short: "Say how it does", Args: NoArgs, Example: "  prog status", RunE: func(*cobra.Command, []string) error { return errSaid }}
	JSON(verb)
	changes := &Change{}
	change := &cobra.Command{Use: "drop", RunE: func(cmd *cobra.Command, _ []string) error {
		ok, err := changes.Agreed(cmd)
		if ok {
			err = errors.Join(err, errors.New("done"))
		}
		return err
	}}
	changes.Flags(change, true)
	run := func(want int, printed string, args ...string) {
		t.Helper()
		*changes = Change{}
		root := Root("prog", "Do things", verb, Group("slot", "What is kept", change))
		var out bytes.Buffer
		root.SetOut(&out)
		root.SetIn(strings.NewReader("y\n"))
		root.SetArgs(args)
		code := runMain(func(ctx context.Context) error { return root.ExecuteContext(ctx) }, nil, printer{w: &out, program: "prog"}, nil)
		if code != want || !strings.Contains(out.String(), printed) {
			t.Errorf("%v: code %d, want %d, and\n%swant\n%s", args, code, want, out.String(), printed)
		}
	}
	run(1, "", "status")
	run(2, "error: unknown verb \"statsu\"; did you mean status?\nusage: prog", "statsu")
	run(2, "error: unknown verb \"drp\"; did you mean drop?", "slot", "drp")
	run(2, "error: unknown flag --confg; did you mean --config?\nusage: prog status [--json]     (prog status --help)", "status", "--confg", "x")
	run(2, "unknown shorthand flag", "status", "-x")
	run(2, `unexpected argument "x"`, "status", "x")
	run(2, `error: unknown verb "bsh"; did you mean bash?`, "completion", "bsh")
	run(2, `error: unknown verb "drp"; did you mean drop?`, "help", "slot", "drp")
	run(0, "Usage\n  prog slot drop", "help", "slot", "drop")
	verb.Flags().Duration("for", 0, "")
	verb.Flags().Int("last", 0, "")
	run(2, "error: --for is \"x\"; write a time, like 30s, 5m or 2h\nusage: prog status", "status", "--for", "x")
	run(2, `error: --last is "all"; write a whole number`, "status", "--last", "all")
	run(2, "say --yes, or --plan", "slot", "drop")
	run(2, "either --plan or --yes", "slot", "drop", "--plan", "--yes")
	run(0, "", "slot", "drop", "--plan")
	run(1, "done", "slot", "drop", "--yes")
	run(0, "Exit codes\n  0  done\n", "status", "--help")
	run(0, "  slot        What is kept", "--help")
	run(0, "Usage\n  prog slot drop [--plan] [--reason REASON] [--yes]\n", "slot", "drop", "--help")
}

// TestNotReady: a check that has failed was not used wrongly, also where the configuration is what is wrong.
func TestNotReady(t *testing.T) {
	p := printer{w: io.Discard, program: "capture"}
	if code := p.report(&notReady{&trouble.Error{Code: trouble.Config, Op: "check", Cause: errors.New("no table matches")}}); code != exitFailed {
		t.Errorf("exit code %d", code)
	}
}

func TestErrorJSON(t *testing.T) {
	var b bytes.Buffer
	p := printer{w: &b, program: "capture", json: true, explains: true}
	if code := p.report(&trouble.Error{Code: trouble.Gap, Op: "start", Subject: "source \"shop\"", Cause: errors.New("a < b"), Means: "m", Hint: "h"}); code != 1 {
		t.Errorf("code %d", code)
	}
	if code := p.report(Usage(errors.New("no"))); code != 2 {
		t.Errorf("code %d", code)
	}
	if want := `{"error":{"code":"gap","op":"start","subject":"source \"shop\"","cause":"a < b","means":"m","hint":"h","see":"capture explain gap"}}
{"error":{"code":"usage","op":"","subject":"","cause":"no","means":"","hint":"","see":""}}
`; b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
}

// TestErrorsOfSeveral: each error of several is told with its hint, and what a verb says of one with what it means.
func TestErrorsOfSeveral(t *testing.T) {
	var b strings.Builder
	one := &trouble.Error{Code: trouble.RowCount, Op: "empty", Subject: "one", Cause: errors.New("kept"), Means: "it stays", Hint: "look"}
	two := &trouble.Error{Code: trouble.RowCount, Op: "empty", Subject: "two", Cause: errors.New("kept"), Hint: "look there"}
	printer{w: &b, program: "sink"}.report(errors.Join(fmt.Errorf("%w\n3 rows are gone", one), errors.Join(two, nil)))
	const want = "error: empty one\n  cause  kept\n  means  it stays\n         3 rows are gone\n  hint   look\n  see    docs/runbooks/row-count.md\n" +
		"error: empty two\n  cause  kept\n  hint   look there\n  see    docs/runbooks/row-count.md\n"
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", &b, want)
	}
}

// A number is not parted from its sign.
func TestWrap(t *testing.T) {
	for width, want := range map[int]string{14: "apply 88 %,|commit 4 %", 9: "apply|88 %,|commit|4 %", 0: "apply 88 %, commit 4 %"} {
		if got := strings.Join(wrap("apply 88 %, commit 4 %", width, 0), "|"); got != want {
			t.Errorf("%d: %s, want %s", width, got, want)
		}
	}
}
