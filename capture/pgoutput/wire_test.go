package pgoutput

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tributary-cdc/tributary/pkg/pgtest"
	"github.com/tributary-cdc/tributary/schema"
	"github.com/tributary-cdc/tributary/schema/change"
)

// TestWire runs each case on real servers and compares what they send with the golden file, which says where versions
// differ. -update, with TRIBUTARY_PG=all, writes them.
func TestWire(t *testing.T) {
	majors := pgtest.Majors(t)
	if os.Getenv("TRIBUTARY_PG") == "" {
		majors = []int{14, 18}
	}
	if *update && len(majors) != 5 {
		t.Fatal("the golden files have all versions: -update needs TRIBUTARY_PG=all")
	}
	clusters := map[int]*pgtest.Cluster{}
	for _, major := range majors {
		clusters[major] = pgtest.New(t, pgtest.Options{Major: major, Settings: map[string]string{
			"max_prepared_transactions": "5", "logical_decoding_work_mem": "64kB",
			"synchronous_standby_names": "nobody", "synchronous_commit": "local", // who asks for more waits for ever
		}})
	}
	files := map[string]bool{}
	for i := range wires {
		w := &wires[i]
		path := filepath.Join("testdata", "wire", w.row+".txt")
		files[path] = true
		t.Run(w.row, func(t *testing.T) {
			sent := map[int]string{}
			for _, major := range majors {
				if major >= w.min {
					sent[major] = w.run(t, clusters[major])
				}
			}
			if *update {
				if err := os.WriteFile(path, []byte(w.golden(sent)), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if head := w.head(); !strings.HasPrefix(string(text), head) {
				t.Errorf("%s is of another case; -update writes it anew", path)
			}
			for major, got := range sent {
				if want := wanted(t, string(text), major); got != want {
					t.Errorf("PostgreSQL %d sends\n%s\nwant\n%s", major, got, want)
				}
			}
		})
	}
	there, err := filepath.Glob("testdata/wire/*.txt")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range there {
		if !files[path] {
			t.Errorf("%s belongs to no case", path)
		}
	}
}

// What a case names as its tests must be there.
func TestWireIsTakenUp(t *testing.T) {
	named := map[string]bool{}
	for i := range wires {
		if len(wires[i].capture) == 0 {
			t.Errorf("%s names no test of what capture makes of it", wires[i].row)
		}
		for _, name := range wires[i].capture {
			named[name] = true
		}
	}
	const root = "../.."
	err := filepath.WalkDir(root, func(path string, e os.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		b, err := os.ReadFile(path)
		for name := range named {
			if strings.Contains(string(b), "\nfunc "+name+"(") {
				delete(named, name)
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for name := range named {
		t.Errorf("there is no test %s", name)
	}
}

const (
	messagesHead = "## PostgreSQL "
	notShown     = 6 // rows of a kind in a run of which the golden file has only the first and the last
)

func (w *wire) head() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s.\nTests: %s\n\n", w.row, w.about, strings.Join(w.capture, ", "))
	for _, sql := range w.begin {
		fmt.Fprintf(&b, "  %s;\n", sql)
	}
	if !w.publishes() {
		fmt.Fprintf(&b, "  %s;\n", w.publication())
	}
	b.WriteString("  -- decoded from here on\n")
	for _, sql := range w.then {
		fmt.Fprintf(&b, "  %s;\n", sql)
	}
	return b.String()
}

func (w *wire) publishes() bool {
	return slices.ContainsFunc(w.begin, func(sql string) bool { return strings.HasPrefix(sql, "create publication p ") })
}

func (w *wire) publication() string { return "create publication p for all tables" + w.options }

// golden is the golden file: versions that send the same stand together.
func (w *wire) golden(sent map[int]string) string {
	var b strings.Builder
	b.WriteString(w.head())
	done := map[int]bool{}
	for major := 14; major <= 18; major++ {
		if _, ok := sent[major]; !ok || done[major] {
			continue
		}
		b.WriteString("\n" + messagesHead)
		for other := major; other <= 18; other++ {
			if text, ok := sent[other]; ok && text == sent[major] {
				done[other] = true
				if other > major {
					b.WriteString(", ")
				}
				fmt.Fprint(&b, other)
			}
		}
		b.WriteString("\n\n" + sent[major])
	}
	return b.String()
}

// wanted finds the messages of a version in a golden file.
func wanted(t *testing.T, file string, major int) string {
	t.Helper()
	for part := range strings.SplitSeq(file, "\n"+messagesHead) {
		versions, messages, _ := strings.Cut(part, "\n\n")
		if slices.Contains(strings.Split(versions, ", "), fmt.Sprint(major)) {
			return messages
		}
	}
	t.Errorf("the golden file has nothing of PostgreSQL %d", major)
	return ""
}

// wireRun is a case on a server.
type wireRun struct {
	t      *testing.T
	first  *pgx.Conn
	second *pgx.Conn
	behind chan error // of a statement that waits on second; nil for none
	out    strings.Builder

	relations []schema.OID // in order of appearance
	names     map[schema.OID]string
	types     map[schema.OID]string
	last      int64 // commit time of the last transaction
}

func (w *wire) run(t *testing.T, cluster *pgtest.Cluster) string {
	dsn := pgtest.Database(t, cluster)
	r := &wireRun{t: t, first: wireConnect(t, dsn), second: wireConnect(t, dsn), names: map[schema.OID]string{}, types: map[schema.OID]string{}}
	for _, sql := range w.begin {
		r.exec(r.first, sql)
	}
	if !w.publishes() {
		r.exec(r.first, w.publication())
	}
	r.exec(r.first, `select pg_create_logical_replication_slot('wire', 'pgoutput')`)
	defer r.exec(r.first, `select pg_drop_replication_slot('wire')`)
	for _, sql := range w.then {
		r.step(sql)
	}
	r.decode(w.empty)
	if r.behind != nil {
		if err := r.second.PgConn().CancelRequest(t.Context()); err != nil { // its commit is not taken back
			t.Fatal(err)
		}
		if err := <-r.behind; err != nil {
			t.Error(err)
		}
	}
	return r.out.String()
}

func wireConnect(t *testing.T, dsn string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func (r *wireRun) exec(conn *pgx.Conn, sql string) {
	r.t.Helper()
	if _, err := conn.PgConn().Exec(r.t.Context(), sql).ReadAll(); err != nil {
		r.t.Fatalf("%v\n%s", err, sql)
	}
}

func (r *wireRun) step(sql string) {
	r.t.Helper()
	mark, rest, _ := strings.Cut(sql, " ")
	switch {
	case mark == "2:":
		r.exec(r.second, rest)
	case mark == "&2:":
		r.behind = make(chan error, 1)
		go func() {
			_, err := r.second.PgConn().Exec(context.Background(), rest).ReadAll()
			r.behind <- err
		}()
		for len(r.take("peek")) == 0 { // its commit is written before it waits
		}
	case mark == "?":
		var answer string
		if err := r.first.QueryRow(r.t.Context(), `select string_agg(q::text, ' ') from (`+rest+`) q`).Scan(&answer); err != nil {
			r.t.Fatalf("%v\n%s", err, sql)
		}
		fmt.Fprintf(&r.out, "? %s: %s\n", rest, answer)
	case strings.HasPrefix(mark, "!"):
		_, err := r.first.PgConn().Exec(r.t.Context(), rest).ReadAll()
		if e, ok := err.(*pgconn.PgError); !ok || "!"+e.Code != mark { //nolint:errorlint // it is what the server sent
			r.t.Errorf("%s: %v", sql, err)
		}
	default:
		r.exec(r.first, sql)
	}
}

// take gives what the slot has: peek leaves it there, get confirms it.
func (r *wireRun) take(how string) [][]byte {
	r.t.Helper()
	rows, err := r.first.Query(r.t.Context(), `select data from pg_logical_slot_`+how+`_binary_changes('wire', null, null, 'proto_version', '1', 'publication_names', 'p', 'messages', 'true')`)
	if err != nil {
		r.t.Fatal(err)
	}
	messages, err := pgx.CollectRows(rows, pgx.RowTo[[]byte])
	if err != nil {
		r.t.Fatal(err)
	}
	return messages
}

func (r *wireRun) decode(empty bool) {
	r.t.Helper()
	sent := r.take("peek")
	if again := r.take("get"); !slices.EqualFunc(sent, again, slices.Equal) {
		r.t.Errorf("%d messages, and %d others when they came again", len(sent), len(again))
	}
	r.describeTypes()
	var d Decoder
	var lines []string
	var begun change.LSN
	for _, m := range sent {
		kind, err := d.Decode(m)
		if err != nil {
			r.t.Fatalf("%x: %v", m, err)
		}
		switch kind {
		case KindBegin:
			begun = d.Begin.FinalLSN
		case KindCommit:
			if d.Commit.CommitLSN != begun || d.Commit.EndLSN <= begun {
				r.t.Errorf("a transaction begins with %s, and commits at %s up to %s", begun, d.Commit.CommitLSN, d.Commit.EndLSN)
			}
			if last := len(lines) - 1; !empty && strings.HasPrefix(lines[last], "Begin") {
				lines = lines[:last]
				continue
			}
		}
		lines = append(lines, r.line(&d, kind))
	}
	for i := 0; i < len(lines); {
		word := lines[i][:strings.IndexAny(lines[i]+" ", " ")]
		n := 1
		for i+n < len(lines) && strings.HasPrefix(lines[i+n], word+" ") {
			n++
		}
		if n > notShown && word == "Insert" {
			fmt.Fprintf(&r.out, "%s\n… %d more\n%s\n", lines[i], n-2, lines[i+n-1])
		} else {
			r.out.WriteString(strings.Join(lines[i:i+n], "\n") + "\n")
		}
		i += n
	}
	if len(lines) == 0 {
		r.out.WriteString("nothing\n")
	}
}

// describeTypes finds the names of types. Those of users have numbers that differ from run to run.
func (r *wireRun) describeTypes() {
	rows, err := r.first.Query(r.t.Context(), `select oid::int8, format_type(oid, -1) from pg_type`)
	if err != nil {
		r.t.Fatal(err)
	}
	var oid int64
	var name string
	if _, err := pgx.ForEachRow(rows, []any{&oid, &name}, func() error { r.types[schema.OID(oid)] = name; return nil }); err != nil {
		r.t.Fatal(err)
	}
}

// number gives a table a number that stays while its name may change.
func (r *wireRun) number(oid schema.OID) string {
	i := slices.Index(r.relations, oid)
	if i < 0 {
		i = len(r.relations)
		r.relations = append(r.relations, oid)
	}
	return fmt.Sprintf("#%d", i+1)
}

func (r *wireRun) table(oid schema.OID) string { return r.number(oid) + " " + r.names[oid] }

var databaseName = regexp.MustCompile(`test_\d+_\d+`)

// line gives a message as text, without what differs from run to run.
func (r *wireRun) line(d *Decoder, kind Kind) string {
	switch kind {
	case KindBegin:
		s := "Begin"
		if d.Begin.CommitTime < r.last {
			s += " committed before the one before"
		}
		r.last = d.Begin.CommitTime
		return s
	case KindCommit:
		return "Commit"
	case KindOrigin:
		return databaseName.ReplaceAllString(fmt.Sprintf("Origin %s %q", d.Origin.CommitLSN, d.Origin.Name), "…")
	case KindRelation:
		rel := &d.Relation
		r.names[rel.OID] = string(rel.Name)
		s := fmt.Sprintf("Relation %s %q.%q identity %s:", r.number(rel.OID), rel.Namespace, rel.Name, rel.Identity)
		for i, c := range rel.Columns {
			if i > 0 {
				s += ","
			}
			s += fmt.Sprintf(" %q %s", c.Name, r.types[c.TypeOID])
			if c.Typmod != -1 {
				s += fmt.Sprintf(" (typmod %d)", c.Typmod)
			}
			if c.Key {
				s += " key"
			}
		}
		return s
	case KindType:
		return fmt.Sprintf("Type of %s: %q.%q", r.types[d.Type.OID], d.Type.Namespace, d.Type.Name)
	case KindInsert, KindUpdate, KindDelete:
		s := fmt.Sprintf("%s %s", kind, r.table(d.Row.OID))
		if d.Row.Old != nil {
			what := " old"
			if d.Row.OldIsKey {
				what = " key"
			}
			s += what + describeTuple(d.Row.Old)
		}
		if d.Row.New != nil {
			s += " new" + describeTuple(d.Row.New)
		}
		return s
	case KindTruncate:
		s := "Truncate"
		for _, oid := range d.Truncate.OIDs {
			s += " " + r.table(oid)
		}
		if d.Truncate.Cascade {
			s += " cascade"
		}
		if d.Truncate.RestartIdentity {
			s += " restart identity"
		}
		return s
	case KindLogical:
		return fmt.Sprintf("Message transactional %v %q %q", d.Logical.Transactional, d.Logical.Prefix, d.Logical.Content)
	}
	return "unknown"
}
