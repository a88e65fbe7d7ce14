package e2e

import (
	"cmp"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tributary-cdc/tributary/pkg/kafkatest"
	"github.com/tributary-cdc/tributary/pkg/pgtest"
)

var update = flag.Bool("update", false, "write docs/types.md from what TestTypes has seen")

const typesPage = "../../docs/types.md"

// tried is what the test did with one type.
type tried struct {
	valueType
	number  int // in the names of its tables
	values  []string
	majors  []int
	missing bool   // it was not tried: no server had the extension
	avro    string // type of the field
	array   string
	spread  bool // its keys may be spread over partitions
}

// TestTypes sends extreme and random values of every type from source to warehouse, by snapshot and by stream, as
// columns, in arrays, under domains, as keys and in tables without a key, and compares the texts: in targets of the same
// types, and in targets where every column is text. docs/types.md is what it has seen.
func TestTypes(t *testing.T) {
	seed := setting(t, "TRIBUTARY_SEED", uint64(time.Now().UnixNano()))
	t.Logf("TRIBUTARY_SEED=%d", seed)
	random := rand.New(rand.NewPCG(seed, 0)) //nolint:gosec // it is to be repeatable
	var list []*tried
	for i, v := range matrix() {
		e := &tried{valueType: v, number: i, values: v.fixed}
		if v.random != nil {
			e.values = append(slices.Clip(v.fixed), v.random(random)...)
		}
		list = append(list, e)
	}
	majors := pgtest.Majors(t)
	if os.Getenv("TRIBUTARY_PG") == "" {
		majors = []int{14, 18}
	}
	for _, major := range majors {
		t.Run(fmt.Sprintf("pg%d", major), func(t *testing.T) { tryTypes(t, pgtest.Options{Major: major}, list) })
	}
	tryInstalled(t, list)
	have, err := os.ReadFile(typesPage)
	must(t, err)
	page := describeTypes(list, string(have))
	if *update {
		must(t, os.WriteFile(typesPage, []byte(page), 0o644)) //nolint:gosec // a page of the documentation
		return
	}
	if !t.Failed() && slices.Contains(majors, 14) && slices.Contains(majors, 18) && string(have) != page {
		t.Errorf("docs/types.md is not what the test has seen; go test ./e2e -run TestTypes -update writes it")
	}
}

// tryInstalled tries the types whose extensions the embedded servers lack on servers of this machine that have them. make
// extensions installs those.
func tryInstalled(t *testing.T, list []*tried) {
	byServer := map[server][]*tried{}
	for _, e := range list {
		if !e.missing {
			continue
		}
		major, dir, ok := pgtest.Installed(e.needs)
		if !ok {
			t.Logf("%s is not tried: no server of this machine has the extension %s (make extensions)", e.name, e.needs)
			continue
		}
		where := server{major, dir}
		byServer[where] = append(byServer[where], e)
	}
	for where, some := range byServer {
		t.Run(fmt.Sprintf("installed%d", where.major), func(t *testing.T) {
			tryTypes(t, pgtest.Options{Major: where.major, Programs: where.dir}, some)
		})
	}
}

// server is an installed Postgres.
type server struct {
	major int
	dir   string
}

func tryTypes(t *testing.T, options pgtest.Options, list []*tried) {
	major := options.Major
	kafka := kafkatest.Fake(t)
	registry := kafkatest.Registry(t)
	cluster := pgtest.New(t, options)
	dsn := pgtest.Database(t, cluster)
	s := newSource(t, fmt.Sprintf("types%d", major), dsn, kafka, registry)
	s.config.Topics.Partitions = 3
	same, plain := pgtest.Database(t, cluster), pgtest.Database(t, cluster)
	sameConn, plainConn := connect(t, same), connect(t, plain)

	var here []*tried
	for _, e := range list {
		if major < e.min {
			continue
		}
		if e.needs != "" && !scalar[bool](t, s.conn, `select exists (select from pg_available_extensions where name = $1)`, e.needs) {
			e.missing = true
			continue
		}
		e.missing = false
		here = append(here, e)
		e.majors = append(e.majors, major)
		for _, conn := range []*pgx.Conn{s.conn, sameConn} {
			if e.needs != "" {
				exec(t, conn, `create extension if not exists `+e.needs)
			}
			if e.setup != "" {
				_, err := conn.Exec(t.Context(), e.setup, pgx.QueryExecModeSimpleProtocol)
				must(t, err)
			}
		}
		exec(t, s.conn, fmt.Sprintf(`create domain public.d%d as %s`, e.number, e.name))
		exec(t, s.conn, fmt.Sprintf(`create table public.t%d (id int primary key, v %s, d d%[1]d, a %[2]s[])`, e.number, e.name))
		exec(t, s.conn, fmt.Sprintf(`create table public.f%d (v %s, n int)`, e.number, e.name))
		exec(t, s.conn, fmt.Sprintf(`alter table public.f%d replica identity full`, e.number))
		exec(t, plainConn, fmt.Sprintf(`create table public.t%d (id int primary key, v text, d text, a text)`, e.number))
		exec(t, plainConn, fmt.Sprintf(`create table public.f%d (v text, n int)`, e.number))
		if e.noKey == "" {
			exec(t, s.conn, fmt.Sprintf(`create table public.k%d (k %s primary key, n int)`, e.number, e.name))
			exec(t, plainConn, fmt.Sprintf(`create table public.k%d (k text primary key, n int)`, e.number))
		}
		e.insert(t, s.conn, 0)
	}
	s.startCapture(t)
	for group, warehouse := range map[string]string{"same": same, "plain": plain} {
		startGroup(t, kafka, registry, warehouse, group, `{from: "public.*", to: "public.{table}"}`)
	}
	for _, e := range here {
		e.insert(t, s.conn, 1)
		e.change(t, s.conn)
	}
	fence(t, sameConn, "same", []*source{s}, "all")
	fence(t, plainConn, "plain", []*source{s}, "all")
	admin, err := kgo.NewClient(kgo.SeedBrokers(kafka.Addrs()...))
	must(t, err)
	defer admin.Close()
	topics, err := kadm.NewClient(admin).ListTopics(t.Context())
	must(t, err)
	rows := 0
	for _, e := range here {
		for _, table := range e.tables() {
			want := texts(t, dsn, e.query(table))
			rows += len(want)
			if len(want) == 0 {
				t.Errorf("%s: table %s is empty: nothing was tried", e.name, table)
			}
			for what, warehouse := range map[string]string{"the same type": same, "text": plain} {
				differ(t, e.name+" in "+table+" as "+what, want, texts(t, warehouse, e.query(table)))
			}
		}
		e.lookUp(t, s, registry, topics)
	}
	t.Logf("%d types, %d rows equal", len(here), rows)
}

func (e *tried) tables() []string {
	list := []string{fmt.Sprintf("t%d", e.number), fmt.Sprintf("f%d", e.number)}
	if e.noKey == "" {
		list = append(list, fmt.Sprintf("k%d", e.number))
	}
	return list
}

// query gives the rows of one of the type's tables as texts.
func (e *tried) query(table string) string {
	columns := map[byte]string{'t': "id, v, d, a", 'f': "n, v", 'k': "n, k"}[table[0]]
	var parts []string
	for c := range strings.SplitSeq(columns, ", ") {
		// What the type's output function gives: ::text is something else for char(n), inet and boolean. A composite value of
		// nulls only IS NULL and is not null.
		parts = append(parts, "case when num_nulls("+c+") = 1 then '<null>' else format('%s', "+c+") end")
	}
	return "select r from (select concat_ws(' | ', " + strings.Join(parts, ", ") + ") as r from public." + table + `) q order by r collate "C"`
}

// insert puts in every other value, beginning with the one of number parity.
func (e *tried) insert(t *testing.T, conn *pgx.Conn, parity int) {
	t.Helper()
	// w is the next value. Arrays are flat, empty, of two dimensions, with a lower bound of their own, null, and of one.
	sql := strings.ReplaceAll(fmt.Sprintf(`
		insert into public.t%d
		select o, v::T, w::T, case o %% 6
			when 0 then '{}'::T[] || v::T || null::T || w::T
			when 1 then '{}'::T[]
			when 2 then array['{}'::T[] || v::T || w::T, '{}'::T[] || null::T || v::T]
			when 3 then ('[5:6]=' || ('{}'::T[] || v::T || w::T)::text)::T[]
			when 4 then null
			else '{}'::T[] || v::T end
		from (select o, v, lead(v, 1, v) over (order by o) as w from unnest($1::text[]) with ordinality as u(v, o)) q
		where o %% 2 = $2`, e.number), "T", e.name)
	if e.name == "words" { // what is an array already has no concatenation of elements
		sql = fmt.Sprintf(`insert into public.t%d select o, v::words, v::words, case when o %% 2 = 1 then '{"{x,NULL}",NULL,"[2:3]={y,z}"}'::words[] end
			from unnest($1::text[]) with ordinality as u(v, o) where o %% 2 = $2`, e.number)
	}
	exec(t, conn, sql, e.values, parity)
	exec(t, conn, fmt.Sprintf(`insert into public.f%d select v::%s, o from unnest($1::text[]) with ordinality as u(v, o), generate_series(1, 2)
		where o %% 2 = $2`, e.number, e.name), e.values, parity)
	if e.noKey == "" {
		exec(t, conn, fmt.Sprintf(`insert into public.k%d select v::%s, o from unnest($1::text[]) with ordinality as u(v, o)
			where o %% 2 = $2 on conflict do nothing`, e.number, e.name), e.values, parity)
	}
}

// change updates and deletes.
func (e *tried) change(t *testing.T, conn *pgx.Conn) {
	t.Helper()
	for _, sql := range []string{
		`update public.tN x set v = y.d, d = y.v, a = y.a from public.tN y where y.id = x.id + 1 and x.id % 3 = 0`,
		`update public.tN set v = null, d = null where id % 7 = 0`,
		`delete from public.tN where id % 11 = 0`,
		`update public.fN set n = n + 1000 where ctid in (select min(ctid) from public.fN where n % 3 = 0 group by n)`,
		`update public.fN set v = null where n % 5 = 0`,
		`delete from public.fN where ctid in (select min(ctid) from public.fN where n % 4 = 1 group by n)`,
	} {
		exec(t, conn, strings.ReplaceAll(sql, "N", strconv.Itoa(e.number)))
	}
	if e.noKey != "" {
		return
	}
	if e.again != "" {
		exec(t, conn, fmt.Sprintf(`update public.k%d set k = %s where n %% 2 = 0`, e.number, e.again))
	}
	for _, sql := range []string{
		`update public.kN set n = n + 1000 where n % 3 = 0`,
		`delete from public.kN where n % 5 = 4`,
		`do $$ declare x record; begin
			if (select count(*) from public.kN) > 1 then
				delete from public.kN where n = (select max(n) from public.kN) returning * into x;
				update public.kN set k = x.k where n = (select min(n) from public.kN);
			end if;
		end $$`,
	} {
		exec(t, conn, strings.ReplaceAll(sql, "N", strconv.Itoa(e.number)))
	}
}

// differ fails the test at the first row that is not as it should be.
func differ(t *testing.T, what string, want, got []string) {
	t.Helper()
	if len(want) != len(got) {
		t.Errorf("%s: %d rows in the warehouse, %d at the source", what, len(got), len(want))
	}
	for i := range min(len(want), len(got)) {
		if want[i] != got[i] {
			t.Errorf("%s: warehouse\n  %.300q\nsource\n  %.300q", what, got[i], want[i])
			return
		}
	}
}

// lookUp notes how the type travels, from what capture has registered.
func (e *tried) lookUp(t *testing.T, s *source, registry string, topics kadm.TopicDetails) {
	t.Helper()
	fields := registeredFields(t, registry, fmt.Sprintf("%s.public.t%d-value", s.name, e.number))
	e.avro, e.array = fields["v"], fields["a"]
	e.spread = len(topics[fmt.Sprintf("%s.public.k%d", s.name, e.number)].Partitions) > 1
}

// registeredFields gives the Avro type of each column in the newest schema of a subject.
func registeredFields(t *testing.T, registry, subject string) map[string]string {
	t.Helper()
	res, err := http.Get(registry + "/subjects/" + subject + "/versions/latest") //nolint:noctx // a test
	must(t, err)
	defer res.Body.Close()
	var version struct{ Schema string }
	must(t, json.NewDecoder(res.Body).Decode(&version))
	type field struct {
		Name string
		Type json.RawMessage
	}
	var envelope struct{ Fields []field }
	must(t, json.Unmarshal([]byte(version.Schema), &envelope))
	var union []json.RawMessage
	must(t, json.Unmarshal(envelope.Fields[0].Type, &union))
	var row struct{ Fields []field }
	must(t, json.Unmarshal(union[1], &row))
	types := map[string]string{}
	for _, f := range row.Fields {
		types[f.Name] = avroName(f.Type)
	}
	return types
}

// avroName gives the short form of an Avro type, null left out.
func avroName(raw json.RawMessage) string {
	var union []json.RawMessage
	if json.Unmarshal(raw, &union) == nil {
		return avroName(union[1])
	}
	var name string
	if json.Unmarshal(raw, &name) == nil {
		return name
	}
	var typ struct {
		Type    json.RawMessage
		Items   json.RawMessage
		Connect string `json:"connect.name"`
		Width   string `json:"connect.type"`
	}
	_ = json.Unmarshal(raw, &typ)
	name = avroName(typ.Type)
	if name == "array" {
		return "array of " + avroName(typ.Items)
	}
	if typ.Connect != "" {
		name += ", " + typ.Connect[strings.LastIndexByte(typ.Connect, '.')+1:]
	}
	if typ.Width != "" {
		name += ", " + typ.Width
	}
	return name
}

// describeTypes is docs/types.md.
//
// A type whose extension this machine has not keeps its line of the page before.
func describeTypes(list []*tried, before string) string {
	var b strings.Builder
	b.WriteString(`# Types

How values travel, and what was tried. This page is written by ` + "`TestTypes`" + ` (deploy/e2e), which sends extreme and random values of
each type through snapshot and stream, as columns, in arrays (with nulls, of several dimensions, with lower bounds of their own), under a domain, as
a key, and in a table without a key that holds equal rows; then it compares the text of each value in the warehouse with that at the
source, once in targets of the same type, and once in targets where every column is text.

What Avro's type cannot hold (infinities of dates, arrays of several dimensions …) goes beside it as text, in the field ` + "`exact`" + `: [FORMAT.md](../schema/record/FORMAT.md).
A key whose equality is not that of its bytes keeps its table in one partition.

A row may be as large as its topic takes, ` + "`topics.max_message_bytes`" + ` (8 MiB, at most 1000 MiB; above 100 MiB the brokers need a greater
` + "`socket.request.max.bytes`" + `): ` + "`TestLargeRows`" + `. A larger one holds its table alone, with an error that names table, key and size ([record-too-large](runbooks/record-too-large.md)).

Postgres itself makes each row, and each message of its stream, in a buffer of 1 GiB. More it does not store from one statement; and a ` + "`bytea`" + ` above 512 MiB, whose text is twice as long, it stores, but
then neither gives its text nor copies or streams it (` + "`invalid memory alloc request size`" + `). One that is there when its table is read holds that table ([snapshot-failed](runbooks/snapshot-failed.md)), unless its
column is excluded: then it is not read. One that comes in the stream stops capture, excluded or not ([stream-broken](runbooks/stream-broken.md)). In binary alone it could
be read, which capture does not ask for: a record of 411 MB takes 9.6 GB of memory on its way already, and above 1000 MiB there is none.

Capture asks for all text in UTF-8. A text that the server cannot convert, as in a database in SQL_ASCII or at one of the five bytes that are nothing in WIN1252, it sends to nobody who asks so: it holds
its table where that is read, and stops capture in the stream (` + "`TestTextThatIsNotUTF8`). `capture check`" + ` tells of SQL_ASCII beforehand.

The servers of the tests lack PostGIS and pgvector: their types are tried on a Postgres of the machine that has them. On Debian
` + "`sudo make extensions`" + ` installs both beside the newest Postgres that is packaged.

`)
	group := ""
	for _, e := range list {
		if e.group != group {
			group = e.group
			fmt.Fprintf(&b, "## %s\n\n| type | Avro | in an array | as a key | tried on |\n|---|---|---|---|---|\n", group)
		}
		name := "`" + strings.ReplaceAll(e.name, "|", `\|`) + "`"
		if e.needs != "" {
			name += " (" + e.needs + ")"
		}
		switch {
		case e.missing:
			_, rest, _ := strings.Cut(before, "| "+name+" |")
			line, _, _ := strings.Cut(rest, "\n")
			fmt.Fprintf(&b, "| %s |%s\n", name, cmp.Or(line, " | | | not tried |"))
			continue
		case len(e.majors) == 0:
			fmt.Fprintf(&b, "| %s | | | | not tried |\n", name)
			continue
		}
		key := "spread over partitions"
		if e.noKey != "" {
			key = "not possible in Postgres: " + e.noKey
		} else if !e.spread {
			key = "in one partition"
		}
		on := "14 and 18"
		if len(e.majors) == 1 && e.needs != "" {
			on = "a server that has the extension"
		} else if e.min > 14 {
			on = fmt.Sprintf("18 (it is there from %d on)", e.min)
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", name, e.avro, e.array, key, on)
		if last := list[len(list)-1] == e; last || list[slices.Index(list, e)+1].group != group {
			b.WriteString("\n")
		}
	}
	return strings.TrimRight(b.String(), "\n") + "\n"
}
