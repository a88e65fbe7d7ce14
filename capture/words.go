package capture

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/tributary-cdc/tributary/capture/catalog"
	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/trouble"
)

// freshness is how far behind is well.
const freshness = time.Minute

// judge gives the status its state, its sentence, and what needs somebody: once, for page, terminal and JSON alike. unmoved
// is for how long nothing of what is known was published.
func (st *Status) judge(now time.Time, unmoved time.Duration) {
	f := service.Facts{
		Stopped: st.State == service.StateStopped, Standby: st.State == service.StateStandby,
		Starting: st.State == service.StateStarting && st.Trouble == nil, Barred: st.Trouble != nil,
		Paused: st.Paused != nil && st.State != service.StateStandby,
		Known:  unmoved > 0, Unmoved: unmoved, Freshness: freshness,
		Behind: seconds(st.LagSeconds), Falling: st.Falling, Snapshot: st.Snapshot.TablesDone < st.Snapshot.Tables,
	}
	busy := false
	for _, stage := range st.Stages {
		busy = busy || stage.Name == stageEncode && stage.BusyShare > idleShare // with the others somebody else is
		if stage.WaitingOn != "" && stage.WaitingOn != waitRetry && stage.WaitingOn != waitResume {
			if waits := now.Sub(stage.Since); waits > f.Waits {
				f.Waits, st.WaitingOn, st.WaitingSince, st.on = waits, stage.WaitingOn, stage.Since.UTC(), stage.WaitingOn
			}
		}
	}
	switch {
	case f.Waits > 0 || busy:
	case st.WAL.Standbys != "" && unmoved >= service.WaitingAfter:
		f.Waits, st.WaitingOn, st.WaitingSince = unmoved, "the standby of slot "+st.WAL.Standbys+" (synchronized_standby_slots)", now.Add(-unmoved).UTC()
		st.on = waitStandby
	case unmoved >= service.StuckAfter:
		// All that has come is published. A server sends nothing of a large transaction until it has read its end.
		f.Waits, st.WaitingOn, st.WaitingSince = unmoved, "the source, which sends nothing of what it has", now.Add(-unmoved).UTC()
		st.on = waitSource
	}
	if t := st.Trouble; t != nil && t.Code == trouble.KafkaNotEnoughReplicas {
		st.WaitingOn, st.WaitingSince = "more in-sync replicas", t.Since
	}
	switch {
	case st.State == service.StateNotRunning, st.State == service.StateElsewhere, st.making != nil: // told by others
	default:
		st.State = f.State()
	}
	if st.State != service.StateWaiting && st.State != service.StateStarting {
		st.WaitingOn, st.WaitingSince, st.on = "", time.Time{}, ""
	}
	st.Needs, st.Accepted = service.Accepted(st.needs(now, unmoved), st.accept)
	st.Headline = st.headline()
}

// words are what a status says in a state.
type words struct {
	state, headline, waitingOn string
	waitingSince               time.Time
	needs, accepted            []service.Need
}

// lasted gives for how long the state has been so, as far as it says.
func (st *Status) lasted(now time.Time) time.Duration {
	switch {
	case st.State != service.StateWaiting:
	case st.Trouble != nil && !st.Trouble.Since.IsZero():
		return now.Sub(st.Trouble.Since)
	case !st.WaitingSince.IsZero():
		return now.Sub(st.WaitingSince)
	}
	return 0
}

func (st *Status) words() words {
	return words{st.State, st.Headline, st.WaitingOn, st.WaitingSince, st.Needs, st.Accepted}
}

func (w words) put(st *Status) { //nolint:gocritic // it is copied into st
	st.State, st.Headline, st.WaitingOn, st.WaitingSince = w.state, w.headline, w.waitingOn, w.waitingSince
	st.Needs, st.Accepted = slices.Clone(w.needs), slices.Clone(w.accepted)
}

// skew says that the clocks differ; "" where they do not much. Then what is told by both is wrong by as much.
func (st *Status) skew() string {
	switch ahead := st.ClockAheadSeconds; {
	case ahead == nil || math.Abs(*ahead) < skewShown.Seconds():
		return ""
	case *ahead > 0:
		return "the source's clock is " + service.FormatSeconds(*ahead) + " ahead of this host's"
	default:
		return "the source's clock is " + service.FormatSeconds(-*ahead) + " behind this host's"
	}
}

// oldTransactionTold is from which age on a transaction wants somebody, however little WAL it keeps yet; its alert has the same.
const oldTransactionTold = time.Hour

// idleShare is what a stage without work may be busy with looking for some.
const idleShare = 0.05

// needs tells what needs somebody.
func (st *Status) needs(now time.Time, unmoved time.Duration) []service.Need {
	var all []service.Need
	add := func(t *TroubleStatus, urgent bool) {
		all = append(all, service.Need{
			Code: t.Code, Urgent: urgent, Subject: t.Subject, Since: t.Since, What: strings.TrimSpace("cannot " + t.Op + " " + t.Subject),
			Why: t.Cause, Means: cmp.Or(t.Means, st.means(t.Code)), Do: service.Steps(t.Hint),
		})
	}
	if t := st.Trouble; t != nil {
		add(t, st.State == service.StateStopped || st.State == service.StateNotRunning)
		if left := t.NextTry.Sub(now); t.Tries > 0 && left >= time.Second {
			all[0].Why += fmt.Sprintf("; tried %s, next in %s", service.Plural(t.Tries, "time"), service.FormatDuration(left))
		} else if t.Tries > 0 {
			all[0].Why += fmt.Sprintf("; tried %s", service.Plural(t.Tries, "time"))
		}
	}
	if code, ok := whose[st.WaitingOn]; ok && st.Trouble == nil && (st.State == service.StateWaiting || now.Sub(st.WaitingSince) >= service.WaitingAfter) {
		n := service.Need{Code: code, Subject: st.Source, Since: st.WaitingSince, What: "waiting for " + st.whom(), Means: st.means(code)}
		switch {
		case code == trouble.KafkaUnreachable && len(st.brokers) > 0: // nothing has failed yet that would name one
			n.Why = "no broker answers, or none is ready; kafka.brokers: " + strings.Join(st.brokers, ", ")
		case code == trouble.SlotWaits && st.Oldest != nil:
			n.Do = st.Oldest.end()
		case code == trouble.SlotWaits: // the runbook ends a session, which wants somebody who has looked at it
			n.Do = service.Steps("SELECT pid, application_name, state, now() - xact_start AS open_for FROM pg_stat_activity WHERE backend_xid IS NOT NULL ORDER BY xact_start;   " +
				"says whose they are: wait, or end the oldest with pg_terminate_backend")
		}
		if st.making != nil {
			n.Do = append(n.Do, madeBy(st.making))
		}
		all = append(all, n)
	}
	if o := st.Oldest; o != nil && !o.Since.IsZero() && now.Sub(o.Since) >= oldTransactionTold && st.WaitingOn != waitOld {
		all = append(all, service.Need{
			Code: trouble.OldTransaction, Subject: st.Source, Since: o.Since, What: "a transaction keeps WAL: " + o.whose(),
			Means: fmt.Sprintf("the source keeps WAL from its beginning on, though all that has ended is published: %s of %s", service.FormatBytes(st.WAL.RetainedBytes), service.FormatBytes(st.WAL.BudgetBytes)),
			Do:    o.end(),
		})
	}
	if st.State == service.StateStuck {
		all = append(all, service.Need{
			Code: trouble.Stuck, Urgent: true, Subject: st.Source, What: fmt.Sprintf("nothing has moved for %s, though %s are to be published", service.FormatDuration(unmoved), service.FormatBytes(st.ToPublish)),
			Why: "no stage says that it waits for anybody: this is a defect of Tributary",
		})
	}
	if st.State == service.StateBehind {
		most := limit(st.Stages)
		all = append(all, service.Need{
			Code: trouble.FallingBehind, Subject: st.Source,
			What: fmt.Sprintf("not catching up: the source writes %s/s, %s/s are published", service.FormatBytes(int64(st.SourceBytesPerSecond)), service.FormatBytes(int64(st.PublishedBytesPerSecond))),
			Why:  most.cause, Do: service.Steps(most.hint),
		})
	}
	told := map[string]bool{} // tables whose trouble is among the alarms
	for i := range st.Alarms {
		add(&st.Alarms[i], st.Alarms[i].Code != trouble.WALBudget || st.WAL.RetainedBytes >= st.WAL.BudgetBytes)
		told[st.Alarms[i].Subject] = true
	}
	for i := range st.Tables {
		t := &st.Tables[i]
		if t.Held != nil && !told[t.Held.Subject] {
			add(t.Held, true)
		}
		if snap := t.Snapshot; snap.reads() && snap.Unseen >= rereadsTold && now.Sub(snap.UnseenSince) >= service.WaitingAfter {
			all = append(all, st.rereads(t))
		}
		if t.Level == string(catalog.InsertOnly) && t.Reason != "" {
			all = append(all, service.Need{
				Code: trouble.TableWithoutIdentity, Subject: t.Table, What: t.Table + ": only INSERT and TRUNCATE arrive",
				Why: t.Reason, Do: service.Steps(t.Help),
				Means: "its UPDATE and DELETE do not arrive; the application's own statements are safe",
			})
		}
	}
	return service.Needs(all)
}

// rereadsTold is from how many reads in a row on that do not count somebody is told. With a standby that answers it is one or two.
const rereadsTold = 5

// rereads tells of a table whose rows are read again and again, and whose transaction that is for.
func (st *Status) rereads(t *TableStatus) service.Need {
	n := service.Need{
		Code: trouble.SnapshotRereads, Subject: t.Table, Since: t.Snapshot.UnseenSince,
		What: fmt.Sprintf("a chunk of %s was read %s, and none counts", t.Table, service.Plural(t.Snapshot.Unseen, "time")),
	}
	switch {
	case t.Snapshot.UnseenAltered:
		n.Why = "the table has been altered since, and the stream of changes has not come to that: until then the rows do not have the columns that it knows"
		n.Do = service.Steps("wait: its rows count when the stream is there")
		if st.LagSeconds > 0 {
			n.Why += "; it is " + service.FormatSeconds(st.LagSeconds) + " behind"
		}
	case t.Snapshot.UnseenCommitted:
		n.Why = "a commit that is published already stays invisible to reads: it waits for a synchronous standby"
		n.Do = service.Steps("mend the standby that does not answer, or take it out of synchronous_standby_names; who answers, and how late: " +
			"SELECT application_name, client_addr, state, sync_state, flush_lag, replay_lag FROM pg_stat_replication;")
	case st.Oldest != nil:
		n.Why = "a transaction that began before is not over: " + st.Oldest.whose()
		n.Do = st.Oldest.end()
	default:
		n.Why = "a transaction that began before is not over"
		n.Do = service.Steps("wait, or end it with pg_terminate_backend; whose it is, where SyncRep waits for a standby: " +
			"SELECT pid, application_name, state, wait_event, xact_start FROM pg_stat_activity WHERE backend_xid IS NOT NULL ORDER BY xact_start;")
	}
	return n
}

// means says what the source keeps while somebody is away without whom nothing is published; "" leaves it to the runbook.
func (st *Status) means(code trouble.Code) string {
	switch code {
	case trouble.KafkaUnreachable, trouble.KafkaNotEnoughReplicas, trouble.RegistryUnreachable, trouble.IdentityUnreachable:
	default:
		return ""
	}
	if st.WAL.AsOf.IsZero() {
		return ""
	}
	text := fmt.Sprintf("nothing is lost: the source keeps its WAL, %s of %s", service.FormatBytes(st.WAL.RetainedBytes), service.FormatBytes(st.WAL.BudgetBytes))
	switch full := st.WAL.FullInSeconds; {
	case full != nil && *full == 0:
		text += "; the budget is used up"
	case full != nil:
		text += "; at this rate the budget is used up in " + service.FormatLeft(seconds(*full))
	}
	return text
}

// limit says which stage most of the time is spent with, whose limit that is, and what to do about it.
func limit(stages []service.StageState) reason {
	most, is, ok := service.Limit(stages)
	known, named := limits[most.Name]
	if !ok || !named || most.BusyShare < telling {
		return reason{}
	}
	text := fmt.Sprintf("most of the time, %.0f %%, goes into ", 100*most.BusyShare)
	if is {
		text = fmt.Sprintf("%s is the limit: %.0f %% of the time goes into ", known.who, 100*most.BusyShare)
	}
	return reason{text + known.work, known.hint}
}

// telling is the share of the time below which that of the busiest stage says nothing of why capture is behind.
const telling = 0.2

// limits say of each stage whose the limit is where it is that, what the time goes into, and what to do.
var limits = map[string]struct{ who, work, hint string }{
	stageRead:     {"the source", "waiting for its WAL", "look at the source's CPU and disk: one process of it decodes all WAL that is read, and spills transactions above logical_decoding_work_mem to disk"},
	stageEncode:   {"capture", "decoding and encoding, on one core", "spread the tables over several captures"},
	stageRegistry: {"the registry", "waiting for its answers", "look at the registry: it is asked once for each new version of a table"},
	stageKafka:    {"Kafka", "waiting for its commits", "look at the brokers' disks and network; a larger publish.bytes makes fewer transactions"},
}

// seen gives stages as people read them. None waits for the next try: what is tried is the whole of capture, and the trouble says when.
func seen(stages []service.StageState) []service.StageState {
	stages = slices.Clone(stages)
	for i := range stages {
		if stages[i].WaitingOn == waitRetry {
			stages[i].WaitingOn = ""
		}
		stages[i].WaitingOn = whom(stages[i].WaitingOn)
		if stages[i].Name == stageKafka {
			stages[i].Name = whom(waitKafka)
		}
	}
	return stages
}

// headline is the one sentence that says it all. A table that is held is told before what else there is, but for what is worse.
func (st *Status) headline() string {
	n := st.held()
	if n == 0 || service.Look(st.State).Colour == "red" {
		return st.goes()
	}
	return fmt.Sprintf("%s%s %s held. Otherwise it %s", service.NeedsYou, service.Plural(n, "table"), service.Agree(n, "is", "are"), st.goes())
}

// goes says how all goes that is not held.
func (st *Status) goes() string {
	behind := service.FormatSeconds(st.LagSeconds)
	switch st.State {
	case service.StateUpToDate:
		if len(st.Tables) == 0 {
			return "captures nothing: no table fits source.tables."
		}
		if st.ChangesPerSecond >= 1 {
			behind += fmt.Sprintf(" behind, %s changes/s", service.FormatCount(int64(math.Round(st.ChangesPerSecond))))
		} else {
			behind += " behind"
		}
		return fmt.Sprintf("is healthy: %s, WAL %s of %s. %s.", behind, service.FormatBytes(st.WAL.RetainedBytes), service.FormatBytes(st.WAL.BudgetBytes), service.Plural(len(st.Tables), "table"))
	case service.StateCatchingUp:
		text := fmt.Sprintf("is catching up: %s of WAL to publish, %s behind", service.FormatBytes(st.ToPublish), behind)
		if st.ETASeconds != nil {
			text += ", " + service.FormatLeft(seconds(*st.ETASeconds)) + " at the present rate"
		}
		return text + "."
	case service.StateBehind:
		return fmt.Sprintf("is falling behind: %s of WAL to publish, %s behind, and it grows.", service.FormatBytes(st.ToPublish), behind)
	case service.StateSnapshotting:
		return fmt.Sprintf("reads existing rows: %d of %s done.", st.Snapshot.TablesDone, service.Plural(st.Snapshot.Tables, "table"))
	case service.StatePaused:
		text := fmt.Sprintf("is paused by %s for %s", st.Paused.By, ago(st.Paused.Since))
		if st.Paused.Reason != "" {
			text += " (" + st.Paused.Reason + ")"
		}
		return text + "; the source keeps its WAL: " + service.FormatBytes(st.WAL.RetainedBytes) + " of " + service.FormatBytes(st.WAL.BudgetBytes) + "."
	case service.StateStandby:
		if st.making != nil {
			return fmt.Sprintf("is on standby: slot %s is not made yet, %s.", st.Slot, activity(st.making))
		}
		if !st.HolderSince.IsZero() {
			return fmt.Sprintf("is on standby: %s streams, for %s at least.", cmp.Or(st.Holder, "another"), ago(st.HolderSince))
		}
		return fmt.Sprintf("is on standby: %s streams.", cmp.Or(st.Holder, "nobody"))
	case service.StateElsewhere:
		return fmt.Sprintf("is captured by %s.", cmp.Or(st.Holder, "another process"))
	case service.StateNotRunning:
		if st.Trouble != nil {
			return fmt.Sprintf("is not running, and cannot go on: %s.", st.Trouble.Code)
		}
		if st.WAL.SlotStatus == "missing" {
			return fmt.Sprintf("is not captured: there is no slot %s.", st.Slot)
		}
		return fmt.Sprintf("is not running: no capture holds slot %s.", st.Slot)
	case service.StateStopped:
		if st.Trouble != nil {
			return fmt.Sprintf("has stopped: %s.", st.Trouble.Code)
		}
		return "has stopped."
	case service.StateStuck:
		return fmt.Sprintf("is stuck: %s of WAL to publish, and nothing moves.", service.FormatBytes(st.ToPublish))
	case service.StateStarting:
		if st.making != nil {
			text := fmt.Sprintf("is not captured yet: slot %s is not made, %s", st.Slot, activity(st.making))
			if st.Oldest != nil {
				text += ", which waits for " + st.whom()
			}
			return text + "."
		}
		if st.WaitingOn != "" {
			return fmt.Sprintf("is starting: waits for %s, for %s.", st.whom(), ago(st.WaitingSince))
		}
		return "is starting."
	case service.StateWaiting:
		if st.Trouble != nil && st.Trouble.Code != trouble.KafkaNotEnoughReplicas {
			return fmt.Sprintf("waits: cannot %s %s.", st.Trouble.Op, st.Trouble.Subject)
		}
		text := fmt.Sprintf("waits for %s, for %s", st.whom(), ago(st.WaitingSince))
		if st.ToPublish > 0 {
			text += fmt.Sprintf(": %s of WAL to publish, %s behind", service.FormatBytes(st.ToPublish), behind)
		}
		return text + "."
	}
	return "is " + st.State + "."
}

func ago(at time.Time) string { return service.FormatDuration(time.Since(at)) }

// whose are the troubles of those who keep capture waiting, and have not refused anything. A slot becomes free, or a trouble, within
// seconds.
var whose = map[string]trouble.Code{waitKafka: trouble.KafkaUnreachable, waitRegistry: trouble.RegistryUnreachable, waitOld: trouble.SlotWaits}

// whom names whom is waited for, by process and program where these are known.
func (st *Status) whom() string {
	switch {
	case st.WaitingOn == waitOld && st.Oldest != nil:
		return "the transaction " + map[bool]string{true: "of "}[st.Oldest.PID != 0] + st.Oldest.whose()
	case st.WaitingOn == waitSlot && st.Holder != "":
		return "the slot, which is held (" + st.Holder + ")"
	}
	return whom(st.WaitingOn)
}

// whose says whose it is, and since when it is open.
func (o *OpenTransaction) whose() string {
	if o.Since.IsZero() {
		return o.blocker().Whose()
	}
	return o.blocker().Whose() + ", open for " + ago(o.Since)
}

// end says how to be rid of it.
func (o *OpenTransaction) end() []service.Step {
	note := "ends that session and rolls back what it did; or wait until it is done"
	if o.PID == 0 {
		note = "in that database, rolls back what it did; or COMMIT PREPARED, where whoever prepared it has forgotten to"
	}
	return []service.Step{{Command: o.blocker().End(), Note: note}}
}

// whom names whom a stage waits for.
func whom(on string) string {
	switch on {
	case waitResume:
		return "capture resume"
	case waitSource, waitSlot, waitRegistry, waitSnapshot:
		return "the " + on
	case waitOld:
		return "an " + on
	case waitKafka:
		return "Kafka"
	}
	return on
}

// held counts the tables that are held.
func (st *Status) held() int {
	n := 0
	for i := range st.Tables {
		if st.Tables[i].Held != nil {
			n++
		}
	}
	return n
}
