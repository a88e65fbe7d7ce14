package sink

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/sink/warehouse"
)

// summarise gives the group's state as far as its tables tell, the sentence that says it, and what needs somebody: once,
// for page, terminal and JSON alike. It gives false if nothing needs anybody at once.
func (st *Status) summarise() bool {
	st.State = service.StateUpToDate
	bad, paused, parked := map[string]int{}, 0, int64(0) // tables by state
	for i := range st.Tables {
		if !service.Accepts(st.accept, trouble.Parked, st.Tables[i].name()) {
			parked += st.Tables[i].Parked
		}
		st.State = service.WorseState(st.State, st.Tables[i].State)
		if state := st.Tables[i].State; service.Look(state).Colour == "red" {
			bad[state]++
		} else if state == service.StatePaused {
			paused++
		}
	}
	for i := range st.Sources {
		if st.Sources[i].SilentSeconds > 0 {
			st.State = service.WorseState(st.State, service.StateSilent)
		}
	}
	st.Needs, st.Accepted = service.Accepted(service.Needs(st.needs()), st.accept)
	if len(bad) > 0 || parked > 0 {
		st.Headline = needsYou(bad, len(st.Tables), paused, parked)
		return true
	}
	if n := len(st.unfollowed); n > 0 {
		st.State = service.WorseState(st.State, service.StateQuarantined)
		st.Headline = fmt.Sprintf("needs you: how far %s %s complete is not known any more. Tables go on.", service.Plural(n, "source"), service.Agree(n, "is", "are"))
		return true
	}
	st.Headline = st.sentence()
	return false
}

// words are what a status says in a state.
type words struct {
	state, headline string
	needs, accepted []service.Need
}

func (st *Status) words() words { return words{st.State, st.Headline, st.Needs, st.Accepted} }

func (w words) put(st *Status) {
	st.State, st.Headline, st.Needs, st.Accepted = w.state, w.headline, slices.Clone(w.needs), slices.Clone(w.accepted)
}

// tell gives the sink's own state, and the sentence that says it. topics says that there are some that the rules want, as far
// as was looked; waits that something is tried again and again.
func (st *Status) tell(topics, looked, waits bool) {
	if st.summarise() {
		if waits { // nothing goes on
			said, _, _ := strings.Cut(st.Headline, ". ")
			st.Headline = strings.TrimSuffix(said, ".") + ". It waits for " + st.Waiting[0].whom() + "."
		}
		return
	}
	switch {
	case st.Step != "" && !waits && (topics || !looked):
		st.State, st.Headline = service.StateStarting, "is starting: "+st.Step
	case waits:
		w := &st.Waiting[0]
		st.State, st.Headline = service.StateWaiting, fmt.Sprintf("is waiting for %s, for %s%s.", w.whom(), service.FormatDuration(time.Since(w.Since)), st.completeTo(": "))
	case looked && !topics:
		st.State = service.StateWaiting
		st.Headline = "is waiting for topics: none matches the rules."
		st.Needs = service.Needs(append(st.Needs, service.Need{
			Code: trouble.NoTopics, Subject: st.Group, What: "no topic matches the rules yet",
			Why: fmt.Sprintf("the rules want %s; %s %s there that no rule wants", shortened(st.wants), service.Plural(len(st.Unmatched), "topic"), service.Agree(len(st.Unmatched), "is", "are")),
		}))
	}
}

// notRunning tells that there is no sink of the group. What is quarantined, parked or paused needs somebody all the same.
func (st *Status) notRunning() {
	st.State, st.Headline = service.StateNotRunning, "is not running: no sink is in the group."
	st.Members = slices.DeleteFunc(st.Members, func(m Member) bool { return m.SeenAt == nil }) // it is not known when that was
	for i := range st.Members {
		m := &st.Members[i]
		m.Ended, m.SilentSeconds, m.RowsPerSec = true, 0, nil
	}
	if complete := st.completeTo(" The warehouse is "); complete != "" {
		st.Headline += complete + "; Kafka keeps what comes."
	}
}

// sentence says how a group does of which no table needs anybody.
func (st *Status) sentence() string {
	late, gone, inserts := 0, 0, 0
	for i := range st.Tables {
		if st.Tables[i].Gone {
			gone++
		}
		if st.Tables[i].InsertsOnly {
			inserts++
		}
		if service.Look(st.Tables[i].State).Colour != "green" {
			late++
		}
	}
	sources, leftOut := st.read(), ""
	if n := len(st.Sources) - sources; n > 0 {
		leftOut = fmt.Sprintf(" and %d that %s not read", n, service.Agree(n, "is", "are"))
	}
	size := fmt.Sprintf("%s%s, %s", service.Plural(sources, "source"), leftOut, service.Plural(len(st.Tables), "table"))
	if gone > 0 {
		size += fmt.Sprintf(", %d of which %s captured no more", gone, service.Agree(gone, "is", "are"))
	}
	if inserts > 0 {
		size += fmt.Sprintf(", %d of which %s captured without UPDATE and DELETE", inserts, service.Agree(inserts, "is", "are"))
	}
	switch st.State {
	case service.StateUpToDate:
		if complete := st.completeTo(""); complete != "" {
			size = complete + ". " + size
		}
		return "is healthy: " + size + "."
	case service.StateSilent:
		return "has all there is, but a capture is silent" + st.completeTo(": ") + ". " + size + "."
	}
	of := fmt.Sprintf("%d of %s", late, service.Plural(len(st.Tables), "table"))
	switch st.State {
	case service.StateWaiting:
		if i := slices.IndexFunc(st.Tables, func(t TableStatus) bool { return t.State == service.StateWaiting && t.WaitingOn != "" }); i >= 0 {
			return fmt.Sprintf("is waiting for %s: %s%s.", st.Tables[i].WaitingOn, of, st.furthest())
		}
	case service.StateSnapshotting:
		return "takes in existing rows: " + of + "."
	case service.StatePaused:
		if late == len(st.Tables) {
			return "is paused: " + service.Plural(late, "table") + "."
		}
		return "is paused in part: " + of + ", all others go on."
	}
	return "is " + service.Look(st.State).Word + ": " + of + st.furthest() + "."
}

// unmatched tells of the topics that no rule wants; "" where there are none.
func (st *Status) unmatched() string {
	n := len(st.Unmatched)
	if n == 0 {
		return ""
	}
	return fmt.Sprintf("%s %s no rule: %s", service.Plural(n, "topic"), service.Agree(n, "matches", "match"), shortened(st.Unmatched))
}

// furthest tells of the table that is furthest behind.
func (st *Status) furthest() string {
	worst := st.worst()
	if worst == nil {
		return ""
	}
	text := fmt.Sprintf(", %s %s behind", worst.name(), service.FormatSeconds(*worst.BehindSeconds))
	if worst.ETASeconds != nil && st.State == service.StateCatchingUp {
		text += ", " + service.FormatLeft(time.Duration(*worst.ETASeconds*float64(time.Second)))
	}
	return text
}

// read counts the sources of which anything is read.
func (st *Status) read() (n int) {
	for i := range st.Sources {
		if st.Sources[i].State != service.StateLeftOut {
			n++
		}
	}
	return n
}

// complete gives the source that is furthest behind: up to its commit all that are read are complete. It is nil where one is not known to be.
func (st *Status) complete() (last *SourceStatus) {
	for i := range st.Sources {
		src := &st.Sources[i]
		if src.State == service.StateLeftOut {
			continue
		}
		if src.CompleteAt == nil || src.AgeSeconds == nil {
			return nil
		}
		if last == nil || *src.AgeSeconds > *last.AgeSeconds {
			last = src
		}
	}
	return last
}

// holds names a source that is furthest behind, with what holds it back.
func (st *Status) holds(src *SourceStatus) string {
	switch look := service.Look(src.State); {
	case look.Colour == "red" && !slices.ContainsFunc(st.Tables, func(t TableStatus) bool { return t.Source == src.Name && t.State == src.State }):
		return src.Name + ", whose progress topic is held"
	case look.Colour == "red", src.State == service.StatePaused:
		return fmt.Sprintf("%s, held back by a table that is %s", src.Name, look.Word)
	}
	switch src.Capture.State {
	case service.StatePaused, service.StateCatchingUp:
		return fmt.Sprintf("%s, whose capture is %s", src.Name, service.Look(src.Capture.State).Word)
	}
	return src.Name
}

// others says up to when all other sources are complete; "" where there are none.
func (st *Status) others(last *SourceStatus) string {
	var next *SourceStatus
	for i := range st.Sources {
		if src := &st.Sources[i]; src.State != service.StateLeftOut && src.Name != last.Name && (next == nil || *src.AgeSeconds > *next.AgeSeconds) {
			next = src
		}
	}
	if next == nil {
		return ""
	}
	return "all others " + service.FormatSeconds(*next.AgeSeconds) + " ago"
}

// except tells of the rows that what is complete lacks.
func (st *Status) except() string {
	parked := int64(0)
	for i := range st.Tables {
		parked += st.Tables[i].Parked
	}
	if parked == 0 {
		return ""
	}
	return "except " + service.Plural(parked, "parked row")
}

// rebalance says how long the members have had what they have; "" where that is not known.
func (st *Status) rebalance() string {
	if st.RebalancedAt == nil {
		return ""
	}
	return "no rebalance for " + service.FormatDuration(time.Since(*st.RebalancedAt))
}

// completeTo says up to where, behind a text; "" where it is not known.
func (st *Status) completeTo(behind string) string {
	last := st.complete()
	if last == nil {
		return ""
	}
	return fmt.Sprintf("%scomplete up to %s (%s ago)", behind, last.until().UTC().Format(time.TimeOnly+" UTC"), service.FormatSeconds(*last.AgeSeconds))
}

// needs tells what needs somebody.
func (st *Status) needs() []service.Need {
	var all []service.Need
	all = append(all, st.held()...)
	for _, t := range st.unfollowed {
		all = append(all, unfollowed(t))
	}
	var behind []string
	for i := range st.Tables {
		t := &st.Tables[i]
		all = append(all, t.parked()...)
		for _, told := range []func() (service.Need, bool){t.headroom, t.barrier} {
			if n, ok := told(); ok {
				all = append(all, n)
			}
		}
		switch t.State {
		case service.StateStuck:
			all = append(all, service.Need{
				Code: trouble.Stuck, Urgent: true, Subject: t.name(), What: fmt.Sprintf("nothing of %s moves, though %s %s", t.name(), service.Plural(value(t.Records), "record"), service.Agree(value(t.Records), "waits", "wait")),
				Why: "no stage says that it waits for anybody: this is a defect of Tributary",
			})
		case service.StateBehind:
			behind = append(behind, t.name())
		}
	}
	all = append(all, st.outdated()...)
	if len(behind) > 0 {
		all = append(all, service.Need{
			Code: trouble.FallingBehind, Subject: behind[0], What: fmt.Sprintf("%s %s not catching up, the first is %s", service.Plural(len(behind), "table"), service.Agree(len(behind), "is", "are"), behind[0]), Why: st.limit(),
		})
	}
	awaited := map[[2]string]bool{}
	for i := range st.Waiting {
		w := &st.Waiting[i]
		if one := [2]string{w.whom(), w.Code}; time.Since(w.Since) >= service.WaitingAfter && !awaited[one] {
			awaited[one] = true // whatever else waits for it: the first has waited longest
			all = append(all, service.Need{
				Code: trouble.Code(w.Code), Subject: w.For, Since: w.Since, What: fmt.Sprintf("waiting for %s, try %d", w.whom(), w.Tries), Why: w.Error, Means: w.means(), Do: w.do(),
			})
		}
	}
	for i := range st.Locks {
		all = append(all, st.Locks[i].need())
	}
	for i := range st.Sources {
		if src := &st.Sources[i]; src.SilentSeconds > 0 {
			all = append(all, src.silent())
		}
	}
	return all
}

// silent tells of a capture that says nothing any more, with what it has said last.
func (src *SourceStatus) silent() service.Need {
	n := service.Need{Code: trouble.CaptureSilent, Subject: src.Name, Since: src.ReportedAt}
	n.What = fmt.Sprintf("the capture of %s has said nothing for %s", src.Name, service.FormatSeconds(src.SilentSeconds))
	state, code := src.ended()
	if book, ok := trouble.RunbookOf(code); ok {
		n.Why, n.Since = book.Why, time.UnixMicro(src.Capture.TroubleSince).UTC()
	}
	switch state {
	case service.StateStopped:
		n.What = fmt.Sprintf("the capture of %s has stopped: %s", src.Name, code)
	case service.StateWaiting: // as far as it could say so: it may have ended since
		n.What += fmt.Sprintf("; its last word is that it waits: %s", code)
	case service.StateNotRunning:
		n.What, n.Why = fmt.Sprintf("the capture of %s was ended in order, %s ago", src.Name, service.FormatSeconds(src.SilentSeconds)), "nobody has begun it again"
		return n
	}
	if src.Capture.HTTP != "" {
		n.What += "; it answered at " + src.Capture.HTTP
	}
	return n
}

// reported gives the state of the source's capture, as far as it has told, and what is said behind the word for that.
func (src *SourceStatus) reported() (state, beside string) {
	if src.SilentSeconds > 0 {
		state, code := src.ended()
		return cmp.Or(state, service.StateSilent), cmp.Or(string(code), "for "+service.FormatSeconds(src.SilentSeconds))
	}
	beside = service.FormatSeconds(src.Capture.BehindSeconds)
	if src.Capture.Held > 0 {
		beside += ", holds " + service.Plural(src.Capture.Held, "table")
	}
	if age := time.Since(src.ReportedAt); age >= service.SilentAfter { // or it is we who do not hear
		beside += ", " + service.FormatDuration(age) + " ago"
	}
	return src.Capture.State, beside
}

// ended gives what capture has said last of a session that ended: the state that it left, and the code of its trouble; "" where it has
// said neither, or what a capture of a later version says.
func (src *SourceStatus) ended() (state string, code trouble.Code) {
	h := &src.Capture
	code = trouble.Code(h.Trouble)
	_, known := trouble.RunbookOf(code)
	switch {
	case known && (h.State == service.StateStopped || h.State == service.StateWaiting):
		return h.State, code
	case h.State == service.StateNotRunning:
		return h.State, ""
	}
	return "", ""
}

// parked tells of the rows that are put aside, for each reason.
func (t *TableStatus) parked() []service.Need {
	if t.Parked == 0 {
		return nil
	}
	need := func(rows int64, of string) service.Need {
		what := service.Quote(t.name()) + of
		return service.Need{
			Code: trouble.Parked, Subject: t.name(), What: fmt.Sprintf("%s of %s %s parked", service.Plural(rows, "row"), t.name(), service.Agree(rows, "is", "are")),
			Do: []service.Step{
				{Command: "sink parked show " + what},
				{Command: "sink parked retry " + what, Note: "when what was wrong is mended"},
				{Command: "sink parked discard " + what, Note: "gives them up: the warehouse lacks them, Kafka keeps them"},
			},
		}
	}
	var all []service.Need
	behind := int64(0)
	reasons := slices.DeleteFunc(slices.Clone(t.ParkedBy), func(by ParkedBy) bool {
		if by.Code == "" {
			behind = by.Records
		}
		return by.Code == ""
	})
	for i := range reasons {
		by, of := &reasons[i], ""
		if len(reasons) > 1 {
			of = " --code " + by.Code
		}
		n := need(by.Records, of)
		n.Since = by.Oldest
		n.What += ": " + by.Code
		if by.Newest.After(by.Oldest) {
			n.What += ", the newest at " + by.Newest.Format(time.DateTime+" UTC")
		}
		all = append(all, n)
	}
	switch {
	case len(all) == 0: // what they waited behind is gone, or a sink of before tells
		all = append(all, need(t.Parked, ""))
	case behind > 0:
		all[0].What += fmt.Sprintf("; %s more of the same keys %s behind", service.FormatCount(behind), service.Agree(behind, "waits", "wait"))
	}
	return all
}

// holder is the lock as the warehouse has told of it.
func (l *Lock) holder() *warehouse.Lock {
	return &warehouse.Lock{PID: l.PID, Application: l.Application}
}

// whose names the lock by its holder.
func (l *Lock) whose() string { return l.holder().Whose() }

// waitedLock names the lock that has been waited for in vain.
func waitedLock(err error) string {
	if locked, ok := errors.AsType[*warehouse.LockedError](err); ok {
		return locked.Whose()
	}
	return "a lock"
}

// need tells of a lock that is waited for.
func (l *Lock) need() service.Need {
	table := cmp.Or(l.Table, "the warehouse")
	n := service.Need{
		Code: trouble.LockWait, Subject: table, Since: l.Since, What: fmt.Sprintf("writing to %s waits for %s", table, l.whose()),
		Do: service.Steps(l.holder().Release()),
	}
	if l.PID == 0 {
		return n
	}
	n.Why = "the session of " + cmp.Or(l.User, "the server itself")
	if l.State == "" {
		n.Why += "; what it does, and since when, is only shown to a role with pg_read_all_stats"
		return n
	}
	n.Why += " is " + l.State
	if l.Statement != "" {
		n.Why += ", its newest statement is " + l.Statement
	}
	if l.Began != nil {
		n.Why += fmt.Sprintf("; its transaction began %s ago", service.FormatDuration(time.Since(*l.Began)))
	}
	return n
}

// limit names the stage that most of the time is spent with.
func (st *Status) limit() string {
	most := 0
	for i := range st.Stages {
		if st.Stages[i].BusyShare > st.Stages[most].BusyShare {
			most = i
		}
	}
	if len(st.Stages) == 0 {
		return ""
	}
	return fmt.Sprintf("most of the time goes into %s: %.0f %%", st.Stages[most].Name, 100*st.Stages[most].BusyShare)
}

// name tells the table from those of other sources, as verbs want it.
func (t *TableStatus) name() string { return t.Source + "/" + t.Table }

// tell gives what is waited for as the status tells it.
func (w *wait) tell(what string) Waiting {
	told := Waiting{For: what, Since: w.since.UTC(), Tries: w.tries, Code: string(trouble.CodeOf(w.err)), Error: w.err.Error()}
	if t, ok := errors.AsType[*trouble.Error](w.err); ok {
		told.hint, told.effect = t.Hint, t.Means
	}
	if told.Code == string(trouble.LockWait) {
		told.lock = waitedLock(w.err)
	}
	return told
}

// upkeep names what is tried again and again of what goes on beside the tables, or is over by itself; "" for all else. Runbooks speak of tables that
// are held, which none is by it.
func (w *Waiting) upkeep() string {
	switch {
	case trouble.Code(w.Code) == trouble.WarehouseUnreachable:
		return ""
	case w.For == "retention":
		return "the removal of old rows"
	case w.For == "sweep":
		return "the removal of rows that are gone at the source"
	case w.For == "target":
		return "a target that is being altered"
	}
	return ""
}

// means says what the error does; "" where the runbook says it.
func (w *Waiting) means() string {
	if w.upkeep() == "" {
		return ""
	}
	return w.effect
}

// do says what is to be done where somebody refuses, which the error knows best: whether it is a login, a certificate or a right.
// For what else keeps a sink waiting it is the runbook that says it.
func (w *Waiting) do() []service.Step {
	if w.upkeep() != "" {
		return service.Steps(w.hint)
	}
	switch trouble.Code(w.Code) {
	case trouble.WarehouseRights, trouble.KafkaAuth, trouble.RegistryAuth, trouble.IdentityUnreachable, trouble.LockWait:
		return service.Steps(w.hint)
	}
	return nil
}

// whom names whom is waited for: whoever does not answer, or else what is tried.
func (w *Waiting) whom() string {
	if text := w.upkeep(); text != "" {
		return text
	}
	switch trouble.Code(w.Code) {
	case trouble.KafkaUnreachable, trouble.KafkaAuth:
		return "Kafka"
	case trouble.RegistryUnreachable, trouble.RegistryAuth:
		return "the registry"
	case trouble.IdentityUnreachable:
		return "the identity provider"
	case trouble.WarehouseUnreachable:
		return "the warehouse"
	case trouble.LockWait:
		return w.lock
	}
	switch w.For {
	case "kafka":
		return "Kafka"
	case "group":
		return "the consumer group"
	case "warehouse", "supervision":
		return "the warehouse"
	case "registry":
		return "the registry"
	}
	return w.For
}

// needsYou is the sentence about tables that do not go on by themselves, of each such state so many, and parked records.
func needsYou(bad map[string]int, tables, paused int, parked int64) string {
	var what []string
	all := 0
	for _, one := range []struct{ state, is, are string }{
		{service.StateStopped, "has stopped", "have stopped"},
		{service.StateStuck, "is stuck", "are stuck"},
		{service.StateQuarantined, "is quarantined", "are quarantined"},
	} {
		if n := bad[one.state]; n > 0 {
			all += n
			what = append(what, service.Plural(n, "table")+" "+service.Agree(n, one.is, one.are))
		}
	}
	if parked > 0 {
		what = append(what, fmt.Sprintf("%s %s parked", service.Plural(parked, "row"), service.Agree(parked, "is", "are")))
	}
	rest := ""
	switch {
	case paused > 0:
		rest = fmt.Sprintf(" %s %s paused.", service.Plural(paused, "table"), service.Agree(paused, "is", "are"))
	case all == 0:
		rest = " All tables go on."
	case all < tables:
		rest = " " + service.Agree(tables-all, "The other one goes on.", "The other "+service.FormatCount(int64(tables-all))+" go on.")
	}
	return service.NeedsYou + strings.Join(what, ", ") + "." + rest
}
