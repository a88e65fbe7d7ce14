package publish

import (
	"runtime"
	"testing"
	"weak"

	"github.com/twmb/franz-go/pkg/kgo"
)

// What a large transaction took is not kept for ever: neither by what is kept of it, nor by records that refer to it.
func TestMemoryIsGivenBack(t *testing.T) {
	var m memory
	fill := func(records, bytes int) (first, last *byte) {
		for i := range records {
			value, err := m.build(func(dst []byte) ([]byte, error) { return append(dst, make([]byte, bytes)...), nil })
			if err != nil {
				t.Fatal(err)
			}
			r := m.record()
			r.Value = value
			r.Headers = m.headers(kgo.RecordHeader{Key: "p", Value: value[:1]}, nil)
			if i == 0 {
				first = &value[0]
			}
			last = &value[0]
		}
		m.reset()
		return first, last
	}
	large := func() weak.Pointer[byte] {
		_, last := fill(100_000, 600)
		return weak.Make(last)
	}()
	const small = 60
	for range small {
		fill(10, 600)
	}
	if m.keepSlabs != 1 || m.keepRecords != 1 || m.keepHeads != 1 || len(m.slabs) != 1 || len(m.records) != 1 || len(m.heads) != 1 {
		t.Errorf("after %d small transactions %d slabs, %d and %d chunks are kept, want one each", small, len(m.slabs), len(m.records), len(m.heads))
	}
	runtime.GC()
	if large.Value() != nil {
		t.Error("the last value of the large transaction is still referred to")
	}
	huge := func() weak.Pointer[byte] { // has memory of its own
		_, last := fill(1, 3*slabBytes)
		return weak.Make(last)
	}()
	runtime.GC()
	if huge.Value() != nil {
		t.Error("a value of 3 MiB is kept behind the end of its transaction")
	}
	runtime.KeepAlive(&m)
}

// Transactions of the same size, one after the other, take no new memory.
func TestMemoryIsUsedAgain(t *testing.T) {
	var m memory
	encode := func(dst []byte) ([]byte, error) { return append(dst, make([]byte, 300)...), nil }
	transaction := func() {
		for range 5000 {
			value, err := m.build(encode)
			if err != nil {
				t.Fatal(err)
			}
			r := m.record()
			r.Value, r.Headers = value, m.headers(kgo.RecordHeader{Key: "p", Value: value[:1]}, nil)
		}
		m.reset()
	}
	transaction()
	if n := testing.AllocsPerRun(10, transaction); n > 0 {
		t.Errorf("%.1f allocations a transaction, want none", n)
	}
}
