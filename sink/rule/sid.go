package rule

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/tributary-cdc/tributary/pkg/config"
)

// matched stands in a source's sid for what the first * of its name matches.
const matched = "{*}"

// sidOf gives the sid of the source called name, which the entry's pattern matches.
func (s Source) sidOf(name string) string {
	switch {
	case s.SID == "":
		return name
	case !strings.Contains(s.SID, matched):
		return s.SID
	}
	before, after, _ := strings.Cut(s.Name, "*")
	i := len(before) // as many bytes: names of sources are ASCII, and ? stands for one
	for end := i; end <= len(name); end++ {
		if config.Fits(after, name[end:]) {
			return strings.ReplaceAll(s.SID, matched, name[i:end])
		}
	}
	return name
}

var uuidForm = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`)

// SIDFits says what keeps a sid out of a column of a type, nil for nothing. It wants the one spelling that Postgres
// gives back: 1 and 01 would be one value of two sources, and not be taken for a clash. known is false for types that
// cannot hold a sid.
func SIDFits(sid, typ string) (known bool, err error) {
	bits := map[string]int{"smallint": 16, "integer": 32, "bigint": 64}[typ]
	switch {
	case bits > 0:
		n, err := strconv.ParseInt(sid, 10, bits)
		if err != nil || strconv.FormatInt(n, 10) != sid {
			return true, fmt.Errorf("the sid %q is not a number of type %s, in its plain form", sid, typ)
		}
		return true, nil
	case typ == "uuid":
		if !uuidForm.MatchString(sid) {
			return true, fmt.Errorf("the sid %q is not a UUID in lower case with hyphens", sid)
		}
		return true, nil
	}
	return typ == "text", nil
}

// SIDHint says how to give a source another sid.
func SIDHint(source, typ string) string {
	example := map[string]string{"uuid": "0b51cbd6-93d5-4b8e-8f0b-6f2f0a2f1c11", "text": "eu"}[typ]
	if example == "" {
		example = "17"
	}
	return fmt.Sprintf(`give the source one: sources: [{name: %q, sid: "%s"}]; {*} in it stands for what the * of the name matches`, source, example)
}

// CheckSIDs gives what is wrong with the sids of sources that are named one by one: those that the column of a rule
// cannot hold, and those that two sources of one target have in common.
func CheckSIDs(sources []Source, tables []Table) []config.Fault {
	var faults []config.Fault
	named := func(i int) bool { // by no entry before it either
		name := sources[i].Name
		return !strings.ContainsAny(name, "*?") && slices.IndexFunc(sources, func(o Source) bool { return config.Fits(o.Name, name) }) == i
	}
	for i, src := range sources {
		if !named(i) {
			continue
		}
		at, sid := fmt.Sprintf("sources[%d].sid", i), src.sidOf(src.Name)
		for k := range tables {
			if t := &tables[k]; t.SID != "" && !t.Skip && t.takes(src.Name) {
				if _, err := SIDFits(sid, t.SIDType); err != nil {
					faults = append(faults, config.Fault{Path: at, Value: sid, Message: fmt.Sprintf("%v, as tables[%d] wants it", err, k)})
					break
				}
			}
		}
		for j, other := range sources[:i] {
			if !named(j) || other.sidOf(other.Name) != sid {
				continue
			}
			if k := sharedTarget(tables, other.Name, src.Name); k >= 0 {
				faults = append(faults, config.Fault{Path: at, Value: sid, Message: fmt.Sprintf(
					"is also the sid of %q in sources[%d], and tables[%d] writes both into one target; give one of them another", other.Name, j, k)})
			}
		}
	}
	return faults
}

func (t *Table) takes(source string) bool { return t.Source == "" || config.Fits(t.Source, source) }

// sharedTarget gives the first rule by which both sources write the same targets; -1 for none that is certain.
func sharedTarget(tables []Table, a, b string) int {
	for k := range tables {
		t := &tables[k]
		if t.takes(a) != t.takes(b) {
			return -1 // what is left for the rules behind it is not known here
		}
		if t.takes(a) && !t.Skip && !strings.Contains(t.To, "{source}") {
			return k
		}
	}
	return -1
}
