package capture

import (
	"testing"
	"time"
)

// Only right behind a Kafka transaction that has held much does one gather: a change behind a pause, or among few, waits for nothing.
func TestBulkGathers(t *testing.T) {
	end := time.Now()
	for _, c := range []struct {
		bytes int64
		after time.Duration
		want  bool
	}{
		{bulkBytes, 0, true}, {bulkBytes, bulkLinger / 2, true}, {bulkBytes - 1, 0, false}, {bulkBytes, bulkLinger, false}, {0, 0, false},
	} {
		if got := (committed{end, c.bytes}).bulk(end.Add(c.after)); got != c.want {
			t.Errorf("%s behind %d bytes: %t", c.after, c.bytes, got)
		}
	}
	if (committed{}).bulk(end) {
		t.Error("the first one gathers")
	}
}
