package rule

import (
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/tributary-cdc/tributary/pkg/config"
)

// Mode says what the target keeps of the changes. append is Clone that ignores what removes rows.
type Mode uint8

// The modes.
const (
	Clone   Mode = iota // one row per row of the source
	History             // one row per version of a row of the source, with the time for which it is valid
	Log                 // one row per change
)

// The values of Table.Mode.
const (
	modeClone   = "clone"
	modeAppend  = "append"
	modeHistory = "history"
	modeLog     = "log"
)

var modeByName = map[string]Mode{"": Clone, modeClone: Clone, modeAppend: Clone, modeHistory: History, modeLog: Log}

// HistoryColumns is the block "history" of a rule with that mode.
type HistoryColumns struct {
	From      string `mapstructure:"from" default:"valid_from" doc:"Column with the time from which a version is valid."`
	To        string `mapstructure:"to" default:"valid_to" doc:"Column with the time at which it ceases to be."`
	Deleted   string `mapstructure:"deleted" default:"deleted" doc:"Column that is true in the last version of a row that was deleted."`
	Beginning string `mapstructure:"beginning" default:"-infinity" doc:"from of the rows that the first snapshot finds; a timestamp, a date, or -infinity."`
	End       string `mapstructure:"end" default:"infinity" doc:"to of a version that is valid still; a timestamp, a date, or infinity."`
	First     string `mapstructure:"first" default:"commit" oneof:"commit,beginning" doc:"from of the first version of a row that a change brings: the commit time of the change, or the beginning."`
	Views     bool   `mapstructure:"views" default:"false" doc:"Create the view {table}_current and the function {table}_as_of(timestamptz) beside the target."`
}

// LogColumns is the block "log" of a rule with that mode.
type LogColumns struct {
	Op        string `mapstructure:"op" default:"change_op" doc:"Column with what happened: c, u, d, t (truncate), r (a row of a snapshot), s (from here on a snapshot reads the table anew)."`
	Era       string `mapstructure:"era" default:"change_era" doc:"Column with the era of the source's WAL. Era, commit LSN and number order the changes of a source."`
	LSN       string `mapstructure:"lsn" default:"change_lsn" doc:"Column with the LSN of the commit."`
	Seq       string `mapstructure:"seq" default:"change_seq" doc:"Column with the number of the change in its transaction."`
	Time      string `mapstructure:"time" default:"change_time" doc:"Column with the time of the commit."`
	Before    string `mapstructure:"before" default:"change_before" doc:"Column with the row before, as jsonb, as far as the source sent it."`
	Unchanged string `mapstructure:"unchanged" default:"change_unchanged" doc:"Column with the names of the columns whose value was not sent: large values (TOAST) that an UPDATE did not touch."`
}

// Added is a column of the target that holds what the mode says of a row.
type Added struct{ Name, Type string }

// The places of Plan.Added of a history.
const (
	AddedFrom = iota
	AddedTo
	AddedDeleted
)

// The places of Plan.Added of a log.
const (
	AddedOp = iota
	AddedEra
	AddedLSN
	AddedSeq
	AddedTime
	AddedBefore
	AddedUnchanged
)

func or(name, fallback string) string {
	if name == "" {
		return fallback
	}
	return name
}

// added gives the columns of a mode.
func (t *Table) added() []Added {
	const timestamp = "timestamp with time zone"
	switch h, l := &t.History, &t.Log; modeByName[t.Mode] {
	case History:
		return []Added{{or(h.From, "valid_from"), timestamp}, {or(h.To, "valid_to"), timestamp}, {or(h.Deleted, "deleted"), "boolean"}}
	case Log:
		return []Added{
			{or(l.Op, "change_op"), "text"},
			{or(l.Era, "change_era"), "integer"},
			{or(l.LSN, "change_lsn"), "pg_lsn"},
			{or(l.Seq, "change_seq"), "bigint"},
			{or(l.Time, "change_time"), timestamp},
			{or(l.Before, "change_before"), "jsonb"},
			{or(l.Unchanged, "change_unchanged"), "text[]"},
		}
	}
	return nil
}

// Ever is the time before all others, -infinity, in microseconds.
const Ever = math.MinInt64

// Bounds are the times of a history that no clock gives.
type Bounds struct {
	Beginning, End string // as Postgres reads them
	BeginsAt       int64  // Beginning in microseconds since 1970-01-01 UTC; Ever for -infinity
	FromBeginning  bool   // rows that a change brings are valid from the beginning, too
}

// bounds gives those of a rule with mode history.
func (t *Table) bounds() Bounds {
	h := &t.History
	b := Bounds{Beginning: or(h.Beginning, "-infinity"), End: or(h.End, "infinity"), FromBeginning: h.First == firstBeginning}
	b.BeginsAt, _ = parseBound(b.Beginning) // Check has seen it
	return b
}

const firstBeginning = "beginning"

// Views says whether a history gets a view of the current rows and a function that gives those of a time.
func (r *Route) Views() bool { return r.rule.History.Views && modeByName[r.rule.Mode] == History }

// boundForms are what a bound may be written as: UTC.
var boundForms = []string{"2006-01-02", "2006-01-02 15:04:05", "2006-01-02 15:04:05.999999"}

var errBound = errors.New("not a time; write 1900-01-01, 1900-01-01 00:00:00 (UTC), or infinity with or without a minus")

// parseBound gives microseconds since 1970-01-01 UTC.
func parseBound(s string) (int64, error) {
	switch s {
	case "-infinity":
		return Ever, nil
	case "infinity":
		return math.MaxInt64, nil
	}
	for _, form := range boundForms {
		if t, err := time.Parse(form, s); err == nil {
			return t.UnixMicro(), nil
		}
	}
	return 0, errBound
}

// checkMode gives the faults of mode and its blocks.
func (t *Table) checkMode() (faults []config.Fault) {
	fault := func(path, value, message string) {
		faults = append(faults, config.Fault{Path: path, Value: value, Message: message})
	}
	mode, known := modeByName[t.Mode]
	if !known {
		fault("mode", t.Mode, "not a mode; write clone, append, history or log")
		return faults
	}
	switch mode {
	case History:
		begin, err := parseBound(or(t.History.Beginning, "-infinity"))
		if err != nil || begin == math.MaxInt64 {
			fault("history.beginning", t.History.Beginning, errBound.Error())
			break
		}
		end, err := parseBound(or(t.History.End, "infinity"))
		switch {
		case err != nil:
			fault("history.end", t.History.End, errBound.Error())
		case end <= begin:
			fault("history.end", t.History.End, "is not after history.beginning")
		}
	default:
		if t.History.Views {
			fault("history.views", "true", "has no effect without mode: history")
		}
	}
	into := map[string]bool{}
	for _, a := range t.added() {
		switch {
		case into[a.Name]:
			fault("mode", t.Mode, fmt.Sprintf("two of its columns are called %q", a.Name))
		case a.Name == t.SID:
			fault("sid", t.SID, "is the name of a column of mode "+t.Mode)
		}
		into[a.Name] = true
	}
	for i, c := range t.Columns {
		if into[c.into()] {
			fault(fmt.Sprintf("columns[%d]", i), c.into(), "is the name of a column of mode "+t.Mode+"; give one of them another name: as, or the block "+t.Mode)
		}
	}
	for i, c := range t.Set {
		if into[c.Column] {
			fault(fmt.Sprintf("set[%d].column", i), c.Column, "is the name of a column of mode "+t.Mode+"; choose another, or give the mode's one in the block "+t.Mode)
		}
	}
	return faults
}

// KeyNames gives the columns that tell the rows of the target apart, names being those of the plan's columns there: the
// sid column, the source's key, and what the mode adds to it. nil if there are none.
func (p *Plan) KeyNames(names []string) (key []string) {
	if p.SIDColumn != "" {
		key = append(key, p.SIDColumn)
	}
	for _, k := range p.Key {
		key = append(key, names[k])
	}
	switch {
	case p.Mode == History:
		return append(key, p.Added[AddedFrom].Name)
	case p.Mode == Log:
		return append(key, p.Added[AddedEra].Name, p.Added[AddedLSN].Name, p.Added[AddedSeq].Name)
	case len(p.Key) == 0:
		return nil
	}
	return key
}

// What Views are called: the target's name and this.
const (
	CurrentSuffix = "_current"
	AsOfSuffix    = "_as_of"
)

// refusal of a plan by its mode: what to do, and why. "" for none.
func (p *Plan) refusal() (hint, cause string) {
	if p.Mode == History && len(p.Key) == 0 {
		return "give the table a primary key, or a unique index and REPLICA IDENTITY USING INDEX, at the source; or write it with mode: log",
			"mode history needs a key, and the table has none: which version follows which cannot be told"
	}
	if p.Views() && len(p.Target.Table+CurrentSuffix) > maxIdentifier {
		return "choose a shorter name in the rule, or leave history.views out",
			fmt.Sprintf("the name of the view, %q, has more than the %d bytes that Postgres takes", p.Target.Table+CurrentSuffix, maxIdentifier)
	}
	for _, a := range p.Added {
		for i := range p.Columns {
			if p.Columns[i].Name == a.Name {
				mode := p.Mode.String()
				return fmt.Sprintf("give one of them another name: the column with as, or the mode's in the block %s", mode),
					fmt.Sprintf("column %q has the name of a column of mode %s", a.Name, mode)
			}
		}
	}
	return "", ""
}

// String gives the mode as it is written in the configuration; clone for append.
func (m Mode) String() string {
	switch m {
	case History:
		return modeHistory
	case Log:
		return modeLog
	}
	return modeClone
}
