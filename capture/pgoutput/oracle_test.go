package pgoutput

import (
	"bytes"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"

	"github.com/tributary-cdc/tributary/schema/change"
)

func TestAgainstPglogrepl(t *testing.T) {
	var d Decoder
	kinds := map[Kind]bool{}
	for _, m := range stream(t) {
		kind, err := d.Decode(m)
		if err != nil {
			t.Fatal(err)
		}
		kinds[kind] = true
		compare(t, &d, kind, m)
	}
	if len(kinds) != 10 {
		t.Errorf("only the kinds %v are in the stream", kinds)
	}
}

// compare says where what d has decoded differs from what pglogrepl makes of the same bytes.
func compare(t *testing.T, d *Decoder, kind Kind, data []byte) {
	t.Helper()
	message, err := pglogrepl.Parse(data)
	if err != nil {
		t.Fatalf("%x: pglogrepl: %v", data, err)
	}
	same := func(what string, ok bool) {
		t.Helper()
		if !ok {
			t.Fatalf("%x: %s differs: %s, pglogrepl has %+v", data, what, d.describe(kind), message)
		}
	}
	switch m := message.(type) {
	case *pglogrepl.BeginMessage:
		same("begin", kind == KindBegin && uint64(m.FinalLSN) == uint64(d.Begin.FinalLSN) && m.Xid == d.Begin.XID &&
			sameTime(m.CommitTime, d.Begin.CommitTime))
	case *pglogrepl.CommitMessage:
		same("commit", kind == KindCommit && uint64(m.CommitLSN) == uint64(d.Commit.CommitLSN) &&
			uint64(m.TransactionEndLSN) == uint64(d.Commit.EndLSN) && sameTime(m.CommitTime, d.Commit.CommitTime))
	case *pglogrepl.OriginMessage:
		same("origin", kind == KindOrigin && uint64(m.CommitLSN) == uint64(d.Origin.CommitLSN) && m.Name == string(d.Origin.Name))
	case *pglogrepl.RelationMessage:
		r := &d.Relation
		same("relation", kind == KindRelation && m.RelationID == uint32(r.OID) && sameNamespace(m.Namespace, r.Namespace) &&
			m.RelationName == string(r.Name) && m.ReplicaIdentity == byte(r.Identity) && len(m.Columns) == len(r.Columns))
		for i, c := range m.Columns {
			same("column", c.Name == string(r.Columns[i].Name) && c.DataType == uint32(r.Columns[i].TypeOID) &&
				c.TypeModifier == r.Columns[i].Typmod && (c.Flags&1 == 1) == r.Columns[i].Key)
		}
	case *pglogrepl.TypeMessage:
		same("type", kind == KindType && m.DataType == uint32(d.Type.OID) && sameNamespace(m.Namespace, d.Type.Namespace) &&
			m.Name == string(d.Type.Name))
	case *pglogrepl.InsertMessage:
		same("insert", kind == KindInsert && m.RelationID == uint32(d.Row.OID) && d.Row.Old == nil && sameRow(m.Tuple, d.Row.New))
	case *pglogrepl.UpdateMessage:
		same("update", kind == KindUpdate && m.RelationID == uint32(d.Row.OID) && sameRow(m.NewTuple, d.Row.New) &&
			sameRow(m.OldTuple, d.Row.Old) && d.Row.OldIsKey == (m.OldTupleType == 'K'))
	case *pglogrepl.DeleteMessage:
		same("delete", kind == KindDelete && m.RelationID == uint32(d.Row.OID) && d.Row.New == nil &&
			sameRow(m.OldTuple, d.Row.Old) && d.Row.OldIsKey == (m.OldTupleType == 'K'))
	case *pglogrepl.TruncateMessage:
		same("truncate", kind == KindTruncate && len(m.RelationIDs) == len(d.Truncate.OIDs) &&
			(m.Option&1 != 0) == d.Truncate.Cascade && (m.Option&2 != 0) == d.Truncate.RestartIdentity)
		for i, oid := range m.RelationIDs {
			same("truncate", oid == uint32(d.Truncate.OIDs[i]))
		}
	case *pglogrepl.LogicalDecodingMessage:
		same("message", kind == KindLogical && uint64(m.LSN) == uint64(d.Logical.LSN) &&
			(m.Transactional == d.Logical.Transactional || data[1] > 1) && // pglogrepl knows no other flag beside it
			m.Prefix == string(d.Logical.Prefix) && bytes.Equal(m.Content, d.Logical.Content))
	default:
		t.Fatalf("%x: pglogrepl gives %T", data, message)
	}
}

// sameTime compares where pglogrepl can say: it goes through nanoseconds, of which 64 bits end in 2262.
func sameTime(theirs time.Time, ours int64) bool {
	const most = 200 * 365 * 24 * 3600 * 1_000_000
	if ours < -most || ours > most {
		return true
	}
	return theirs.UnixMicro() == ours
}

func sameNamespace(theirs string, ours []byte) bool {
	return theirs == string(ours) || theirs == "" && string(ours) == "pg_catalog"
}

func sameRow(theirs *pglogrepl.TupleData, ours change.Tuple) bool {
	if theirs == nil || ours == nil {
		return theirs == nil && ours == nil
	}
	if len(theirs.Columns) != len(ours) {
		return false
	}
	for i, c := range theirs.Columns {
		state := map[uint8]change.State{'n': change.Null, 'u': change.Unchanged, 't': change.Present}[c.DataType]
		if state != ours[i].State || !bytes.Equal(c.Data, ours[i].Text) {
			return false
		}
	}
	return true
}
