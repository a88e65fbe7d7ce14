package pgoutput

import (
	"errors"
	"fmt"

	"github.com/tributary-cdc/tributary/schema"
	"github.com/tributary-cdc/tributary/schema/change"
)

// protocolVersion is the version of pgoutput's protocol that Decode reads, to be asked for at START_REPLICATION.
const protocolVersion = 1

// Errors of Decode.
var (
	// ErrMalformed says that the bytes are not a message.
	ErrMalformed = errors.New("malformed pgoutput message")
	// ErrUnsupported says that they are one that protocol version 1 in text form does not have.
	ErrUnsupported = errors.New("unsupported pgoutput message")
)

// Decoder decodes one message at a time. Decode fills the field that belongs to the kind which it returns and
// leaves the others as they were. The zero Decoder is ready. One goroutine at a time.
//
// All slices, tuples and texts belong to the Decoder or alias the data given to Decode: they are valid until the
// next Decode, or until that data is overwritten.
type Decoder struct {
	Begin    Begin
	Commit   Commit
	Origin   Origin
	Relation Relation
	Type     Type
	Row      Row // of Insert, Update and Delete
	Truncate Truncate
	Logical  Logical

	cur      cursor
	old, new change.Tuple // memory of the tuples in Row
}

// Decode reads data, the body of one XLogData. An error wraps ErrMalformed or ErrUnsupported, holds nothing of any
// row, and leaves the Decoder ready for the next message.
func (d *Decoder) Decode(data []byte) (Kind, error) {
	c := &d.cur
	*c = cursor{data: data}
	kind := Kind(c.byte())
	switch kind {
	case KindInsert, KindUpdate, KindDelete:
		d.row(c, kind)
	case KindBegin:
		d.Begin = Begin{FinalLSN: change.LSN(c.uint64()), CommitTime: unixMicros(c.uint64()), XID: c.uint32()}
	case KindCommit:
		c.byte() // flags, unused
		d.Commit = Commit{CommitLSN: change.LSN(c.uint64()), EndLSN: change.LSN(c.uint64()), CommitTime: unixMicros(c.uint64())}
	case KindOrigin:
		d.Origin = Origin{CommitLSN: change.LSN(c.uint64()), Name: c.text()}
	case KindRelation:
		d.relation(c)
	case KindType:
		d.Type = Type{OID: schema.OID(c.uint32()), Namespace: namespace(c), Name: c.text()}
	case KindTruncate:
		d.truncate(c)
	case KindLogical:
		d.logical(c)
	default:
		if c.fault == "" {
			return 0, fmt.Errorf("decode message: %w: kind %q is not part of protocol version %d", ErrUnsupported, data[0], protocolVersion)
		}
		return 0, fmt.Errorf("decode message: %w: it is empty", ErrMalformed)
	}
	if c.fault == "" && c.rest() > 0 {
		c.fail("there are bytes behind its end")
	}
	if c.fault != "" {
		return 0, d.problem(kind)
	}
	return kind, nil
}

func (d *Decoder) problem(kind Kind) error {
	cause := ErrMalformed
	if d.cur.fault == faultBinary {
		cause = ErrUnsupported
	}
	return fmt.Errorf("decode %s message of %d bytes: %w: at byte %d: %s", kind, len(d.cur.data), cause, d.cur.pos, d.cur.fault)
}

// unixMicros turns Postgres' time, microseconds since 2000-01-01, into microseconds since 1970-01-01.
func unixMicros(v uint64) int64 {
	const epochMicros = 946_684_800_000_000
	return int64(v) + epochMicros
}

var pgCatalog = []byte("pg_catalog")

func namespace(c *cursor) []byte {
	b := c.text()
	if len(b) == 0 && c.fault == "" {
		return pgCatalog
	}
	return b
}
