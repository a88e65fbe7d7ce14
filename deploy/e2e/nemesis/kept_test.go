package nemesis

import (
	"strings"
	"testing"
	"time"

	"github.com/tributary-cdc/tributary/schema/change"
)

// The versions of a key are judged against the ledger. A change c1 is committed at second 1 with ver 1, and so on; d is a
// delete, m half of a change of the key, t a truncate. A version 1:0-2 has ver 1 and is valid from second 0 until second 2, ! says
// that it is deleted; a second may have a + for a microsecond more.
func TestLived(t *testing.T) {
	f := func(ledger, versions, want string) {
		t.Helper()
		l := newTopicLog(&machine{}, &tables[0], false)
		k := &keyLog{}
		for i, word := range strings.Fields(ledger) {
			op, ver := parse(word)
			at := second(t, string(rune('1'+i)))
			if word[len(word)-1] == '=' { // at the same time as the one before
				at = second(t, string(rune('0'+i)))
			}
			switch op {
			case 't':
				l.gen++
				l.truncated[l.gen] = at
			case 'd', 'm':
				k.steps = append(k.steps, step{op: change.Delete, gen: l.gen, at: at, moved: op == 'm'})
			default:
				k.steps = append(k.steps, step{op: change.Op(op), ver: ver, gen: l.gen, at: at})
			}
		}
		var life []era
		for _, word := range strings.Fields(versions) {
			ver, times, _ := strings.Cut(word, ":")
			from, to, _ := strings.Cut(strings.TrimSuffix(times, "!"), "-")
			e := era{ver: int64(ver[0] - '0'), from: second(t, from), open: to == "", deleted: strings.HasSuffix(times, "!")}
			if !e.open {
				e.to = second(t, to)
			}
			life = append(life, e)
		}
		if got := l.lived(k, life); want == "" && got != "" || !strings.Contains(got, want) {
			t.Errorf("ledger %q, versions %q: %q, want %q", ledger, versions, got, want)
		}
	}
	f("c1 u2 u3", "1:1-2 2:2-3 3:3-", "")
	f("u1 u2", "9:0-1 1:1-2 2:2-", "")
	f("c1 u2= u3", "1:1-1+ 2:1+-3 3:3-", "")
	f("c1 u2", "1:1-3 2:3-", "version 2 is valid from")
	f("c1 u2 u3", "1:1-3 3:3-", "step 1")
	f("c1 u2", "1:1-2! 2:2-", "said to be deleted")
	f("c1 d", "1:1-2!", "")
	f("c1 d", "1:1-2", "deleted false; its row was removed")
	f("c1 d", "1:1-3!", "its row was removed")
	f("c1 d", "1:1-", "its row was removed")
	f("d", "9:0-1!", "")
	f("d", "9:0-", "its row was removed")
	f("c1 m", "1:1-2", "")
	f("c1 m", "1:1-2!", "deleted true; its row was removed")
	f("c1 d c3", "1:1-2! 3:3-", "")
	f("c1 t", "1:1-2!", "")
	f("c1 t", "1:1-", "its row was removed")
	f("c1 t c3", "1:1-2! 3:3-", "")
	f("c1 t c3", "1:1-3! 3:3-", "its row was removed")
	f("t", "9:0-1!", "")
}

func second(t *testing.T, s string) time.Time {
	t.Helper()
	at := time.Unix(int64(s[0]-'0'), 0)
	if strings.HasSuffix(s, "+") {
		at = at.Add(time.Microsecond)
	}
	return at
}
