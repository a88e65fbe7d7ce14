package nemesis

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
)

// statement gives a change of one table at random: one or more statements that belong together.
func (w *worker) statement() []string {
	id := w.id()
	one := func(format string, args ...any) []string { return []string{fmt.Sprintf(format, args...)} }
	toasted := []string{"wide", "whole"}[w.rand.IntN(2)]
	numbered := []string{"plain", "wide", "whole"}[w.rand.IntN(3)]
	switch w.rand.IntN(23) {
	case 0:
		return one(`INSERT INTO plain (id, n, t) VALUES (%d, 0, 'new') ON CONFLICT (id) DO UPDATE SET n = plain.n + 1`, id)
	case 1:
		return one(`INSERT INTO %s (id, n, big, big2) VALUES (%d, 0, %s, %s) ON CONFLICT (id) DO NOTHING`, toasted, id, w.toast(), w.toast())
	case 2:
		return one(`INSERT INTO coded (id, code, n) VALUES (%d, 'c%d', 0) ON CONFLICT DO NOTHING`, w.id(), id)
	case 3:
		return one(`INSERT INTO pair (a, b, n) VALUES (%d, 'b%d', 0) ON CONFLICT (b, a) DO UPDATE SET n = pair.n - 1`, id, w.rand.IntN(3))
	case 4:
		return one(`INSERT INTO bag SELECT %d, 'same' FROM generate_series(1, %d)`, w.rand.IntN(10), 1+w.rand.IntN(3))
	case 5: // values in TOAST stay as they are
		return one(`UPDATE %s SET n = n + 1 WHERE id BETWEEN %d AND %d`, numbered, id, id+2)
	case 6:
		return one(`UPDATE %s SET big = %s WHERE id = %d`, toasted, w.toast(), id)
	case 7:
		return one(`UPDATE %s SET big = CASE WHEN big IS NULL THEN %s END, n = 0 WHERE id = %d`, toasted, w.toast(), id)
	case 8:
		return one(`UPDATE pair SET n = n + 1 WHERE a = %d`, id)
	case 9:
		return one(`UPDATE coded SET n = n + 1, id = CASE WHEN n %% 3 = 0 THEN -id ELSE id END WHERE code = 'c%d'`, id)
	case 10:
		return one(`DELETE FROM %s WHERE id = %d`, numbered, id)
	case 11:
		return one(`DELETE FROM coded WHERE code = 'c%d'`, id)
	case 12: // equal rows: one or two of many
		return w.bag(w.rand.IntN(10))
	case 13: // the key changes; what is in TOAST stays
		return one(`UPDATE %s SET id = %d WHERE id = %d`, numbered, w.id(), id)
	case 14:
		return []string{
			fmt.Sprintf(`UPDATE coded SET code = 'c%d' WHERE code = 'c%d'`, w.id(), id),
			fmt.Sprintf(`UPDATE pair SET b = 'b' || (a + n) %% 3 WHERE a = %d AND NOT EXISTS (SELECT FROM pair o WHERE o.a = pair.a AND o.b = 'b' || (pair.a + pair.n) %% 3)`, id),
		}
	case 15: // two rows change their keys
		other := w.id()
		return []string{
			fmt.Sprintf(`UPDATE %s SET id = %d WHERE id = %d`, numbered, -id, id),
			fmt.Sprintf(`UPDATE %s SET id = %d WHERE id = %d`, numbered, id, other),
			fmt.Sprintf(`UPDATE %s SET id = %d WHERE id = %d`, numbered, other, -id),
		}
	}
	switch region := w.region(); w.rand.IntN(7) {
	case 0:
		return one(`INSERT INTO parted (region, id, n) VALUES (%d, %d, 0) ON CONFLICT (region, id) DO UPDATE SET n = parted.n + 1`, region, id)
	case 1:
		return one(`UPDATE parted SET n = n + 1 WHERE id BETWEEN %d AND %d`, id, id+2)
	case 2: // from one partition of the table to another
		return one(`UPDATE parted p SET region = %d WHERE id = %d AND NOT EXISTS (SELECT FROM parted o WHERE o.id = p.id AND o.region = %[1]d)`, region, id)
	case 3:
		return one(`DELETE FROM parted WHERE region = %d AND id = %d`, region, id)
	case 4:
		return one(`SELECT nemesis.scribble('%s', %d, %d)`, w.reshaped(), id, w.rand.IntN(1000))
	case 5:
		return w.late()
	}
	return []string{ // gone and there again
		fmt.Sprintf(`DELETE FROM %s WHERE id = %d`, numbered, id),
		fmt.Sprintf(`INSERT INTO %s (id, n) VALUES (%d, -1)`, numbered, id),
	}
}

func (w *worker) bag(a int) []string {
	which := fmt.Sprintf(`ctid = ANY (ARRAY(SELECT ctid FROM bag WHERE a = %d LIMIT %d FOR UPDATE))`, a, 1+w.rand.IntN(2))
	if w.rand.IntN(2) == 0 {
		return []string{"DELETE FROM bag WHERE " + which}
	}
	return []string{fmt.Sprintf(`UPDATE bag SET b = CASE WHEN b IS NULL THEN 'same' END, a = %d WHERE %s`, w.rand.IntN(10), which)}
}

// reshaped is one of the tables whose columns come and go.
func (w *worker) reshaped() string {
	return []string{"plain", "whole", "coded", "parted"}[w.rand.IntN(4)]
}

// late changes a table that the load has made. It may not be captured yet: its rows are then read.
func (w *worker) late() []string {
	name, id := w.made.any(w.rand), 1+w.rand.IntN(3*hot)
	if name == "" {
		return nil
	}
	switch w.rand.IntN(4) {
	case 0:
		return []string{fmt.Sprintf(`INSERT INTO %s (id, n) VALUES (%d, 0) ON CONFLICT (id) DO UPDATE SET n = %[1]s.n + 1`, name, id)}
	case 1:
		return []string{fmt.Sprintf(`DELETE FROM %s WHERE id = %d`, name, id)}
	case 2:
		return []string{fmt.Sprintf(`UPDATE %s SET id = %d WHERE id = %d`, name, 1+w.rand.IntN(3*hot), id)}
	}
	return []string{fmt.Sprintf(`UPDATE %s SET n = n + 1 WHERE id BETWEEN %d AND %d`, name, id, id+5)}
}

// region is one of table parted that has a partition.
func (w *worker) region() int {
	if name := w.attached.any(w.rand); name != "" && w.rand.IntN(2) == 0 {
		n, _ := strconv.Atoi(name)
		return n
	}
	return w.rand.IntN(firstRegions)
}

const (
	maxLate    = 12 // tables that the load makes in a run
	maxRegions = 12 // partitions that it attaches
)

// schemaChange gives the statements of a change of the schema. What it makes others may use once it is committed.
func (w *worker) schemaChange() transaction {
	switch n := w.rand.IntN(10); {
	case n < 2:
		if n := w.made.next(maxLate); n > 0 {
			t := late(fmt.Sprintf("late_%d", n))
			return transaction{steps: []string{t.createSQL(0), t.triggerSQL()}, then: func() { w.made.add(t.name) }}
		}
	case n < 4:
		if n := w.attached.next(maxRegions); n > 0 {
			region := firstRegions + n - 1
			return transaction{steps: []string{fmt.Sprintf(`SELECT nemesis.attach(%d)`, region)}, then: func() { w.attached.add(strconv.Itoa(region)) }}
		}
	}
	return transaction{steps: []string{fmt.Sprintf(`SELECT nemesis.reshape('%s', %d)`, w.reshaped(), w.rand.IntN(1000))}}
}

// names are of what the load has made. Its methods are safe for concurrent use.
type names struct {
	mu    sync.Mutex
	asked int
	known []string
}

// next gives the number of one to make, 0 if there are enough.
func (n *names) next(most int) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.asked == most {
		return 0
	}
	n.asked++
	return n.asked
}

func (n *names) add(name string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.known = append(n.known, name)
}

// any gives one of them, "" if there is none.
func (n *names) any(random *rand.Rand) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.known) == 0 {
		return ""
	}
	return n.known[random.IntN(len(n.known))]
}
