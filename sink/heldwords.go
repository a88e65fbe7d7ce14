package sink

import (
	"cmp"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/schema/record"
	"github.com/tributary-cdc/tributary/sink/rule"
)

// held tells of the tables that errors hold: one by one, and together where several of a source have the same.
func (st *Status) held() (all []service.Need) {
	told := map[*Trouble]bool{}
	at := map[string]int{}
	var groups [][]*TableStatus
	for i := range st.Tables {
		t := &st.Tables[i]
		if t.Trouble == nil || told[t.Trouble] {
			continue // the tables of a source that is written as a whole have one
		}
		told[t.Trouble] = true
		same := t.alike()
		n, known := at[same]
		if !known {
			n = len(groups)
			at[same], groups = n, append(groups, nil)
		}
		groups[n] = append(groups[n], t)
	}
	for _, group := range groups {
		if len(group) == 1 {
			all = append(all, st.quarantined(group[0]))
		} else {
			all = append(all, st.together(group))
		}
	}
	return all
}

// unfollowedOf gives the troubles of progress topics by which the tables of their source are not held: it is not known any more how far
// those sources are complete.
func unfollowedOf(rules *rule.Set, troubles map[string]*Trouble) (all []*Trouble) {
	for _, topic := range slices.Sorted(maps.Keys(troubles)) {
		if source, ok := record.ParseProgressTopic(topic); ok && !rules.Whole(source) {
			all = append(all, troubles[topic])
		}
	}
	return all
}

// unfollowed tells of a progress topic that is held.
func unfollowed(t *Trouble) service.Need {
	source, _ := record.ParseProgressTopic(t.Topic)
	n := service.Need{
		Code: trouble.Code(t.Code), Urgent: true, Subject: t.Topic, Since: t.Since, Why: t.Message,
		What:  fmt.Sprintf("%s is held: how far %s is complete is not known any more", t.Topic, source),
		Means: "tables go on, or tell themselves why not; tributary.progress stands where it is, and who waits for it waits",
		Do:    withoutPark(stepsOf(t.Hint, source)), // it would be of tables that are held, too
	}
	if !strings.Contains(t.Hint, "sink resume") {
		n.Do = append(n.Do, service.Step{Command: "sink resume " + service.Quote(source), Note: "when that is mended"})
	}
	return n
}

// whereabouts is what tells one record of a topic from another.
var whereabouts = regexp.MustCompile(`\b(partition|offset) \d+`)

// alike is what a table's trouble has in common with the same trouble of another table: all but names and places.
func (t *TableStatus) alike() string {
	_, name, _ := strings.Cut(t.Table, ".")
	_, target, _ := strings.Cut(t.Target, ".")
	text := whereabouts.ReplaceAllString(t.Trouble.Message+"\x00"+t.Trouble.Hint, "$1")
	for _, of := range []string{t.Topic, t.Table, t.Target, name, target} {
		text = starred(text, of)
	}
	return strings.Join([]string{t.Source, t.State, t.Trouble.Code, text}, "\x00")
}

// starred gives text with a * for each name that stands there by itself, not as a part of another.
func starred(text, name string) string {
	if name == "" {
		return text
	}
	var out strings.Builder
	from := 0
	for at := 0; ; {
		next := strings.Index(text[at:], name)
		if next < 0 {
			return out.String() + text[from:]
		}
		begin := at + next
		end := begin + len(name)
		at = begin + 1
		if !inName(text, begin-1) && !inName(text, end) {
			out.WriteString(text[from:begin] + "*")
			from, at = end, end
		}
	}
}

// inName says whether a byte of text is one that a name goes on with.
func inName(text string, i int) bool {
	return i >= 0 && i < len(text) && (text[i] == '_' || '0' <= text[i] && text[i] <= '9' || 'a' <= text[i]|0x20 && text[i]|0x20 <= 'z')
}

// mostTogether is of how many tables that have the same trouble there are commands of their own.
const mostTogether = 3

// together tells of tables of one source that the same trouble holds.
func (st *Status) together(group []*TableStatus) service.Need {
	source, park := group[0].Source, ""
	var resume *service.Step
	n := st.quarantined(group[0])
	n.Do, n.Subjects = nil, make([]string, len(group))
	names, records := make([]string, len(group)), int64(0)
	for i, t := range group {
		one := st.quarantined(t)
		names[i], n.Subjects[i] = t.Table, t.name()
		records += value(t.Records)
		if one.Since.Before(n.Since) {
			n.Since = one.Since
		}
		for _, step := range one.Do {
			resumes := strings.HasPrefix(step.Command, "sink resume ")
			switch {
			case resumes && strings.HasSuffix(step.Command, " --park"):
				park = cmp.Or(park, step.Command)
			case resumes && resume == nil:
				resume = &service.Step{Command: "sink resume " + service.Quote(source), Note: step.Note}
			case resumes:
			case i < mostTogether && !slices.Contains(n.Do, step):
				n.Do = append(n.Do, step)
			}
		}
	}
	n.What = fmt.Sprintf("%s of %s are %s: %s", service.Plural(len(group), "table"), source, service.Look(group[0].State).Word, strings.Join(names, ", "))
	n.Why = group[0].Table + ": " + n.Why
	n.Means = st.keptWaiting(source, "tables", records)
	if resume != nil { // all tables of the source that are held are tried again
		n.Do = append(n.Do, *resume)
	}
	if park != "" {
		n.Do = append(n.Do, service.Step{Command: park, Note: "puts the row aside, and that table goes on; likewise with each other"})
	}
	return n
}

// keptWaiting says what becomes of what is held of a source, for which so many records wait, and which others go on.
func (st *Status) keptWaiting(source, others string, records int64) string {
	means := "it is held there, all other " + others + " go on"
	if records > 0 {
		means = fmt.Sprintf("%s %s in Kafka; all other %s go on", service.Plural(records, "record"), service.Agree(records, "waits", "wait"), others)
	}
	for i := range st.Sources {
		if src := &st.Sources[i]; src.Name != source {
			continue
		} else if until := src.until(); until != nil {
			means += fmt.Sprintf("; %s is complete only up to %s", src.Name, until.UTC().Format(time.DateTime+" UTC"))
		} else {
			means += fmt.Sprintf("; %s is not complete yet", src.Name)
		}
	}
	return means
}

// quarantined tells of a table that an error holds, or of the source if that is written, and so held, as a whole.
func (st *Status) quarantined(t *TableStatus) service.Need {
	subject, held, others, records := t.name(), service.Look(t.State).Word, "tables", value(t.Records)
	whole := t.Trouble.Topic == record.ProgressTopic(t.Source)
	if whole {
		subject, others, records = t.Source, "sources", 0
		for i := range st.Tables {
			if other := &st.Tables[i]; other.Source == t.Source {
				records += value(other.Records)
			}
		}
		held += " with all of its tables, as it is written as a whole"
	}
	name := service.Quote(subject)
	n := service.Need{
		Code: trouble.Code(t.Trouble.Code), Urgent: true, Subject: subject, Since: t.Trouble.Since, Why: t.Trouble.Message,
		What: fmt.Sprintf("%s is %s", subject, held), Do: stepsOf(t.Trouble.Hint, subject),
	}
	if t.Trouble.Topic != "" && t.Trouble.Offset > 0 && !strings.Contains(n.Why, "offset ") {
		n.Why += fmt.Sprintf(" (topic %s, partition %d, offset %d)", t.Trouble.Topic, t.Trouble.Partition, t.Trouble.Offset)
	}
	n.Means = st.keptWaiting(t.Source, others, records)
	if whole { // nothing is put aside of it
		n.Do = withoutPark(n.Do)
	}
	if !t.Trouble.stops() && !strings.HasPrefix(t.Trouble.Message, heldByCapture) {
		if !strings.Contains(t.Trouble.Hint, "sink resume") {
			n.Do = append(n.Do, service.Step{Command: "sink resume " + name, Note: "when that is mended"})
		}
		if slices.Contains(parkableCodes, n.Code) && !whole && !strings.Contains(t.Trouble.Hint, "--park") && !strings.HasPrefix(t.Trouble.Message, heldByProgress(t.Source)) {
			n.Do = append(n.Do, service.Step{Command: "sink resume " + name + " --park", Note: "puts the row aside, and the table goes on"})
		}
	}
	return n
}

// stepsOf takes apart the hint of what holds subject.
func stepsOf(hint, subject string) []service.Step {
	steps := service.Steps(hint)
	for i, name := 0, service.Quote(subject); i < len(steps); i++ { // a name by itself might be taken for a word of a sentence
		steps[i].Command, steps[i].Note = strings.ReplaceAll(steps[i].Command, "SOURCE/TABLE", name), strings.ReplaceAll(steps[i].Note, "SOURCE/TABLE", name)
	}
	return steps
}

func withoutPark(steps []service.Step) []service.Step {
	return slices.DeleteFunc(steps, func(s service.Step) bool { return strings.HasSuffix(s.Command, " --park") })
}

// heldByCapture begins the message of a table that is held by capture.
const heldByCapture = "held by capture: "
