package rule

import (
	"errors"
	"fmt"
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

// unitDays are the units of Table.Partition, with how many days one has at least.
var unitDays = map[string]int{"day": 1, "week": 7, "month": 28, "year": 365}

// maxPartitions is how many partitions a rule may keep: each statement on the target looks at all of them.
const maxPartitions = 500

// days gives how many days an age has, about.
func (a Age) days() int {
	var n int
	var unit string
	_, _ = fmt.Sscan(string(a), &n, &unit)
	switch strings.TrimSuffix(unit, "s") {
	case "hour":
		return n / 24
	case "week":
		return 7 * n
	case "month":
		return 30 * n
	case "year":
		return 365 * n
	}
	return n
}

// checkPartition gives what is wrong with partition.
func (t *Table) checkPartition() []config.Fault {
	fault := func(message string) []config.Fault {
		return []config.Fault{{Path: "partition", Value: t.Partition, Message: message}}
	}
	days, known := unitDays[t.Partition]
	switch {
	case t.Partition == "":
	case !known:
		return fault("not a unit; write day, week, month or year")
	case modeByName[t.Mode] == History:
		return fault("a version of a history would move to another partition when it ends; leave it out")
	case t.keepBy() == "":
		return fault("by which column of the target? write by: created_at beside it")
	case t.Keep.days()/days > maxPartitions:
		return fault(fmt.Sprintf("would be %d partitions for keep: %s; write partition: month or year", t.Keep.days()/days, t.Keep))
	}
	return nil
}

// checkKeep gives what is wrong with keep, by and drop.
func (t *Table) checkKeep() []config.Fault {
	switch {
	case t.Keep != "" && !ageForm.MatchString(string(t.Keep)):
		return []config.Fault{{Path: "keep", Value: string(t.Keep), Message: errAge.Error()}}
	case t.Keep != "" && t.keepBy() == "":
		return []config.Fault{{Path: "keep", Value: string(t.Keep), Message: "by which column of the target? write by: created_at beside it"}}
	case t.By != "" && modeByName[t.Mode] == History:
		return []config.Fault{{Path: "by", Value: t.By, Message: "a history forgets versions by when they ended; leave it out"}}
	case t.Keep == "" && t.By != "" && t.Partition == "":
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

// Partition says by ranges of which column the target is partitioned, and how long they are; unit "" is for targets whose
// partitions are somebody else's business.
func (r *Route) Partition() (unit, by string) { return r.rule.Partition, r.rule.keepBy() }

// AnyPartition says whether a rule has partitions made.
func (s *Set) AnyPartition() bool {
	return slices.ContainsFunc(s.rules, func(r compiled) bool { return r.Partition != "" })
}

// AnyKeep says whether a rule removes rows when they are old.
func (s *Set) AnyKeep() bool {
	return slices.ContainsFunc(s.rules, func(r compiled) bool { return r.Keep != "" })
}
