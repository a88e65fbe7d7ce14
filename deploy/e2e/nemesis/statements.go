package nemesis

import "fmt"

// statement gives a change of one table at random: one or more statements that belong together.
func (w *worker) statement() []string {
	id := w.id()
	one := func(format string, args ...any) []string { return []string{fmt.Sprintf(format, args...)} }
	toasted := []string{"wide", "whole"}[w.rand.IntN(2)]
	numbered := []string{"plain", "wide", "whole"}[w.rand.IntN(3)]
	switch w.rand.IntN(17) {
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
