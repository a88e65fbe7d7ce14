package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	osexec "os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tributary-cdc/tributary/pkg/config"
	"github.com/tributary-cdc/tributary/pkg/kafkatest"
	"github.com/tributary-cdc/tributary/pkg/pgtest"
	"github.com/tributary-cdc/tributary/sink"
)

// operated is a group of tenants with which somebody works while their applications write: tenants are paused, removed, brought back and
// rebuilt, tables read again, sinks come and go, rules change; and whoever runs a verb may be killed in the middle of it.
type operated struct {
	t       *testing.T
	r       *rand.Rand
	tenants []*source
	dwh     *pgx.Conn
	file    string   // of the configuration
	said    []string // what was done, with what came of it
	begin   func() (stop func())
	sinks   []func()
	below   int // the filter of orders
	more    bool
	fences  int
	rows    map[*source]int
	asked   map[string]time.Time // when a table was read again, as SOURCE/TABLE
}

const operatedGroup = "operated"

// operatedTables: a table with a key, one without, a history, a log, and one with a filter and a computed column.
const operatedTables = `
	create table public.item (id int primary key, v int, note text);
	create table public.event (id int, v int); alter table public.event replica identity full;
	create table public.customer (id int primary key, v int, note text);
	create table public.booking (id int primary key, v int);
	create table public.orders (id int primary key, v int, note text);`

func (o *operated) configuration(kafka kafkatest.Cluster, registry string) []byte {
	return fmt.Appendf(nil, `
group: %s
warehouse: {dsn: %q, connections: 3}
kafka: {brokers: [%s]}
registry: {url: %q}
refresh: 200ms
http: {listen: "127.0.0.1:0"}
sources: [{name: "tenant_*", sid: "{*}"}]
tables:
  - {from: public.customer, to: app.customer, sid: tenant, sid_type: integer, mode: history}
  - {from: public.booking, to: app.booking, sid: tenant, sid_type: integer, mode: append}
  - {from: public.orders, to: app.orders, sid: tenant, sid_type: integer, filter: "v < %d", set: [{column: half, value: v / 2}%s]}
  - {from: "public.*", to: "app.{table}", sid: tenant, sid_type: integer}
`, operatedGroup, o.dwh.Config().ConnString(), strings.Join(kafka.Addrs(), ","), registry, o.below,
		map[bool]string{true: `, {column: size, value: "note + '!'"}`}[o.more])
}

func (o *operated) say(format string, args ...any) {
	o.said = append(o.said, time.Now().Format("05.000 ")+fmt.Sprintf(format, args...))
}

// verb runs a verb of the program sink, which may be killed after a time, and gives its exit code, -1 of one that was killed.
func (o *operated) verb(within time.Duration, args ...string) (code int, out string) {
	o.t.Helper()
	path, err := sinkBinary()
	must(o.t, err)
	ctx, cancel := context.WithTimeout(o.t.Context(), within)
	defer cancel()
	cmd := osexec.CommandContext(ctx, path, append(args, "-c", o.file)...)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	_ = cmd.Run() // the exit code says it
	code, out = cmd.ProcessState.ExitCode(), said.String()
	if args[0] != "status" {
		o.say("sink %s: %d\n    %s", strings.Join(args, " "), code, strings.ReplaceAll(strings.TrimSpace(out), "\n", "\n    "))
	}
	return code, out
}

// write changes rows of a tenant, in a transaction.
func (o *operated) write(s *source) {
	tx, err := s.conn.Begin(context.Background())
	must(o.t, err)
	for range 1 + o.r.IntN(12) {
		table := []string{"item", "event", "customer", "booking", "orders"}[o.r.IntN(5)]
		values := fmt.Sprintf("%d", o.r.IntN(100))
		names, set := "id, v", "v = "+values
		if table != "event" && table != "booking" {
			names, values = "id, v, note", values+", '"+strings.Repeat("n", o.r.IntN(8))+"'"
		}
		id := 1 + o.r.IntN(o.rows[s]+1)
		var sql string
		switch o.r.IntN(40) {
		case 0:
			sql = fmt.Sprintf("truncate public.%s", table)
			o.say("%s of %s", sql, s.name)
		case 1, 2, 3, 4, 5, 6:
			sql = fmt.Sprintf("delete from public.%s where id = %d", table, id)
		case 7, 8, 9:
			o.rows[s]++
			sql = fmt.Sprintf("update public.%s set id = %d where id = %d", table, o.rows[s], id)
		case 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20:
			sql = fmt.Sprintf("update public.%s set %s where id = %d", table, set, id)
		default:
			o.rows[s]++
			sql = fmt.Sprintf("insert into public.%s (%s) values (%d, %s)", table, names, o.rows[s], values)
		}
		_, err := tx.Exec(context.Background(), sql)
		must(o.t, err)
	}
	must(o.t, tx.Commit(context.Background()))
}

// act is one random thing that somebody does.
func (o *operated) act() {
	s := o.tenants[o.r.IntN(len(o.tenants))]
	tables := []string{"item", "event", "customer", "booking", "orders"}
	table := tables[o.r.IntN(len(tables))]
	within := patience
	if o.r.IntN(3) == 0 { // and is killed, or loses patience
		within = time.Duration(20+o.r.IntN(1500)) * time.Millisecond
	}
	switch o.r.IntN(14) {
	case 0:
		o.verb(within, "pause", s.name+"/public."+table, "--yes")
	case 1:
		o.verb(within, "pause", "--yes")
		o.write(s)
		o.verb(within, "resume", "--yes")
	case 2:
		o.verb(within, "tenant", "pause", s.name, "--yes")
	case 3, 4:
		o.verb(within, "tenant", "resume", s.name, "--yes")
	case 5, 6, 7:
		if code, _ := o.verb(within, "tenant", "remove", s.name, "--yes"); code == 0 {
			for _, table := range tables {
				if n := number(func() (string, error) { return o.dwh.Config().ConnString(), nil }, fmt.Sprintf("select count(*) from app.%s where tenant = %s", table, strings.TrimPrefix(s.name, "tenant_"))); n > 0 {
					o.t.Errorf("%d rows of app.%s are left of %s, which was removed", n, table, s.name)
				}
			}
		}
	case 8, 9:
		o.verb(within, "tenant", "rebuild", s.name, "--yes")
	case 10: // by its capture
		reload := o.r.IntN(2) == 0
		o.say("public.%s of %s is read again, reload %t", table, s.name, reload)
		exec(o.t, s.conn, `select pg_logical_emit_message(true, 'tributary', $1)`, fmt.Sprintf(`{"snapshot": {"tables": ["public.%s"], "reload": %t}}`, table, reload))
	case 11: // a sink more, or one less
		if len(o.sinks) < 3 {
			o.say("one sink more")
			o.sinks = append(o.sinks, o.begin())
			break
		}
		o.say("one sink less")
		o.sinks[0]()
		o.sinks = o.sinks[1:]
	case 12: // another rule
		o.below, o.more = 20+o.r.IntN(80), o.r.IntN(2) == 0
		o.say("orders below %d, size %t", o.below, o.more)
		o.restart()
	default:
		o.restart()
	}
}

// restart starts all sinks anew, with the configuration as it is now.
func (o *operated) restart() {
	n := len(o.sinks)
	for _, stop := range o.sinks {
		stop()
	}
	o.sinks = nil
	for range n {
		o.sinks = append(o.sinks, o.begin())
	}
}

// heed does what the status says, and says whether nothing needs anybody any more.
func (o *operated) heed() bool {
	_, out := o.verb(patience, "status", "--json")
	var st struct {
		State string `json:"state"`
		Needs []struct {
			Code     string   `json:"code"`
			Subject  string   `json:"subject"`
			Subjects []string `json:"subjects"`
			What     string   `json:"what"`
			Do       []struct{ Command, Note string }
		} `json:"needs_you"`
	}
	if err := json.Unmarshal([]byte(out), &st); err != nil {
		o.t.Fatalf("status: %v\n%s", err, out)
	}
	var did []string
	for _, n := range st.Needs {
		o.say("it needs somebody: %s: %s: %s: %v", n.Code, n.Subject, n.What, n.Do)
		for _, step := range n.Do {
			words := strings.Fields(step.Command)
			if table, ok := strings.CutPrefix(step.Command, "capture snapshot --wait --table "); ok {
				o.readAgain(table, append(n.Subjects, n.Subject))
				break
			}
			if len(words) > 2 && words[0] == "sink" && slices.Contains([]string{"resume", "tenant"}, words[1]) && !slices.Contains(did, step.Command) {
				did = append(did, step.Command)
				words = slices.DeleteFunc(words[1:], func(w string) bool { return w == "--yes" || w == "--wait" || w == "--plan" })
				o.verb(patience, append(words, "--yes")...)
				break
			}
		}
	}
	return len(st.Needs) == 0
}

// readAgain has the captures read a table again, of the tenants among subjects, but not before one that was asked for had its time.
func (o *operated) readAgain(table string, subjects []string) {
	for _, s := range o.tenants {
		subject := s.name + "/" + table
		if !slices.Contains(subjects, subject) || time.Since(o.asked[subject]) <= 5*time.Second {
			continue
		}
		o.asked[subject] = time.Now()
		o.say("%s of %s is read again", table, s.name)
		exec(o.t, s.conn, `select pg_logical_emit_message(true, 'tributary', $1)`, fmt.Sprintf(`{"snapshot": {"tables": [%q]}}`, table))
	}
}

// settle ends all pauses, brings back who was removed, does what the status says, and waits until all is in that was written.
func (o *operated) settle() {
	o.t.Helper()
	if len(o.sinks) == 0 {
		o.sinks = append(o.sinks, o.begin())
	}
	for _, s := range o.tenants {
		o.verb(patience, "tenant", "resume", s.name, "--yes")
		for _, table := range textsOf(o.t, o.dwh, `select source || '/' || "table" from tributary.control where grp = '`+operatedGroup+`' and "table" <> ''`) {
			o.verb(patience, "resume", table, "--yes")
		}
	}
	o.verb(patience, "resume", "--yes")
	began := time.Now()
	for pass := 0; pass < 2; {
		if time.Since(began) > patience {
			o.t.Fatal("it does not settle")
		}
		o.fences++
		for _, s := range o.tenants {
			exec(o.t, s.conn, `select pg_logical_emit_message(true, 'tributary', $1)`, fmt.Sprintf(`{"fence": "f%d"}`, o.fences))
		}
		until := time.Now().Add(10 * time.Second)
		passed := func() bool {
			return scalar[int](o.t, o.dwh, `select count(*) from tributary.progress where grp = $1 and $2 = any(fences)`, operatedGroup, fmt.Sprintf("f%d", o.fences)) == len(o.tenants)
		}
		for !passed() && time.Now().Before(until) {
			time.Sleep(100 * time.Millisecond)
		}
		if !o.heed() || !passed() {
			pass = 0
			time.Sleep(500 * time.Millisecond)
			continue
		}
		pass++
	}
	eventually(o.t, "no reload is open", func() bool {
		return scalar[int](o.t, o.dwh, `select count(*) from tributary.reload where grp = $1`, operatedGroup) == 0
	})
}

// compare says what differs from the tenants' databases.
func (o *operated) compare() {
	o.t.Helper()
	where := map[string]string{"customer": " and valid_to = 'infinity'"}
	for _, s := range o.tenants {
		sid := strings.TrimPrefix(s.name, "tenant_")
		for table, columns := range map[string]string{"item": "id, v, note", "event": "id, v", "customer": "id, v, note", "orders": "id, v, note, v / 2"} {
			from := "select concat_ws('|', %s) from %s where %s order by 1"
			filter, here := "true", columns
			if table == "orders" {
				filter, here = fmt.Sprintf("v < %d", o.below), "id, v, note, half"
				if o.more {
					columns, here = columns+", note || '!'", here+", size"
				}
			}
			want := texts(o.t, s.dsn, fmt.Sprintf(from, columns, "public."+table, filter))
			got := texts(o.t, o.dwh.Config().ConnString(), fmt.Sprintf(from, here, "app."+table, "tenant = "+sid+where[table]))
			differ(o.t, table+" of "+s.name, want, got)
		}
		// The log has what every row once was; of one that was read again, at least what it is.
		want := texts(o.t, s.dsn, "select concat_ws('|', id, v) from public.booking order by 1")
		got := texts(o.t, o.dwh.Config().ConnString(), "select distinct concat_ws('|', id, v) from app.booking where tenant = "+sid+" order by 1")
		for _, row := range want {
			if !slices.Contains(got, row) {
				o.t.Errorf("booking of %s: the log has not %s", s.name, row)
			}
		}
	}
}

// TestRandomVerbs: whatever somebody does with tenants, and wherever they are interrupted, what the status says then is to be done brings
// the warehouse to hold what the tenants' databases hold. TRIBUTARY_SEED makes another run of it, TRIBUTARY_ROUNDS a longer one.
func TestRandomVerbs(t *testing.T) {
	seed, rounds := setting(t, "TRIBUTARY_SEED", 1), setting(t, "TRIBUTARY_ROUNDS", 2)
	t.Logf("TRIBUTARY_SEED=%d", seed)
	kafka, registry := kafkatest.Fake(t), kafkatest.Registry(t)
	cluster := pgtest.Shared(t, pgtest.DefaultMajor)
	o := &operated{
		t: t, r: rand.New(rand.NewPCG(seed, 0)), below: 60, rows: map[*source]int{}, asked: map[string]time.Time{}, //nolint:gosec // a test's
		dwh: connect(t, pgtest.Database(t, cluster)), file: filepath.Join(t.TempDir(), "sink.yaml"),
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("what was done:\n%s", strings.Join(o.said, "\n"))
		}
	})
	for _, n := range []string{"1", "2"} {
		s := newSource(t, "tenant_"+n, pgtest.Database(t, cluster), kafka, registry)
		s.config.Topics.Partitions = 2
		s.config.Source.Slot = fmt.Sprintf("verbs_%d_%s", os.Getpid(), n)
		t.Cleanup(func() { dropSlot(t, s.dsn, s.config.Source.Slot) })
		exec(t, s.conn, operatedTables)
		o.rows[s] = 100
		for _, table := range []string{"item", "customer", "orders"} {
			exec(t, s.conn, fmt.Sprintf(`insert into public.%s select i, i, 'n' || i from generate_series(1, 100) i`, table))
		}
		for _, table := range []string{"event", "booking"} {
			exec(t, s.conn, fmt.Sprintf(`insert into public.%s select i, i from generate_series(1, 100) i`, table))
		}
		o.tenants = append(o.tenants, s)
	}
	o.begin = func() func() {
		text := o.configuration(kafka, registry)
		must(t, os.WriteFile(o.file, text, 0o600))
		var cfg sink.Config
		must(t, config.Decode("sink.yaml", text, &cfg))
		k, err := sink.New(cfg, quiet())
		must(t, err)
		return run(t, "sink", k.Run)
	}
	o.sinks = append(o.sinks, o.begin())
	for _, s := range o.tenants {
		s.startCapture(t)
	}
	fence(t, o.dwh, operatedGroup, o.tenants, "begun")
	o.compare()
	for round := range rounds {
		o.say("round %d", round)
		for range 12 {
			for _, s := range o.tenants {
				o.write(s)
			}
			o.act()
		}
		o.settle()
		// What a filter or a computed column has written before another rule came is written anew by a rebuild.
		for _, s := range o.tenants {
			if code, out := o.verb(patience, "tenant", "rebuild", s.name, "--yes", "--wait", "--timeout", patience.String()); code != 0 {
				t.Errorf("rebuild of %s: %d\n%s", s.name, code, out)
			}
		}
		o.settle()
		o.compare()
		if t.Failed() {
			t.FailNow()
		}
	}
}
