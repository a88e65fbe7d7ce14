package page

import (
	"fmt"
	"strings"
	"testing"

	"github.com/tributary-cdc/tributary/pkg/service"
)

// grouped is a table of so many sources with so many tables each, which are grouped by target.
func grouped(sources, tables int) Table {
	t := Table{
		ID: "tables", Title: "Tables", Main: true, Group: []string{"target", "source"}, Sum: func(keys []string) []string { return []string{fmt.Sprint(len(keys), " keys")} },
		Columns: []Column{{Key: "name", Title: "name"}, {Key: "state", Title: "state"}, {Key: "target", Title: "target"}},
	}
	for i := range sources {
		for j := range tables {
			name, target := fmt.Sprintf("s%03d/t%d", i, j), fmt.Sprintf("to.t%d", j)
			t.Rows = append(t.Rows, Row{Key: name, State: service.StateUpToDate, Groups: []string{target, name[:4]}, Cells: []Cell{{Text: name}, {State: service.StateUpToDate}, {Text: target}}})
		}
	}
	return t
}

// lines gives the groups as a reader sees them: which, whether open, with how many rows of how many.
func lines(s shownTable) string {
	var out []string
	for _, g := range s.Groups {
		line := fmt.Sprintf("%s %d of %d", g.Name, len(g.Rows), len(g.rows))
		if g.Name == "" {
			line = fmt.Sprintf("%d alone", len(g.Rows))
		}
		if g.Open {
			line = "v " + line
		}
		if g.Fetch != "" {
			line += ", to be asked for"
		}
		if g.More > 0 {
			line += fmt.Sprintf(", %d more", g.More)
		}
		if g.More > 0 && g.Well {
			line += " well"
		}
		out = append(out, line)
	}
	return strings.Join(out, "; ")
}

// What has trouble stands first and open, what is well is folded and counted, and no page has more than fifty rows.
func TestGroups(t *testing.T) {
	small := grouped(3, 4)
	small.Rows[5].State = service.StateQuarantined
	small.Rows[10].Wants = true
	large := grouped(200, 10)
	large.Rows[10*100+7].State = service.StatePaused
	waiting := grouped(200, 10)
	for i := range waiting.Rows {
		waiting.Rows[i].State = service.StateWaiting
	}
	mixed := grouped(3, 2)
	for i := range 60 {
		name := fmt.Sprintf("s000/x%02d", i)
		mixed.Rows = append(mixed.Rows, Row{Key: name, State: service.StateUpToDate, Groups: []string{"s000." + name[5:], "s000"}, Cells: make([]Cell, 3)})
	}
	mixed.Rows[len(mixed.Rows)-1].State = service.StateStopped
	for _, one := range []struct {
		name, query string
		table       Table
		want        string
		of          int
	}{
		{"small", "", small, "v to.t1 3 of 3; v to.t2 3 of 3; to.t0 3 of 3; to.t3 3 of 3", 4},
		{"by source", "group=source", small, "v s001 4 of 4; v s002 4 of 4; s000 4 of 4", 3},
		{"large", "", large, "v to.t7 1 of 200, 199 more well; " + strings.Join(each([]int{0, 1, 2, 3, 4, 5, 6, 8, 9}, "to.t%d 0 of 200, to be asked for"), "; "), 10},
		{"asked for", "open=to.t1", large, "v to.t7 1 of 200, 199 more well; to.t0 0 of 200, to be asked for; v to.t1 49 of 200, 151 more well; " + strings.Join(each([]int{2, 3, 4, 5, 6, 8, 9}, "to.t%d 0 of 200, to be asked for"), "; "), 10},
		{"found by its group", "q=to.t0", grouped(3, 4), "v to.t0 3 of 3", 1},
		{"each group has one", "q=s007", large, "", 10},
		{"all in trouble", "", waiting, strings.Join(each([]int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}, "v to.t%d 5 of 200, 195 more"), "; "), 10},
		{"some alone", "", mixed, "1 alone; to.t0 0 of 3, to be asked for; to.t1 0 of 3, to be asked for; 47 alone", 62},
		{"some alone, next page", "page=2", mixed, "12 alone", 62},
		{"state", "state=paused", large, "", 1},
	} {
		s := parseQuery(one.query).apply(one.table)
		if got := lines(s); got != one.want || s.Of != one.of {
			t.Errorf("%s: %d\n%s\nwant %d\n%s", one.name, s.Of, got, one.of, one.want)
		}
	}
}

func each(numbers []int, form string) (out []string) {
	for _, n := range numbers {
		out = append(out, fmt.Sprintf(form, n))
	}
	return out
}

// Of many groups a page has fifty, and their rows are together no more than that.
func TestManyGroups(t *testing.T) {
	table := grouped(200, 10)
	for query, first := range map[string]string{"group=source": "s000", "group=source&page=4": "s150", "group=source&q=t": "s000"} {
		s := parseQuery(query).apply(table)
		rows := 0
		for _, g := range s.Groups {
			rows += len(g.Rows)
		}
		if len(s.Groups) != pageRows || s.Groups[0].Name != first || s.Of != 200 || rows > pageRows || rows == 0 || s.Unit() != " sources" {
			t.Errorf("%s: %d groups with %d rows, of %d%s, from %s", query, len(s.Groups), rows, s.Of, s.Unit(), s.Groups[0].Name)
		}
	}
	s := parseQuery("in=to.t3&page=2").apply(table)
	if len(s.Shown) != pageRows || s.Of != 200 || s.Shown[0].Key != "s050/t3" || s.In.Counts != "200 up to date" || s.Next != "/?in=to.t3&page=3" {
		t.Errorf("%d of %d, %+v", len(s.Shown), s.Of, s.In)
	}
	if s := parseQuery("group=none").apply(table); len(s.Shown) != pageRows || s.Of != 2000 || len(s.Groups) != 0 {
		t.Errorf("%d of %d", len(s.Shown), s.Of)
	}
	if s := parseQuery("sort=name&dir=desc").apply(table); len(s.Shown) != pageRows || s.Shown[0].Key != "s199/t9" {
		t.Errorf("sorted: %d, %+v", len(s.Shown), s.Shown[:1])
	}
	if s := parseQuery("in=to.none").apply(table); s.Of != 0 || s.In != nil {
		t.Errorf("%d", s.Of)
	}
}

// What stands beside is bounded, too, also where all of it has trouble.
func TestSideTable(t *testing.T) {
	side := Table{ID: "sources", Rows: grouped(200, 1).Rows}
	for i := range 3 {
		side.Rows[i+20].State = service.StateSilent
	}
	s := parseQuery("rest=4").apply(side)
	if len(s.Shown) != 3 || s.Rest.Of != 197 || s.Rest.From != 151 || len(s.Rest.Rows) != 47 || !s.Rest.Open || !s.Rest.Well || s.Rest.Prev != "/?rest=3" || s.Rest.Next != "" {
		t.Errorf("%d, %+v", len(s.Shown), s.Rest)
	}
	for i := range side.Rows {
		side.Rows[i].State = service.StateSilent
	}
	if s := parseQuery("").apply(side); len(s.Shown) != pageRows || s.Rest.Of != 150 || s.Rest.Well || s.Rest.Open || len(s.Rest.Rows) != pageRows {
		t.Errorf("%d, %+v", len(s.Shown), s.Rest)
	}
	if s := parseQuery("").apply(Table{Rows: side.Rows[:8]}); len(s.Shown) != 8 || s.Rest != nil {
		t.Errorf("%d", len(s.Shown))
	}
}
