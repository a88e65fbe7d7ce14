package nemesis

import (
	"bytes"
	"cmp"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tributary-cdc/tributary/schema"
	"github.com/tributary-cdc/tributary/schema/change"
)

// entry is one row of the ledger.
type entry struct {
	id, xid        int64
	op             string // c, u, d, t, a
	oldKey, newKey string
	ver            int64
	at             time.Time // of the commit
}

// step is one change of one key as the topic is to hold it; a change of the key is one step of each key.
type step struct {
	op  change.Op
	xid int64     // 32 bits of it
	ver int64     // of the row after it; 0 for a delete
	gen int       // how often the table had been truncated before
	at  time.Time // of the commit
	// moved: a delete that is half of a change of the key.
	moved bool
	// quiet: the row came with an attached partition, or by a change of its key that left a value out which the partition
	// of the new key cannot know. It need not be in the stream: a snapshot brings it, maybe behind later changes.
	quiet bool
}

// keyLog is what one key went through in this round, and how much of it the topic has told so far.
type keyLog struct {
	steps     []step
	told      int   // steps[:told] are accounted for: told, or in a row of a snapshot
	partition int32 // -1 while unknown
	seen      bool  // the topic has had a record of it
	spoilt    bool  // something is wrong already: no more is said of this key
}

// topicLog holds the topic of one table against the ledger.
//
// For a table with key it walks, for each key, through the steps of the ledger. A change must be the next step: not
// one behind it, that would be a hole, nor one before it, that would be a repeat. A row of a snapshot names, by its
// ver, the step whose outcome it is: at or behind the last one told, and none before it may come any more. A row that
// is older than what was told would put an old state over a newer one downstream, and is a finding.
//
// Of a table that the load has just made, the changes before it was captured are not in the stream: what is told first
// of a key may be any of its steps.
//
// Of a table without key the changes of each transaction are compared as a whole.
type topicLog struct {
	m         *machine
	table     *table
	young     bool                      // made in this round
	positions map[int32]change.Position // of the last record of each partition
	gens      map[int32]int             // how many truncates of the source it has told
	gen       int                       // how many the ledger has
	before    int                       // gen at the begin of the round
	truncated map[int]time.Time         // when truncate number gen was committed
	keys      map[string]*keyLog
	told      map[int64]map[string]int // keyless: transaction (32 bits), change, how often
	expected  map[int64]map[string]int
	reread    bool // keyless: it was read anew in this round
}

func newTopicLog(m *machine, t *table, young bool) *topicLog {
	l := &topicLog{m: m, table: t, positions: map[int32]change.Position{}, gens: map[int32]int{}, truncated: map[int]time.Time{}}
	l.begin()
	l.young = young
	return l
}

// begin begins a round.
func (l *topicLog) begin() {
	l.before, l.reread, l.young = l.gen, false, false
	l.keys, l.told, l.expected = map[string]*keyLog{}, map[int64]map[string]int{}, map[int64]map[string]int{}
}

func (l *topicLog) key(k string) *keyLog {
	log := l.keys[k]
	if log == nil {
		log = &keyLog{partition: -1}
		l.keys[k] = log
	}
	return log
}

// expect takes an entry of the ledger, in their order.
func (l *topicLog) expect(e entry) {
	if e.op == "t" {
		l.gen++
		l.truncated[l.gen] = e.at
		return
	}
	if l.table.keyless() {
		count(l.expected, e.xid&0xffffffff, fmt.Sprintf("%s %s > %s", e.op, e.oldKey, e.newKey))
		return
	}
	add := func(k string, s step) {
		log := l.key(k)
		s.xid, s.gen, s.at = e.xid&0xffffffff, l.gen, e.at
		log.steps = append(log.steps, s)
	}
	switch {
	case e.op == "u" && e.oldKey != e.newKey:
		add(e.oldKey, step{op: change.Delete, moved: true})
		add(e.newKey, step{op: change.Create, ver: e.ver, quiet: l.table.toasted})
	case e.op == "d":
		add(e.oldKey, step{op: change.Delete})
	case e.op == "a":
		add(e.newKey, step{op: change.Create, ver: e.ver, quiet: true})
	default:
		add(e.newKey, step{op: change.Op(e.op[0]), ver: e.ver})
	}
}

func count(m map[int64]map[string]int, xid int64, what string) {
	if m[xid] == nil {
		m[xid] = map[string]int{}
	}
	m[xid][what]++
}

// take takes a record of the topic.
func (l *topicLog) take(rec *kgo.Record, rel *schema.Relation, ev *change.Event) {
	where := fmt.Sprintf("topic %s partition %d offset %d (%s, transaction %d)", rec.Topic, rec.Partition, rec.Offset, ev.Position, ev.Tx.XID)
	if last := l.positions[rec.Partition]; ev.Position.Compare(last) <= 0 {
		if cmp.Or(l.m.Delivery, exactlyOnce) != exactlyOnce {
			l.m.note(func(r *Report) { r.Repeats++ })
			return
		}
		l.m.find("%s: position is not above %s, which came before it", where, last)
	}
	l.positions[rec.Partition] = ev.Position
	if !headerSays(rec, ev.Position) {
		l.m.find("%s: no header says the position", where)
	}
	switch {
	case ev.Op == change.Truncate && ev.Position.Snapshot():
		l.reread = true
	case ev.Op == change.Truncate:
		l.gens[rec.Partition]++
	case l.table.keyless():
		l.takeKeyless(ev)
	default:
		l.takeKeyed(where, rec.Partition, rel, ev)
	}
}

func headerSays(rec *kgo.Record, at change.Position) bool {
	for _, h := range rec.Headers {
		if bytes.Equal(h.Value, change.AppendPosition(nil, at)) {
			return true
		}
	}
	return false
}

func (l *topicLog) takeKeyless(ev *change.Event) {
	if ev.Op == change.Read {
		l.reread = true
		return
	}
	all := func(row change.Tuple) string {
		if row == nil {
			return ""
		}
		return rowText(row, nil)
	}
	count(l.told, int64(ev.Tx.XID), fmt.Sprintf("%c %s > %s", ev.Op, all(ev.Before), all(ev.After)))
}

func (l *topicLog) takeKeyed(where string, partition int32, rel *schema.Relation, ev *change.Event) {
	row, ver := ev.After, int64(0)
	if ev.Op == change.Delete {
		row = ev.Before
	} else {
		for i := range rel.Columns {
			if rel.Columns[i].Name == "ver" {
				ver, _ = strconv.ParseInt(string(row[i].Text), 10, 64)
			}
		}
	}
	k := rowText(row, rel.Key)
	log := l.key(k)
	wrong := func(format string, args ...any) {
		if !log.spoilt {
			log.spoilt = true
			l.m.find("%s: key %q: %s; the ledger has %s", where, k, fmt.Sprintf(format, args...), log)
		}
	}
	if log.partition >= 0 && log.partition != partition {
		wrong("the key was in partition %d", log.partition)
	}
	log.partition = partition
	seen := log.seen
	log.seen = true
	gen := l.gens[partition]
	if ev.Op == change.Read {
		at := -1 // the state that the round began with
		for i := range log.steps {
			if log.steps[i].op != change.Delete && log.steps[i].ver == ver {
				at = i
			}
		}
		stood := l.before
		if at >= 0 {
			stood = log.steps[at].gen
		}
		switch {
		case at+1 < log.told:
			wrong("a snapshot brings the row of step %d, when step %d was told", at, log.told-1)
		case stood != gen:
			wrong("a snapshot brings a row from behind truncate %d when the topic is behind truncate %d", stood, gen)
		}
		log.told = at + 1
		return
	}
	is := step{op: ev.Op, xid: int64(ev.Tx.XID), ver: ver, gen: gen}
	for log.told < len(log.steps) && !log.steps[log.told].same(is) && (log.steps[log.told].quiet || l.young && !seen) {
		log.told++
	}
	if log.told == len(log.steps) || !log.steps[log.told].same(is) {
		wrong("%s was not to come now", is)
		return
	}
	log.told++
}

func (s step) same(o step) bool {
	return s.op == o.op && s.xid == o.xid && s.ver == o.ver && s.gen == o.gen
}

func (s step) String() string {
	return fmt.Sprintf("%c(xid %d, ver %d, behind truncate %d)", s.op, s.xid, s.ver, s.gen)
}

// String gives the steps around the one that is to come.
func (k *keyLog) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d steps, %d of them told:", len(k.steps), k.told)
	for i := max(0, k.told-3); i < min(len(k.steps), k.told+4); i++ {
		fmt.Fprintf(&b, " %d=%s", i, k.steps[i])
	}
	return b.String()
}

// rowText gives the values in columns, of all columns for nil, as table.keyText does.
func rowText(row change.Tuple, columns []int) string {
	if columns == nil {
		for i := range row {
			columns = append(columns, i)
		}
	}
	var parts []string
	for _, c := range columns {
		if row[c].State == change.Present {
			parts = append(parts, string(row[c].Text))
		} else {
			parts = append(parts, null)
		}
	}
	return strings.Join(parts, "|")
}

// finish ends a round: everything must have been told.
func (l *topicLog) finish() {
	for partition := range l.positions {
		if l.table.keyless() && l.reread {
			l.gens[partition] = l.gen // some of them the reading saw, see finishKeyless
		}
		if gen := l.gens[partition]; gen != l.gen {
			l.m.find("table %s: partition %d has %d truncates, the ledger %d", l.table.name, partition, gen, l.gen)
		}
	}
	for k, log := range l.keys {
		if l.young && !log.seen && log.steps[len(log.steps)-1].op == change.Delete {
			continue // gone before anybody knew of it
		}
		for log.told < len(log.steps) && log.steps[log.told].quiet && log.steps[log.told].gen < l.gen {
			log.told++ // truncated before it was read
		}
		if log.told != len(log.steps) && !log.spoilt {
			l.m.find("table %s: key %q: the topic ends too early; the ledger has %s", l.table.name, k, log)
		}
	}
	l.finishKeyless()
	l.begin()
}

func (l *topicLog) finishKeyless() {
	for xid, told := range l.told {
		if want := l.expected[xid]; fmt.Sprint(told) != fmt.Sprint(want) {
			l.m.find("table %s: transaction %d: the topic has %v, the ledger %v", l.table.name, xid, told, want)
		}
	}
	for xid, want := range l.expected {
		// While a table without key is read, what the reading sees does not come as a change.
		if l.told[xid] == nil && !l.reread {
			l.m.find("table %s: transaction %d is missing; the ledger has %v", l.table.name, xid, want)
		}
	}
}
