package page

import (
	"cmp"
	"hash/fnv"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/tributary-cdc/tributary/pkg/config"
	"github.com/tributary-cdc/tributary/pkg/service"
)

// query is what the address asks of a page: it can be sent to others, and the browser's way back works.
type query struct {
	values url.Values
}

// pageRows is how many rows the main table shows at once.
const pageRows = 50

// maxQuery bounds what an address may hold: it comes back in every link.
const maxQuery = 1024 // the longest name of a table, percent-encoded, has 600

func parseQuery(raw string) query {
	if len(raw) > maxQuery {
		raw = ""
	}
	values, err := url.ParseQuery(raw)
	if err != nil {
		values = url.Values{}
	}
	kept := url.Values{}
	for _, name := range []string{"q", "state", "sort", "dir", "group", "page", "window", "table"} {
		if v := values.Get(name); v != "" {
			kept.Set(name, v)
		}
	}
	return query{kept}
}

func (q query) get(name string) string { return q.values.Get(name) }

// with gives the address with some parameters changed, as name, value pairs; a value "" takes one away. Another order or
// filter begins at the first page.
func (q query) with(pairs ...string) string {
	next := url.Values{}
	for name, v := range q.values {
		next[name] = v
	}
	next.Del("page")
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] == "" {
			next.Del(pairs[i])
		} else {
			next.Set(pairs[i], pairs[i+1])
		}
	}
	if len(next) == 0 {
		return "/"
	}
	return "/?" + next.Encode()
}

// shownTable is a table with what the query leaves of it.
type shownTable struct {
	Table
	Shown  []shownRow
	Rest   []shownRow // folded away: all of them are well
	Of     int        // rows that fit the filter
	From   int        // number of the first one shown
	Prev   string     // addresses; "" where there is none
	Next   string
	States []string // that occur, for the choice
	Near   string   // where the filter finds nothing: the name that is nearest
	query  query
}

// shownRow is a row, or, with Heading, what stands above a group.
type shownRow struct {
	Row
	Heading string
	Worst   string
	Counts  string
}

// RowID gives what tells a row from all others of the page.
func (s *shownTable) RowID(r shownRow) string {
	h := fnv.New64a()
	_, _ = h.Write([]byte(r.Key + "\x00" + r.Heading))
	return s.ID + "-" + strconv.FormatUint(h.Sum64(), 36)
}

// sideRows is how many rows a table beside the main one shows before those that are well are folded away.
const sideRows = 8

func (q query) apply(t Table) shownTable {
	s := shownTable{Table: t, query: q}
	rows := slices.Clone(t.Rows)
	slices.SortStableFunc(rows, func(a, b Row) int { return cmp.Compare(service.StateRank(a.State), service.StateRank(b.State)) })
	if !t.Main {
		s.Of = len(rows)
		for _, r := range rows {
			if len(rows) > sideRows && service.Look(r.State).Colour == "green" {
				s.Rest = append(s.Rest, shownRow{Row: r})
			} else {
				s.Shown = append(s.Shown, shownRow{Row: r})
			}
		}
		return s
	}
	for i := range rows {
		if !slices.Contains(s.States, rows[i].State) {
			s.States = append(s.States, rows[i].State)
		}
	}
	rows = q.filter(rows)
	if len(rows) == 0 && len(t.Rows) > 0 {
		s.Near = nearest(q.get("q"), t.Rows)
	}
	q.sort(rows, t.Columns)
	s.Of = len(rows)
	grouped := slices.Index(t.Group, q.get("group"))
	if grouped >= 0 {
		slices.SortStableFunc(rows, func(a, b Row) int { return strings.Compare(a.Groups[grouped], b.Groups[grouped]) })
	}
	s.cut(rows, grouped)
	return s
}

// cut takes the rows of the page that is asked for, each group with a heading.
func (s *shownTable) cut(rows []Row, grouped int) {
	page, _ := strconv.Atoi(s.query.get("page"))
	page = min(max(page, 1), max((len(rows)+pageRows-1)/pageRows, 1))
	from, to := (page-1)*pageRows, min(page*pageRows, len(rows))
	s.From = from + 1
	if page > 1 {
		s.Prev = s.query.with("page", strconv.Itoa(page-1))
	}
	if to < len(rows) {
		s.Next = s.query.with("page", strconv.Itoa(page+1))
	}
	group := ""
	for i, r := range rows[from:to] {
		if grouped >= 0 && (i == 0 || r.Groups[grouped] != group) {
			group = r.Groups[grouped]
			s.Shown = append(s.Shown, heading(group, grouped, rows, s.Sum))
		}
		s.Shown = append(s.Shown, shownRow{Row: r})
	}
}

// heading sums up the rows of a group.
func heading(group string, grouped int, rows []Row, sum func(keys []string) string) shownRow {
	out := shownRow{Heading: group, Worst: service.StateLeftOut}
	counts, order := map[string]int{}, []string{}
	var keys []string
	for i := range rows {
		if rows[i].Groups[grouped] != group {
			continue
		}
		keys = append(keys, rows[i].Key)
		state := rows[i].State
		if counts[state] == 0 {
			order = append(order, state)
		}
		counts[state]++
		out.Worst = service.WorseState(out.Worst, state)
	}
	slices.SortFunc(order, func(a, b string) int { return cmp.Compare(service.StateRank(a), service.StateRank(b)) })
	var parts []string
	for _, state := range order {
		parts = append(parts, strconv.Itoa(counts[state])+" "+service.Look(state).Word)
	}
	out.Counts = strings.Join(parts, ", ")
	if sum != nil {
		out.Counts = sum(keys) + ": " + out.Counts
	}
	return out
}

func (q query) filter(rows []Row) []Row {
	text, state := strings.ToLower(q.get("q")), q.get("state")
	return slices.DeleteFunc(rows, func(r Row) bool {
		return state != "" && r.State != state || text != "" && !strings.Contains(strings.ToLower(r.Key), text)
	})
}

// sort puts rows in the order that is asked for; without one they stay worst first.
func (q query) sort(rows []Row, columns []Column) {
	at := slices.IndexFunc(columns, func(c Column) bool { return c.Key == q.get("sort") })
	if at < 0 {
		return
	}
	slices.SortStableFunc(rows, func(a, b Row) int {
		x, y := &a.Cells[at], &b.Cells[at]
		var n int
		switch {
		case x.State != "":
			n = cmp.Compare(service.StateRank(x.State), service.StateRank(y.State))
		case columns[at].Number:
			n = cmp.Compare(x.Order, y.Order)
		case !x.Time.IsZero() || !y.Time.IsZero():
			n = x.Time.Compare(y.Time)
		default:
			n = strings.Compare(x.Text, y.Text)
		}
		if q.get("dir") == "desc" {
			n = -n
		}
		return n
	})
}

// SortLink is where the title of a column leads: numbers are first sorted with the greatest on top.
func (s *shownTable) SortLink(c Column) string {
	asc, desc := s.query.with("sort", c.Key, "dir", ""), s.query.with("sort", c.Key, "dir", "desc")
	sorted, down := s.query.get("sort") == c.Key, s.query.get("dir") == "desc"
	switch {
	case !sorted && c.Number, sorted && !c.Number && !down:
		return desc
	case !sorted:
		return asc
	case c.Number && down:
		return asc
	}
	return s.query.with("sort", "", "dir", "")
}

// Sorted gives how a column is sorted, in the words of aria-sort; "" where it is not.
func (s *shownTable) Sorted(c Column) string {
	switch {
	case s.query.get("sort") != c.Key:
		return ""
	case s.query.get("dir") == "desc":
		return "descending"
	}
	return "ascending"
}

// nearest gives the name that differs least from text, "" if none is near. A text without a source is compared with the
// names behind it.
func nearest(text string, rows []Row) string {
	known, full := make([]string, len(rows)), map[string]string{}
	for i := range rows {
		name := strings.ToLower(rows[i].Key)
		if !strings.Contains(text, "/") {
			name = name[strings.LastIndexByte(name, '/')+1:]
		}
		known[i], full[name] = name, rows[i].Key
	}
	return full[config.Nearest(text, known)]
}
