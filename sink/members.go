package sink

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/service/page"
	"github.com/tributary-cdc/tributary/pkg/terminal"
	"github.com/tributary-cdc/tributary/sink/warehouse"
)

// Member is a sink of the group.
type Member struct {
	Instance   string     `json:"instance"`
	Partitions int        `json:"partitions"`
	AppliedAt  *time.Time `json:"applied_at,omitempty"` // when it wrote last
	// RowsPerSec is how many changes a second it applies, last minute; null where that was not looked at for two seconds yet.
	RowsPerSec *float64 `json:"rows_per_second"`

	// What it says of itself every ten seconds; absent of one of a version before, which does not.
	Host        string     `json:"host,omitempty"`
	Version     string     `json:"version,omitempty"`
	Since       *time.Time `json:"since,omitempty"`        // start of its process
	MemoryBytes int64      `json:"memory_bytes,omitempty"` // that its process holds, in whole MiB
	BusyShare   *float64   `json:"busy_share,omitempty"`   // of the last minute, of the stage that most of it went into
	SeenAt      *time.Time `json:"seen_at,omitempty"`      // when it said so last
	// SilentSeconds is how long it has said nothing; 0 below 30 s.
	SilentSeconds float64 `json:"silent_seconds,omitempty"`
	Ended         bool    `json:"ended,omitempty"` // it does not run any more
}

// Periods of what a sink says of itself.
const (
	beatEvery    = 10 * time.Second
	memberSilent = 3 * beatEvery
	leaving      = 2 * time.Second // to say that it ends
)

// presences are what the sinks of the group have said of themselves.
type presences struct {
	told []warehouse.Presence
	at   time.Time // when they were read
}

// beat has the warehouse know of this sink, and this sink of the others; while somebody looks, of those that have just joined, too. That
// it cannot keeps nobody waiting: it is tried again with the next look, and the others see since when.
func (v *supervisor) beat(ctx context.Context) {
	var told []warehouse.Presence
	var err error
	switch {
	case time.Since(v.beaten) >= beatEvery:
		busiest, _, _ := service.Limit(v.s.stages.Snapshot())
		told, err = v.session.Beat(ctx, warehouse.Presence{
			Host: strings.ToValidUTF8(service.Host(), "?"), Version: service.ThisBuild().Version, Since: v.s.started, Memory: service.Memory(), Busy: busiest.BusyShare,
		})
		if err == nil {
			v.beaten = time.Now()
		}
	case v.s.outlook.isWatched():
		told, err = v.session.Presences(ctx)
	default:
		return
	}
	if err != nil {
		if !v.unheard {
			v.s.log.Warn("what the sinks of the group say of themselves is not known; it is tried again", service.Err(err))
		}
		v.unheard = true
		return
	}
	v.unheard = false
	v.s.mu.Lock()
	v.s.told = presences{told, time.Now()}
	v.s.mu.Unlock()
}

// leave tells the others that this sink ends.
func (v *supervisor) leave(ctx context.Context) {
	if v.beaten.IsZero() {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaving)
	defer cancel()
	if err := v.session.Leave(ctx); err != nil {
		v.s.log.Debug("the other sinks are not told that this one ends; they see that it says nothing", service.Err(err))
	}
}

func (p presences) age() time.Duration { return time.Since(p.at) }

// crew puts together what checkpoints say of the sinks of the group and what these say of themselves, by name. Who is gone is left out:
// who has ended while there are others, and who has said nothing while others have: for as long as makes it silent, or, where it has a partition that
// nobody has taken over, for long.
func (p presences) crew(owners []warehouse.Member) []Member {
	told := p.told
	if p.age() >= memberSilent { // nothing is known of how long they have said nothing
		told = nil
	}
	least, all := time.Duration(math.MaxInt64), true // all have ended
	known := map[string]*warehouse.Presence{}
	for i := range told {
		m := &told[i]
		known[m.Instance] = m
		least, all = min(least, m.Age), all && m.Ended
	}
	for i := range owners {
		all = all && known[owners[i].Instance] != nil
	}
	out := []Member{}
	for _, o := range owners {
		out = append(out, Member{Instance: o.Instance, Partitions: o.Partitions, AppliedAt: utc(o.AppliedAt)})
	}
	for i := range told {
		if !slices.ContainsFunc(out, func(m Member) bool { return m.Instance == told[i].Instance }) {
			out = append(out, Member{Instance: told[i].Instance})
		}
	}
	out = slices.DeleteFunc(out, func(m Member) bool {
		is := known[m.Instance]
		return is != nil && (is.Ended && !all || m.Partitions == 0 && is.Age-least >= memberSilent || is.Age-least > warehouse.MemberForgotten)
	})
	slices.SortFunc(out, func(a, b Member) int { return strings.Compare(a.Instance, b.Instance) })
	for i := range out {
		if is := known[out[i].Instance]; is != nil {
			out[i].says(is, p.age())
		}
	}
	return out
}

// says notes what the member has said of itself, which was read some time ago.
func (m *Member) says(is *warehouse.Presence, ago time.Duration) {
	m.Host, m.Version, m.Since, m.MemoryBytes = is.Host, is.Version, utc(&is.Since), is.Memory
	m.BusyShare, m.SeenAt, m.Ended = new(is.Busy), utc(&is.SeenAt), is.Ended
	if silent := is.Age + ago; silent >= memberSilent && !is.Ended {
		m.SilentSeconds = silent.Seconds()
	}
}

// ended says that all sinks that are known of have said that they end.
func (st *Status) ended() bool {
	return len(st.Members) > 0 && !slices.ContainsFunc(st.Members, func(m Member) bool { return !m.Ended })
}

// sinks counts the members that are there, as far as is known.
func (st *Status) sinks() int {
	n := 0
	for i := range st.Members {
		if m := &st.Members[i]; !m.Ended && m.SilentSeconds == 0 {
			n++
		}
	}
	return n
}

// owners counts those that own a partition.
func (st *Status) owners() int {
	n := 0
	for i := range st.Members {
		if st.Members[i].Partitions > 0 {
			n++
		}
	}
	return n
}

// line tells of the member at a terminal.
func (m *Member) line() string {
	parts := service.Plural(m.Partitions, "partition")
	if m.SeenAt == nil {
		return fmt.Sprintf("%s: %s; host and version –, it has just started, or its version does not tell", m.Instance, parts)
	}
	text := m.Instance + " on " + m.Host + ": "
	switch {
	case m.Ended:
		return text + "last seen " + terminal.Clock(*m.SeenAt) + ", version " + m.Version
	case m.SilentSeconds > 0: // how busy it is is not known
		return text + fmt.Sprintf("no report for %s, last seen %s, %s, version %s", service.FormatSeconds(m.SilentSeconds), terminal.Clock(*m.SeenAt), parts, m.Version)
	}
	return fmt.Sprintf("%s%s, version %s, since %s, busy %.0f %%, %s", text, parts, m.Version, terminal.Clock(*m.Since), 100*value(m.BusyShare), service.FormatBytes(m.MemoryBytes))
}

// members lays them out for a browser.
func (st *Status) members() page.Table {
	out := page.Table{
		ID: "members", Title: "Members", Empty: "Nobody has claimed a partition yet; or the warehouse has not been asked since this page was opened.",
		Columns: []page.Column{
			{Key: "instance", Title: "instance"},
			{Key: "host", Title: "host"},
			{Key: "version", Title: "version"},
			{Key: "since", Title: "since"},
			{Key: "partitions", Title: "partitions", Number: true},
			{Key: "rate", Title: "changes/s", Number: true},
			{Key: "busy", Title: "busy", Number: true},
			{Key: "memory", Title: "memory", Number: true},
			{Key: "applied", Title: "wrote last"},
			{Key: "seen", Title: "last report"},
		},
	}
	for i := range st.Members {
		m := &st.Members[i]
		none := page.Cell{Text: "–"}
		host, version, since, rate, busy, memory, applied, seen := none, none, none, none, none, none, page.Cell{}, none
		if m.RowsPerSec != nil {
			rate = page.Cell{Text: service.FormatRate(*m.RowsPerSec), Order: *m.RowsPerSec}
		}
		if m.AppliedAt != nil {
			applied.Time = *m.AppliedAt
		}
		state := service.StateUpToDate
		if m.SeenAt != nil {
			host.Text, version.Text, since, seen = m.Host, m.Version, page.Cell{Time: *m.Since}, page.Cell{Time: *m.SeenAt}
		}
		if m.SeenAt != nil && m.SilentSeconds == 0 {
			busy = page.Cell{Text: fmt.Sprintf("%.0f %%", 100*value(m.BusyShare)), Order: value(m.BusyShare)}
			memory = page.Cell{Text: service.FormatBytes(m.MemoryBytes), Order: float64(m.MemoryBytes)}
		}
		switch {
		case m.Ended:
			state = service.StateNotRunning
			seen.State = state
		case m.SilentSeconds > 0:
			state = service.StateSilent
			seen = page.Cell{State: state, Text: "for " + service.FormatSeconds(m.SilentSeconds)}
		}
		out.Rows = append(out.Rows, page.Row{Key: m.Instance, State: state, Cells: []page.Cell{
			{Text: m.Instance}, host, version, since, {Text: fmt.Sprint(m.Partitions), Order: float64(m.Partitions)}, rate, busy, memory, applied, seen,
		}})
	}
	return out
}
