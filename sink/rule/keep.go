package rule

import (
	"errors"
	"regexp"
	"slices"
	"strings"

	"github.com/tributary-cdc/tributary/pkg/config"
)

// Age is how long rows are kept, as Postgres reads an interval: "90 days". "" is for ever.
type Age string

var (
	ageForm = regexp.MustCompile(`^[1-9][0-9]{0,5} (hour|day|week|month|year)s?$`)
	errAge  = errors.New("not an age; write 90 days, 12 hours, 8 weeks, 6 months or 2 years")
)

// UnmarshalText reads an age.
func (a *Age) UnmarshalText(text []byte) error {
	s := strings.Join(strings.Fields(string(text)), " ")
	if s != "" && !ageForm.MatchString(s) {
		return errAge
	}
	*a = Age(s)
	return nil
}

// MarshalText gives it back.
func (a Age) MarshalText() ([]byte, error) { return []byte(a), nil }

// checkKeep gives what is wrong with keep, by and drop.
func (t *Table) checkKeep() []config.Fault {
	switch {
	case t.Keep != "" && !ageForm.MatchString(string(t.Keep)):
		return []config.Fault{{Path: "keep", Value: string(t.Keep), Message: errAge.Error()}}
	case t.Keep != "" && t.keepBy() == "":
		return []config.Fault{{Path: "keep", Value: string(t.Keep), Message: "by which column of the target? write by: created_at beside it"}}
	case t.By != "" && modeByName[t.Mode] == History:
		return []config.Fault{{Path: "by", Value: t.By, Message: "a history forgets versions by when they ended; leave it out"}}
	case t.Keep == "" && t.By != "":
		return []config.Fault{{Path: "by", Value: t.By, Message: `has no effect without keep; write keep: 90 days beside it`}}
	case t.Drop != "" && !ageForm.MatchString(string(t.Drop)):
		return []config.Fault{{Path: "drop", Value: string(t.Drop), Message: errAge.Error()}}
	case t.Drop != "" && t.Keep == "":
		return []config.Fault{{Path: "drop", Value: string(t.Drop), Message: `has no effect without keep; write keep: 90 days beside it`}}
	}
	return nil
}

// keepBy gives the column that tells the age of a row: of a history the end of a version, which one that is valid still
// has not come to; of a log the commit time, if nothing else is said.
func (t *Table) keepBy() string {
	switch added := t.added(); modeByName[t.Mode] {
	case History:
		return added[AddedTo].Name
	case Log:
		return or(t.By, added[AddedTime].Name)
	}
	return t.By
}

// Keep says how long rows of the target are kept, and which column of it tells their age; age "" is for ever.
func (r *Route) Keep() (age Age, by string) { return r.rule.Keep, r.rule.keepBy() }

// Drop says how long a partition that is too old is kept aside before it is dropped; "" where rows are removed, not partitions.
func (r *Route) Drop() Age { return r.rule.Drop }

// AnyKeep says whether a rule removes rows when they are old.
func (s *Set) AnyKeep() bool {
	return slices.ContainsFunc(s.rules, func(r compiled) bool { return r.Keep != "" })
}
