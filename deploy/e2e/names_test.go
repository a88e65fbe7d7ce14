package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	osexec "os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"unicode"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/tributary-cdc/tributary/capture"
	"github.com/tributary-cdc/tributary/pkg/config"
	"github.com/tributary-cdc/tributary/pkg/kafkatest"
	"github.com/tributary-cdc/tributary/pkg/pgtest"
	"github.com/tributary-cdc/tributary/pkg/postgres"
	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/schema/record"
	"github.com/tributary-cdc/tributary/sink"
)

// hostile are names that want quoting, of which none may be taken for another: with dots, quotes, dollars, line breaks, in
// mixed case, reserved, of other scripts, as long as can be, like an escape of ours.
var hostile = []string{
	"a.b", "a", "A", "a_b", `qu"ote`, `'`, "$", "$1", "select", "user", "Ünï", "ünï", "中文", "line\nfeed", "tab\t", `back\slash`, "%s", "{table}", "*", "a b", " ", "_x2E_", "a_x2E_b", "xmin_", "-", "a/b", "{source}",
	"é" + strings.Repeat("X", 61), // 63 bytes
	// Of these some want to be SQL, a line of a log, a terminal's command or a script; others to be taken for "a" or "é".
	`"; DROP TABLE x; --`, "\r\nlevel=ERROR msg=injected", "\x01\x1b[31m", `<script>alert(1)</script>`, "\u202ea\u200b", "а", "e\u0301",
}

// evil is a value with all of that.
const evil = "\"; DROP TABLE tributary.checkpoint; --\n\r\t\x01\x1b[31m'\\ $1 %s {table} \u202e\u200b аé <script>alert(2)</script>&amp;\\N\nlevel=ERROR msg=injected"

// lines is a log. It is safe for concurrent use.
type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// honest looks for what would be taken for something else: in each line of a log, and in all that a service answers.
func honest(t *testing.T, of, log, address string, shows ...string) {
	t.Helper()
	for line := range strings.SplitSeq(strings.TrimSuffix(log, "\n"), "\n") {
		isJSON := strings.HasPrefix(line, `{"time":`) && json.Valid([]byte(line))
		if !isJSON && !strings.HasPrefix(line, "time=") || strings.ContainsFunc(line, unicode.IsControl) || !isJSON && strings.ContainsAny(line, "\u202e\u200b") {
			t.Errorf("%s logs %q", of, line)
		}
	}
	ask := func(path string) string {
		t.Helper()
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+address+path, nil)
		must(t, err)
		response, err := http.DefaultClient.Do(request)
		must(t, err)
		defer response.Body.Close() //nolint:errcheck // it is read
		body, err := io.ReadAll(response.Body)
		must(t, err)
		return string(body)
	}
	status := ask("/status?format=json")
	if !json.Valid([]byte(status)) || !strings.Contains(status, "alert(1)") {
		t.Errorf("the status of %s: %s", of, status)
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(ask("/metrics")))
	if err != nil || len(families) < 10 || strings.Contains(fmt.Sprint(families), "injected") && families["level"] != nil {
		t.Errorf("the metrics of %s: %d families, %v", of, len(families), err)
	}
	labels := map[string]bool{}
	for _, family := range families {
		for _, metric := range family.GetMetric() {
			for _, label := range metric.GetLabel() {
				labels[label.GetValue()] = true
			}
		}
	}
	for _, name := range hostile {
		if !slices.ContainsFunc(slices.Collect(maps.Keys(labels)), func(label string) bool { return strings.HasSuffix(label, "public."+name) }) {
			t.Errorf("no metric of %s has the label %q", of, "public."+name)
		}
	}
	page := ask("/")
	control := func(r rune) bool { return unicode.IsControl(r) && r != '\n' && r != '\t' }
	if strings.Contains(page, "<script>alert(") || strings.ContainsFunc(page, control) || strings.ContainsAny(page, "\u202e\u200b") {
		t.Errorf("the page of %s: %s", of, page)
	}
	for _, part := range shows {
		if !strings.Contains(page, part) {
			t.Errorf("the page of %s does not show %q: %s", of, part, page)
		}
	}
}

// spoken are verbs that do not tell names of others: of the program, of its configuration file, or none; the services; and
// what writes an archive.
var spoken = []string{
	"completion", "config check", "config reference", "config schema", "config show", "explain", "healthcheck", "init", "manpage", "run", "support-bundle", "version",
}

// clean runs all other verbs of a program, and looks for what a terminal would obey.
func clean(t *testing.T, program, path, configuration string, verbs [][]string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), program+".yaml")
	must(t, os.WriteFile(file, []byte(configuration), 0o600))
	for _, verb := range verbs {
		ctx, stop := context.WithCancel(t.Context())
		cmd := osexec.CommandContext(ctx, path, append(verb, "-c", file)...)
		cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
		var out lines
		cmd.Stdout, cmd.Stderr = &out, &out
		must(t, cmd.Start())
		if verb[0] == "tail" {
			eventually(t, program+" tail tells changes", func() bool { return strings.Count(out.String(), "\n") > 10 })
			stop()
		}
		err := cmd.Wait()
		stop()
		exit, ended := errors.AsType[*osexec.ExitError](err)
		if err != nil && verb[0] != "tail" && (!ended || exit.ExitCode() != 1) { // 1: something needs somebody
			t.Errorf("%s %q: %v\n%s", program, verb, err, out.String())
		}
		said := out.String()
		asJSON := verb[len(verb)-1] == "--json"
		if asJSON && !json.Valid([]byte(said)) {
			t.Errorf("%s %q is no JSON: %s", program, verb, said)
		}
		if strings.Contains(said, "\nlevel=ERROR") || strings.ContainsFunc(said, func(r rune) bool {
			return r != '\n' && r != '\t' && (unicode.IsControl(r) || !asJSON && unicode.Is(unicode.Cf, r))
		}) {
			t.Errorf("%s %q says %q", program, verb, said)
		}
	}
	page, err := os.ReadFile("../../docs/reference/cli.md")
	must(t, err)
	for _, verb := range regexp.MustCompile(`(?m)^## `+program+` (.+)$`).FindAllStringSubmatch(string(page), -1) {
		ran := slices.ContainsFunc(verbs, func(args []string) bool { return strings.HasPrefix(strings.Join(args, " ")+" ", verb[1]+" ") })
		group := strings.Contains(string(page), "\n## "+program+" "+verb[1]+" ")
		if !ran && !group && !slices.Contains(spoken, verb[1]) {
			t.Errorf("%s %s is not tried with names of others", program, verb[1])
		}
	}
}

// extensionTypes makes the types of extensions at both ends that both servers have, and gives their names.
func extensionTypes(t *testing.T, ends ...*pgx.Conn) (types []string) {
	t.Helper()
	for _, name := range []string{"citext", "hstore"} {
		there := true
		for _, conn := range ends {
			there = there && scalar[bool](t, conn, `select exists (select from pg_available_extensions where name = $1)`, name)
		}
		if !there {
			t.Logf("the servers here do not have %s: it is not tested", name)
			continue
		}
		for _, conn := range ends {
			exec(t, conn, `create extension `+name)
		}
		types = append(types, name)
	}
	return types
}

// TestNames takes hostile names of a database, an owner, a source, a group, schemas, tables, columns and types, hostile values
// and a hostile sid from end to end, with the roles of docs/security.md.
func TestNames(t *testing.T) {
	kafka := kafkatest.Fake(t)
	registry := kafkatest.Registry(t)
	cluster, warehouses := pgtest.New(t, pgtest.Options{}), pgtest.Shared(t, 0)
	database := fmt.Sprintf("Da\"ta.b$se 'ü' %% {0} %s", strings.Repeat("x", 20))
	must(t, cluster.CreateDatabase(t.Context(), database))
	owner, role := leastSource(t, cluster.DSN(database), hostile[len(hostile)-7])
	s := newSource(t, "plain", owner, kafka, registry)
	s.config.Source.DSN = config.Secret(role)
	s.name = `Sh.op-1 $Ä "q"`
	s.config.Source.Name, s.config.Source.Tables = s.name, []string{"*.*"}
	warehouse, wide := pgtest.Database(t, warehouses), pgtest.Database(t, warehouses)
	dwh, other := connect(t, warehouse), connect(t, wide)

	// Every name is a schema's, a table's, a column's, the key's among them; and "a"."b.c" is not "a.b"."c".
	type table struct{ schema, name string }
	var tables []table
	for _, name := range hostile {
		tables = append(tables, table{name, name}, table{"public", name})
	}
	tables = append(tables, table{"a", "b.c"}, table{"a.b", "c"}, table{"A", "B"}, table{"a", "B"})
	schemas := map[string]bool{"public": true}
	var columns []string
	for _, name := range hostile {
		columns = append(columns, postgres.Ident(name)+" text")
	}
	exec(t, s.conn, `create type "My Mood.x" as enum ('so "so"', 'Ü')`)
	for i, one := range tables {
		if !schemas[one.schema] {
			schemas[one.schema] = true
			exec(t, s.conn, `create schema `+postgres.Ident(one.schema))
		}
		exec(t, s.conn, fmt.Sprintf(`create table %s (%s, m "My Mood.x", primary key (%s))`, postgres.Ident(one.schema, one.name), strings.Join(columns, ", "), postgres.Ident(hostile[i%len(hostile)])))
		exec(t, s.conn, fmt.Sprintf(`insert into %s (%s, %s) values ($1, 'one'), ($1 || '2', 'two')`, postgres.Ident(one.schema, one.name), postgres.Ident(hostile[i%len(hostile)]), postgres.Ident(hostile[(i+1)%len(hostile)])), fmt.Sprint(one))
	}
	label, literal := strings.ToValidUTF8(evil[:60], ""), postgres.Literal(evil)
	exec(t, s.conn, `create type evil as enum (`+postgres.Literal(label)+`)`)
	exec(t, s.conn, `create table public.texts (id int primary key, a text, b varchar(300), c char(300), n name, j json, jb jsonb, x xml, l text[], d bytea, e evil)`)
	text := func(id int) {
		exec(t, s.conn, fmt.Sprintf(`insert into texts values (%d, %[2]s, %[2]s, %[2]s, %[2]s::text::name, to_json(%[2]s::text), to_jsonb(%[2]s::text), xmlelement(name a, translate(%[2]s, E'\x01\x1b', '')), array[%[2]s, null, ''], convert_to(%[2]s, 'UTF8'), %[3]s)`,
			id, literal, postgres.Literal(label)))
	}
	text(1)

	types := extensionTypes(t, connect(t, cluster.DSN(database)), dwh)
	for _, typ := range types {
		exec(t, s.conn, fmt.Sprintf(`create table public."of %[1]s" (id int primary key, v %[1]s, l %[1]s[])`, typ))
		value := literal
		if typ == "hstore" {
			value = "hstore(" + literal + ", " + literal + ")"
		}
		exec(t, s.conn, fmt.Sprintf(`insert into public."of %[1]s" values (1, %[2]s, array[%[2]s::%[1]s]), (2, null, '{}')`, typ, value))
	}

	var logs [2]lines
	var err error
	s.capture, err = capture.New(s.config, capture.Options{}, service.LogTo(&logs[0], config.Log{Level: "debug"}))
	must(t, err)
	run(t, "capture", s.capture.Serve)
	startGroup(t, kafka, registry, leastWarehouse(t, warehouse, true), "same", `{from: "*.*", to: "{schema}.{table}"}`)
	group := "wide " + evil
	var cfg sink.Config
	configuration := fmt.Sprintf(`
group: %q
warehouse: {dsn: %q, connections: 3}
kafka: {brokers: [%s]}
registry: {url: %q}
refresh: 200ms
http: {listen: "127.0.0.1:0"}
sources: [{name: %q, sid: %q}]
tables: [{from: "public.*", to: "{source}.{table}", source: "Sh.op*", sid: "si.d", on_error: park}, {from: "*.*", skip: true}]
`, group, leastWarehouse(t, wide, false), strings.Join(kafka.Addrs(), ","), registry, s.name, evil)
	must(t, config.Decode("sink.yaml", []byte(configuration), &cfg))
	k, err := sink.New(cfg, service.LogTo(&logs[1], config.Log{Level: "debug", Format: "json"}))
	must(t, err)
	run(t, "sink", k.Run)
	fence(t, dwh, "same", []*source{s}, "read")
	text(2)
	exec(t, s.conn, `update texts set id = 3 where id = 1`)
	for i, one := range tables {
		key, value := postgres.Ident(hostile[i%len(hostile)]), postgres.Ident(hostile[(i+1)%len(hostile)])
		for _, sql := range []string{
			`insert into %[1]s (%[2]s, %[3]s, m) values ('three', 'x', 'so "so"')`, `update %[1]s set %[3]s = 'changed' where %[3]s = 'two'`, `delete from %[1]s where %[3]s = 'one'`,
			`update %[1]s set %[2]s = 'moved' where %[2]s = 'three'`,
		} {
			exec(t, s.conn, fmt.Sprintf(sql, postgres.Ident(one.schema, one.name), key, value))
		}
	}
	exec(t, s.conn, `alter table public."select" rename "user" to "User ""2"""`)
	exec(t, s.conn, `alter table public."select" add "new $1" int default 7`)
	exec(t, s.conn, `insert into public."select" ("User ""2""", `+postgres.Ident(hostile[(1+2*8)%len(hostile)])+`) values ('renamed', 'k')`)
	for group, conn := range map[string]*pgx.Conn{"same": dwh, group: other} {
		fence(t, conn, group, []*source{s}, "changed")
		for _, held := range textsOf(t, conn, `select table_name || ': ' || message from tributary.quarantine`) {
			t.Errorf("quarantined: %s", held)
		}
	}
	for _, one := range tables {
		columns := textsOf(t, s.conn, fmt.Sprintf(`select quote_ident(attname) from pg_attribute where attrelid = %s::regclass and attnum > 0 and not attisdropped order by attnum`,
			postgres.Literal(postgres.Ident(one.schema, one.name))))
		sql := "select r from (select concat_ws(' | ', " + strings.ReplaceAll(strings.Join(columns, ", "), "%", "%%") + `) as r from %s) p order by r collate "C"`
		want := texts(t, s.dsn, fmt.Sprintf(sql, postgres.Ident(one.schema, one.name)))
		differ(t, fmt.Sprintf("%q", one), want, textsOf(t, dwh, fmt.Sprintf(sql, postgres.Ident(one.schema, one.name))))
		if one.schema == "public" {
			differ(t, fmt.Sprintf("%q of the source's schema", one), want, textsOf(t, other, fmt.Sprintf(sql, postgres.Ident(s.name, one.name))))
		}
	}
	if got := textsOf(t, other, `select distinct "si.d" from `+postgres.Ident(s.name, "select")); len(got) != 1 || got[0] != evil {
		t.Errorf("the sid is %q", got)
	}
	for _, typ := range types {
		sql := fmt.Sprintf(`select concat_ws(' | ', id, v, l) from public."of %s" order by id`, typ)
		differ(t, typ, texts(t, s.dsn, sql), textsOf(t, dwh, sql))
		if got := textsOf(t, dwh, fmt.Sprintf(`select atttypid::regtype::text from pg_attribute where attrelid = 'public."of %s"'::regclass and attname = 'v'`, typ)); got[0] != typ {
			t.Errorf("%s arrives as %s", typ, got)
		}
	}
	sql := `select concat_ws(' | ', id, a, b, c, n, j, jb, x, l, d, e) from public.texts order by id`
	differ(t, "texts", texts(t, s.dsn, sql), textsOf(t, dwh, sql))

	// A record with such a key is parked for a constraint of such a name.
	key := postgres.Ident(hostile[(1+2*8)%len(hostile)])
	exec(t, other, fmt.Sprintf(`alter table %s add constraint %s check (length(%s) < 40)`, postgres.Ident(s.name, "select"), postgres.Ident(hostile[len(hostile)-6]), key))
	exec(t, s.conn, fmt.Sprintf(`insert into public."select" (%s) values ($1)`, key), evil)
	eventually(t, "the record is parked", func() bool {
		return textsOf(t, other, `select count(*)::text from tributary.parked`)[0] == "1"
	})
	// Checkpoints are not written by whoever has a schema of that name.
	exec(t, s.conn, `create schema tributary`)
	exec(t, s.conn, `create table tributary.checkpoint (topic text primary key)`)
	exec(t, s.conn, `insert into tributary.checkpoint values ('all')`)
	eventually(t, "the table is held", func() bool {
		return strings.Contains(strings.Join(textsOf(t, dwh, `select message from tributary.quarantine`), " "), "is not for targets")
	})
	path, err := sinkBinary()
	must(t, err)
	held, all := s.name+"/public.select", s.name+"/public."+hostile[len(hostile)-6]
	topic, err := record.Topic(s.name, "public", hostile[len(hostile)-6])
	must(t, err)
	clean(t, "sink", path, configuration, [][]string{
		{"status", "--direct", "--all", "--wide"},
		{"status", "--direct", "--json"},
		{"check"},
		{"check", "--json"},
		{"parked", "list"},
		{"parked", "list", "--json"},
		{"parked", "show", held},
		{"parked", "show", held, "--values"},
		{"parked", "retry", held, "--plan"},
		{"parked", "discard", held, "--plan"},
		{"pause", all, "--reason", evil, "--yes"},
		{"resume", all, "--reason", evil, "--yes"},
		{"rules", "explain", "--topic", topic},
		{"rules", "test", "--topic", topic},
		{"rules", "test", "--topic", topic, "--values"},
		{"rules", "match"},
		{"rules", "accept", s.name, "--plan"},
		{"rules", "scaffold"},
		{"retention", "plan"},
		{"retention", "run"},
		{"tail", "--last", "20"},
		{"tail", "--last", "20", "--values"},
		{"tenant", "list"},
		{"tenant", "pause", s.name, "--plan"},
		{"tenant", "resume", s.name, "--plan"},
		{"tenant", "remove", s.name, "--plan"},
		{"tenant", "rebuild", s.name, "--plan"},
	})
	path, err = captureBinary()
	must(t, err)
	clean(t, "capture", path, fmt.Sprintf(`
source: {name: %q, dsn: %q, tables: ["*.*"]}
kafka: {brokers: [%s]}
registry: {url: %q}
http: {listen: "127.0.0.1:0"}
`, s.name, role, strings.Join(kafka.Addrs(), ","), registry), [][]string{
		{"status", "--direct", "--all", "--wide"},
		{"status", "--direct", "--json"},
		{"check"},
		{"check", "--json"},
		{"pause", "--reason", evil, "--plan"},
		{"resume", "--plan"},
		{"slot", "show"},
		{"slot", "drop", "--plan"},
		{"snapshot", "--table", "*.*", "--plan"},
		{"snapshot", "--table", "public.*", "--wait"},
		{"snapshot", "cancel", "--table", "*.*", "--plan"},
		{"snapshot", "list"},
		{"topics", "list"},
		{"topics", "list", "--json"},
		{"topics", "set", topic, "--retention", "forever", "--plan"},
		{"tail", "--last", "20"},
		{"tail", "--last", "20", "--values"},
	})
	_, address, _ := strings.Cut(logs[0].String(), "http=")
	honest(t, "capture", logs[0].String(), strings.Fields(address)[0])
	honest(t, "sink", logs[1].String(), k.Addr(), "&lt;script&gt;alert(2)")
}
