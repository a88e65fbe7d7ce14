package publish

import (
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tributary-cdc/tributary/schema/change"
)

// memory holds the bytes and records of one Kafka transaction. All of it is taken back at once when the transaction
// has ended: until then the client may still read any of it.
type memory struct {
	slabs   [][]byte // each filled from its start; the last of them with room is used
	slab    int
	records [][]kgo.Record
	used    int // records in use
	heads   [][]kgo.RecordHeader
	headed  int
	// How many of them are kept for the next transaction: as many as were used of late.
	keepSlabs, keepRecords, keepHeads int
}

const (
	slabBytes    = 1 << 20
	chunkRecords = 1024
)

// build appends to the memory by way of encode and gives what it appended. Bytes that do not fit into what is left
// of a slab get memory of their own.
func (m *memory) build(encode func(dst []byte) ([]byte, error)) ([]byte, error) {
	s := m.current()
	room := s[len(s):]
	out, err := encode(room)
	if err != nil {
		return nil, err
	}
	if cap(out) == cap(room) && len(out) <= cap(room) { // still in the slab
		m.slabs[m.slab] = s[: len(s)+len(out) : cap(s)]
	}
	return out[:len(out):len(out)], nil
}

func (m *memory) current() []byte {
	for {
		if m.slab == len(m.slabs) {
			m.slabs = append(m.slabs, make([]byte, 0, slabBytes))
		}
		s := m.slabs[m.slab]
		if cap(s)-len(s) >= slabBytes/64 {
			return s
		}
		m.slab++
	}
}

func (m *memory) position(p change.Position) []byte {
	b, _ := m.build(func(dst []byte) ([]byte, error) { return change.AppendPosition(dst, p), nil })
	return b
}

// record gives a zero record.
func (m *memory) record() *kgo.Record {
	chunk, at := m.used/chunkRecords, m.used%chunkRecords
	if chunk == len(m.records) {
		m.records = append(m.records, make([]kgo.Record, chunkRecords))
	}
	m.used++
	return &m.records[chunk][at]
}

// all calls do with each record, in order.
func (m *memory) all(do func(*kgo.Record)) {
	for i := range m.used {
		do(&m.records[i/chunkRecords][i%chunkRecords])
	}
}

// headers gives a list of first and the others.
func (m *memory) headers(first kgo.RecordHeader, others []kgo.RecordHeader) []kgo.RecordHeader {
	if len(others) > 0 {
		return append([]kgo.RecordHeader{first}, others...)
	}
	chunk, at := m.headed/chunkRecords, m.headed%chunkRecords
	if chunk == len(m.heads) {
		m.heads = append(m.heads, make([]kgo.RecordHeader, chunkRecords))
	}
	m.headed++
	list := m.heads[chunk][at : at+1 : at+1]
	list[0] = first
	return list
}

// reset takes everything back. What was used last is cleared: it refers to slabs, also to such as are not kept, and to
// values too large for one.
func (m *memory) reset() {
	for i, n := 0, m.used; n > 0; i, n = i+1, n-chunkRecords {
		clear(m.records[i][:min(n, chunkRecords)])
	}
	for i, n := 0, m.headed; n > 0; i, n = i+1, n-chunkRecords {
		clear(m.heads[i][:min(n, chunkRecords)])
	}
	m.slabs = shrink(m.slabs, min(m.slab+1, len(m.slabs)), &m.keepSlabs)
	m.records = shrink(m.records, (m.used+chunkRecords-1)/chunkRecords, &m.keepRecords)
	m.heads = shrink(m.heads, (m.headed+chunkRecords-1)/chunkRecords, &m.keepHeads)
	for i := range m.slabs {
		m.slabs[i] = m.slabs[i][:0]
	}
	m.slab, m.used, m.headed = 0, 0, 0
}

// shrink gives away what is beyond keep, which goes up to used at once, and down to it by an eighth at a time: the next
// transaction is likely to be as large as the last few.
func shrink[T any](list []T, used int, keep *int) []T {
	*keep = max(used, *keep-(*keep+7)/8)
	if len(list) > *keep {
		clear(list[*keep:]) // the array behind the list stays
		list = list[:*keep]
	}
	return list
}
