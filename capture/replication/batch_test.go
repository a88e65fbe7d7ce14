package replication

import (
	"encoding/binary"
	"testing"
)

// What a burst has needed goes when what comes after it is small, and all that refers to it.
func TestBatchShrinks(t *testing.T) {
	var b Batch
	fill := func(messages, size int) {
		for range messages {
			b.add(make([]byte, size))
		}
		b.index()
		if len(b.Items) != messages {
			t.Fatalf("%d items of %d messages", len(b.Items), messages)
		}
		b.reset()
	}
	fill(80_000, 100)
	if before := cap(b.buf); before < 8_000_000 {
		t.Fatalf("%d bytes are kept for the next of several large batches", before)
	}
	for range 100 {
		fill(1, 100)
	}
	if cap(b.buf) > leastBatch || cap(b.ends) > 1000 || cap(b.Items) > 1000 {
		t.Errorf("of small batches %d bytes, %d ends and %d items are kept", cap(b.buf), cap(b.ends), cap(b.Items))
	}
}

// What a server says that has nothing for us wakes nobody and does not pile up; what it asks does, and a change behind it.
func TestKeepalivesWakeNobody(t *testing.T) {
	s := &Stream{ready: make(chan struct{}, 1), wake: make(chan struct{}, 1)}
	s.space.L = &s.mu
	message := func(kind byte, position uint64, rest ...byte) {
		t.Helper()
		b := binary.BigEndian.AppendUint64([]byte{kind}, position)
		if kind == 'w' {
			b = binary.BigEndian.AppendUint64(b, position)
		}
		if err := s.accept(append(append(b, make([]byte, 8)...), rest...)); err != nil {
			t.Fatal(err)
		}
	}
	woken := func() bool {
		select {
		case <-s.ready:
			return true
		default:
			return false
		}
	}
	for i := range uint64(1000) {
		message('k', 100+i, 0)
	}
	if woken() {
		t.Error("keepalives wake the session")
	}
	message('w', 2000, 'R')
	if !woken() {
		t.Error("a change behind a keepalive does not wake it")
	}
	message('k', 2001, 0)
	message('k', 2002, 1)
	if !woken() {
		t.Error("what the server asks does not wake it")
	}
	message('k', 2003, 0)
	batch, err := s.Take()
	if err != nil || len(batch.Items) != 3 {
		t.Fatalf("%v, %d items: %+v", err, len(batch.Items), batch.Items)
	}
	if first, data, last := batch.Items[0], batch.Items[1], batch.Items[2]; first.WALEnd != 1099 || first.Asked || string(data.Data) != "R" || last.WALEnd != 2003 || !last.Asked {
		t.Errorf("%+v", batch.Items)
	}
}

// Messages go from the connection to who takes them without memory of their own.
func TestBatchAllocations(t *testing.T) {
	s := &Stream{ready: make(chan struct{}, 1), wake: make(chan struct{}, 1)}
	s.space.L = &s.mu
	change := append(binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64([]byte{'w'}, 7), 7), make([]byte, 100)...)
	keepalive := append(binary.BigEndian.AppendUint64([]byte{'k'}, 7), make([]byte, 9)...)
	const messages = 1000
	batch := func() {
		for i := range messages {
			if err := s.accept([][]byte{change, keepalive}[i%2]); err != nil {
				t.Fatal(err)
			}
		}
		if b, err := s.Take(); err != nil || len(b.Items) != messages {
			t.Fatalf("%v, %d items of %d messages", err, len(b.Items), messages)
		}
	}
	for range 2 { // they take turns
		batch()
	}
	if n := testing.AllocsPerRun(20, batch); n > 0 {
		t.Errorf("%v allocations for %d messages", n, messages)
	}
}
