package nemesis

import (
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tributary-cdc/tributary/schema"
	"github.com/tributary-cdc/tributary/schema/change"
)

// What the topics tell is judged against the ledger: c1 is an insert whose row has ver 1, a1 one that only a snapshot need tell,
// d a delete (d1 in transaction 1), r1 the row of a snapshot, t a truncate.
func TestTopicLog(t *testing.T) {
	f := func(ledger, topic, want string) {
		t.Helper()
		m := &machine{Options: Options{Log: io.Discard}}
		ledger, young := strings.CutPrefix(ledger, "young ")
		l := newTopicLog(m, &tables[0], young)
		for i, word := range strings.Fields(ledger) {
			op, ver := parse(word)
			l.expect(entry{id: int64(i), xid: ver, op: string(op), oldKey: "7", newKey: "7", ver: ver})
		}
		rel := &schema.Relation{Columns: []schema.Column{{Name: "id"}, {Name: "ver"}}, Key: []int{0}}
		for i, word := range strings.Fields(topic) {
			op, ver := parse(word)
			ev := &change.Event{Op: change.Op(op), Position: change.Position{Era: 1, CommitLSN: 1, Seq: uint64(2 * (i + 1))}}
			ev.Tx.XID = uint32(ver)
			row := change.Tuple{{State: change.Present, Text: []byte("7")}, {State: change.Present, Text: fmt.Append(nil, ver)}}
			if op == 'd' {
				ev.Before = row
			} else {
				ev.After = row
			}
			l.take(&kgo.Record{Offset: int64(i), Headers: []kgo.RecordHeader{{Value: change.AppendPosition(nil, ev.Position)}}}, rel, ev)
		}
		l.finish()
		got := strings.Join(m.report.Findings, "; ")
		if want == "" && got != "" || !strings.Contains(got, want) {
			t.Errorf("ledger %q, topic %q: found %q, want %q", ledger, topic, got, want)
		}
	}
	f("c1 u2 d c3", "c1 u2 d c3", "")
	f("c1 u2 d c3", "c1 d c3", "d(xid 0, ver 0, behind truncate 0) was not to come now")
	f("c1 u2 d c3", "c1 u2 u2 d c3", "u(xid 2, ver 2, behind truncate 0) was not to come now")
	f("c1 u2 u3", "c1 u2", "the topic ends too early")
	f("c1 u2", "u2 c1", "was not to come now")
	f("u1 u2", "r0 u1 u2", "")
	f("u1 u2", "r1 u2", "")
	f("u1 u2", "r2", "")
	f("u1 u2", "u1 u2 r2", "")
	f("u1 u2", "u1 r0 u2", "a snapshot brings the row of step -1, when step 0 was told")
	f("u1 u2", "u1 u2 r1", "a snapshot brings the row of step 0")
	f("u1 u2", "r2 u2", "was not to come now")
	f("u1 d", "u1 d r1", "a snapshot brings the row of step 0")
	f("c1 t c2", "c1 t c2", "")
	f("c1 t c2", "t c1 c2", "was not to come now")
	f("c1 t c2", "c1 r2 t", "a snapshot brings a row from behind truncate 1 when the topic is behind truncate 0")
	f("c1 t", "c1", "partition 0 has 0 truncates, the ledger 1")
	f("c1 t t", "c1 t", "partition 0 has 1 truncates, the ledger 2")

	f("a1", "r1", "")
	f("a1 u2", "u2 r2", "")
	f("a1 u2", "r1 u2", "")
	f("a1", "", "the topic ends too early")
	f("a1 t", "t", "")
	f("a1 u2 u3", "u3", "was not to come now")
	f("u1 a2", "r2", "")

	f("a1 d", "d", "")
	f("a1 d c2", "d c2", "")

	f("young c1 u2 u3", "r3", "")
	f("young c1 u2 u3", "u3", "")
	f("young c1 u2 u3", "r1 u2 u3", "")
	f("young c1 u2 u3", "r1 u3", "was not to come now")
	f("young c1 d", "", "")
	f("young d1 c2 d3", "d3", "")
	f("young d1 c2 d3", "d1 c2 d3", "")
	f("young d1 c2 d3", "d1", "the topic ends too early")
	f("young c1", "", "the topic ends too early")
	f("young c1 u2 u3", "u2", "the topic ends too early")
}

func parse(word string) (op byte, ver int64) {
	_, _ = fmt.Sscan(word[1:], &ver) // d and t have none
	return word[0], ver
}
