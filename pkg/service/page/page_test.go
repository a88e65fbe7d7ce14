package page

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/http"
	neturl "net/url"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/tributary-cdc/tributary/pkg/config"
	"github.com/tributary-cdc/tributary/pkg/service"
)

var update = flag.Bool("update", false, "write the golden files anew")

// hostile is what a name can hold. It has 63 bytes, as many as Postgres takes.
const hostile = "\"><script>alert(1)</script>'; DROP\n\u202e{{.}}&amp;\x1b[31m\\u0000;---"

// at is long ago, so that nothing on the page depends on the day.
var at = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// full is a view in which every block has something, and every text is name.
func full(name string) View {
	v := View{
		Program: "capture", Name: name, About: []string{name}, State: service.StateCatchingUp, Headline: name, Late: name,
		Needs: []service.Need{
			{
				Code: "gap", Urgent: true, Subject: name, What: name, Why: name, Means: name, See: "/explain/gap",
				Do: []service.Step{{Command: name, Note: name}, {Note: name}},
			},
		},
		Tiles:    []Tile{{Name: name, Value: name, Lines: []string{name}, Bar: &Bar{1, 2, name}, State: service.StateStopped}},
		Stages:   []service.StageState{{Name: name, Workers: 2, BusyShare: 0.7, WaitingOn: name, Since: time.Now().Add(-time.Hour)}},
		Snapshot: &Snapshot{Title: name, Rows: []SnapshotRow{{Name: name, Bar: &Bar{1, 4, name}, Notes: []string{name}}, {Name: name, Notes: []string{name}}}},
		Events:   []service.Event{{At: at, Text: name}},
		Folds:    []Fold{{Title: name, Facts: [][2]string{{name, name}}}, {Title: name, Open: true, Text: name}},
		Build:    service.Build{Version: name, Revision: name},
	}
	for range 6 {
		v.Needs = append(v.Needs, service.Need{Code: "wal-budget", What: name, Why: name, Means: name, See: "/explain/wal-budget"})
	}
	rows := []Row{}
	for _, state := range []string{service.StateUpToDate, service.StateQuarantined, name} {
		rows = append(rows, Row{Key: name + state, State: state, Groups: []string{name}, Cells: []Cell{
			{Text: name}, {State: state, Text: name}, {Text: name, Order: 1}, {Line: &Spark{[]float32{1, 2}, func(float64) string { return name }}}, {Time: at},
		}})
	}
	columns := []Column{{Key: "a", Title: name}, {Key: "b", Title: name}, {Key: "c", Title: name, Number: true}, {Key: "d", Title: name}, {Key: "e", Title: name}}
	v.Tables = []Table{
		{ID: "sources", Title: name, Columns: columns, Rows: rows},
		{ID: "tables", Title: name, Columns: columns, Rows: rows, Main: true, Pages: true, Group: []string{"target"}, Empty: name},
		{ID: "members", Title: name, Empty: name},
	}
	return v
}

func testHistory() *History {
	h := NewHistory(Chart{"Behind", Seconds, []ChartLine{{"behind", false}, {"freshness", true}}}, Chart{"WAL kept", Bytes, []ChartLine{{"kept", false}, {"unlimited", true}}})
	for i := range 60 {
		value := float64(i)
		if i == 30 {
			value = math.NaN()
		}
		h.Sample(at.Add(time.Duration(i)*10*time.Second), value, 60, 1<<30, math.NaN())
	}
	h.Mark(happened)
	return h
}

// happened are two events of one line, one of another, and one that is too old, the newest first.
var happened = []service.Event{
	{At: at.Add(7 * time.Minute), Text: "table has a new version, table " + hostile},
	{At: at.Add(126 * time.Second), Text: "streaming, slot tributary_shop"},
	{At: at.Add(123 * time.Second), Text: "session ended, trying again, wait 1s"},
	{At: at.Add(-time.Minute), Text: "too old"},
}

// serve runs a server with the page of a view.
func serve(t *testing.T, view func() View, history *History) string {
	t.Helper()
	server := service.NewServer("capture", config.HTTP{Listen: "127.0.0.1:0"}, slog.New(slog.DiscardHandler), func(service.Asked) any { return map[string]string{} })
	Handle(server, Config{View: view, Table: func(name string) (View, bool) {
		v := view()
		v.Events = append([]service.Event{{At: time.Now().Add(-90 * time.Second), Text: "of the last hour"}}, v.Events...)
		v.Tables, v.Hour = nil, &Hour{Title: name, Kind: Seconds, Points: []float32{1, 4, 2}}
		return v, strings.HasPrefix(name, v.Name)
	}, Tail: func(ctx context.Context, name string, ready func(), each func(Change) error) error {
		ready()
		for range changesEach + 1 {
			if err := each(Change{At: at, Position: "1.0/1.0", Op: "update", Columns: []string{name, "b"}}); err != nil {
				return err
			}
		}
		return errors.New("that was\nall")
	}, History: history, Log: slog.New(slog.DiscardHandler)})
	if err := server.Listen(t.Context()); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Run(t.Context()) }()
	t.Cleanup(func() {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return "http://" + server.Addr()
}

// answer is what a server said.
type answer struct {
	status int
	header http.Header
}

func get(t *testing.T, url string) (answer, string) {
	t.Helper()
	return getAs(t, url, "")
}

// getAs asks with an Accept header of a browser, or of another program.
func getAs(t *testing.T, url, accept string) (answer, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", accept)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{resp.StatusCode, resp.Header}, string(body)
}

// spans are what is told of the time since something, and boot and hashes: other ones each time.
var spans = regexp.MustCompile(`\b\d+ d \d+ h\b|data-boot="\w+"|\.[0-9a-f]{12}\.|<time [^>]*data-clock>[^<]*</time>|1 h 0 min`)

// The page without its script, as people and screen readers get it.
func TestGolden(t *testing.T) {
	_, got := get(t, serve(t, func() View { return full("name") }, testHistory())+"/")
	got = spans.ReplaceAllString(got, "…")
	const file = "testdata/page.golden.html"
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil || string(want) != got {
		t.Errorf("the page is another one (%v); look at it, and run the test with -update:\n%s", err, got)
	}
}

// The page of a table is of that alone, and is renewed as that. Of one that is not there it says which may have been meant.
func TestTablePage(t *testing.T) {
	url := serve(t, func() View { return full("a/b.c") }, testHistory())
	for _, path := range []string{"/table/a/b.c", "/table/a%2Fb.c"} {
		resp, body := get(t, url+path)
		for _, want := range []string{`data-stream="/stream?table=a%2Fb.c"`, `<a href="/">`, "<b>2.0 s</b> in the last minute, max 4.0 s", "<title>‼ 1 · a/b.c</title>", `<path class="ticks" d="M`, "of the last hour</li></ol></details>"} {
			if resp.status != http.StatusOK || !strings.Contains(body, want) {
				t.Errorf("%s: %d, no %s in %s", path, resp.status, want, body)
			}
		}
		if strings.Contains(body, `id="plot-0"`) {
			t.Errorf("%s has charts of all", path)
		}
	}
	if resp, body := get(t, url+"/table/x/b.cup_to_date"); resp.status != http.StatusNotFound || !strings.Contains(body, `Nearest: <a href="/table/a%2Fb.cup_to_date">a/b.cup_to_date</a>`) {
		t.Errorf("%d: %s", resp.status, body)
	}
	if _, body := get(t, url+"/?table=a/b.c"); strings.Contains(body, "data-stream") {
		t.Error("the page of all is that of a table")
	}
}

// A line that is at nothing all the time is drawn; what stands above a chart says of which line it is, and of no time before its first point.
func TestCharts(t *testing.T) {
	h := NewHistory(Chart{"Behind", Seconds, []ChartLine{{"behind", false}, {"freshness", true}}}, Chart{"Latency", Seconds, []ChartLine{{"p50", false}, {"p99", false}}})
	began := at.Truncate(hourStep).Add(7 * time.Second)
	for i := range 3 {
		h.Sample(began.Add(time.Duration(i)*hourStep), 0, 60, float64(2-i), 9)
	}
	_, charts, _ := h.shown(false)
	if path := charts[0].Paths[0]; path != "M0 100.0L150 100.0L300 100.0" {
		t.Errorf("nothing all the time is drawn as %q", path)
	}
	if of := []string{charts[0].First, charts[1].First}; of[0] != "" || of[1] != "p50" {
		t.Errorf("the charts tell of the lines %q", of)
	}
	if most := charts[1].MostAt; !most.Equal(began) {
		t.Errorf("the most was at %s, the first point is of %s", most, began)
	}
	one, _ := (&Hour{Title: "Behind", Kind: Seconds, Points: []float32{3}}).shown(at, nil)
	if b, err := render("hour", &shown{Hour: one}); err != nil || strings.Contains(string(b), "<svg") || !strings.Contains(string(b), "<b>3.0 s</b> in the last minute") {
		t.Errorf("one point is shown as %s (%v)", b, err)
	}
}

// Names come from databases, and nothing in them may become part of the page, or hide what stands beside it.
func TestHostileNames(t *testing.T) {
	if len(hostile) != 63 {
		t.Fatalf("%d bytes", len(hostile))
	}
	url := serve(t, func() View { return full(hostile) }, testHistory())
	name := (&neturl.URL{Path: "/table/" + hostile}).EscapedPath()
	for _, path := range []string{"/", name, name + "x", "/?q=" + "%22%3E%3Cscript%3E&state=%22&sort=%3Cb%3E&group=target&window=%3C", "/?group=target&sort=a"} {
		_, body := get(t, url+path)
		for _, bad := range []string{"<script>", "\u202e", "\x1b", "{{"} {
			if strings.Contains(strings.ReplaceAll(body, "{{.}}", ""), bad) {
				t.Errorf("%s: %q stands in the page", path, bad)
			}
		}
		if path == "/" && strings.Count(body, `\u202e`) < 40 {
			t.Errorf("%s: the name is told %d times", path, strings.Count(body, `\u202e`))
		}
	}
}

// Of a name that is written from right to left a number behind it would be shown before it: each stands for itself.
func TestNamesFromRightToLeft(t *testing.T) {
	for html, want := range map[string]string{
		"<p>public.orders: 3 rows</p>":                        "<p>public.orders: 3 rows</p>",
		"<p title=\"שם\">public.הזמנות: 3 rows</p>":           "<p title=\"שם\"><bdi>public.הזמנות</bdi>: 3 rows</p>",
		"<h1>‼ הזמנות של &amp; ישן, then</h1>":                "<h1>‼ <bdi>הזמנות של</bdi> &amp; <bdi>ישן</bdi>, then</h1>",
		"<title>שם</title><b>&#34;שם&lt;</b><bdi>שם</bdi> שם": "<title>שם</title><b><bdi>&#34;שם&lt;</bdi></b><bdi>שם</bdi> <bdi>שם</bdi>",
	} {
		if got := isolate(html); got != want {
			t.Errorf("%s: %s, want %s", html, got, want)
		}
	}
	const name = "טבלה של הזמנות"
	url := serve(t, func() View { return full(name) }, testHistory())
	for _, path := range []string{"/", (&neturl.URL{Path: "/table/" + name}).EscapedPath(), "/?group=target", "/?q=הז"} {
		_, body := get(t, url+path)
		if !strings.Contains(body, "<bdi>") {
			t.Errorf("%s: no name is isolated", path)
		}
		text := regexp.MustCompile(`(?s)<title>.*?</title>|<option.*?</option>|<bdi>.*?</bdi>|<[^>]*>`).ReplaceAllString(body, "")
		for line := range strings.Lines(text) {
			if strings.IndexFunc(line, turns) >= 0 {
				t.Errorf("%s: %s", path, line)
			}
		}
	}
}

func TestHeaders(t *testing.T) {
	url := serve(t, func() View { return full("a") }, testHistory())
	resp, body := get(t, url+"/")
	for name, want := range map[string]string{
		"Content-Security-Policy": policy, "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cross-Origin-Resource-Policy": "same-origin",
		"Cache-Control": "no-store", "Content-Type": "text/html; charset=utf-8",
	} {
		if got := resp.header.Get(name); got != want {
			t.Errorf("%s: %q", name, got)
		}
	}
	if strings.Contains(body, " style=") || strings.Contains(body, "<style") || strings.Contains(body, " on") && regexp.MustCompile(` on\w+=`).MatchString(body) {
		t.Error("the page holds what its policy forbids")
	}
	for _, path := range regexp.MustCompile(`/static/[^"]+`).FindAllString(body, -1) {
		resp, _ := get(t, url+path)
		if resp.status != http.StatusOK || !strings.Contains(resp.header.Get("Cache-Control"), "immutable") {
			t.Errorf("%s: %d, %s", path, resp.status, resp.header.Get("Cache-Control"))
		}
	}
	if resp, body := get(t, url+"/explain/slot-lost"); !strings.HasPrefix(body, "# slot-lost\n") || !strings.HasPrefix(resp.header.Get("Content-Type"), "text/plain") {
		t.Errorf("%q", body)
	}
	for _, path := range []string{"/explain/none", "/static/none.js", "/none"} {
		if resp, _ := get(t, url+path); resp.status != http.StatusNotFound {
			t.Errorf("%s: %d", path, resp.status)
		}
	}
}

// A browser that asks for the status gets the page, a program the JSON.
func TestStatusLeadsToThePage(t *testing.T) {
	url := serve(t, func() View { return full("a") }, testHistory())
	for accept, want := range map[string]string{"text/html,*/*": "text/html; charset=utf-8", "": "application/json"} {
		resp, _ := getAs(t, url+"/status", accept)
		if got := resp.header.Get("Content-Type"); got != want {
			t.Errorf("%q: %s", accept, got)
		}
	}
}

func TestStream(t *testing.T) {
	url := serve(t, func() View { return full("a") }, testHistory())
	resp, err := http.Get(url + "/stream?q=a")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	seen := map[string]bool{}
	in := bufio.NewScanner(resp.Body)
	in.Buffer(nil, 1<<20)
	for len(seen) < 3 && in.Scan() {
		if event, ok := strings.CutPrefix(in.Text(), "event: "); ok {
			seen[event] = true
		}
	}
	if len(seen) != 3 {
		t.Errorf("%v: %v", seen, in.Err())
	}
}

// The changes of a table are few enough to be read; a pattern is no table.
func TestChanges(t *testing.T) {
	url := serve(t, func() View { return full("a/b.c") }, testHistory())
	_, got := get(t, url+"/changes?table=a/b.c")
	line := "event: change\ndata: 03:04:05.000 UTC  1.0/1.0  update  a/b.c, b\n\n"
	n := strings.Count(got, line) // one more where a second ends between them
	if want := "event: say\ndata: asking Kafka\n\nevent: say\ndata: as they come, the newest first; times are of the commit\n\n" + strings.Repeat(line, n) + "event: say\ndata: ended: that was\\nall. Closed and opened again, it goes on.\n\n"; got != want || n < changesEach || n > changesEach+1 {
		t.Errorf("%q", got)
	}
	if _, got := get(t, url+"/changes?table=*"); got != "event: say\ndata: there is no such table\n\n" {
		t.Errorf("%q", got)
	}
}

func TestSeries(t *testing.T) {
	_, body := get(t, serve(t, func() View { return full("a") }, testHistory())+"/series")
	var got struct {
		Times  []int64
		Charts []chartColumns
		Marks  []Mark
	}
	if err := json.Unmarshal([]byte(body), &got); err != nil {
		t.Fatal(err)
	}
	if len(got.Times) != 60 || len(got.Charts) != 2 || got.Charts[0].Data[0][30] != nil || *got.Charts[0].Data[0][31] != 31 {
		t.Errorf("%s", body)
	}
	if m := got.Marks; len(m) != 2 || len(m[0].Events) != 2 || m[0].Events[0] != happened[2] || m[0].More != 0 || m[1].Events[0].At != happened[0].At || strings.Contains(m[1].Events[0].Text, "\u202e") {
		t.Errorf("marks %+v", got.Marks)
	}
}

// However much happens, there are few lines, each tells little, and none tells an event twice.
func TestMarksAreBounded(t *testing.T) {
	h := NewHistory(Chart{"a", Count, []ChartLine{{"a", false}}})
	var list []service.Event
	for i := range 25 * 360 { // an event each ten seconds, for a day and an hour
		now := at.Add(time.Duration(i) * 10 * time.Second)
		list = append([]service.Event{{At: now, Text: strings.Repeat("ä", 1000)}}, list[:min(len(list), 199)]...)
		h.Sample(now, 1)
		h.Mark(list)
	}
	if len(h.hour.marks) > maxMarks || len(h.day.marks) > maxMarks {
		t.Errorf("%d and %d are kept", len(h.hour.marks), len(h.day.marks))
	}
	for day, width := range map[bool]time.Duration{false: 150 * time.Second, true: time.Hour} {
		_, times, _, marks := h.read(day)
		if len(marks) < maxMarks-1 || len(marks) > maxMarks || marks[0].At().Before(time.Unix(times[0], 0).Add(-2*time.Minute)) {
			t.Errorf("%v: %d marks from %s", day, len(marks), marks[0].At())
		}
		for i, m := range marks[:len(marks)-1] {
			if n := len(m.Events) + m.More; n != int(width/(10*time.Second)) || len(m.Events) != markEvents {
				t.Errorf("%v: mark %d tells %d of %d events", day, i, len(m.Events), n)
			}
		}
		if text := marks[0].Events[0].Text; text != strings.Repeat("ä", markText-1)+"…" {
			t.Errorf("%q", text)
		}
	}
}

// The memory is of a fixed size, and a gap stays one.
func TestHistoryIsBounded(t *testing.T) {
	h := NewHistory(Chart{"a", Count, []ChartLine{{"a", false}}})
	for i := range 3 * 24 * 360 {
		h.Sample(at.Add(time.Duration(i)*10*time.Second), float64(i))
	}
	h.Sample(at.Add(4*24*time.Hour), 1)
	if _, times, _, _ := h.read(false); len(times) != hourPoints+1 {
		t.Errorf("%d points of an hour", len(times))
	}
	if _, times, columns, _ := h.read(true); len(times) != dayPoints+1 || !math.IsNaN(columns[0][dayPoints-1]) {
		t.Errorf("%d points of a day, %v before the last", len(times), columns[0][dayPoints-1])
	}
}

func TestTable(t *testing.T) {
	table := Table{Main: true, Columns: []Column{{Key: "name"}, {Key: "rate", Number: true}}}
	for i := range 120 {
		state := service.StateUpToDate
		if i == 70 {
			state = service.StateStopped
		}
		name := "shop/public.t" + string(rune('a'+i%26)) + string(rune('a'+i/26))
		table.Rows = append(table.Rows, Row{Key: name, State: state, Cells: []Cell{{Text: name}, {Text: "x", Order: float64(i)}}})
	}
	f := func(raw string, of, shown int, first string) shownTable {
		t.Helper()
		s := parseQuery(raw).apply(table)
		if s.Of != of || len(s.Shown) != shown || shown > 0 && s.Shown[0].Key != first {
			t.Errorf("%s: %d of %d, %+v", raw, len(s.Shown), s.Of, s.Shown[:min(len(s.Shown), 1)])
		}
		return s
	}
	s := f("", 120, pageRows, table.Rows[70].Key) // trouble first
	if s.Next != "/?page=2" || s.Prev != "" {
		t.Errorf("%q %q", s.Prev, s.Next)
	}
	f("page=3", 120, 20, table.Rows[100].Key)
	f("page=99", 120, 20, table.Rows[100].Key)
	f("page=-1", 120, pageRows, table.Rows[70].Key)
	f("sort=rate&dir=desc", 120, pageRows, table.Rows[119].Key)
	f("sort=rate", 120, pageRows, table.Rows[0].Key)
	f("state=stopped", 1, 1, table.Rows[70].Key)
	f("q=TAA", 1, 1, table.Rows[0].Key)
	if s := f("q=public.tx", 4, 4, "shop/public.txa"); s.Near != "" {
		t.Errorf("near %q", s.Near)
	}
	if s := f("q=publik.taa", 0, 0, ""); s.Near != "shop/public.taa" {
		t.Errorf("near %q", s.Near)
	}
	parseQuery("q=" + strings.Repeat("x", 1000)).apply(table) // is taken for none
}

// What every reader's browser loads stays small, and readable as it is.
func TestOwnFilesAreSmall(t *testing.T) {
	const most = 8000 // bytes
	for _, name := range []string{"page.js", "page.css"} {
		resp, body := get(t, serve(t, func() View { return full("a") }, testHistory())+asset(name))
		if resp.status != http.StatusOK || len(body) > most {
			t.Errorf("%s: %d, %d bytes, at most %d", name, resp.status, len(body), most)
		}
	}
}

// What happened is told once, however many charts have a line of it; and so little of it that a page stays small.
func TestMarksAreToldOnce(t *testing.T) {
	charts, columns := []Chart{}, make([]float64, 4)
	for _, title := range []string{"a", "b", "c", "d"} {
		charts = append(charts, Chart{title, Count, []ChartLine{{title, false}}})
	}
	h, now := NewHistory(charts...), time.Now()
	v := View{Program: "capture", Name: "shop", State: service.StateUpToDate, Headline: "well"}
	for i := range 190 {
		v.Events = append([]service.Event{{At: now.Add(time.Duration(i-190) * 19 * time.Second), Text: fmt.Sprintf("session %d ended, trying again, wait 1s", i)}}, v.Events...)
	}
	for i := range hourPoints {
		h.Sample(now.Add(time.Duration(i-hourPoints)*10*time.Second), columns...)
	}
	h.Mark(v.Events)
	resp, err := http.Get(serve(t, func() View { return v }, h) + "/") // packed, as browsers ask for it
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	_, _, _, marks := h.read(false)
	if n := strings.Count(string(body), marks[len(marks)/2].Events[0].Text); n != 2 { // and once under Events
		t.Errorf("an event is told %d times", n)
	}
	if n := strings.Count(string(body), "<li>"); n > 190+4*maxMarks {
		t.Errorf("%d lines of events", n)
	}
	if !resp.Uncompressed || len(body) > 70_000 {
		t.Errorf("%d bytes, packed: %v", len(body), resp.Uncompressed)
	}
}

// What is vendored is what vendor.json says.
func TestVendor(t *testing.T) {
	var list []struct {
		Name, Version, Licence, Source string
		Files                          []struct{ To, SHA256 string }
	}
	text, err := os.ReadFile("vendor.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &list); err != nil || len(list) == 0 {
		t.Fatalf("%d entries: %v", len(list), err)
	}
	for _, p := range list {
		if p.Name == "" || p.Version == "" || p.Licence == "" || p.Source == "" {
			t.Errorf("%+v", p)
		}
		for _, f := range p.Files {
			data, err := os.ReadFile(f.To)
			if err != nil {
				t.Error(err)
			}
			if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != f.SHA256 {
				t.Errorf("%s is not what vendor.json says: make vendor", f.To)
			}
		}
	}
}
