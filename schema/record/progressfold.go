package record

import (
	"maps"

	"github.com/tributary-cdc/tributary/schema/change"
)

// Reached gives the newest position that p says is published.
func (p *Progress) Reached() change.Position {
	at := change.Position{Era: p.Era, CommitLSN: change.LSN(p.CommitLSN), Seq: p.Inside}
	if p.Inside == 0 { // the transaction is whole, and so are the snapshot rows behind it
		at.Seq = max(change.SnapshotSeq, p.SnapshotSeq) - 1
	}
	return at
}

// ProgressFold makes of the records of a progress topic, in their order, one state.
type ProgressFold struct {
	// Last is the newest record that follows on what is known, with Vector and Gone complete; nil before a full record.
	Last *Progress
	// Tables is the state of every table, by its OID.
	Tables map[uint32]TableProgress
}

// Add takes the next record in. A delta whose full record is not there (compacted away, or before what is read) is passed over.
func (f *ProgressFold) Add(p *Progress) {
	switch {
	case p.Full:
		f.Tables = map[uint32]TableProgress{}
	case f.Last == nil || p.N != f.Last.N+1:
		return
	default:
		vector := maps.Clone(f.Last.Vector)
		if vector == nil {
			vector = map[string][]int64{}
		}
		maps.Copy(vector, p.Vector)
		p.Vector, p.Gone = vector, f.Last.Gone
	}
	if f.Tables == nil {
		f.Tables = map[uint32]TableProgress{}
	}
	for _, t := range p.Tables {
		f.Tables[t.OID] = t
	}
	f.Last = p
}
