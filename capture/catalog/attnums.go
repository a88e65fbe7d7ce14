package catalog

import "github.com/tributary-cdc/tributary/schema"

// attnums finds the attnum of each column of a Relation message, which has only their names, in the order of their
// attnums: before is the version of the table that the stream had last, now is the catalog's. Both are needed:
// the catalog may be far ahead of the message. 0 stands for a column that cannot be told for sure.
//
//	before: a, b        message: a, c        now: a, d, c
//
// c is the second column, which was called b and is called d: a column of before and now is in the message too.
//
//	before: a1          message: a, c        now: a1, c3
//
// c may be the third column, or the second, which is gone: there were two columns of that name in turn.
func attnums(names []string, before, now []schema.Column) []int16 {
	was, is := byName(before), byName(now)
	if passed(before, now) {
		for name := range is {
			if was[name] == 0 {
				is[name] = 0
			}
		}
	}
	out := make([]int16, len(names))
	// Names that stand for the same column before and now part the message; between two of them lies what is to be found.
	for i, name := range names {
		if n := was[name]; n != 0 && n == is[name] {
			out[i] = n
		}
	}
	for from := 0; from < len(names); from++ {
		if out[from] != 0 {
			continue
		}
		to := from
		for to < len(names) && out[to] == 0 {
			to++
		}
		low, high := int16(0), int16(0)
		if from > 0 {
			low = out[from-1]
		}
		if to < len(names) {
			high = out[to]
		}
		fill(out[from:to], names[from:to], throughout(before, now, low, high), was, is)
		from = to
	}
	last, unknown := int16(0), int16(0)
	for _, n := range out {
		if n == 0 {
			unknown++
			continue
		}
		if n <= last+unknown {
			return make([]int16, len(names)) // names were exchanged, and exchanged back: nothing is sure
		}
		last, unknown = n, 0
	}
	return out
}

// passed says whether columns have come since before, and gone again.
func passed(before, now []schema.Column) bool {
	newest := func(columns []schema.Column) (n int16) {
		for i := range columns {
			n = max(n, columns[i].AttNum)
		}
		return n
	}
	last := newest(before)
	fresh := 0
	for i := range now {
		if now[i].AttNum > last {
			fresh++
		}
	}
	return last > 0 && fresh > 0 && int(newest(now)-last) > fresh
}

// fill finds the attnums of a run of columns: forced are those that must be among them.
func fill(out []int16, names []string, forced []int16, was, is map[string]int16) {
	switch {
	case len(forced) == len(out):
		copy(out, forced)
	case len(forced) == 0:
		for i, name := range names {
			switch {
			case was[name] == 0:
				out[i] = is[name] // added since
			case is[name] == 0:
				out[i] = was[name] // dropped since
			}
		}
	}
}

// throughout gives the attnums between low and high, both exclusive (a high of 0 is no bound), of columns that are there
// before and now.
func throughout(before, now []schema.Column, low, high int16) (list []int16) {
	there := map[int16]bool{}
	for i := range now {
		there[now[i].AttNum] = true
	}
	for i := range before {
		if n := before[i].AttNum; n > low && (high == 0 || n < high) && there[n] {
			list = append(list, n)
		}
	}
	return list
}

func byName(columns []schema.Column) map[string]int16 {
	m := make(map[string]int16, len(columns))
	for i := range columns {
		m[columns[i].Name] = columns[i].AttNum
	}
	return m
}
