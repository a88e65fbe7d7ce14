package page

import (
	"cmp"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/tributary-cdc/tributary/pkg/service"
)

// ungrouped is what the address says where rows are to be shown one by one.
const ungrouped = "none"

// shownGroup is a group of rows: a line that sums them up, and a fold with them. Groups of one row need neither, and stand together.
type shownGroup struct {
	ID     string
	Name   string // "" of groups of one
	Worst  string
	Sums   []string
	Counts string // how many are in which state, the worst first
	Open   bool   // it has trouble, was asked for, or the filter has found it
	Rows   []Row
	More   int    // rows that are not shown
	Well   bool   // those are
	All    string // address of all of its rows, page by page
	Fetch  string // where no row fits into the page: address of the page with them

	rows []Row
}

// Of is how many rows it has.
func (g *shownGroup) Of() int { return len(g.rows) }

// trouble says whether a row is to be seen without being asked for.
func (r Row) trouble() bool {
	colour := service.Look(r.State).Colour
	return r.Wants || colour != "green" && colour != "grey"
}

// groupedBy says by which of some titles rows are grouped; -1: by none.
func (q query) groupedBy(titles []string) int {
	if len(titles) == 0 || q.get("group") == ungrouped {
		return -1
	}
	return max(slices.Index(titles, q.get("group")), 0)
}

// group gives the groups of rows that are in order: those with trouble first, then those of several rows, then by name.
func (s *shownTable) group(rows []Row, by int) []*shownGroup {
	of := map[string][]Row{}
	for _, r := range rows {
		of[r.Groups[by]] = append(of[r.Groups[by]], r)
	}
	groups := make([]*shownGroup, 0, len(of))
	for name, rows := range of {
		groups = append(groups, s.sumUp(name, rows))
	}
	slices.SortFunc(groups, func(a, b *shownGroup) int {
		return cmp.Or(trueFirst(a.Open, b.Open), cmp.Compare(service.StateRank(a.Worst), service.StateRank(b.Worst)), trueFirst(len(a.rows) > 1, len(b.rows) > 1), strings.Compare(a.Name, b.Name))
	})
	return groups
}

// sumUp sums up the rows of a group.
func (s *shownTable) sumUp(name string, rows []Row) *shownGroup {
	g := &shownGroup{ID: s.RowID("\x00" + name), Name: name, Worst: service.StateLeftOut, All: s.query.with("in", name), rows: rows}
	counts, order, keys := map[string]int{}, []string{}, make([]string, 0, len(rows))
	for i := range rows {
		keys = append(keys, rows[i].Key)
		state := rows[i].State
		if counts[state]++; counts[state] == 1 {
			order = append(order, state)
		}
		g.Worst = service.WorseState(g.Worst, state)
		g.Open = g.Open || rows[i].trouble()
	}
	slices.SortFunc(order, func(a, b string) int { return cmp.Compare(service.StateRank(a), service.StateRank(b)) })
	var parts []string
	for _, state := range order {
		parts = append(parts, service.FormatCount(int64(counts[state]))+" "+service.Look(state).Word)
	}
	g.Counts = strings.Join(parts, ", ")
	if s.Sum != nil {
		g.Sums = s.Sum(keys)
	}
	return g
}

// fill gives the groups their rows, all together no more than a page has: first those that are open, as many each as there is room
// for, then those that are not, whole or not at all. Groups of one that follow each other become one.
func (s *shownTable) fill(groups []*shownGroup) []*shownGroup {
	found := s.query.get("q") != "" || s.query.get("state") != ""
	left := pageRows
	var open, folded, out []*shownGroup
	for _, g := range groups {
		if len(g.rows) == 1 {
			left--
			if n := len(out); n > 0 && out[n-1].Name == "" {
				out[n-1].Rows = append(out[n-1].Rows, g.rows[0])
			} else {
				out = append(out, &shownGroup{ID: s.ID + "-" + strconv.Itoa(n), Rows: g.rows})
			}
			continue
		}
		out = append(out, g)
		asked := found || slices.Contains(s.query.values["open"], g.Name)
		switch {
		case !g.Open && !asked:
			folded = append(folded, g)
			continue
		case !asked && len(g.rows) > sideRows:
			g.Rows = slices.DeleteFunc(slices.Clone(g.rows), func(r Row) bool { return !r.trouble() })
		default:
			g.Rows = g.rows
		}
		g.Open = true
		open = append(open, g)
	}
	slices.SortStableFunc(open, func(a, b *shownGroup) int { return cmp.Compare(len(a.Rows), len(b.Rows)) })
	for i, g := range open { // what the small ones do not need is left for the large ones
		g.Rows = g.Rows[:min(len(g.Rows), left/(len(open)-i))]
		left -= len(g.Rows)
	}
	for _, g := range folded {
		if len(g.rows) <= left {
			g.Rows = g.rows
			left -= len(g.rows)
		} else {
			g.Fetch = s.query.opening(g.Name)
		}
	}
	for _, g := range append(open, folded...) {
		if g.Fetch == "" {
			g.More = len(g.rows) - len(g.Rows)
			g.Well = !slices.ContainsFunc(g.rows[len(g.Rows):], Row.trouble)
		}
	}
	return out
}

// opening gives the address with a group more that is open.
func (q query) opening(name string) string {
	next := maps.Clone(q.values)
	next["open"] = append(slices.Clone(next["open"]), name)
	return address(next)
}
