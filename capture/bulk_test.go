package capture

import (
	"testing"
	"time"
)

// Only right behind a Kafka transaction that has held much does one gather: a change behind a pause, or among few, waits for nothing.
func TestBulkGathers(t *testing.T) {
	for _, c := range []struct {
		bytes int64
		after time.Duration
		want  bool
	}{
		{bulkBytes, 0, true}, {bulkBytes, bulkLinger / 2, true}, {bulkBytes - 1, 0, false}, {bulkBytes, bulkLinger, false}, {0, 0, false}, // the first of a session
	} {
		if got := behindBulk(c.bytes, c.after); got != c.want {
			t.Errorf("%s behind %d bytes: %t", c.after, c.bytes, got)
		}
	}
}
