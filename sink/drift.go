package sink

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/sink/rule"
)

// sharing is what the rules make of one target.
type sharing struct {
	topics []string
	sids   map[string][]string // sid with its column, "" for none: topics
	rules  map[int]bool
}

// shareTargets groups routes, by topic, by the target that they write.
func shareTargets(routes map[string]*rule.Route) map[rule.Target]*sharing {
	out := map[rule.Target]*sharing{}
	for _, topic := range slices.Sorted(maps.Keys(routes)) {
		r := routes[topic]
		t := out[r.Target]
		if t == nil {
			t = &sharing{sids: map[string][]string{}, rules: map[int]bool{}}
			out[r.Target] = t
		}
		sid := ""
		if r.SIDColumn != "" {
			sid = fmt.Sprintf(" with %s = %q", r.SIDColumn, r.SID)
		}
		t.topics, t.rules[r.Rule] = append(t.topics, topic), true
		t.sids[sid] = append(t.sids[sid], topic)
	}
	return out
}

// checkSharing says which targets several topics write, and refuses what would have them overwrite each other's rows.
func (c *checker) checkSharing(targets map[rule.Target]*sharing, plans map[string]*rule.Plan) {
	for _, target := range slices.SortedFunc(maps.Keys(targets), func(a, b rule.Target) int { return strings.Compare(a.String(), b.String()) }) {
		t := targets[target]
		if len(t.topics) == 1 {
			continue
		}
		clash := false
		for _, sid := range slices.Sorted(maps.Keys(t.sids)) {
			topics := t.sids[sid]
			if len(topics) > 1 {
				clash = true
				c.Fail(trouble.RuleConflict, "sid", fmt.Sprintf("%s write %s%s", strings.Join(topics, " and "), target, sid), "add sid: <column> to the rule, or {source} to its to",
					"see docs/runbooks/rule-conflict.md")
			}
		}
		if _, without := t.sids[""]; without && len(t.sids) > 1 {
			clash = true
			c.Fail(trouble.RuleConflict, "sid", fmt.Sprintf("%s is written with a sid by one rule and without by another", target), "give all rules of the target the same sid, or one of them another to",
				"see docs/runbooks/rule-conflict.md")
		}
		if clash {
			continue
		}
		if len(t.rules) > 1 {
			c.Note("rules", fmt.Sprintf("%s is written by several rules: %s", target, rulesText(t.rules)))
		}
		c.OK("sid", fmt.Sprintf("%s is written by %s, each with a sid of its own", target, service.Plural(len(t.topics), "source")))
		var of []*rule.Plan
		for _, topic := range t.topics {
			if p := plans[topic]; p != nil {
				of = append(of, p)
			}
		}
		if lines, differ := drift(of); differ > 0 {
			c.Warn(trouble.RuleConflict, "drift", fmt.Sprintf("%s: %d of %d sources differ", target, differ, len(of)), firsts(lines)...)
		}
	}
}

func rulesText(rules map[int]bool) string {
	var out []string
	for _, i := range slices.Sorted(maps.Keys(rules)) {
		out = append(out, fmt.Sprintf("tables[%d]", i))
	}
	return strings.Join(out, ", ")
}

// firsts gives at most so many lines as a person reads.
func firsts(lines []string) []string {
	const most = 10
	if len(lines) > most {
		return append(lines[:most:most], fmt.Sprintf("and %d more", len(lines)-most))
	}
	return lines
}

// drift says in what the tables of sources, of which there are so many, differ from those of most others that write the same target:
// columns that they lack or that others have not, and types. Those that differ in the same way have one line. The target has all columns.
func drift(plans []*rule.Plan) (lines []string, differ int) {
	if len(plans) < 2 {
		return nil, 0
	}
	types := map[string]map[string]int{} // column: type: sources
	for _, p := range plans {
		for i := range p.Columns {
			name := p.Columns[i].Name
			if types[name] == nil {
				types[name] = map[string]int{}
			}
			types[name][p.Column(i).Type.Name]++
		}
	}
	sources, usual := map[string]int{}, map[string]string{}
	for name, by := range types {
		for _, typ := range slices.Sorted(maps.Keys(by)) {
			sources[name] += by[typ]
			if by[typ] > by[usual[name]] {
				usual[name] = typ
			}
		}
	}
	type way struct{ lacks, more, other string }
	var ways []way // as they are first met
	sourcesOf := map[way][]string{}
	for _, p := range plans {
		var lacks, more, other []string
		for _, name := range slices.Sorted(maps.Keys(types)) {
			i := slices.IndexFunc(p.Columns, func(c rule.PlanColumn) bool { return c.Name == name })
			common := sources[name]*2 > len(plans)
			switch {
			case i < 0 && common:
				lacks = append(lacks, name)
			case i < 0:
			case !common:
				more = append(more, name)
			case p.Column(i).Type.Name != usual[name]:
				other = append(other, fmt.Sprintf("%s %s instead of %s", name, p.Column(i).Type.Name, usual[name]))
			}
		}
		this := way{strings.Join(lacks, ", "), strings.Join(more, ", "), strings.Join(other, ", ")}
		if this == (way{}) {
			continue
		}
		if differ++; sourcesOf[this] == nil {
			ways = append(ways, this)
		}
		sourcesOf[this] = append(sourcesOf[this], p.Source)
	}
	for _, this := range ways {
		of := sourcesOf[this]
		slices.SortFunc(of, natural)
		has := service.Agree(len(of), "has ", "have ")
		var parts []string
		if this.lacks != "" {
			parts = append(parts, service.Agree(len(of), "lacks ", "lack ")+this.lacks)
		}
		if this.more != "" {
			parts = append(parts, has+this.more+" besides")
		}
		if this.other != "" {
			parts = append(parts, has+this.other)
		}
		lines = append(lines, shortened(of)+" "+strings.Join(parts, "; "))
	}
	return lines, differ
}

// shortened gives names of which one thing is said: all where they are few.
func shortened(names []string) string {
	const few = 4
	switch n := len(names); {
	case n > few:
		return fmt.Sprintf("%s, %s and %d more", names[0], names[1], n-2)
	case n > 1:
		return strings.Join(names[:n-1], ", ") + " and " + names[n-1]
	}
	return names[0]
}
