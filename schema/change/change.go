// Package change is what happened to a row: events, tuples, values and the position that identifies an event for
// ever. It is pure data, shared by capture (which makes events), record (which writes and reads them) and sink.
package change

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// LSN is a byte position in the WAL of one Postgres cluster. LSNs of two clusters must not be compared.
type LSN uint64

// String writes l as Postgres does: two hexadecimal halves, "16/B374D848".
func (l LSN) String() string {
	b := make([]byte, 0, 17)
	b = appendHex(b, uint32(l>>32))
	b = append(b, '/')
	b = appendHex(b, uint32(l))
	return string(b)
}

func appendHex(b []byte, v uint32) []byte {
	start := len(b)
	b = strconv.AppendUint(b, uint64(v), 16)
	for i := start; i < len(b); i++ {
		if b[i] >= 'a' {
			b[i] -= 'a' - 'A'
		}
	}
	return b
}

// ParseLSN reads what String writes.
func ParseLSN(s string) (LSN, error) {
	hi, lo, ok := strings.Cut(s, "/")
	h, err1 := strconv.ParseUint(hi, 16, 32)
	l, err2 := strconv.ParseUint(lo, 16, 32)
	if !ok || err1 != nil || err2 != nil {
		return 0, fmt.Errorf("parse LSN %q: want two hexadecimal numbers with a slash between", s)
	}
	return LSN(h<<32 | l), nil
}

// Position identifies an event and orders it among all events of its source: by era, then commit LSN, then
// sequence. Within an era commit LSNs only grow, in the order in which Postgres sends transactions; LSNs of rows
// do not, and commit times do not either.
type Position struct {
	Era       uint16 // grows by one with each new slot, restore, or diverged timeline
	CommitLSN LSN    // of the transaction; for a snapshot row, of the boundary at which it was inserted
	// Seq orders the events of one commit LSN: twice the ordinal (from 1) of the row message in its transaction
	// as the server sent it, plus 1 for the second half of a key change. Snapshot rows count from
	// SnapshotSeq, above all that a transaction can reach. 48 bits.
	Seq uint64
}

// SnapshotSeq is the first Seq of a snapshot row: bit 47 set.
const SnapshotSeq uint64 = 1 << 47

// PositionSize is the length in bytes of an encoded Position: era 2, commit LSN 8, seq 6, all big-endian, so that
// encoded positions compare as their positions do.
const PositionSize = 16

// Compare gives -1, 0 or 1 as p is before, at or after o.
func (p Position) Compare(o Position) int {
	switch {
	case p.Era != o.Era:
		return sign(p.Era < o.Era)
	case p.CommitLSN != o.CommitLSN:
		return sign(p.CommitLSN < o.CommitLSN)
	case p.Seq != o.Seq:
		return sign(p.Seq < o.Seq)
	}
	return 0
}

func sign(less bool) int {
	if less {
		return -1
	}
	return 1
}

// IsZero says whether p is the zero Position, which is before every event.
func (p Position) IsZero() bool { return p == Position{} }

// Snapshot says whether p is that of a snapshot row.
func (p Position) Snapshot() bool { return p.Seq >= SnapshotSeq }

// String writes p for people: "era:commit LSN.seq".
func (p Position) String() string {
	return fmt.Sprintf("%d:%s.%d", p.Era, p.CommitLSN, p.Seq)
}

// AppendPosition appends the PositionSize bytes of p to dst.
func AppendPosition(dst []byte, p Position) []byte {
	dst = binary.BigEndian.AppendUint16(dst, p.Era)
	dst = binary.BigEndian.AppendUint64(dst, uint64(p.CommitLSN))
	dst = binary.BigEndian.AppendUint16(dst, uint16(p.Seq>>32))
	return binary.BigEndian.AppendUint32(dst, uint32(p.Seq))
}

// ErrPosition is returned for bytes that are not a Position.
var ErrPosition = errors.New("not an encoded position")

// ParsePosition reads what AppendPosition writes.
func ParsePosition(b []byte) (Position, error) {
	if len(b) != PositionSize {
		return Position{}, fmt.Errorf("%w: %d bytes, want %d", ErrPosition, len(b), PositionSize)
	}
	return Position{
		Era:       binary.BigEndian.Uint16(b),
		CommitLSN: LSN(binary.BigEndian.Uint64(b[2:])),
		Seq:       uint64(binary.BigEndian.Uint16(b[10:]))<<32 | uint64(binary.BigEndian.Uint32(b[12:])),
	}, nil
}

// Op is what happened, spelled as in the Debezium envelope.
type Op byte

// The operations.
const (
	Create   Op = 'c' // INSERT
	Update   Op = 'u' // UPDATE that kept the key
	Delete   Op = 'd' // DELETE, or the first half of a key change
	Truncate Op = 't'
	Read     Op = 'r' // a row of a snapshot
)

// String gives the word for op.
func (op Op) String() string {
	switch op {
	case Create:
		return "insert"
	case Update:
		return "update"
	case Delete:
		return "delete"
	case Truncate:
		return "truncate"
	case Read:
		return "read"
	}
	return "unknown operation " + strconv.Quote(string(rune(op)))
}

// State says what is known of a value. Null and Unchanged are facts of their own, never spelled as text.
type State uint8

// The states. The zero State is Null.
const (
	Null      State = iota
	Unchanged       // a TOASTed value that the UPDATE did not touch and Postgres did not send
	Present         // Text holds it
)

// Value is one column of one row.
type Value struct {
	State State
	Text  []byte // canonical Postgres text if Present; may be empty, which is not null
}

// Tuple is a row, or the key of one, in the column order of its Relation. A tuple that holds only a key has Null
// in all other columns.
type Tuple []Value

// Transaction is what all events of one source transaction share.
type Transaction struct {
	XID        uint32 // of the top-level transaction; 0 for snapshot rows
	CommitLSN  LSN
	CommitTime int64  // microseconds since 1970-01-01 UTC, by the source's clock; not monotone
	Origin     string // replication origin, "" for none
}

// Event is one change of one row, or of a whole table. Tuples alias the memory of whoever made the event and are
// valid as long as that says.
type Event struct {
	Op       Op
	Position Position
	Tx       Transaction
	// Before is the old row: all of it under REPLICA IDENTITY FULL, its key for a Delete, nil otherwise.
	Before Tuple
	After  Tuple // nil for Delete and Truncate
	// TableOrdinal counts the events of this table in the transaction, from 1.
	TableOrdinal uint64
}
