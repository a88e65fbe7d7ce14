package rule

import (
	"maps"
	"slices"

	"github.com/tributary-cdc/tributary/pkg/mask"
)

// Stays says whether the target keeps what does not come again with a read of all rows: versions and changes of before, or rows that are gone
// at the source; or, where inserts are ignored, whatever it has. To ignore updates is no matter: a read is none.
func (m Meaning) Stays() bool {
	return modeByName[m.Mode] != Clone || slices.ContainsFunc(m.Ignore, func(op string) bool { return op != updateOp })
}

// Kept is what rows that were written under a meaning keep when all of them come again under another one.
type Kept struct {
	Columns []string // whose values are not written any more
	Others  bool     // there may be others beside these, which only the target tells
	More    bool     // something else of the rows is otherwise, which a read may change
}

// Any says whether they keep anything.
func (k Kept) Any() bool { return k.Others || len(k.Columns) > 0 }

// Kept gives what of rows that were written under m stays as it is when all of them come again under now: it writes not all columns that m did.
func (m Meaning) Kept(now Meaning) (k Kept) {
	if m.Target != now.Target {
		return Kept{More: true}
	}
	with := m
	with.Columns = map[string]Written{}
	maps.Copy(with.Columns, m.Columns)
	for _, name := range sortedNames(m.Columns) {
		// Where all columns of the source are written, this may be one of them.
		if _, has := now.Columns[name]; !has && !now.All {
			k.Columns = append(k.Columns, name)
			delete(with.Columns, name)
		}
	}
	if k.Others = m.All && !now.All; k.Others {
		with.All = false
		for name, is := range now.Columns {
			if _, had := m.Columns[name]; !had && is == (Written{From: name}) {
				with.Columns[name] = is
			}
		}
	}
	k.More = len(with.Since(now)) > 0
	return k
}

// Lacks gives the columns of the source of which rows that were written under m lack what now makes of them; only says that nothing else
// of them is otherwise than now would write them.
func (m Meaning) Lacks(now Meaning) (columns []string, only bool) {
	with := m
	with.Columns = map[string]Written{}
	maps.Copy(with.Columns, m.Columns)
	for name, is := range now.Columns {
		if m.Columns[name] == is {
			continue
		}
		if is.From != "" {
			with.Columns[name] = is
			columns = append(columns, is.From)
		} else if inputs, ok := reads(is.Value); ok && len(inputs) > 0 {
			with.Columns[name] = is
			columns = append(columns, inputs...)
		}
	}
	return columns, len(with.Since(now)) == 0
}

// written says what a column of the target is filled from; nothing where the rule does not write it.
func (m Meaning) written(name string) Written {
	if is, has := m.Columns[name]; has || !m.All {
		return is
	}
	return Written{From: name}
}

// Rekeyed says whether rows that were written under m have other keys than now gives them: no read overwrites them, and no change finds them. key
// has the columns of the target's key.
func (m Meaning) Rekeyed(now Meaning, key []string) bool {
	return m.Target == now.Target && slices.ContainsFunc(key, func(name string) bool {
		was, is := m.written(name), now.written(name)
		switch {
		case name == now.SIDColumn: // see Moved
			return false
		case was != is, is.Mask == mask.Hash && m.Salt != now.Salt:
			return true
		}
		return m.SID != now.SID && readsSID(is.Value)
	})
}

// Moved says whether they have another sid, in the column of that: they are nobody's any more, or another source's.
func (m Meaning) Moved(now Meaning) bool {
	return m.Target == now.Target && m.SIDColumn != "" && m.SIDColumn == now.SIDColumn && m.SID != now.SID
}

// Narrowed says whether there may be rows among them that a filter leaves out now. A read removes these; the INSERT that has brought one does not.
func (m Meaning) Narrowed(now Meaning) bool { return now.Filter != "" && m.Filter != now.Filter }

// remains says whether something of them is there still when all have come again under now; swept, also where rows that did not come were removed.
func (m Meaning) remains(now Meaning, key []string, swept bool) bool {
	return m.Kept(now).Any() || m.Moved(now) || !swept && m.Rekeyed(now, key)
}

// Outlives says whether something of them is there still when all that the topic holds has come again, and rows that did not come were removed, unless
// the rule keeps them: see Route.Keeps.
func (m Meaning) Outlives(now Meaning, key []string) bool {
	keeps := len(now.Ignore) > 0
	return m.remains(now, key, !keeps) || keeps && m.Narrowed(now)
}

// Residue is what is known of rows that were written under a former rule.
type Residue struct {
	Was, Is string   // the rule, and the one that there is; Was is "" where rows were lost otherwise
	Key     []string // columns of the key of the target
	Swept   bool     // those under keys that did not come in a reload since were removed
}

// Enough says whether a read of all rows, or of some columns of them, has everything come again.
func (r Residue) Enough(columns []string) bool {
	now, err := ParseMeaning(r.Is)
	if err != nil || now.Stays() {
		return false
	}
	former, err := ParseMeaning(r.Was)
	switch {
	case err == nil && former.remains(now, r.Key, r.Swept):
		return false
	case len(columns) == 0:
		return err != nil || !former.Stays()
	case err != nil:
		return false
	}
	lacks, only := former.Lacks(now)
	return only && !slices.ContainsFunc(lacks, func(name string) bool { return !slices.Contains(columns, name) })
}
