package page

import (
	"cmp"
	"hash/fnv"
	"maps"
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
	for _, name := range []string{"q", "state", "sort", "dir", "group", "in", "page", "rest", "window", "table"} {
		if v := values.Get(name); v != "" {
			kept.Set(name, v)
		}
	}
	if open := values["open"]; len(open) > 0 {
		kept["open"] = open
	}
	return query{kept}
}

func (q query) get(name string) string { return q.values.Get(name) }

// with gives the address with some parameters changed, as name, value pairs; a value "" takes one away. Another order or
// filter begins at the first page.
func (q query) with(pairs ...string) string {
	next := maps.Clone(q.values)
	next.Del("page")
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] == "" {
			next.Del(pairs[i])
		} else {
			next.Set(pairs[i], pairs[i+1])
		}
	}
	return address(next)
}

func address(values url.Values) string {
	if len(values) == 0 {
		return "/"
	}
	return "/?" + values.Encode()
}

// shownTable is a table with what the query leaves of it.
type shownTable struct {
	Table
	Shown  []Row
	Groups []*shownGroup // instead of Shown
	In     *shownGroup   // the one that rows are limited to; nil: to none
	Rest   *rest
	Of     int    // rows, or groups, that fit the filter
	From   int    // number of the first one shown
	Prev   string // addresses; "" where there is none
	Next   string
	States []string // that occur, for the choice
	Near   string   // where the filter finds nothing: the name that is nearest
	by     int      // which of Table.Group rows are grouped by; -1: none
	query  query
}

// rest are the rows of a table beside the main one that are folded away.
type rest struct {
	Rows       []Row
	Of, From   int
	Prev, Next string
	Open       bool
	Well       bool // all of them
}

// Unit is what is counted by Of.
func (*rest) Unit() string { return "" }

// RowID gives what tells a row from all others of the page.
func (s *shownTable) RowID(key string) string {
	h := fnv.New64a()
	_, _ = h.Write([]byte(key + "\x00"))
	return s.ID + "-" + strconv.FormatUint(h.Sum64(), 36)
}

// sideRows is how many rows a table beside the main one, or a group that is open since it has trouble, shows before those that are
// well are left to be asked for.
const sideRows = 8

// worstFirst is the order that rows have as long as nobody asks for another.
func worstFirst(a, b Row) int {
	return cmp.Or(trueFirst(a.trouble(), b.trouble()), cmp.Compare(service.StateRank(a.State), service.StateRank(b.State)), trueFirst(a.Wants, b.Wants))
}

func trueFirst(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	}
	return 1
}

func (q query) apply(t Table) shownTable {
	s := shownTable{Table: t, by: -1, query: q}
	rows := slices.Clone(t.Rows)
	slices.SortStableFunc(rows, worstFirst)
	if !t.Main {
		s.aside(rows)
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
	by := q.groupedBy(t.Group)
	if in := q.get("in"); in != "" && by >= 0 {
		rows = slices.DeleteFunc(rows, func(r Row) bool { return r.Groups[by] != in })
		if len(rows) > 0 {
			s.In = s.sumUp(in, rows)
		}
	}
	if sorted := q.sort(rows, t.Columns); !sorted && s.In == nil && by >= 0 {
		if groups := s.group(rows, by); len(groups) < len(rows) {
			s.by = by
			from, to := s.cut(len(groups))
			s.Groups = s.fill(groups[from:to])
			return s
		}
	}
	from, to := s.cut(len(rows))
	s.Shown = rows[from:to]
	return s
}

// aside shows the rows of a table beside the main one: those that are well, where there are many, and those that are too many, are
// folded away.
func (s *shownTable) aside(rows []Row) {
	s.Of = len(rows)
	n := len(rows)
	if n > sideRows {
		n = slices.IndexFunc(rows, func(r Row) bool { return !r.trouble() })
		if n < 0 {
			n = len(rows)
		}
		n = min(n, pageRows)
	}
	s.Shown = rows[:n]
	if rows = rows[n:]; len(rows) == 0 {
		return
	}
	at := pageOf(s.query.get("rest"), len(rows))
	s.Rest = &rest{Rows: rows[at.from:at.to], Of: len(rows), From: at.from + 1, Open: s.query.get("rest") != "", Well: !slices.ContainsFunc(rows, Row.trouble)}
	s.Rest.Prev, s.Rest.Next = at.addresses(s.query, "rest")
}

// cut takes from so many things those of the page that is asked for.
func (s *shownTable) cut(of int) (from, to int) {
	at := pageOf(s.query.get("page"), of)
	s.Of, s.From = of, at.from+1
	s.Prev, s.Next = at.addresses(s.query, "page")
	return at.from, at.to
}

// paged is a page of a list.
type paged struct{ page, from, to, of int }

func pageOf(asked string, of int) paged {
	page, _ := strconv.Atoi(asked)
	page = min(max(page, 1), max((of+pageRows-1)/pageRows, 1))
	return paged{page, (page - 1) * pageRows, min(page*pageRows, of), of}
}

// addresses gives those of the page before and the one behind; "" where there is none.
func (p paged) addresses(q query, parameter string) (prev, next string) {
	if p.page > 1 {
		prev = q.with(parameter, strconv.Itoa(p.page-1))
	}
	if p.to < p.of {
		next = q.with(parameter, strconv.Itoa(p.page+1))
	}
	return prev, next
}

func (q query) filter(rows []Row) []Row {
	text, state := strings.ToLower(q.get("q")), q.get("state")
	return slices.DeleteFunc(rows, func(r Row) bool {
		found := func(name string) bool { return strings.Contains(strings.ToLower(name), text) }
		return state != "" && r.State != state || text != "" && !found(r.Key) && !slices.ContainsFunc(r.Groups, found)
	})
}

// sort puts rows in the order that is asked for; without one they stay worst first, and sorted is false.
func (q query) sort(rows []Row, columns []Column) (sorted bool) {
	at := slices.IndexFunc(columns, func(c Column) bool { return c.Key == q.get("sort") })
	if at < 0 {
		return false
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
	return true
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
