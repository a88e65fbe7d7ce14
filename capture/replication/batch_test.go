package replication

import "testing"

// What a burst has needed goes when what comes after it is small, and all that refers to it.
func TestBatchShrinks(t *testing.T) {
	var b Batch
	fill := func(messages, size int) {
		for range messages {
			b.buf = append(b.buf, make([]byte, size)...)
			b.ends = append(b.ends, len(b.buf))
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
