package capture

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/tributary-cdc/tributary/capture/catalog"
)

// TestUnknownIsNull: before anybody has looked, JSON has null for what is not known then, in a service's answer and in a verb's.
func TestUnknownIsNull(t *testing.T) {
	now := time.Now()
	for name, test := range map[string]struct {
		st               Status
		behind, kept     string
		publish, growing string
	}{
		"a service that has begun":        {Status{Since: now}, "null", "null", "null", "null"},
		"whose source has answered":       {Status{Since: now, WAL: WAL{AsOf: now}}, "null", "0", "null", "0"},
		"that has looked":                 {Status{Since: now, SeenAt: now, WAL: WAL{AsOf: now}}, "0", "0", "0", "0"},
		"whose slot is gone":              {Status{Since: now, SeenAt: now, PublishedLSN: "0/1", WAL: WAL{AsOf: now, SlotStatus: slotMissing}}, "0", "0", "null", "0"},
		"none, but the source has a slot": {Status{WAL: WAL{AsOf: now, RetainedBytes: 7}, ToPublish: 7}, "0", "7", "7", "0"},
	} {
		for _, out := range []any{test.st, &test.st, Report{test.st, "somebody"}, &Report{test.st, "somebody"}} {
			text, err := json.Marshal(out)
			if err != nil {
				t.Fatal(err)
			}
			for field, want := range map[string]string{
				"lag_seconds": test.behind, "to_publish_bytes": test.publish, "retained_bytes": test.kept, "growth_bytes_per_second": test.growing,
			} {
				if !strings.Contains(string(text), `"`+field+`":`+want) {
					t.Errorf("%s: %s is not %s: %s", name, field, want, text)
				}
			}
			switch out.(type) {
			case Report, *Report:
				if !strings.HasSuffix(string(text), `"asked":"somebody"}`) {
					t.Errorf("%s: it is not said who has told: %s", name, text)
				}
			}
		}
	}
}

// A capture that has stopped because its slot is gone was told to be 0 s behind for as long as it was so, whatever the source committed.
func TestBehindWithoutSlot(t *testing.T) {
	c := unconnected(t)
	then := time.Now().Add(-time.Minute)
	c.status.Store(&Status{Source: "shop", Since: then, SeenAt: then, PublishedTime: then, PublishedLSN: "0/1"})
	c.budget.observe(then, &catalog.Slot{WALStatus: "reserved", ConfirmedFlushLSN: 1}, nil, reason{})
	c.budget.observe(time.Now(), nil, nil, reason{})
	if st := c.Status(); st.LagSeconds < 60 || st.LagSeconds > 70 || st.counted() || st.WAL.SlotStatus != slotMissing {
		t.Errorf("%v s behind, slot %q", st.LagSeconds, st.WAL.SlotStatus)
	}
}
