// Package pgoutput decodes the messages of Postgres' logical replication output plugin of that name, protocol
// version 1: whole transactions, in commit order. It allocates nothing in steady state, and turns whatever bytes
// it gets into messages or an error. Commands and framing of the replication connection are the business of
// package replication; what a message means is that of package capture.
//
// The format: https://www.postgresql.org/docs/current/protocol-logicalrep-message-formats.html
package pgoutput

import (
	"github.com/tributary-cdc/tributary/schema"
	"github.com/tributary-cdc/tributary/schema/change"
)

// Kind is the first byte of a message.
type Kind byte

// The messages of protocol version 1.
const (
	KindBegin    Kind = 'B'
	KindCommit   Kind = 'C'
	KindOrigin   Kind = 'O'
	KindRelation Kind = 'R'
	KindType     Kind = 'Y'
	KindInsert   Kind = 'I'
	KindUpdate   Kind = 'U'
	KindDelete   Kind = 'D'
	KindTruncate Kind = 'T'
	KindLogical  Kind = 'M'
)

// String gives the name of the message in the Postgres documentation.
func (k Kind) String() string {
	switch k {
	case KindBegin:
		return "Begin"
	case KindCommit:
		return "Commit"
	case KindOrigin:
		return "Origin"
	case KindRelation:
		return "Relation"
	case KindType:
		return "Type"
	case KindInsert:
		return "Insert"
	case KindUpdate:
		return "Update"
	case KindDelete:
		return "Delete"
	case KindTruncate:
		return "Truncate"
	case KindLogical:
		return "Message"
	}
	return "unknown"
}

// Begin opens a transaction.
type Begin struct {
	FinalLSN   change.LSN // of its commit record: the same as Commit.CommitLSN
	CommitTime int64      // microseconds since 1970-01-01 UTC
	XID        uint32
}

// Commit closes a transaction.
type Commit struct {
	CommitLSN  change.LSN // start of the commit record
	EndLSN     change.LSN // behind it: what is confirmed to the slot
	CommitTime int64      // microseconds since 1970-01-01 UTC
}

// Origin follows Begin where the transaction came from another server.
type Origin struct {
	CommitLSN change.LSN // on that server
	Name      []byte
}

// Relation describes a table, before its first row of a session and again whenever something about it may have
// changed.
type Relation struct {
	OID       schema.OID
	Namespace []byte // "pg_catalog" spelled out; on the wire it is empty
	Name      []byte
	Identity  schema.ReplicaIdentity
	Columns   []Column
}

// Column is one column of a Relation.
type Column struct {
	Key     bool // it is part of the replica identity; all are under REPLICA IDENTITY FULL
	Name    []byte
	TypeOID schema.OID
	Typmod  int32 // pg_attribute.atttypmod, -1 for none
}

// Type names a type that is not built in. For a domain the name is that of what it is over.
type Type struct {
	OID       schema.OID
	Namespace []byte // "pg_catalog" spelled out
	Name      []byte
}

// Row is an Insert, Update or Delete.
type Row struct {
	OID schema.OID // of the relation
	// Old is the whole old row under REPLICA IDENTITY FULL; otherwise its key, with Null in every other column,
	// and for an Update only where the key changed or is TOASTed. nil where Postgres sent none, and for Insert.
	Old change.Tuple
	// OldIsKey says that Old holds no more than the key.
	OldIsKey bool
	New      change.Tuple // nil for Delete
}

// Truncate empties tables.
type Truncate struct {
	Cascade         bool
	RestartIdentity bool
	OIDs            []schema.OID
}

// Logical is what pg_logical_emit_message wrote.
type Logical struct {
	Transactional bool
	LSN           change.LSN
	Prefix        []byte
	Content       []byte
}
