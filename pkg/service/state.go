package service

import "time"

// The states of a service, a source, a table: their codes in JSON, metrics and progress records.
const (
	StateLeftOut      = "left_out"
	StateSilent       = "silent"
	StateStopped      = "stopped"
	StateNotRunning   = "not_running" // only told by others: no process is there
	StateHeld         = "held"        // capture's table: nothing more of it is published until it is loaded anew
	StateQuarantined  = "quarantined"
	StatePaused       = "paused"
	StateStarting     = "starting"
	StateElsewhere    = "elsewhere" // only told by others: another process has the slot
	StateStandby      = "standby"
	StateStuck        = "stuck"
	StateWaiting      = "waiting"
	StateBehind       = "falling_behind"
	StateCatchingUp   = "catching_up"
	StateSnapshotting = "snapshotting"
	StateStreaming    = "streaming"
	StateUpToDate     = "up_to_date"
)

// Facts are what a state is made of: what was seen to move, and what was not. The zero value is up to date.
type Facts struct {
	LeftOut     bool          // it is not captured, or not written, on purpose
	Silent      time.Duration // since another process, which should report every few seconds, did so
	Stopped     bool          // it will not go on by itself
	Held        bool
	Quarantined bool
	Paused      bool // by a person
	Starting    bool
	Standby     bool
	Known       bool          // there is something to be done
	Unmoved     time.Duration // for how long none of it was done
	Waits       time.Duration // how long a stage has been waiting for somebody it can name, 0 if none does
	Barred      bool          // it waits for somebody that is named, no matter for how long
	Behind      time.Duration
	Freshness   time.Duration // how far behind is well
	Falling     bool          // over the last minute less was done than came
	Snapshot    bool          // rows that were there before are still to come
	Streams     bool          // of a table of which nobody can know how far it is behind
}

// The states that a thing of each kind may be in, for metrics: each has a series.
var (
	CaptureStates = []string{
		StateStopped, StatePaused, StateStarting, StateStandby, StateStuck, StateWaiting, StateBehind, StateCatchingUp, StateSnapshotting, StateUpToDate,
	}
	TableStates = []string{
		StateStopped, StateQuarantined, StatePaused, StateStuck, StateWaiting, StateBehind, StateCatchingUp, StateSnapshotting, StateUpToDate,
	}
	SinkStates = append([]string{StateSilent, StateStarting}, TableStates...)
)

const (
	// SilentAfter is three of the reports that a process makes every five seconds.
	SilentAfter = 15 * time.Second
	// StuckAfter is how long nothing may move, while something is to be done and nobody is waited for.
	StuckAfter = time.Minute
	// WaitingAfter is how long somebody must be waited for before it counts.
	WaitingAfter = 5 * time.Second
)

// State gives the first state, from the top, that the facts fit.
func (f *Facts) State() string {
	switch {
	case f.LeftOut:
		return StateLeftOut
	case f.Silent >= SilentAfter:
		return StateSilent
	case f.Stopped:
		return StateStopped
	case f.Held:
		return StateHeld
	case f.Quarantined:
		return StateQuarantined
	case f.Paused:
		return StatePaused
	case f.Starting:
		return StateStarting
	case f.Standby:
		return StateStandby
	case f.Barred, f.Waits >= WaitingAfter:
		return StateWaiting
	case f.Known && f.Unmoved >= StuckAfter && f.Waits == 0:
		return StateStuck
	case f.Behind > f.Freshness && f.Falling:
		return StateBehind
	case f.Behind > f.Freshness:
		return StateCatchingUp
	case f.Snapshot:
		return StateSnapshotting
	case f.Streams:
		return StateStreaming
	}
	return StateUpToDate
}

// Appearance is how a state is shown: sign and word always together, the colour never alone.
type Appearance struct {
	Sign, Word string
	Colour     string // red, amber, blue, green, grey
}

// appearances are in order of how much they matter to a group of which they are a part's: the worst first. A part that is
// left out matters nothing.
var appearances = []struct {
	state string
	Appearance
}{
	{StateStopped, Appearance{"✕", "stopped", "red"}},
	{StateNotRunning, Appearance{"✕", "not running", "red"}},
	{StateStuck, Appearance{"‼", "stuck", "red"}},
	{StateHeld, Appearance{"‼", "held", "red"}},
	{StateQuarantined, Appearance{"‼", "quarantined", "red"}},
	{StateSilent, Appearance{"?", "no report", "amber"}},
	{StatePaused, Appearance{"❚❚", "paused", "amber"}},
	{StateStarting, Appearance{"…", "starting", "blue"}},
	{StateWaiting, Appearance{"◷", "waiting", "amber"}},
	{StateBehind, Appearance{"◷", "falling behind", "amber"}},
	{StateElsewhere, Appearance{"○", "captured by another", "grey"}},
	{StateCatchingUp, Appearance{"◷", "catching up", "blue"}},
	{StateSnapshotting, Appearance{"↻", "snapshot", "blue"}},
	{StateStandby, Appearance{"○", "standby", "grey"}},
	{StateStreaming, Appearance{"✓", "streaming", "green"}},
	{StateUpToDate, Appearance{"✓", "up to date", "green"}},
	{StateLeftOut, Appearance{"–", "left out", "grey"}},
}

// Look gives how a state is shown; one that is not known is shown as it is.
func Look(state string) Appearance {
	if i := StateRank(state); i < len(appearances) {
		return appearances[i].Appearance
	}
	return Appearance{"?", state, "grey"}
}

// StateRank orders states, 0 for the worst.
func StateRank(state string) int {
	for i := range appearances {
		if appearances[i].state == state {
			return i
		}
	}
	return len(appearances)
}

// WorseState gives the worse of two.
func WorseState(a, b string) string {
	if StateRank(a) <= StateRank(b) {
		return a
	}
	return b
}
