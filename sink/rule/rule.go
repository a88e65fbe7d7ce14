// Package rule says what becomes of the tables of the sources: which are written, where to, under which names, and
// which of their changes are left out. The configuration is a list of which the first entry that matches a table wins;
// it is compiled once per version of a relation into a Plan, which the packages batch and warehouse execute. It opens
// no connection: what the target looks like is warehouse's business.
package rule

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tributary-cdc/tributary/pkg/config"
	"github.com/tributary-cdc/tributary/pkg/mask"
)

// Source is one entry of the configuration's "sources": whose topics are read, and by which value their rows are told
// apart in a target that several sources share.
type Source struct {
	Name        string `mapstructure:"name" required:"true" doc:"Name of a source, as its capture was configured; * and ? stand for any characters."`
	Consistency string `mapstructure:"consistency" default:"table" oneof:"table,source" doc:"table: each table is written as soon as its changes are there. source: whole source transactions over all tables become visible in the warehouse at once; one sink writes all tables of the source, and an error of one stops all of them."`
	Rate        int    `mapstructure:"rate" default:"0" doc:"Records of each source written in a second, at most, by each sink; 0: no limit. Others are not kept waiting by it. Not together with consistency: source."`
	SID         string `mapstructure:"sid" default:"" doc:"Value of the sid column for rows of this source; its name if empty. {*} in it stands for what the first * of the name matches: with name tenant_* and sid {*}, source tenant_17 has the sid 17."`
}

// Check refuses one value for many sources.
func (s Source) Check() []config.Fault {
	switch star := strings.Contains(s.Name, "*"); {
	case s.Rate < 0:
		return []config.Fault{{Path: "rate", Value: fmt.Sprint(s.Rate), Message: "must not be negative"}}
	case s.Rate > 0 && s.Consistency == consistencySource:
		return []config.Fault{{Path: "rate", Value: fmt.Sprint(s.Rate), Message: "has no effect on a source that is written as a whole; leave it out"}}
	case strings.Contains(s.SID, matched) && !star:
		return []config.Fault{{Path: "sid", Value: s.SID, Message: "{*} stands for what the * of the name matches, and the name has none"}}
	case s.SID != "" && !strings.Contains(s.SID, matched) && strings.ContainsAny(s.Name, "*?"):
		return []config.Fault{{Path: "sid", Value: s.SID, Message: "would be the same for every source that matches; leave it out, the source's name is used, or write {*} for what the * matches"}}
	}
	return nil
}

// Table is one entry of the configuration's "tables".
type Table struct {
	Source    string         `mapstructure:"source" default:"*" doc:"Sources that the rule is for; * and ? stand for any characters."`
	From      string         `mapstructure:"from" required:"true" doc:"Table of the source as schema.table; * and ? stand for any characters, a part with a dot or a star in its name is put in double quotes."`
	To        string         `mapstructure:"to" default:"{schema}.{table}" doc:"Table of the warehouse as schema.table; {source}, {schema} and {table} stand for the names at the source."`
	Mode      string         `mapstructure:"mode" default:"clone" doc:"clone keeps the target equal to the source; append is clone without delete and truncate; history keeps every version of a row with the time for which it was valid; log keeps every change."`
	History   HistoryColumns `mapstructure:"history" doc:"Names and bounds of mode history."`
	Log       LogColumns     `mapstructure:"log" doc:"Names of the columns of mode log."`
	Ignore    []string       `mapstructure:"ignore" default:"" oneof:"insert,update,delete,truncate" doc:"Operations that are left out. A change of a key counts as update."`
	SID       string         `mapstructure:"sid" default:"" doc:"Name of a column to add to the target and its key, holding the source's sid; needed where several sources share a target."`
	SIDType   string         `mapstructure:"sid_type" default:"text" oneof:"text,smallint,integer,bigint,uuid" doc:"Type of the sid column where the target is created; the sid of each source must be of it. In a target that is there, the column may be of any of these types."`
	Columns   []Column       `mapstructure:"columns" default:"" doc:"Columns to write, all if empty: id, or mail as email, or {from: mail, as: email} for another name. The columns of the key must be among them."`
	Set       []Computed     `mapstructure:"set" doc:"Columns to write whose values are computed, beside those of columns; one of the same name as a column of the source takes its place."`
	Filter    string         `mapstructure:"filter" default:"" doc:"Rows to write: an expression (CEL) over the columns of the source. An UPDATE after which a row does not pass deletes it in the target, one after which it does inserts it."`
	Keep      Age            `mapstructure:"keep" default:"" doc:"How long rows stay in the target, like 90 days, 12 hours or 6 months; for ever if empty. Older ones are removed in small batches."`
	By        string         `mapstructure:"by" default:"" doc:"Column of the target that tells the age of a row for keep, and its partition: a timestamp or a date. Of a log it is the commit time if empty; of a history always the end of a version, so that what is valid stays."`
	Drop      Age            `mapstructure:"drop" default:"" doc:"Remove whole partitions instead of rows, of a target that is partitioned by ranges of the column that by names: one all of whose rows are older than keep is detached, and dropped after this time, like 1 day. Rows in other partitions stay until theirs is old as a whole."`
	Partition string         `mapstructure:"partition" default:"" oneof:",day,week,month,year" doc:"Make the partitions of the target, each for a day, week (from Monday), month or year of the column that by names, in UTC: those for rows of keep, the present one, and some ahead. A target that is created is partitioned so, with a default partition; one that is there must be partitioned by ranges of that column."`
	Freshness time.Duration  `mapstructure:"freshness" default:"0s" doc:"How far behind a table may be and still count as up to date; 0s: as freshness beside tables says."`
	OnError   string         `mapstructure:"on_error" default:"stop" oneof:"stop,park" doc:"What becomes of a change that cannot be written: stop holds the table before it; park puts it and later changes of its key aside, and the table goes on. A table without key always stops, and one whose key has a type like interval or jsonb, of which equal values are spelled in several ways."`
	Create    bool           `mapstructure:"create" default:"true" doc:"Create the target if it is missing, and add columns that it lacks."`
	Skip      bool           `mapstructure:"skip" default:"false" doc:"Do not write the tables that match."`

	place func(path string) string // in the file, of a key of the rule; nil where there is no file
}

// Place implements config.Placed.
func (t *Table) Place(place func(path string) string) { t.place = place }

// Column picks one column of the source. It is written "id", or "mail as email" where the target's has another name; a
// name that holds " as " is put in double quotes. It can be written as a block as well: {from: mail, as: email}.
type Column struct {
	From string `mapstructure:"from" required:"true" doc:"Name of the column at the source."`
	As   string `mapstructure:"as" default:"" doc:"Name of the column in the target; the same if empty."`
	Cast string `mapstructure:"cast" default:"" doc:"Type of the column in the target, which reads the text of the source's values; the source's type if empty."`
	Mask string `mapstructure:"mask" default:"" oneof:",hash,redact,null,keep_last_4" doc:"What is written instead of the values: hash (HMAC-SHA-256 under salt, equal values stay equal), redact (***), null, keep_last_4."`
}

// Computed is a column whose values are computed.
type Computed struct {
	Column string `mapstructure:"column" required:"true" doc:"Name of the column in the target."`
	Value  string `mapstructure:"value" required:"true" doc:"An expression (CEL) over the columns of the source; text in it is quoted: 'eu'."`
	Type   string `mapstructure:"type" default:"" doc:"Type of the column in the target; that of the expression if empty."`
	Key    bool   `mapstructure:"key" default:"false" doc:"The column belongs to the key of the target, in place of the key columns of the source that it is computed of; it may read no others."`
}

// into gives the name of the column in the target.
func (c Column) into() string {
	if c.As == "" {
		return c.From
	}
	return c.As
}

var errColumn = errors.New(`not a column; write id, or mail as email; in double quotes where a name holds " as "`)

// UnmarshalText reads the form that the type describes.
func (c *Column) UnmarshalText(text []byte) error {
	from, rest := cutColumn(string(text))
	as, found := strings.CutPrefix(rest, " as ")
	if found {
		as, rest = cutColumn(as)
	} else {
		as = from
	}
	if from == "" || as == "" || rest != "" {
		return errColumn
	}
	*c = Column{From: from, As: as, Cast: c.Cast, Mask: c.Mask}
	return nil
}

// cutColumn cuts a name, in double quotes or up to " as ", off the front of s.
func cutColumn(s string) (name, rest string) {
	s = strings.TrimLeft(s, " ")
	if strings.HasPrefix(s, `"`) {
		p, rest, err := cutPart(s)
		if err != nil {
			return "", s
		}
		return p.text, rest
	}
	if i := strings.Index(s, " as "); i >= 0 {
		return strings.TrimSpace(s[:i]), s[i:]
	}
	return strings.TrimSpace(s), ""
}

// MarshalText gives the short form, and an error where it is not enough.
func (c Column) MarshalText() ([]byte, error) {
	if c.Cast != "" || c.Mask != "" {
		return nil, errors.New("has to be written as a block")
	}
	quote := func(name string) string {
		if strings.Contains(name, " as ") || strings.HasPrefix(name, `"`) || strings.TrimSpace(name) != name {
			return `"` + strings.ReplaceAll(name, `"`, `""`) + `"`
		}
		return name
	}
	if c.From == c.into() {
		return []byte(quote(c.From)), nil
	}
	return []byte(quote(c.From) + " as " + quote(c.As)), nil
}

// The operations of Table.Ignore.
const (
	insertOp   = "insert"
	updateOp   = "update"
	deleteOp   = "delete"
	truncateOp = "truncate"
)

// The values of Table.OnError.
const (
	onErrorStop = "stop"
	onErrorPark = "park"
)

// Check gives everything wrong with the entry that can be seen without a table.
func (t Table) Check() []config.Fault {
	var faults []config.Fault
	fault := func(path, value, message string) {
		faults = append(faults, config.Fault{Path: path, Value: value, Message: message})
	}
	if t.From != "" {
		if _, _, err := splitPattern(t.From); err != nil {
			fault("from", t.From, err.Error())
		}
	}
	if t.To != "" {
		if _, _, err := splitTemplate(t.To); err != nil {
			fault("to", t.To, err.Error())
		}
	}
	faults = append(faults, t.checkMode()...)
	switch t.OnError {
	case "", onErrorStop, onErrorPark:
	default:
		fault("on_error", t.OnError, "not known; write stop or park")
	}
	for i, op := range t.Ignore {
		switch op {
		case insertOp, updateOp, deleteOp, truncateOp:
		default:
			fault(fmt.Sprintf("ignore[%d]", i), op, "not an operation; write insert, update, delete or truncate")
		}
	}
	if t.Freshness < 0 {
		fault("freshness", t.Freshness.String(), "must not be negative")
	}
	faults = append(faults, t.checkKeep()...)
	faults = append(faults, t.checkPartition()...)
	faults = append(faults, t.checkColumns()...)
	if t.Filter != "" {
		if _, err := parseExpression(t.Filter); err != nil {
			fault("filter", t.Filter, err.Error())
		}
	}
	if t.Skip && (t.SID != "" || len(t.Columns) > 0 || len(t.Ignore) > 0 || len(t.Set) > 0 || t.Filter != "") {
		fault("skip", "true", "the other keys of a skipped rule have no effect; leave them out")
	}
	return faults
}

// Hashes says whether a column is masked by a hash, for which there has to be a salt.
func (t Table) Hashes() bool {
	return slices.ContainsFunc(t.Columns, func(c Column) bool { return c.Mask == string(mask.Hash) })
}

func (t Table) checkColumns() (faults []config.Fault) {
	fault := func(path string, i int, key, value, message string) {
		faults = append(faults, config.Fault{Path: fmt.Sprintf(path, i) + key, Value: value, Message: message})
	}
	into := map[string]bool{}
	for i, c := range t.Columns {
		name := c.into()
		switch {
		case into[name]:
			fault("columns[%d]", i, "", name, "two columns of the source into one of the target; give one another name with as")
		case name == t.SID && name != "":
			fault("columns[%d]", i, "", name, "is the name of the sid column; write it under another name with as")
		}
		into[name] = true
		if c.Cast != "" {
			if _, err := typeByName(c.Cast); err != nil {
				fault("columns[%d]", i, ".cast", c.Cast, err.Error())
			} else if c.Mask != "" {
				fault("columns[%d]", i, ".cast", c.Cast, "a masked column is text; leave cast out")
			}
		}
		if err := mask.Kind(c.Mask).Check(); err != nil {
			fault("columns[%d]", i, ".mask", c.Mask, err.Error())
		}
	}
	for i, set := range t.Set {
		switch {
		case into[set.Column]:
			fault("set[%d]", i, ".column", set.Column, "the target's column is written already; leave it out of columns, or give one another name")
		case set.Column == t.SID && t.SID != "":
			fault("set[%d]", i, ".column", set.Column, "is the name of the sid column; choose another")
		}
		into[set.Column] = true
		if _, err := parseExpression(set.Value); err != nil {
			fault("set[%d]", i, ".value", set.Value, err.Error())
		}
		if set.Type != "" {
			if _, err := typeByName(set.Type); err != nil {
				fault("set[%d]", i, ".type", set.Type, err.Error())
			}
		}
	}
	return faults
}

// Set is the compiled configuration. It is immutable and safe for concurrent use.
type Set struct {
	sources []Source
	rules   []compiled
	salt    []byte
}

type compiled struct {
	*Table
	schema, table     part // of from
	toSchema, toTable string
	ignore            Ops
}

// New compiles what Check has passed. salt is that of mask: hash.
func New(sources []Source, tables []Table, salt config.Secret) (*Set, error) {
	revealed, err := salt.Reveal()
	if err != nil {
		return nil, fmt.Errorf("salt: %w", err)
	}
	s := &Set{sources: sources, salt: []byte(revealed)}
	for i := range tables {
		t := &tables[i]
		for _, fault := range t.Check() {
			return nil, fmt.Errorf("tables[%d].%s: %s", i, fault.Path, fault.Message)
		}
		c := compiled{Table: t}
		if t.SIDType == "" {
			t.SIDType = "text"
		}
		var err error
		if c.schema, c.table, err = splitPattern(t.From); err != nil {
			return nil, fmt.Errorf("tables[%d].from: %w", i, err)
		}
		to := t.To
		if to == "" {
			to = "{schema}.{table}"
		}
		if c.toSchema, c.toTable, err = splitTemplate(to); err != nil {
			return nil, fmt.Errorf("tables[%d].to: %w", i, err)
		}
		for _, op := range t.Ignore {
			c.ignore |= opsByName[op]
		}
		if t.Hashes() && revealed == "" {
			return nil, fmt.Errorf("tables[%d].columns: mask: hash needs salt", i)
		}
		if t.Mode == modeAppend {
			c.ignore |= Deletes | Truncates
		}
		s.rules = append(s.rules, c)
	}
	return s, nil
}

// Target names a table of the warehouse.
type Target struct{ Schema, Table string }

// String gives schema.table for people and logs; never put it into SQL.
func (t Target) String() string { return t.Schema + "." + t.Table }

// Route is what the rules say of one table of one source. Its relation may have many versions: see Compile.
type Route struct {
	Source, Schema, Table string
	Rule                  int // index into the configuration's tables
	Target                Target
	SIDColumn             string // "" for none
	SID                   string // the source's value for it
	SIDType               string // that the column is created with
	rule                  *compiled
	salt                  []byte
}

// SIDThere is what the sid column has, by which tributary.feed tells rows of a target apart; "" without one.
func (r *Route) SIDThere() string {
	if r.SIDColumn == "" {
		return ""
	}
	return r.SID
}

// Mode is the mode of the rule: "clone".
func (r *Route) Mode() string { return r.rule.Mode }

// Freshness is how far behind the table may be and still count as up to date; usual is for rules that do not say.
func (r *Route) Freshness(usual time.Duration) time.Duration {
	if r.rule.Freshness > 0 {
		return r.rule.Freshness
	}
	return usual
}

// Filters says whether rows are left out by what is in them.
func (r *Route) Filters() bool { return r.rule.Filter != "" }

// Ignored gives the names of the operations that are left out.
func (r *Route) Ignored() []string {
	var out []string
	for _, op := range []string{insertOp, updateOp, deleteOp, truncateOp} {
		if r.rule.ignore&opsByName[op] != 0 {
			out = append(out, op)
		}
	}
	return out
}

// Parks says whether changes that cannot be written are put aside.
func (r *Route) Parks() bool { return r.rule.OnError == onErrorPark }

// Overwrites says whether a change that is applied again finds the row that it made, and leaves it as it is.
func (r *Route) Overwrites() bool { return modeByName[r.rule.Mode] == Clone }

// Keeps says whether rows stay that do not come when all are read: a rule that ignores a way of removing rows wants those that are gone at the source,
// and with one that ignores inserts or updates rows come otherwise that are there.
func (r *Route) Keeps() bool { return r.rule.ignore != 0 }

// Keyed gives the columns of the target that are computed and belong to its key.
func (r *Route) Keyed() (names []string) {
	for _, c := range r.rule.Set {
		if c.Key {
			names = append(names, c.Column)
		}
	}
	return names
}

// Source says whether the source called name is read, and its sid.
func (s *Set) Source(name string) (sid string, ok bool) {
	if len(s.sources) == 0 {
		return name, true
	}
	for _, src := range s.sources {
		if config.Fits(src.Name, name) {
			return src.sidOf(name), true
		}
	}
	return "", false
}

// Rate gives how many records of a source may be written in a second; 0 for any number.
func (s *Set) Rate(name string) int {
	for _, src := range s.sources {
		if config.Fits(src.Name, name) {
			return src.Rate
		}
	}
	return 0
}

// Whole says whether the source's transactions are to become visible as a whole.
func (s *Set) Whole(name string) bool {
	for _, src := range s.sources {
		if config.Fits(src.Name, name) {
			return src.Consistency == consistencySource
		}
	}
	return false
}

// AnyWhole says whether there may be such a source.
func (s *Set) AnyWhole() bool {
	return slices.ContainsFunc(s.sources, func(src Source) bool { return src.Consistency == consistencySource })
}

const consistencySource = "source"

// Match finds the rule for a table. It gives false where no rule matches, or the one that does says skip.
func (s *Set) Match(source, schema, table string) (*Route, bool) {
	sid, ok := s.Source(source)
	if !ok {
		return nil, false
	}
	for i := range s.rules {
		r := &s.rules[i]
		if r.Source != "" && !config.Fits(r.Source, source) || !r.schema.match(schema) || !r.table.match(table) {
			continue
		}
		if r.Skip {
			return nil, false
		}
		return &Route{
			Source: source, Schema: schema, Table: table, Rule: i,
			Target:    Target{expand(r.toSchema, source, schema, table), expand(r.toTable, source, schema, table)},
			SIDColumn: r.SID, SID: sid, SIDType: r.SIDType, rule: r, salt: s.salt,
		}, true
	}
	return nil, false
}

// expand puts names into a template. It is asked for each topic of a cluster, again and again: a strings.Replacer is made for once.
func expand(template, source, schema, table string) string {
	switch template { // as nearly all are
	case "{source}":
		return source
	case "{schema}":
		return schema
	case "{table}":
		return table
	}
	if !strings.Contains(template, "{") {
		return template
	}
	return strings.NewReplacer("{source}", source, "{schema}", schema, "{table}", table).Replace(template)
}

// Skipped says whether a rule matches the table only to leave it out.
func (s *Set) Skipped(source, schema, table string) bool {
	for i := range s.rules {
		r := &s.rules[i]
		if (r.Source == "" || config.Fits(r.Source, source)) && r.schema.match(schema) && r.table.match(table) {
			return r.Skip
		}
	}
	return false
}

// Len gives the number of rules.
func (s *Set) Len() int { return len(s.rules) }

// Skips says whether a rule leaves out what it matches.
func (s *Set) Skips(rule int) bool { return s.rules[rule].Skip }

// From gives the "from" of a rule, for people.
func (s *Set) From(rule int) string { return s.rules[rule].From }
