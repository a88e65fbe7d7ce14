package record

import "encoding/binary"

// The primitives of Avro's binary encoding (https://avro.apache.org/docs/1.12.0/specification/#binary-encoding).

func appendLong(dst []byte, v int64) []byte {
	return binary.AppendUvarint(dst, uint64(v)<<1^uint64(v>>63))
}

// appendBytes appends a value of type bytes or string.
func appendBytes(dst, v []byte) []byte {
	return append(appendLong(dst, int64(len(v))), v...)
}

func appendString(dst []byte, v string) []byte {
	return append(appendLong(dst, int64(len(v))), v...)
}

func appendFixed32(dst []byte, v uint32) []byte { return binary.LittleEndian.AppendUint32(dst, v) }
func appendFixed64(dst []byte, v uint64) []byte { return binary.LittleEndian.AppendUint64(dst, v) }

// Branches of the union ["null", T], as long values.
const (
	branchNull = 0 // zigzag of 0
	branchSome = 2 // zigzag of 1
)

// reader reads Avro from front to back and never past the end. The first fault stays; after it every read gives
// zero, so that the error need be looked at once, at the end.
type reader struct {
	data  []byte
	pos   int
	fault string // what is wrong, near pos; "" for nothing
}

const faultShort = "the value ends too early"

func (r *reader) fail(fault string) {
	if r.fault == "" {
		r.fault = fault
	}
}

// take gives the next n bytes; they alias the data. nil after a fault.
func (r *reader) take(n int64) []byte {
	if r.fault != "" || n < 0 || n > int64(len(r.data)-r.pos) {
		r.fail(faultShort)
		return nil
	}
	end := r.pos + int(n)
	b := r.data[r.pos:end:end]
	r.pos = end
	return b
}

func (r *reader) byte() byte {
	if r.fault != "" || r.pos >= len(r.data) {
		r.fail(faultShort)
		return 0
	}
	b := r.data[r.pos]
	r.pos++
	return b
}

func (r *reader) long() int64 {
	if r.fault != "" {
		return 0
	}
	if r.pos < len(r.data) && r.data[r.pos] < 0x80 {
		v := uint64(r.data[r.pos])
		r.pos++
		return int64(v>>1) ^ -int64(v&1)
	}
	v, n := binary.Uvarint(r.data[r.pos:])
	if n <= 0 {
		r.fail("a number has no end or more than 64 bits")
		return 0
	}
	r.pos += n
	return int64(v>>1) ^ -int64(v&1)
}

func (r *reader) int() int32 {
	v := r.long()
	if v != int64(int32(v)) {
		r.fail("an int has more than 32 bits")
		return 0
	}
	return int32(v)
}

func (r *reader) fixed32() uint32 {
	if b := r.take(4); b != nil {
		return binary.LittleEndian.Uint32(b)
	}
	return 0
}

func (r *reader) fixed64() uint64 {
	if b := r.take(8); b != nil {
		return binary.LittleEndian.Uint64(b)
	}
	return 0
}

// bytes gives a value of type bytes or string; it aliases the data.
func (r *reader) bytes() []byte { return r.take(r.long()) }

// some reads the branch of the union ["null", T]: whether a T follows.
func (r *reader) some() bool {
	switch r.long() {
	case 0:
		return false
	case 1:
		return r.fault == ""
	}
	r.fail("a union has no such branch")
	return false
}

// present reads the branch of a union of null, which is branch null of it, and another type: whether a value of that
// follows. With notNull there is no union, and always a value.
func (r *reader) present(null int) bool {
	if null == notNull {
		return r.fault == ""
	}
	switch r.long() {
	case int64(null):
		return false
	case int64(1 - null):
		return r.fault == ""
	}
	r.fail("a union has no such branch")
	return false
}

// block reads the head of a block of an array or map and gives the number of its items, 0 at the end. No count
// is larger than the bytes that are left: all items here take at least one.
func (r *reader) block() int {
	n := r.long()
	if n < 0 {
		r.long() // the size of the block in bytes, for those who skip
		n = -n
	}
	if n < 0 || n > int64(len(r.data)-r.pos) {
		r.fail("a block has room for fewer items than it says")
		return 0
	}
	if r.fault != "" {
		return 0
	}
	return int(n)
}
