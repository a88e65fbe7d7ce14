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
}

const (
	slabBytes    = 1 << 20
	chunkRecords = 1024
	// keepSlabs are kept from one transaction to the next: 16 MiB, the usual size of a transaction.
	keepSlabs = 16
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
	r := &m.records[chunk][at]
	*r = kgo.Record{}
	return r
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

// reset takes everything back.
func (m *memory) reset() {
	if len(m.slabs) > keepSlabs {
		clear(m.slabs[keepSlabs:])
		m.slabs = m.slabs[:keepSlabs]
	}
	for i := range m.slabs {
		m.slabs[i] = m.slabs[i][:0]
	}
	const keepChunks = keepSlabs * slabBytes / 64 / chunkRecords // at 64 bytes a record
	if len(m.records) > keepChunks {
		m.records = m.records[:keepChunks:keepChunks]
		m.heads = m.heads[:min(len(m.heads), keepChunks)]
	}
	m.slab, m.used, m.headed = 0, 0, 0
}
