package rule

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"cel.dev/cel-go/common/ast"

	"github.com/tributary-cdc/tributary/pkg/mask"
)

// Meaning is what a rule makes of the rows of a table: rows that were written under one meaning are as those of another
// one with the same text would be. What only says when, or by whom, or for how long is no part of it.
type Meaning struct {
	Target    string             `json:"target"`
	Mode      string             `json:"mode"`
	Ignore    []string           `json:"ignore,omitempty"`
	SIDColumn string             `json:"sid_column,omitempty"`
	SID       string             `json:"sid,omitempty"`
	All       bool               `json:"all,omitempty"` // columns of the source, beside Columns
	Columns   map[string]Written `json:"columns,omitempty"`
	Filter    string             `json:"filter,omitempty"`
	Salt      string             `json:"salt,omitempty"`  // a mark by which another one is known; only where a column is hashed
	Added     []string           `json:"added,omitempty"` // names of the columns of the mode
	Beginning string             `json:"beginning,omitempty"`
	End       string             `json:"end,omitempty"`
	First     string             `json:"first,omitempty"`
}

// Written is where the values of a column of the target come from.
type Written struct {
	From  string    `json:"from,omitempty"`
	Cast  string    `json:"cast,omitempty"`
	Mask  mask.Kind `json:"mask,omitempty"`
	Value string    `json:"value,omitempty"` // an expression
	Type  string    `json:"type,omitempty"`
	Same  bool      `json:"same,omitempty"` // it reads no column: one that the target is given for it has it in all rows, but for those of a log
}

// Meaning gives that of the route's rule.
func (r *Route) Meaning() Meaning {
	t := r.rule.Table
	m := Meaning{Target: r.Target.String(), Mode: t.Mode, Ignore: r.Ignored(), Filter: strings.TrimSpace(t.Filter), All: len(t.Columns) == 0}
	if m.Mode == "" {
		m.Mode = modeClone
	}
	if r.SIDColumn != "" || readsSID(t.Filter) || slices.ContainsFunc(t.Set, func(c Computed) bool { return readsSID(c.Value) }) {
		m.SIDColumn, m.SID = r.SIDColumn, r.SID
	}
	for _, added := range t.added() {
		m.Added = append(m.Added, added.Name)
	}
	if modeByName[m.Mode] == History {
		bounds := t.bounds()
		m.Beginning, m.End, m.First = bounds.Beginning, bounds.End, or(t.History.First, "commit")
	}
	if len(t.Columns)+len(t.Set) > 0 {
		m.Columns = map[string]Written{}
	}
	for _, c := range t.Columns {
		m.Columns[c.into()] = Written{From: c.From, Cast: c.Cast, Mask: mask.Kind(c.Mask)}
	}
	for _, c := range t.Set {
		m.Columns[c.Column] = Written{Value: c.Value, Type: c.Type, Same: readsNothing(c.Value)}
	}
	if t.Hashes() {
		mac := hmac.New(sha256.New, r.salt)
		mac.Write([]byte("tributary: which salt is this"))
		m.Salt = hex.EncodeToString(mac.Sum(nil)[:8])
	}
	return m
}

// readsNothing says whether an expression that can be parsed reads no column.
func readsNothing(value string) bool {
	names, ok := reads(value)
	return ok && len(names) == 0
}

// reads gives the columns that an expression names, and what its macros call an element of a list; false if it cannot be parsed.
func reads(value string) (names []string, ok bool) {
	parsed, err := parseExpression(value)
	if err != nil {
		return nil, false
	}
	ast.MatchDescendants(ast.NavigateAST(parsed.NativeRep()), func(e ast.NavigableExpr) bool {
		switch {
		case e.Kind() == ast.IdentKind && e.AsIdent() != "tributary":
			names = append(names, e.AsIdent())
		case e.Kind() == ast.CallKind && e.AsCall().FunctionName() == "col":
			name := "" // of an argument that is no literal, which no column is called
			if args := e.AsCall().Args(); len(args) == 1 && args[0].Kind() == ast.LiteralKind {
				name, _ = args[0].AsLiteral().Value().(string)
			}
			names = append(names, name)
		}
		return false
	})
	return names, true
}

// readsSID says whether an expression reads tributary.sid: that of the source and its names cannot change for a topic.
func readsSID(value string) bool {
	if !strings.Contains(value, "sid") { // of most, there is nothing to be parsed
		return false
	}
	parsed, err := parseExpression(value)
	if err != nil {
		return false
	}
	found := ast.MatchDescendants(ast.NavigateAST(parsed.NativeRep()), func(e ast.NavigableExpr) bool {
		if e.Kind() != ast.SelectKind || e.AsSelect().FieldName() != "sid" {
			return false
		}
		of := e.AsSelect().Operand()
		return of.Kind() == ast.IdentKind && of.AsIdent() == "tributary"
	})
	return len(found) > 0
}

// Text gives it in the form in which it is kept: equal meanings have equal texts.
func (m Meaning) Text() string {
	text, err := json.Marshal(m)
	if err != nil {
		panic(err) // of strings alone
	}
	return string(text)
}

// ParseMeaning reads what Text has given.
func ParseMeaning(text string) (m Meaning, err error) {
	err = json.Unmarshal([]byte(text), &m)
	return m, err
}

// Since says what of rows that were written under m is otherwise than m's successor would write them: nothing where they are
// right, or no worse than any that is ignored.
func (m Meaning) Since(now Meaning) (differs []string) {
	say := func(format string, args ...any) { differs = append(differs, fmt.Sprintf(format, args...)) }
	if m.Target != now.Target {
		say("they are in %s, and not in %s", m.Target, now.Target)
	}
	if m.SIDColumn != now.SIDColumn || m.SID != now.SID {
		switch {
		case m.SIDColumn == "" && now.SIDColumn == "":
			if m.SID != "" && now.SID != "" { // else the expressions are others
				say("their sid, which expressions read, is %q, and now %q", m.SID, now.SID)
			}
		case m.SIDColumn == "":
			say("they have no sid")
		case now.SIDColumn == "":
			say("their sid is %q", m.SID)
		case m.SIDColumn != now.SIDColumn:
			say("their sid is in column %q", m.SIDColumn)
		default:
			say("their sid is %q, and now %q", m.SID, now.SID)
		}
	}
	if modeByName[m.Mode] != modeByName[now.Mode] {
		say("they were written with mode %s, which is %s now", m.Mode, now.Mode)
	} else {
		if !slices.Equal(m.Added, now.Added) {
			say("mode %s had columns %s, and has %s", m.Mode, strings.Join(m.Added, ", "), strings.Join(now.Added, ", "))
		}
		if m.End != now.End {
			say("versions that are valid still have the end %s, and not %s: they are taken for ended ones", m.End, now.End)
		}
		if m.Beginning != now.Beginning || m.First != now.First {
			say("they began by beginning: %s and first: %s, and now by %s and %s", m.Beginning, m.First, now.Beginning, now.First)
		}
	}
	if m.Filter != now.Filter {
		switch {
		case m.Filter == "":
			say("there was no filter, and now there is: %s", now.Filter)
		case now.Filter == "":
			say("the filter left rows out, and there is none now: %s", m.Filter)
		default:
			say("the filter was %s, and is %s", m.Filter, now.Filter)
		}
	}
	if more := slices.DeleteFunc(slices.Clone(m.Ignore), func(op string) bool { return slices.Contains(now.Ignore, op) }); len(more) > 0 {
		say("%s was ignored", strings.Join(more, ", "))
	}
	if m.Salt != now.Salt && m.Salt != "" && now.Salt != "" {
		say("they were hashed under another salt")
	}
	return append(differs, m.columnsSince(now)...)
}

// Rename is a column that the source has given another name, and what it is called in the target.
type Rename struct{ From, To, FromTarget, ToTarget string }

// Renamed gives it under the names that columns have now. Filters and expressions are as they were written.
func (m Meaning) Renamed(list []Rename) Meaning {
	columns := maps.Clone(m.Columns)
	for _, r := range list {
		for name, c := range m.Columns {
			if c.From != r.From {
				continue
			}
			delete(columns, name)
			if _, taken := m.Columns[r.ToTarget]; name == r.FromTarget && !taken {
				name = r.ToTarget
			}
			c.From = r.To
			columns[name] = c
		}
	}
	m.Columns = columns
	return m
}

func (m Meaning) columnsSince(now Meaning) (differs []string) {
	var lack, other, more []string
	for _, name := range sortedNames(now.Columns) {
		is := now.Columns[name]
		was, had := m.Columns[name]
		switch {
		case !had && m.All && is == (Written{From: name}):
		case is.Same && !had && modeByName[now.Mode] != Log: // where the target had a column of that name, it is told when it is made to fit
		case !had && m.All:
			other = append(other, name) // it was there as the source has it, or was not
		case !had:
			lack = append(lack, name)
		case was != is:
			other = append(other, name)
		}
	}
	for _, name := range sortedNames(m.Columns) {
		if _, has := now.Columns[name]; has {
			continue
		}
		switch was := m.Columns[name]; {
		case !now.All:
			more = append(more, name)
		case was != Written{From: name}:
			other = append(other, name) // renamed, masked or computed: the source's has its place, or nothing has
		}
	}
	for _, list := range []struct {
		names []string
		text  string
	}{{lack, "they have no values of column %s"}, {other, "column %s was filled otherwise, or not at all"}, {more, "they still have values of column %s, which is not written any more"}} {
		if len(list.names) > 0 {
			differs = append(differs, fmt.Sprintf(list.text, strings.Join(list.names, ", ")))
		}
	}
	switch {
	case now.All && !m.All:
		differs = append(differs, "they have no values of the columns that columns left out")
	case m.All && !now.All:
		differs = append(differs, "they still have values of the columns that columns leaves out now")
	}
	return differs
}

func sortedNames(of map[string]Written) (names []string) {
	for name := range of {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
